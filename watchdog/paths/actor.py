"""Processes that do as they are told in a cgroup and a network namespace: the other side of inside.py."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from watchdog.errors import KernelRefused

Script = Sequence[Sequence[Any]]
"""What one actor does for one row: steps, each a method of inside_steps.Steps and its arguments."""

READ_BYTES = 65536
SILENT = "no answer"
"""What an actor's scripts end with that does not run (frozen, killed)."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_COMMAND = ("-P", "-S", "-m", "watchdog.paths.inside")


class Actor:
    """One process. It has made no socket before it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable or "/usr/bin/python3", *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": str(_PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._seq = 0
        self._read = b""
        self.ports: dict[str, int] = {}
        """Where its internet sockets are bound, by name."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def netns(self) -> Path:
        """Its network namespace, as a path that leads there as long as it lives."""
        return Path(f"/proc/{self.pid}/ns/net")

    def move(self, cgroup: Path) -> None:
        """Put it into a cgroup; its sockets stay where they were made. KernelRefused says why it cannot."""
        try:
            (cgroup / "cgroup.procs").write_text(str(self.pid))
        except OSError as error:
            raise CannotEnter(
                f"cannot move a process into {cgroup}: {error.strerror}", code=error.errno or 0
            ) from error

    def tell(self, order: Mapping[str, Any], deadline_s: float) -> None:
        """Give an order; `hear` has its answer. A process that does not read its input gets a part of it, or none."""
        self._seq += 1
        data = json.dumps({"seq": self._seq, **order}).encode() + b"\n"
        while data and self._ready([], [self._in], deadline_s):
            try:
                data = data[os.write(self._in, data) :]
            except BrokenPipeError:
                return

    def hear(self, deadline_s: float) -> dict[str, str] | None:
        """The results of the last order; None where there are none at the deadline (of the monotonic clock)."""
        while True:
            line, newline, rest = self._read.partition(b"\n")
            if newline:
                self._read = rest
                answer = json.loads(line)
                self.ports.update(answer.get("ports", {}))
                if answer["seq"] == self._seq:  # else it is late, and of an order that was given up
                    results: dict[str, str] = answer["results"]
                    return results
                continue
            if not self._ready([self._out], [], deadline_s):
                return None
            data = os.read(self._out, READ_BYTES)
            if not data:
                return None
            self._read += data

    def run(self, script: Script, deadline_s: float) -> str:
        """Run one script: "ok", the name of an error, or SILENT."""
        self.tell({"do": "run", "scripts": {"": script}}, deadline_s)
        answer = self.hear(deadline_s)
        return answer[""] if answer else SILENT

    def close(self) -> None:
        """Kill it, frozen or not, and reap it."""
        self.process.kill()
        self.process.communicate()

    def _ready(self, reading: list[int], writing: list[int], deadline_s: float) -> bool:
        readable, writable, _ = select.select(reading, writing, [], max(0.0, deadline_s - time.monotonic()))
        return bool(readable or writable)


class CannotEnter(KernelRefused):
    """A process cannot be put into a cgroup; `code` is the errno."""

    def __init__(self, message: str, *, code: int) -> None:
        hint = "its processes are in its child cgroups" if code == errno.EBUSY else ""
        super().__init__(message, hint=hint)
        self.code = code


def must(actor: Actor, script: Script, deadline_s: float) -> None:
    """Run a script that has to work; KernelRefused where it does not."""
    word = actor.run(script, deadline_s)
    if word != "ok":
        raise KernelRefused(f"the test process {actor.name!r} cannot {script[-1][0]}: {word}")
