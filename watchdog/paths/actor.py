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
from contextlib import suppress
from pathlib import Path
from typing import Any

from watchdog.errors import KernelRefused

Script = Sequence[Sequence[Any]]
"""What one actor does for one row: steps, each a method of inside_steps.Steps and its arguments."""

READ_BYTES = 65536
ANSWER_LIMIT_BYTES = 1 << 20
KILL_TIMEOUT_S = 1.0
"""A killed process goes at once unless it waits uninterruptibly."""
LONGEST_WAIT_S = 60.0
"""Where no deadline is given. An actor answers in milliseconds, or never."""
MS_PER_S = 1000

OOM_SCORE_FIRST = "1000"
"""proc_pid_oom_score_adj(5); a watcher's own -900 would be inherited."""

SILENT = "no answer"
"""What an actor's scripts end with that does not run (frozen, killed)."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_COMMAND = ("-P", "-S", "-m", "watchdog.paths.inside")


class Actor:
    """One process. It has made no socket before it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = _started()
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
        """Put it into a cgroup; its sockets stay where they were made. CannotEnter says why it cannot."""
        try:
            (cgroup / "cgroup.procs").write_text(str(self.pid))
        except OSError as error:
            raise CannotEnter(cgroup, error) from error

    def die_first(self) -> None:
        """Where memory gets short in a cgroup, it is not the agent that our process costs its life."""
        with suppress(OSError):  # it is gone, which its next answer tells
            Path(f"/proc/{self.pid}/oom_score_adj").write_text(OOM_SCORE_FIRST)

    def tell(self, order: Mapping[str, Any], deadline_s: float) -> None:
        """Give an order; `hear` has its answer. It is not carried out after its deadline (of the monotonic clock).

        A process that does not read its input gets a part of it, or none.
        """
        self._seq += 1
        until_s = min(deadline_s, time.monotonic() + LONGEST_WAIT_S)
        data = json.dumps({"seq": self._seq, "until_s": until_s, **order}).encode() + b"\n"
        while data and self._ready(self._in, select.POLLOUT, deadline_s):
            try:
                data = data[os.write(self._in, data) :]
            except BrokenPipeError:
                return

    def hear(self, deadline_s: float) -> dict[str, str] | None:
        """The results of the last order; None where there are none at the deadline (of the monotonic clock)."""
        while (line := self._line(deadline_s)) is not None:
            try:
                answer = json.loads(line)
                seq, results, ports = answer["seq"], dict(answer["results"]), dict(answer.get("ports", {}))
            except (ValueError, KeyError, TypeError):
                return None  # an agent that is root may speak in its place
            self.ports.update(ports)
            if seq == self._seq:  # else it is late, and of an order that was given up
                return results
        return None

    def _line(self, deadline_s: float) -> bytes | None:
        while b"\n" not in self._read:
            if len(self._read) > ANSWER_LIMIT_BYTES or not self._ready(self._out, select.POLLIN, deadline_s):
                return None
            data = os.read(self._out, READ_BYTES)
            if not data:
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line

    def run(self, script: Script, deadline_s: float) -> str:
        """Run one script: "ok", the name of an error, or SILENT."""
        self.tell({"do": "run", "scripts": {"": script}}, deadline_s)
        answer = self.hear(deadline_s)
        return answer[""] if answer else SILENT

    def close(self) -> None:
        """Kill it, frozen or not, and reap it. Its pipes are not read to their end: somebody else may hold them."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(KILL_TIMEOUT_S)

    def _ready(self, fd: int, event: int, deadline_s: float) -> bool:
        poller = select.poll()  # select() takes no descriptor over 1023
        poller.register(fd, event)
        left_s = min(max(0.0, deadline_s - time.monotonic()), LONGEST_WAIT_S)
        return bool(poller.poll(left_s * MS_PER_S))


def _started() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable or "/usr/bin/python3", *_COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": str(_PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise KernelRefused(f"no process can be started: {error.strerror}") from error


class CannotEnter(KernelRefused):
    """A process cannot be put into a cgroup."""

    def __init__(self, cgroup: Path, error: OSError) -> None:
        super().__init__(f"cannot move a process into {cgroup}: {error.strerror}")
        self.reason = error.strerror
        self.is_busy = error.errno == errno.EBUSY
        """Its processes may be in child cgroups only: it hands controllers down."""


def must(actor: Actor, script: Script, deadline_s: float) -> None:
    """Run a script that has to work; KernelRefused where it does not."""
    word = actor.run(script, deadline_s)
    if word != "ok":
        raise KernelRefused(f"the test process {actor.name!r} cannot {script[-1][0]}: {word}")
