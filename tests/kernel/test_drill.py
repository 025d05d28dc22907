"""`drill`: the whole path on a stand-in, of which nothing stays, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.isolation_bed import Host
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import DRILL_PREFIX

pytestmark = pytest.mark.kernel

OK, HOST_CANNOT = 0, 5
STEPS = ["isolate", "verify", "from inside", "release", "free again"]


def stand_ins() -> list[Path]:
    return list(cgroups.find_v2_root().glob(f"{DRILL_PREFIX}*"))


def test_every_step_passes_and_the_trail_tells_of_it(host: Host) -> None:
    answer = host.mesh("drill", "--json")
    assert (answer.status, answer.document["passed"]) == (OK, True)
    assert [step["name"] for step in answer.document["steps"]] == STEPS
    assert "paths covered" in answer.document["steps"][0]["detail"]
    assert stand_ins() == []
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
    assert stand_ins() == []
    assert host.place.intents.in_force() == []


def test_a_drill_on_a_host_that_cannot_isolate_ends_as_an_isolation_does(host: Host) -> None:
    answer = host.mesh("drill", "--json", prefix=["setpriv", "--bounding-set=-bpf,-sys_admin"])
    assert (answer.status, answer.document["passed"]) == (HOST_CANNOT, False)
    [step] = answer.document["steps"]
    assert (step["name"], step["ok"]) == ("isolate", False)
    assert stand_ins() == []
    assert host.place.intents.in_force() == []


def test_what_a_killed_drill_leaves_is_cleared_by_the_next(host: Host) -> None:
    command = [sys.executable, "-m", "watchdog", "drill"]
    with subprocess.Popen(command, env=host.environment, cwd=host.folder, stdout=-3, stderr=-3) as drill:
        while not host.place.intents.in_force():
            assert drill.poll() is None
            time.sleep(0.002)
        drill.send_signal(signal.SIGKILL)
    [left] = host.place.intents.in_force()
    assert left.why.until is not None, "a watcher, or reconcile, releases it by itself"
    answer = host.mesh("drill")
    assert answer.status == OK, answer.out
    assert stand_ins() == []
