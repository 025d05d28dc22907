"""What an agent has open may never answer; who looks at it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.fuse import CannotMount, Mount
from watchdog.kernel import taps
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import whose

pytestmark = pytest.mark.kernel

PROMPT_S = 8.0

T = TypeVar("T")

Hanging = Callable[..., Mount]
"""Makes a mount that never answers these."""


@pytest.fixture
def hanging(run_in_cgroup: RunInside, tmp_path: Path) -> Iterator[Hanging]:
    """Ends before the processes that wait for it."""
    with ExitStack() as made:

        def mount(*silent: str) -> Mount:
            try:
                mounted = Mount(tmp_path, *silent)
            except (CannotMount, OSError) as error:
                pytest.skip(f"no FUSE here: {error}")
            made.callback(mounted.close)
            return mounted

        yield mount


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup()


def promptly(work: Callable[[], T]) -> T:
    """Its result; in a thread that can be left alone where it hangs."""
    done: list[T] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(PROMPT_S)
    assert done, "it hangs, or has failed"
    return done[0]


def test_a_file_whose_server_does_not_answer_is_no_tap_and_no_obstacle(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, hanging: Hanging
) -> None:
    """As one on a dead NFS server."""
    inside, target = agent(run_in_cgroup, cgroup), target_of(cgroup)
    mount = hanging("GETATTR", "READ")
    inside.run(f"kept = os.open({str(mount.file)!r}, os.O_RDWR); own = socket.socket(INET, DGRAM)")
    found = promptly(lambda: whose.look(target))
    assert (len(found.sockets), found.tuns, found.unseen) == (1, [], [])
    file = promptly(lambda: [each for each in taps._open_files(inside.pid) if each.inode == 2])
    assert [taps.is_one(each, {0}) for each in file] == [False]
