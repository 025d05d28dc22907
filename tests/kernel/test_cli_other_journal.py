"""The runbook of a full disk: what becomes of what was done with another journal for one command."""

from __future__ import annotations

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import Host, ours_at
from watchdog.actions.adopt import REASON
from watchdog.kernel.cgroups import Cgroup

pytestmark = pytest.mark.kernel

OK = 0


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


def test_an_isolation_with_another_journal_is_adopted_by_the_first(host: Host, agent: Cgroup) -> None:
    target = ("--cgroup", agent.path)
    other = {"WATCHDOG_MESH_STATE_DIR": str(host.folder / "other")}
    assert host.mesh("status").status == OK, "the first journal is there"
    assert host.mesh("isolate", *target, "--reason", "it lies", env=other).status == OK
    host.mesh("reconcile")
    (adopted,) = host.mesh("status", "--json").document["isolations"]
    assert (adopted["cgroup"], adopted["reason"], adopted["holds"]) == (str(agent.path), REASON, True)
    assert host.mesh("release", *target, "--reason", "enough").status == OK
    assert ours_at(agent) == []


def test_a_release_with_another_journal_lasts_until_the_first_is_asked(host: Host, agent: Cgroup) -> None:
    target = ("--cgroup", agent.path)
    other = {"WATCHDOG_MESH_STATE_DIR": str(host.folder / "other")}
    assert host.mesh("isolate", *target, "--reason", "it lies").status == OK
    assert host.mesh("release", *target, "--reason", "enough", env=other).status == OK
    assert ours_at(agent) == []
    host.mesh("reconcile")
    assert ours_at(agent) != [], "the first journal still means it isolated"
    assert host.mesh("release", *target, "--reason", "enough").status == OK
