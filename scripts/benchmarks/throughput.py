"""What others can send while one unit is isolated: one TCP stream over loopback, one over a veth pair."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

CHUNK = bytes(256 * 1024)
NAMESPACE = "wd-bench"
NEAR, FAR = "10.199.0.1", "10.199.0.2"
PREFIX_BITS = 30
LOOPBACK, VETH = "loopback", "veth"
CONNECT_LIMIT_S = 10.0


@dataclass(frozen=True)
class Stream:
    """One connection that is open all the time, with somebody at its other end who reads."""

    name: str
    connection: socket.socket

    def bytes_a_second(self, slice_s: float) -> float:
        """Send as much as goes, for about as long."""
        begun_s = time.monotonic()
        sent = 0
        while (now_s := time.monotonic()) < begun_s + slice_s:
            sent += self.connection.send(CHUNK)
        return sent / (now_s - begun_s)


@contextmanager
def streaming() -> Iterator[list[Stream]]:
    """A stream over each path."""
    with ExitStack() as undo:
        streams = [undo.enter_context(_stream(LOOPBACK, "127.0.0.1", []))]
        undo.enter_context(_veth())
        streams.append(undo.enter_context(_stream(VETH, FAR, ["ip", "netns", "exec", NAMESPACE])))
        yield streams


@contextmanager
def _veth() -> Iterator[None]:
    """A pair of links from this network namespace to one of its own."""
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "add", "wd-bench0", "type", "veth", "peer", "name", "wd-bench1", "netns", NAMESPACE)
        _ip("addr", "add", f"{NEAR}/{PREFIX_BITS}", "dev", "wd-bench0")
        _ip("link", "set", "wd-bench0", "up")
        _ip("-n", NAMESPACE, "addr", "add", f"{FAR}/{PREFIX_BITS}", "dev", "wd-bench1")
        _ip("-n", NAMESPACE, "link", "set", "wd-bench1", "up")
        yield
    finally:
        _ip("netns", "del", NAMESPACE)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=CONNECT_LIMIT_S)


@contextmanager
def _stream(name: str, address: str, inside: list[str]) -> Iterator[Stream]:
    command = [*inside, sys.executable, "-m", "scripts.benchmarks.throughput", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            port = int(reader.stdout.readline())
            with socket.create_connection((address, port), CONNECT_LIMIT_S) as connection:
                connection.settimeout(None)
                yield Stream(name, connection)
        finally:
            reader.kill()


def _read(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        room = bytearray(len(CHUNK))
        while connection.recv_into(room):
            pass


if __name__ == "__main__":
    _read(sys.argv[1])
