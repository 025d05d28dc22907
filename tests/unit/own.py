"""Processes of the tests' own, always ended with the test."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Start = Callable[..., subprocess.Popen[str]]


@contextmanager
def starting() -> Iterator[Start]:
    """A function that starts a program; what it prints first says it is ready."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, ready: bool = True, **options: object) -> subprocess.Popen[str]:
        settings = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True, **options}
        process: subprocess.Popen[str] = subprocess.Popen(argv, **settings)  # type: ignore[call-overload]
        started.append(process)
        if ready:
            assert process.stdout is not None
            assert process.stdout.readline(), "it ended before it was ready"
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.returncode is None:  # not reaped: the number still is this group's
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
