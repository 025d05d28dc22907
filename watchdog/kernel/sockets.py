"""The sockets that a target's processes have open, whosever they are, and what else of theirs carries traffic.

A socket belongs to the cgroup it was made in, whoever holds it. The kernel shows that nowhere, but runs getsockopt
programs by it: an option that no protocol has is answered by bpf/owners.c where the cgroup owns the socket.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

from watchdog.kernel import pidfd

LEVEL = 0x77640001
WHOSE, BELOW = 1, 2
"""WD_LEVEL and its options in bpf/wd_sockets.h."""

OWNED = struct.Struct("=III")
"""struct wd_owned: family, type, protocol."""

SO_PROTOCOL, SO_DOMAIN, SO_COOKIE = 38, 39, 57
"""<asm-generic/socket.h>; socket has no SO_COOKIE, and AF_XDP sockets are too much for socket.socket()."""

SIOCGSKNS = 0x894C
"""<linux/sockios.h>: a descriptor of the network namespace that a socket is in."""

AF_XDP = 44
TRIES = 3
"""For a descriptor that leads elsewhere whenever it is taken: who exchanges them all the time wins one race in four."""

INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})

LINK = "socket:["
"""How what /proc/PID/fd says of a socket begins, before the inode and a bracket."""


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket, known by its inode: no two have had the same since the boot."""

    inode: int
    family: int
    type: int
    protocol: int
    cookie: int
    """0 where nobody needs it: the socket is the target's own."""
    own: bool
    """Whether it is known to have been made in the target's cgroups."""
    netns: int
    """The inode of the network namespace it is of, for good; 0 where that is not known, or nobody needs it."""


Known = MutableMapping[int, Socket]
"""What was found out about sockets before, by inode: kept by who looks again and again."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Where something is open."""

    pid: int
    thread: int
    """The process itself, or a thread with descriptors of its own."""
    fd: int
    inode: int = 0
    """Of the socket that was seen there; 0 for what is no socket."""


@dataclass(slots=True)
class Scan:
    """Everything that was found open."""

    sockets: dict[int, Socket] = field(default_factory=dict)
    """By inode."""
    handles: dict[int, Handle] = field(default_factory=dict)
    """One of the places where each is open, by inode."""
    tuns: dict[Handle, int] = field(default_factory=dict)
    """TUN descriptors, and those of taps; the network namespace that each sends into, 0 where it is not known."""
    rings: dict[int, int] = field(default_factory=dict)
    """io_uring instances that descriptors show, by inode, and who has each."""
    mapped_rings: dict[int, int] = field(default_factory=dict)
    """The same of those that are mapped: one that is registered with itself needs no descriptor."""
    unseen: list[str] = field(default_factory=list)
    """What could not be looked at, a sentence each."""
    is_whole: bool = True
    """Whether who looked came to an end: otherwise there may be anything that is not in here."""

    def elsewhere(self) -> list[Socket]:
        """Internet sockets that are not known to be the target's own."""
        return [each for each in self.sockets.values() if each.family in INTERNET and not each.own]

    def of_family(self, family: int) -> list[Socket]:
        """Its sockets of one address family."""
        return [each for each in self.sockets.values() if each.family == family]


class Exchanged(OSError):
    """The socket may be there still, and its process exchanges its descriptors faster than they are taken."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "it exchanges its descriptors meanwhile")


def taken(handle: Handle) -> int:
    """The very socket that was seen there, wherever its process has it now. OSError where it is gone, or not for us to
    look at; Exchanged where it could not be had.

    For a child of ours that looks at it (watchdog.aside), and closes it by its end alone: then no SO_LINGER is
    waited for, nor a file's server, where something else was taken by mistake.
    """
    for _ in range(TRIES):
        fd = pidfd.take(pidfd.kept(handle.pid, handle.thread), handle.fd)
        # By the link: an inode number alone may be that of a file.
        if not handle.inode or os.readlink(f"/proc/self/fd/{fd}") == f"{LINK}{handle.inode}]":  # noqa: PTH115
            return fd
        handle = _where_now(handle)
    raise Exchanged


def _where_now(handle: Handle) -> Handle:
    """Another descriptor of its process for the same socket; OSError where it has none."""
    for thread in pidfd.tables(handle.pid, []):
        folder = f"/proc/{handle.pid}/task/{thread}/fd"
        for name in os.listdir(folder):  # noqa: PTH208 -- every descriptor of a process
            with suppress(OSError):
                if os.readlink(f"{folder}/{name}") == f"{LINK}{handle.inode}]":  # noqa: PTH115
                    return Handle(handle.pid, thread, int(name), handle.inode)
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def netns_of(fd: int) -> int:
    """The inode of the network namespace that a socket or a TUN descriptor is of; 0 where it is not known."""
    try:
        namespace = fcntl.ioctl(fd, SIOCGSKNS)
    except OSError:
        return 0
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)


def option(fd: int, level: int, name: int, size_bytes: int = 4) -> bytes | None:
    """One socket option as it is; None where the socket does not have it."""
    value, length = ctypes.create_string_buffer(size_bytes), ctypes.c_uint32(size_bytes)
    if _libc().getsockopt(fd, level, name, value, ctypes.byref(length)) < 0:
        return None
    return value.raw[: length.value]


def set_option(fd: int, level: int, name: int, value: int) -> None:
    """Set an int option; OSError where the socket does not take it."""
    packed = struct.pack("=i", value)
    if _libc().setsockopt(fd, level, name, packed, len(packed)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def is_answered(fd: int, question: int) -> bool:
    """Whether the cgroup that owns the socket, or one above it, has our program for this question (WHOSE, BELOW)."""
    return option(fd, LEVEL, question, OWNED.size) is not None


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
