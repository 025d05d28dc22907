"""An agent that floods, free and isolated: what it tries a second, and what others keep.

Its sockets are made inside the unit's cgroup and connected to many ports, so that every packet comes to the packet
hooks, and the flows that are recorded are as many as they can be.
"""

from __future__ import annotations

import ctypes
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKETS = 4000
FIRST_PORT = 20000
ADDRESS = "127.0.0.1"
READY = "ready"


class Flood:
    """The process, seen from the one that measures."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def attempts_a_second(self, slice_s: float) -> float:
        """How many packets it tries to send meanwhile."""
        begun, begun_s = self._attempts(), time.monotonic()
        time.sleep(slice_s)
        return (self._attempts() - begun) / (time.monotonic() - begun_s)

    def _attempts(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def flooding_from(unit_cgroup: Path, own_cgroup: Path) -> Iterator[Flood]:
    """A flood on sockets that were made in `unit_cgroup`; the process itself runs in `own_cgroup`."""
    command = [sys.executable, "-m", "scripts.benchmarks.flood", str(unit_cgroup), str(own_cgroup)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == READY, "the flood did not begin"
            yield Flood(process)
        finally:
            process.kill()


def _serve(unit_cgroup: Path, own_cgroup: Path) -> None:
    import select

    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * SOCKETS, 2 * SOCKETS))
    (unit_cgroup / "cgroup.procs").write_text("0")
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOCKETS)]
    (own_cgroup / "cgroup.procs").write_text("0")
    for number, each in enumerate(made):
        each.connect((ADDRESS, FIRST_PORT + number))
    print(READY, flush=True)
    send = ctypes.CDLL(None).send  # raises nothing: an OSError for every dropped packet would take most of the time
    packet, size, flags = ctypes.c_char_p(b"x"), ctypes.c_size_t(1), ctypes.c_int(0)
    sockets = [ctypes.c_int(each.fileno()) for each in made]
    attempts = 0
    while True:
        for descriptor in sockets:
            send(descriptor, packet, size, flags)
        attempts += SOCKETS
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            print(attempts, flush=True)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
