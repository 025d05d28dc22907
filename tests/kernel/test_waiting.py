"""A command that has to wait for another says so while it waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import Host
from watchdog import clock

pytestmark = pytest.mark.kernel

OK = 0
WAIT_S = 30.0
STOPPED = """
import os, signal, sys
from pathlib import Path
from watchdog.actions.place import Place
from watchdog.journal import Journal
with Place(Journal.in_memory(), Path("/"), Path(sys.argv[1])).alone():
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def stopped_with_the_lock(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    """A process that was stopped in the middle of its isolation."""
    words = ["/opt/x/bin/watchdog-mesh", "isolate", "shield"]
    with subprocess.Popen([sys.executable, "-c", STOPPED, str(host.run_dir), *words], env=host.environment) as stopped:
        try:
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
            yield stopped
        finally:
            stopped.kill()


def test_behind_an_isolate_that_was_stopped_a_command_says_so_and_goes_on_after_it(
    host: Host, scratch_cgroup: MakeCgroup
) -> None:
    agent = scratch_cgroup("agent")
    other = [sys.executable, "-m", "watchdog", "isolate", "--cgroup", str(agent.path), "--reason", "x", "--json"]
    pipe = subprocess.PIPE
    with (
        stopped_with_the_lock(host) as stopped,
        subprocess.Popen(other, env=host.environment, stdout=pipe, stderr=pipe, text=True) as waits,
    ):
        assert waits.stderr is not None
        said = waits.stderr.readline()
        not_before = clock.utc_now()
        stopped.send_signal(signal.SIGCONT)
        assert waits.wait(WAIT_S) == OK
    pid = stopped.pid
    assert said == (
        f"watchdog-mesh: waiting for process {pid} (watchdog-mesh isolate shield), which is stopped; let it go on: "
        f"kill -CONT {pid}; or end it: kill -KILL {pid}, then watchdog-mesh reconcile\n"
    )
    (isolated,) = host.place.intents.in_force()
    assert isolated.where.cgroup == str(agent.path)
    assert not_before < isolated.since < isolated.changed, "not when it was asked for"
