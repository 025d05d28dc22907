"""The sockets that a target's processes have open, whosever they are, and what else of theirs carries traffic.

A socket belongs to the cgroup it was made in, whoever holds it. The kernel shows that nowhere, but runs getsockopt
programs by it: an option that no protocol has is answered by bpf/owners.c where the cgroup owns the socket.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache

from watchdog.kernel import cgroups, pidfd, taps, unsynced
from watchdog.kernel.cgroups import Cgroup

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
FDINFO_BYTES = 4096

TRIES = 3
"""For a descriptor that leads elsewhere whenever it is taken: who exchanges them all the time wins one race in four."""

INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})

_SOCKET, _RING = "socket:[", "anon_inode:[io_uring]"
_MAPPED_RING, _MAPS_INODE = f"{_RING}\n".encode(), 4
"""How a line of /proc/PID/maps ends, and which of its columns is the inode."""
_NO_LONGER = {errno.EBADF, errno.ESRCH, errno.ENOENT}


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
    tuns: list[Handle] = field(default_factory=list)
    """TUN descriptors, and those of taps."""
    tap_majors: frozenset[int] = field(default_factory=taps.majors)
    rings: dict[int, int] = field(default_factory=dict)
    """io_uring instances that descriptors show, by inode, and who has each."""
    mapped_rings: dict[int, int] = field(default_factory=dict)
    """The same of those that are mapped: one that is registered with itself needs no descriptor."""
    unseen: list[str] = field(default_factory=list)
    """What could not be looked at, a sentence each."""

    def elsewhere(self) -> list[Socket]:
        """Internet sockets that are not known to be the target's own."""
        return [each for each in self.sockets.values() if each.family in INTERNET and not each.own]

    def of_family(self, family: int) -> list[Socket]:
        """Its sockets of one address family."""
        return [each for each in self.sockets.values() if each.family == family]


def scan(targets: Sequence[Cgroup], known: Known | None = None) -> Scan:
    """Look at every process in the cgroups and below. Processes, threads and sockets that go midway are left out.

    wd_whose has to be attached to the cgroups, else every socket is said to be from elsewhere; give no `known` then.
    What was closed since is not known any more: an agent that opens sockets without end must not fill our memory.
    """
    known = {} if known is None else known
    found = Scan()
    for pid in sorted({pid for cgroup in targets for pid in cgroups.processes(cgroup)}):
        if pid == cgroups.OTHER_NAMESPACE:
            found.unseen.append("it has a process in a PID namespace that cannot be seen from here")
            continue
        for thread in _tables(pid, found):
            _scan_table(pid, thread, known, found)
            _scan_mappings(pid, thread, found)
    found.unseen += _hidden_rings(found)
    for closed in known.keys() - found.sockets.keys():
        known.pop(closed, None)  # another thread may look, too
    return found


class Exchanged(OSError):
    """The socket may be there still, and its process exchanges its descriptors faster than they are taken."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "it exchanges its descriptors meanwhile")


@contextmanager
def opened(handle: Handle) -> Iterator[int]:
    """The very socket that was seen there, wherever its process has it now. OSError where it is gone, or not for us to
    look at; Exchanged where it could not be had."""
    fd = _taken(handle)
    try:
        yield fd
    finally:
        os.close(fd)


def _taken(handle: Handle) -> int:
    for _ in range(TRIES):
        with pidfd.opened(handle.pid, handle.thread) as process:
            fd = _take(process, handle.fd, handle.inode)
        if fd is not None:
            return fd
        handle = _where_now(handle)
    raise Exchanged


def _take(process: int, there: int, inode: int) -> int | None:
    """A descriptor of ours for what is there now; None where it is not this socket. Asked of the link: an inode number
    alone may be that of a file."""
    fd = pidfd.take(process, there)
    if not inode or os.readlink(f"/proc/self/fd/{fd}") == f"{_SOCKET}{inode}]":  # noqa: PTH115 -- of every new socket
        return fd
    os.close(fd)
    return None


def _where_now(handle: Handle) -> Handle:
    """Another descriptor of its process for the same socket; OSError where it has none."""
    for thread in _tables(handle.pid, Scan()):
        folder = f"/proc/{handle.pid}/task/{thread}/fd"
        for name in os.listdir(folder):  # noqa: PTH208 -- every descriptor of a process
            with suppress(OSError):
                if os.readlink(f"{folder}/{name}") == f"{_SOCKET}{handle.inode}]":  # noqa: PTH115
                    return Handle(handle.pid, thread, int(name), handle.inode)
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


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


def _tables(pid: int, found: Scan) -> Iterator[int]:
    """The process, and those of its threads that have descriptors of their own."""
    yield pid
    with suppress(OSError):
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):  # noqa: PTH208 -- every descriptor of every process
            shares = thread == pid or pidfd.shares_descriptors(pid, thread)
            if shares is None:
                found.unseen.append(f"thread {thread} of process {pid} may have descriptors of its own")
            elif not shares:
                yield thread


def _scan_table(pid: int, thread: int, known: Known, found: Scan) -> None:
    folder = f"/proc/{pid}/task/{thread}/fd"
    try:
        with pidfd.opened(pid, thread) as process:
            for name in os.listdir(folder):  # noqa: PTH208 -- every descriptor of every process
                _look_at(Handle(pid, thread, int(name)), f"{folder}/{name}", process, known, found)
    except OSError as error:
        if error.errno not in _NO_LONGER:
            found.unseen.append(f"the descriptors of process {pid} cannot be looked at: {error.strerror}")


def _scan_mappings(pid: int, thread: int, found: Scan) -> None:
    """Made with IORING_SETUP_NO_MMAP, or unmapped again, an io_uring instance is not shown here either."""
    try:
        with open(f"/proc/{pid}/task/{thread}/maps", "rb") as maps:  # noqa: PTH123 -- every process
            for line in maps:
                if line.endswith(_MAPPED_RING):
                    found.mapped_rings.setdefault(int(line.split()[_MAPS_INODE]), pid)
    except OSError as error:
        if error.errno not in _NO_LONGER:
            found.unseen.append(f"the memory of process {pid} cannot be looked at: {error.strerror}")


def _hidden_rings(found: Scan) -> list[str]:
    """Before Linux 5.12 all instances have the same inode: one that a descriptor shows hides the others there."""
    hidden = {pid for inode, pid in found.mapped_rings.items() if inode not in found.rings}
    return [f"process {pid} has io_uring without a descriptor: its files are not known" for pid in sorted(hidden)]


def _look_at(handle: Handle, path: str, process: int, known: Known, found: Scan, tries: int = TRIES) -> None:
    try:
        leads_to = os.readlink(path)  # noqa: PTH115 -- every descriptor of every process
        if leads_to.startswith(_SOCKET):
            at = Handle(handle.pid, handle.thread, handle.fd, int(leads_to[len(_SOCKET) : -1]))
            if _look_at_socket(at, process, known, found):
                return
            if tries == 1:
                raise Exchanged
            _look_at(handle, path, process, known, found, tries - 1)
        elif leads_to.startswith("/"):
            if taps.is_one(unsynced.look(path), found.tap_majors):
                found.tuns.append(handle)
        elif leads_to == _RING:
            found.rings[unsynced.look(path).inode] = handle.pid
            if registered := _registered(handle):
                found.unseen.append(f"process {handle.pid} has {registered} files registered with io_uring")
    except OSError as error:
        if error.errno not in _NO_LONGER:
            found.unseen.append(f"descriptor {handle.fd} of process {handle.pid} cannot be looked at: {error.strerror}")


def _registered(handle: Handle) -> int:
    """How many files an io_uring instance has by itself: sockets among them are shown by no descriptor."""
    return _said(handle, "UserFiles:")


def _in_flight(handle: Handle) -> int:
    """How many descriptors wait in a unix socket's queue, or in those of who waits to be accepted. They are shown
    nowhere else, and who sent them to itself can have them back at any time. Linux 5.10 and later."""
    return _said(handle, "scm_fds:")


def _said(handle: Handle, name: str) -> int:
    """A number of /proc/PID/fdinfo; 0 where it does not say."""
    path = f"/proc/{handle.pid}/task/{handle.thread}/fdinfo/{handle.fd}"
    with open(path, "rb", buffering=0) as info:  # noqa: PTH123 -- every descriptor of every process
        lines = info.read(FDINFO_BYTES).decode("ascii", "replace").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _look_at_socket(handle: Handle, process: int, known: Known, found: Scan) -> bool:
    """Whether it was there still when it was taken."""
    inode = handle.inode
    if inode in found.sockets:
        return True
    if inode not in known:
        fd = _take(process, handle.fd, inode)
        if fd is None:
            return False
        try:
            known[inode] = _seen(inode, fd)
        finally:
            os.close(fd)
    found.sockets[inode], found.handles[inode] = known[inode], handle
    if known[inode].family == socket.AF_UNIX and (waiting := _in_flight(handle)):
        found.unseen.append(f"process {handle.pid} has {waiting} descriptors waiting in a unix socket's queue")
    return True


def _seen(inode: int, fd: int) -> Socket:
    owned = option(fd, LEVEL, WHOSE, OWNED.size)
    if owned is not None:
        family, kind, protocol = OWNED.unpack(owned)
        return Socket(inode, family, kind, protocol, cookie=0, own=True)
    family, kind, protocol = (_int(fd, name) for name in (SO_DOMAIN, socket.SO_TYPE, SO_PROTOCOL))
    cookie = option(fd, socket.SOL_SOCKET, SO_COOKIE, 8)
    return Socket(inode, family, kind, protocol, int.from_bytes(cookie or b"", "little"), own=False)


def _int(fd: int, name: int) -> int:
    return int.from_bytes(option(fd, socket.SOL_SOCKET, name) or b"", "little")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
