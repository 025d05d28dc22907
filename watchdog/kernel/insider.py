"""A process to put into a cgroup, which then makes sockets and says what came of it.

Run as a file of its own by a bare interpreter (`python -I -S insider.py`), so it imports nothing of the
project. One JSON line in, one JSON line out; it makes no socket before the first line, so that its starter can
move it first. It speaks to the loopback address only.

    {"do": "bind", "families": ["v4", "v6"]}          -> {"v4": PORT, "v6": PORT}
    {"do": "try", "udp": {"v4": PORT, ...}, "tcp": {"v4": PORT, ...}, "token": T, "wait_s": 0.2}
        -> {"sent": [...], "connected": [...], "received": [...]}
       sends T by UDP, connects by TCP, and waits for T on its bound sockets
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any

FAMILIES = {"v4": (socket.AF_INET, "127.0.0.1"), "v6": (socket.AF_INET6, "::1")}

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""struct linger: no connection of ours stays behind in TIME-WAIT."""

DATAGRAM_BYTES = 512

LINUX_CAPABILITY_VERSION_3 = 0x20080522
PR_SET_NO_NEW_PRIVS = 38
"""<linux/capability.h>"""


class Insider:
    """The sockets that wait inside, one per family."""

    def __init__(self) -> None:
        self._bound: dict[str, socket.socket] = {}

    def bind(self, families: list[str]) -> dict[str, int]:
        """Bind a UDP socket per family, where that is not refused; the ports."""
        for family in families:
            kind, address = FAMILIES[family]
            with contextlib.suppress(PermissionError):
                bound = socket.socket(kind, socket.SOCK_DGRAM)
                bound.bind((address, 0))
                self._bound[family] = bound
        return {family: bound.getsockname()[1] for family, bound in self._bound.items()}

    def attempt(self, order: Mapping[str, Any]) -> dict[str, list[str]]:
        """Try every path at once; which sent, connected and received within the time."""
        token = order["token"].encode()
        sent = [family for family, port in order["udp"].items() if send(family, port, token)]
        made = {family: call(family, port) for family, port in order["tcp"].items()}
        calls = {family: calling for family, calling in made.items() if calling is not None}
        connected, received = self._wait(calls, token, time.monotonic() + order["wait_s"])
        for calling in calls.values():
            calling.close()
        return {"sent": sent, "connected": connected, "received": received}

    def _wait(self, calls: Mapping[str, socket.socket], token: bytes, deadline_s: float) -> tuple[list[str], list[str]]:
        calling, hearing, connected, received = dict(calls), dict(self._bound), [], []
        while (calling or hearing) and (left_s := deadline_s - time.monotonic()) > 0:
            readable, writable, _ = select.select(list(hearing.values()), list(calling.values()), [], left_s)
            for family in [f for f, s in calling.items() if s in writable]:
                if calling.pop(family).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    connected.append(family)
            for family in [f for f, s in hearing.items() if s in readable]:
                if hearing[family].recv(DATAGRAM_BYTES) == token:
                    hearing.pop(family)
                    received.append(family)
        return connected, received


def send(family: str, port: int, token: bytes) -> bool:
    """One datagram to the loopback address; False where the kernel refused it, or a socket for it."""
    kind, address = FAMILIES[family]
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as sender:
            sender.sendto(token, (address, port))
    except OSError:
        return False
    return True


def call(family: str, port: int) -> socket.socket | None:
    """A TCP connection on its way to the loopback address; None where the kernel refused it, or a socket for it."""
    kind, address = FAMILIES[family]
    with contextlib.suppress(PermissionError):
        calling = socket.socket(kind, socket.SOCK_STREAM)
        calling.setblocking(False)
        calling.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        if calling.connect_ex((address, port)) in {0, errno.EINPROGRESS}:
            return calling
        calling.close()
    return None


def drop_capabilities() -> None:
    """Be nobody's danger: what is isolated here is a process that may nothing more than any other, and never will."""
    header, nothing = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0), bytes(24)
    ctypes.CDLL(None).capset(header, nothing)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> None:
    """Answer orders until there are no more."""
    drop_capabilities()
    insider = Insider()
    for line in sys.stdin:
        order = json.loads(line)
        answer = insider.bind(order["families"]) if order["do"] == "bind" else insider.attempt(order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
