"""Restarts shield: `python -m scripts.demonstration.restart ROOM CGROUP`. Ends well once a new process runs."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from scripts.demonstration.agent import PID
from scripts.demonstration.starting import start_agent
from watchdog.host import processes

LIMIT_S = 5.0
STEP_S = 0.01


def main(room: Path, cgroup: Path) -> None:
    """End the old process, start a new one in the same cgroup, and see that it came up."""
    old = running(room)
    if old is not None:
        with suppress(ProcessLookupError):
            os.kill(old.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + LIMIT_S
    while old is not None and processes.still_same(old):
        _pause(deadline_s, f"process {old.pid} does not end")
    start_agent(room, cgroup)
    while running(room) in (None, old):
        _pause(deadline_s, "the new process does not come up")


def running(room: Path) -> processes.Process | None:
    """The agent's process, as it wrote it down itself; None when it runs no more."""
    try:
        return processes.of_pid(int((room / PID).read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _pause(deadline_s: float, trouble: str) -> None:
    if time.monotonic() > deadline_s:
        sys.exit(trouble)
    time.sleep(STEP_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
