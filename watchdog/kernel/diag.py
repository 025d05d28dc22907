"""Sockets as sock_diag(7) lists them: to which cgroup each belongs, and to whom a unix socket is connected.

It lists one network namespace at a time, and neither raw nor ping sockets everywhere: what it does not say is not
known. Layouts are <linux/inet_diag.h> and <linux/unix_diag.h>.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdog.kernel import netns
from watchdog.kernel.netns import Netns

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
REQUEST, DUMP = 0x001, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port id."""
ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length, type."""
ALIGNMENT = 4
RECEIVE_BYTES = 1 << 18
TIMEOUT_S = 2.0

ALL_STATES = 0xFFFFFFFF
LIVING_STATES = ALL_STATES & ~(1 << 6)
"""All but TCP_TIME_WAIT: what nobody has any more, and often the most of what there is."""
INET_REQUEST = struct.Struct("=BBBxI48x")
"""struct inet_diag_req_v2: family, protocol, extensions, states; every address."""
INET_ANSWER = struct.Struct("=BBxx2s38xQ16xI")
"""struct inet_diag_msg: family, state, source port, cookie, inode; with what lies between."""
INET_DIAG_CGROUP_ID = 21
PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_RAW)

UNIX_REQUEST = struct.Struct("=BBHIIIII")
"""struct unix_diag_req: family, protocol, pad, states, inode, what to show, cookie (twice)."""
UNIX_ANSWER = struct.Struct("=BBBBIII")
"""struct unix_diag_msg: family, type, state, pad, inode, cookie (twice)."""
UDIAG_SHOW_NAME, UDIAG_SHOW_VFS, UDIAG_SHOW_PEER = 0x01, 0x02, 0x04
UNIX_DIAG_NAME, UNIX_DIAG_VFS, UNIX_DIAG_PEER = 0, 1, 2
UNIX_FILE = struct.Struct("=II")
"""struct unix_diag_vfs: inode, device, as the kernel numbers devices."""
MINOR_BITS = 20

LISTEN = 10
"""TCP_LISTEN, for unix sockets too."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One internet socket of a network namespace."""

    inode: int
    """0 for a connection that waits to be accepted: nobody has a descriptor of it yet."""
    cookie: int
    family: int
    state: int
    port: int
    """Its own."""
    cgroup_id: int
    """0 where the kernel does not say."""


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One unix socket of a network namespace."""

    inode: int
    type: int
    name: str
    """The path it is bound to, with @ before an abstract name; "" for none."""
    peer: int | None
    """The inode of the socket it is connected to, 0 where that waits to be accepted; None for none."""
    listens: bool
    file: bytes = b""
    """What it is bound to, whatever that is called (`file_at`); of an accepted one, what was connected to."""

    @property
    def is_reachable(self) -> bool:
        """Whether others can connect or send to it: a connected one takes datagrams of its peer alone."""
        return self.listens or (self.type == socket.SOCK_DGRAM and bool(self.name) and self.peer is None)


def internet_sockets(place: Netns) -> list[Listed]:
    """Every internet socket of a namespace. KernelRefused where it cannot be entered."""
    return netns.inside(place, lambda: [each for request in _inet_requests() for each in _inet(request)])


def unix_sockets(place: Netns) -> dict[int, UnixSocket]:
    """Every unix socket of a namespace, by inode; none where this kernel does not tell (no unix_diag)."""
    show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER
    request = UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, ALL_STATES, 0, show, 0, 0)
    return netns.inside(place, lambda: {each.inode: each for each in map(_unix, _dump(request))})


def file_at(path: Path) -> bytes:
    """A socket's file as `UnixSocket.file` has it; OSError where there is none."""
    found = path.stat()
    device = os.major(found.st_dev) << MINOR_BITS | os.minor(found.st_dev)
    return UNIX_FILE.pack(found.st_ino & 0xFFFFFFFF, device)


def _inet_requests() -> Iterator[bytes]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol in PROTOCOLS:
            yield INET_REQUEST.pack(family, protocol, 0, LIVING_STATES)


def _inet(request: bytes) -> Iterator[Listed]:
    for body in _dump(request):
        family, state, port, cookie, inode = INET_ANSWER.unpack_from(body)
        owner = _attributes(body, INET_ANSWER.size).get(INET_DIAG_CGROUP_ID, b"")
        yield Listed(inode, cookie, family, state, int.from_bytes(port, "big"), int.from_bytes(owner, sys.byteorder))


def _unix(body: bytes) -> UnixSocket:
    _, kind, state, _, inode, _, _ = UNIX_ANSWER.unpack_from(body)
    found = _attributes(body, UNIX_ANSWER.size)
    name = found.get(UNIX_DIAG_NAME, b"").decode(errors="replace")
    name = f"@{name[1:]}" if name.startswith("\0") else name.rstrip("\0")
    peer = int.from_bytes(found[UNIX_DIAG_PEER], sys.byteorder) if UNIX_DIAG_PEER in found else None
    return UnixSocket(inode, kind, name, peer, state == LISTEN, found.get(UNIX_DIAG_VFS, b""))


def _dump(request: bytes) -> Iterator[bytes]:
    """The bodies of the answers; none where this kernel lacks the family or protocol."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(TIMEOUT_S)
        length = HEADER.size + len(request)
        asking.send(HEADER.pack(length, SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, 1, 0) + request)
        while True:
            data, at = asking.recv(RECEIVE_BYTES), 0
            while at < len(data):
                length, kind, *_ = HEADER.unpack_from(data, at)
                if kind in {NLMSG_ERROR, NLMSG_DONE}:
                    return
                yield data[at + HEADER.size : at + length]
                at += _aligned(length)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        found[kind] = body[at + ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
