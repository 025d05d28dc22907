"""A socket of the unit that is isolated, and a process outside of it that sends on it until the kernel drops.

The agent itself cannot tell when: an isolation freezes it first, and it learns of dropped packets only when it runs
again. So this process makes a socket inside the unit's cgroup, which is the socket's for good, and goes back out;
what it sees is when the kernel begins to drop the unit's packets.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PERIOD_S = 0.0001
WARM_PACKETS = 20
DISCARD = ("127.0.0.1", 9)
NS_PER_MS = 1_000_000
ANSWER_LIMIT_S = 60.0
SENDING, PASSES = "sending", "passes"


@dataclass(frozen=True)
class Seen:
    """When the unit's packets stopped, on CLOCK_MONOTONIC."""

    dropped_ns: int
    """The first packet that was dropped."""
    passed_ns: int
    """The last packet before it."""


class Sender:
    """The process, seen from the one that measures."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self) -> None:
        """Send, and go on until a packet is dropped. Returns once packets pass."""
        assert self._process.stdin is not None
        self._process.stdin.write("send\n")
        self._process.stdin.flush()
        self._expect(SENDING)

    def seen(self) -> Seen:
        """When it was dropped; waits for that."""
        dropped_ns, passed_ns = map(int, self._answer().split())
        return Seen(dropped_ns, passed_ns)

    def await_release(self) -> None:
        """Returns once packets pass again."""
        self._expect(PASSES)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the sender died"
        return line.strip()

    def _expect(self, word: str) -> None:
        answer = self._answer()
        assert answer == word, f"the sender said {answer!r}, not {word!r}"


@contextmanager
def sending_from(unit_cgroup: Path, own_cgroup: Path) -> Iterator[Sender]:
    """A sender with a socket that was made in `unit_cgroup`; itself it runs in `own_cgroup`."""
    command = [sys.executable, "-m", "scripts.benchmarks.sender", str(unit_cgroup), str(own_cgroup)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
    ):
        receiver.bind(DISCARD)  # never read: what does not fit is dropped behind the hooks, and told to nobody
        try:
            sender = Sender(process)
            sender.await_release()
            yield sender
        finally:
            process.kill()


@contextmanager
def away_from_sender() -> Iterator[None]:
    """Leaves the sender its processor: one that waits for its turn sends nothing that could be dropped."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed - {max(allowed)} or allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _serve(unit_cgroup: Path, own_cgroup: Path) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    (unit_cgroup / "cgroup.procs").write_text("0")
    made_inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    (own_cgroup / "cgroup.procs").write_text("0")
    made_inside.connect(DISCARD)
    while True:
        _await_passing(made_inside)
        print(PASSES, flush=True)
        if not sys.stdin.readline():
            return
        seen = _send(made_inside)
        print(seen.dropped_ns, seen.passed_ns, flush=True)


def _send(made_inside: socket.socket) -> Seen:
    passed_ns, packets = 0, 0
    while True:
        try:
            made_inside.send(b"x")
        except PermissionError:
            return Seen(time.monotonic_ns(), passed_ns)
        passed_ns = time.monotonic_ns()
        packets += 1
        if packets == WARM_PACKETS:
            print(SENDING, flush=True)
        time.sleep(PERIOD_S)


def _await_passing(made_inside: socket.socket) -> None:
    while True:
        try:
            made_inside.send(b"x")
        except PermissionError:
            time.sleep(PERIOD_S)
        else:
            return


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
