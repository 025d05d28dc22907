"""`drill`: the whole path on a stand-in, of which nothing stays, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import WHY, Host, moment
from watchdog import interrupts
from watchdog.actions import stand_ins
from watchdog.actions.reconcile import reconcile
from watchdog.clock import utc_now
from watchdog.intents import Intent, State, Until, Where, With
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import DRILL_PREFIX
from watchdog.kernel.scratch import remove_tree
from watchdog.moved import Moved

pytestmark = pytest.mark.kernel

OK, HOST_CANNOT, INTERRUPTED = 0, 5, 130
WAIT_S = 30.0
STEPS = ["isolate", "verify", "from inside", "release", "free again"]


def stand_ins_left() -> list[Path]:
    return list(cgroups.find_v2_root().glob(f"{DRILL_PREFIX}*"))


@contextmanager
def drilling(host: Host, *states: State) -> Iterator[subprocess.Popen[bytes]]:
    """A drill whose isolation is in force, and in one of these states."""
    command = [sys.executable, "-m", "watchdog", "drill"]
    with subprocess.Popen(command, env=host.environment, cwd=host.folder, stdout=-3, stderr=-3) as drill:
        while not any(each.state in (states or State) for each in host.place.intents.in_force()):
            assert drill.poll() is None
            time.sleep(0.002)
        yield drill


def test_every_step_passes_and_the_trail_tells_of_it(host: Host) -> None:
    answer = host.mesh("drill", "--json")
    assert (answer.status, answer.document["passed"]) == (OK, True)
    assert [step["name"] for step in answer.document["steps"]] == STEPS
    assert "paths covered" in answer.document["steps"][0]["detail"]
    assert stand_ins_left() == []
    assert host.place.intents.in_force() == []
    told = host.mesh("history").out
    assert "intent isolated" in told
    assert "intent released" in told


def test_a_drill_that_cannot_isolate_fails_and_says_why(host: Host) -> None:
    taken = host.folder / "no-bpffs"
    taken.write_text("a file is in the place of the pins")
    answer = host.mesh("drill", env={"WATCHDOG_MESH_BPFFS_DIR": str(taken)})
    assert answer.status == HOST_CANNOT
    assert "FAIL" in answer.out
    assert str(taken) in answer.out
    assert stand_ins_left() == []
    assert host.place.intents.in_force() == []


def test_a_drill_on_a_host_that_cannot_isolate_ends_as_an_isolation_does(host: Host) -> None:
    answer = host.mesh("drill", "--json", prefix=["setpriv", "--bounding-set=-bpf,-sys_admin"])
    assert (answer.status, answer.document["passed"]) == (HOST_CANNOT, False)
    [step] = answer.document["steps"]
    assert (step["name"], step["ok"]) == ("isolate", False)
    assert stand_ins_left() == []
    assert host.place.intents.in_force() == []


def test_what_a_killed_drill_leaves_is_cleared_by_the_next(host: Host) -> None:
    with drilling(host) as drill:
        drill.send_signal(signal.SIGKILL)
    [left] = host.place.intents.in_force()
    assert left.why.until is not None, "a watcher, or reconcile, releases it by itself"
    answer = host.mesh("drill")
    assert answer.status == OK, answer.out
    assert stand_ins_left() == []


@pytest.mark.parametrize("state", [State.ISOLATING, State.ISOLATED])
@pytest.mark.parametrize("number", interrupts.NUMBERS)
def test_a_drill_that_is_interrupted_leaves_nothing(host: Host, number: signal.Signals, state: State) -> None:
    with drilling(host, state, State.ISOLATED) as drill:
        drill.send_signal(number)
        drill.send_signal(number)
        assert drill.wait(WAIT_S) == INTERRUPTED
    assert host.place.intents.in_force() == []
    assert stand_ins_left() == []
    assert host.attached() == []


def left_behind(host: Host) -> Intent:
    """The isolation that a killed drill leaves, when its stand-in is gone too."""
    with drilling(host, State.ISOLATED) as drill:
        drill.send_signal(signal.SIGKILL)
    for path in stand_ins_left():
        remove_tree(path)
    [left] = host.place.intents.in_force()
    return left


def test_what_a_drill_left_behind_keeps_nobody_from_being_isolated(host: Host, scratch_cgroup: MakeCgroup) -> None:
    left = left_behind(host)
    assert stand_ins.is_gone(left, host.place.root)
    agent = scratch_cgroup("agent")
    answer = host.mesh("isolate", "--cgroup", agent.path, "--reason", "x")
    assert answer.status == OK, answer.err


def test_reconcile_releases_what_a_drill_left_behind_at_once_and_tells_nobody(host: Host) -> None:
    left = left_behind(host)
    told = host.told()
    answer = host.mesh("reconcile")
    assert answer.status == OK
    assert f"{left.name}: its drill was cut short, and the stand-in is gone; released" in answer.out
    assert host.place.intents.in_force() == []
    assert host.told() == told


def test_a_watcher_releases_it_too(host: Host) -> None:
    left_behind(host)
    [repair] = reconcile(host.place, moment(utc_now()), patient=True)
    assert (repair.done, repair.expected) == ("released", True)
    assert host.place.intents.in_force() == []


def test_only_a_drills_own_stand_in_is_taken_for_one(host: Host) -> None:
    root = host.place.root
    where, until = Where(str(root / f"{DRILL_PREFIX}4194305-0"), 7), Until(utc_now(), 0.0, "")
    why = replace(WHY, reason=stand_ins.REASON, until=until)
    intents = host.place.intents
    ours = intents.begin(where, why, With(), utc_now())
    assert stand_ins.is_gone(ours, root)
    moved = Moved("/x", 7, "", (), ())
    for other in (
        replace(where, cgroup=str(root / "shield.slice")),
        replace(where, cgroup=str(root / "a" / f"{DRILL_PREFIX}4194305-0")),
        replace(where, cgroup=str(root / f"{DRILL_PREFIX}shield")),
        replace(where, cgroup="", unit="shield.service"),
        replace(where, peer="shield"),
        replace(where, unit="shield.service"),
        replace(where, cgroup_id=0),
        replace(where, moved=moved),
    ):
        assert not stand_ins.is_gone(replace(ours, where=other), root), other
    for reason in (replace(why, reason="it lies"), replace(why, until=None)):
        assert not stand_ins.is_gone(replace(ours, why=reason), root), reason
