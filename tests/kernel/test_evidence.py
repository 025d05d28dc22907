"""What an agent's cgroup says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from watchdog.actions import evidence
from watchdog.config import Peer

pytestmark = pytest.mark.kernel


def test_an_agent_whose_cgroup_is_empty_or_gone(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, v2_root: Path
) -> None:
    cgroup = scratch_cgroup()
    peer = Peer(name="shield", endpoint="http://127.0.0.1:9/", cgroup=cgroup.path)
    inside = run_in_cgroup(cgroup)
    assert evidence.against(peer, v2_root) == ("", False)
    inside.process.kill()
    inside.process.wait()
    assert evidence.against(peer, v2_root) == (f"its cgroup {cgroup.path} has no process", False)
    cgroup.path.rmdir()
    assert evidence.against(peer, v2_root) == (f"its cgroup {cgroup.path} is gone", False)
