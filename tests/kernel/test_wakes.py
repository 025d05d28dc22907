"""What wakes the keeper: news that matter, and none where there is no room for them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import REPOSITORY, Host
from watchdog.kernel import bpffs
from watchdog.wakes import Wakes, paths_of

pytestmark = pytest.mark.kernel

LONG_S, SHORT_S = 60.0, 0.3
TRIES = 5

LIMITED = """
import logging, sys, time
from pathlib import Path
Path("/proc/sys/user/max_inotify_instances").write_text("0")
from watchdog.actions.place import Place
from watchdog.intents import Intent, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.wakes import Wakes
from watchdog import clock
logging.basicConfig(stream=sys.stdout, format="%(message)s")
place = Place(Journal(None), Path("/nowhere"), Path("/nowhere"))
now = clock.utc_now()
intent = Intent(1, State.ISOLATED, Where(sys.argv[1], 0), Why("a test"), With(), now, now)
wakes = Wakes(place)
for _ in range(3):
    wakes.follow([intent])
    wakes.wait(0.01)
wakes.close()
"""


@pytest.fixture
def wakes(host: Host) -> Iterator[Wakes]:
    made = Wakes(host.place)
    yield made
    made.close()


def waited_s(wakes: Wakes, timeout_s: float) -> float:
    began_s = time.monotonic()
    wakes.wait(timeout_s)
    return time.monotonic() - began_s


def is_left_waiting(wakes: Wakes, scratch_cgroup: MakeCgroup) -> bool:
    scratch_cgroup("other")
    return waited_s(wakes, SHORT_S) >= SHORT_S


def test_only_what_matters_ends_the_waiting(host: Host, wakes: Wakes, scratch_cgroup: MakeCgroup) -> None:
    agent = scratch_cgroup("agent")
    intent = host.isolate(agent).intent
    wakes.follow([intent])
    assert waited_s(wakes, LONG_S) < LONG_S  # it may have changed before it was followed
    wakes.follow([intent])
    # The host has news of its own, such as a mount table that changes: they may end one of these, and not all.
    assert any(is_left_waiting(wakes, scratch_cgroup) for _ in range(TRIES))
    agent.path.rmdir()
    assert waited_s(wakes, LONG_S) < LONG_S


def test_a_bpffs_that_is_unmounted_here_and_lives_on_elsewhere(
    host: Host, wakes: Wakes, scratch_cgroup: MakeCgroup
) -> None:
    """Another mount namespace holds it: inotify has nothing to tell, the mount table has."""
    intent = host.isolate(scratch_cgroup("agent")).intent
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        wakes.follow([intent])
        wakes.wait(LONG_S)
        wakes.follow([intent])
        bpffs.unmount(host.pins)
        assert waited_s(wakes, LONG_S) < LONG_S
    finally:
        holder.communicate(b"\n")


def test_waiting_can_be_ended(wakes: Wakes) -> None:
    wakes.follow([])
    wakes.interrupt()
    assert waited_s(wakes, LONG_S) < LONG_S


def test_a_limit_that_leaves_no_room_is_said_once(scratch_cgroup: MakeCgroup) -> None:
    """In a user namespace of its own, whose limits are nobody else's."""
    agent = scratch_cgroup("agent")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED, str(agent.path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
        env={"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("found by looking every few seconds only: inotify: ") == 1, done.stdout


def test_what_is_followed(host: Host, scratch_cgroup: MakeCgroup) -> None:
    agent = scratch_cgroup("agent")
    intent = host.isolate(agent).intent
    paths = paths_of([intent], host.place)
    assert paths[agent.path.parent] == {agent.path.name}
    assert paths[agent.path / "cgroup.events"] is None
    assert paths[host.pins / intent.held_by.slot] is None
    assert paths[host.pins] == {Path(intent.held_by.slot).parts[0]}
