"""Looking at everything that a target's processes have open.

What /proc shows is listed in a thread. The sockets of which nothing is known yet are asked in a child: a getsockopt may
hang for as long as the agent likes. One that does is left out while it hangs, and said; so is what was not come to.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from watchdog import aside
from watchdog.aside import NoAnswer, Say
from watchdog.kernel import cgroups, pidfd, sockets, taps, unsynced
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.sockets import LINK, OWNED, Handle, Known, Scan, Socket

FDINFO_BYTES = 4096

HANGING_AT_MOST = 3
"""Children of one target that hang, each at a socket of its own: with more nobody is asked any more."""

_RING = "anon_inode:[io_uring]"
_MAPPED_RING, _MAPS_INODE = f"{_RING}\n".encode(), 4
"""How a line of /proc/PID/maps ends, and which of its columns is the inode."""
_NO_LONGER = {errno.EBADF, errno.ESRCH, errno.ENOENT}

_hanging: dict[int, int] = {}
"""Sockets, by inode, and the children that hang at them."""

Said = tuple[int, int, int, int, int, bool, int] | int | str | None
"""What a child says of one descriptor: the fields of a Socket (thousands of those themselves take long to pack), the
network namespace of a TUN descriptor, why it could not be looked at, or that it is gone."""


@dataclass(slots=True)
class Listed:
    """What /proc shows."""

    places: dict[int, Handle] = field(default_factory=dict)
    """Where each socket is, by inode."""
    tuns: list[Handle] = field(default_factory=list)
    rings: dict[int, int] = field(default_factory=dict)
    mapped_rings: dict[int, int] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    tap_majors: frozenset[int] = field(default_factory=taps.majors)


def scan(targets: Sequence[Cgroup], known: Known | None = None) -> Scan:
    """Look at every process in the cgroups and below. Processes, threads and sockets that go midway are left out.

    wd_whose has to be attached to the cgroups, else every socket is said to be from elsewhere; give no `known` then.
    What was closed since is not known any more: an agent that opens sockets without end must not fill our memory.
    """
    known, found, listed = {} if known is None else known, Scan(), Listed()
    pids = {pid for cgroup in targets for pid in cgroups.processes(cgroup)}
    if cgroups.OTHER_NAMESPACE in pids:
        listed.unseen.append("it has a process in a PID namespace that cannot be seen from here")
    try:
        aside.in_thread(("list", about(targets)), lambda: _list(sorted(pids - {cgroups.OTHER_NAMESPACE}), listed))
    except NoAnswer as error:
        _is_in_part(found, error)
    places = dict(listed.places)
    for closed in known.keys() - places.keys() if found.is_whole else ():
        known.pop(closed, None)  # another thread may look, too
    _sort_out(about(targets), places, [*listed.tuns], known, found)
    found.rings, found.mapped_rings = dict(listed.rings), dict(listed.mapped_rings)
    found.unseen += [*listed.unseen, *_hidden_rings(found), *_in_flight(found)]
    return found


def about(targets: Iterable[Cgroup]) -> frozenset[int]:
    """What a child is asked about that looks at what these cgroups' processes have open."""
    return frozenset(cgroup.inode for cgroup in targets)


def _is_in_part(found: Scan, error: NoAnswer) -> None:
    found.unseen.append(f"its descriptors could not be looked at: {error.message}")
    found.is_whole = False


def _sort_out(of: frozenset[int], places: dict[int, Handle], tuns: list[Handle], known: Known, found: Scan) -> None:
    """Tell what is known, what is asked, and what hangs."""
    hanging, before = _still_hanging(), dict(known)
    found.sockets = {inode: before[inode] for inode in places if inode in before}
    found.handles = {inode: places[inode] for inode in found.sockets}
    todo = tuns
    for inode in places.keys() - before.keys():
        if inode in hanging:
            _hangs(places[inode], found)
        else:
            todo.append(places[inode])
    _ask(of, todo, known, found)


def _ask(of: frozenset[int], todo: list[Handle], known: Known, found: Scan) -> None:
    """Another child is asked about what the last one did not come to."""
    while todo:
        heard: list[Said] = []
        try:
            aside.ask(("descriptors", of), _telling(todo), heard.append, HANGING_AT_MOST)
        except NoAnswer as error:
            culprit = todo[len(heard)] if len(heard) < len(todo) else None
            if not (error.left and culprit and culprit.inode):
                _is_in_part(found, error)
                return
            _hanging[culprit.inode] = error.left
            _hangs(culprit, found)
        finally:
            for handle, said in zip(todo, heard, strict=False):
                _take_in(handle, said, known, found)
            todo = todo[len(heard) + 1 :]


def _still_hanging() -> set[int]:
    for inode in [inode for inode, child in _hanging.items() if not aside.hangs(child)]:
        del _hanging[inode]
    return {*_hanging}


def _hangs(handle: Handle, found: Scan) -> None:
    found.unseen.append(f"descriptor {handle.fd} of process {handle.pid}, a socket, hangs: what it is is not known")
    found.is_whole = False


def _take_in(handle: Handle, said: Said, known: Known, found: Scan) -> None:
    if isinstance(said, tuple):
        known[handle.inode] = found.sockets[handle.inode] = Socket(*said)
        found.handles[handle.inode] = handle
    elif isinstance(said, int):
        found.tuns[handle] = said
    elif said is not None:
        found.unseen.append(said)


# --- in a child


def _telling(todo: Iterable[Handle]) -> Callable[[Say], None]:
    def tell(say: Say) -> None:
        for handle in todo:
            say(_said_of(handle))

    return tell


def _said_of(handle: Handle) -> Said:
    try:
        fd = sockets.taken(handle)
        return _seen(handle.inode, fd) if handle.inode else sockets.netns_of(fd)
    except OSError as error:
        return None if error.errno in _NO_LONGER else _cannot(handle, error)


def _seen(inode: int, fd: int) -> Said:
    owned = sockets.option(fd, sockets.LEVEL, sockets.WHOSE, OWNED.size)
    if owned is not None:
        family, kind, protocol = OWNED.unpack(owned)
        is_wanted = family not in sockets.INTERNET or kind == socket.SOCK_RAW
        return inode, family, kind, protocol, 0, True, sockets.netns_of(fd) if is_wanted else 0
    family, kind, protocol = (_int(fd, name) for name in (sockets.SO_DOMAIN, socket.SO_TYPE, sockets.SO_PROTOCOL))
    cookie = int.from_bytes(sockets.option(fd, socket.SOL_SOCKET, sockets.SO_COOKIE, 8) or b"", "little")
    return inode, family, kind, protocol, cookie, False, sockets.netns_of(fd)


def _int(fd: int, name: int) -> int:
    return int.from_bytes(sockets.option(fd, socket.SOL_SOCKET, name) or b"", "little")


# --- in a thread


def _list(pids: Iterable[int], listed: Listed) -> None:
    for pid in pids:
        for thread in pidfd.tables(pid, listed.unseen):
            _list_table(pid, thread, listed)
            _list_mappings(pid, thread, listed)


def _list_table(pid: int, thread: int, listed: Listed) -> None:
    folder = f"/proc/{pid}/task/{thread}/fd"
    try:
        for name in os.listdir(folder):  # noqa: PTH208 -- every descriptor of every process
            _list_one(pid, thread, int(name), f"{folder}/{name}", listed)
    except OSError as error:
        if error.errno not in _NO_LONGER:
            listed.unseen.append(f"the descriptors of process {pid} cannot be looked at: {error.strerror}")


def _list_one(pid: int, thread: int, fd: int, path: str, listed: Listed) -> None:
    try:
        leads_to = os.readlink(path)  # noqa: PTH115 -- every descriptor of every process
        if leads_to.startswith(LINK):
            inode = int(leads_to[len(LINK) : -1])
            if inode not in listed.places:
                listed.places[inode] = Handle(pid, thread, fd, inode)
        elif leads_to.startswith("/"):
            if taps.is_one(unsynced.look(path), listed.tap_majors):
                listed.tuns.append(Handle(pid, thread, fd))
        elif leads_to == _RING:
            listed.rings[unsynced.look(path).inode] = pid
            if registered := _said(Handle(pid, thread, fd), "UserFiles:"):
                listed.unseen.append(f"process {pid} has {registered} files registered with io_uring")
    except OSError as error:
        if error.errno not in _NO_LONGER:
            listed.unseen.append(_cannot(Handle(pid, thread, fd), error))


def _cannot(handle: Handle, error: OSError) -> str:
    return f"descriptor {handle.fd} of process {handle.pid} cannot be looked at: {error.strerror}"


def _list_mappings(pid: int, thread: int, listed: Listed) -> None:
    """Made with IORING_SETUP_NO_MMAP, or unmapped again, an io_uring instance is not shown here either."""
    try:
        with open(f"/proc/{pid}/task/{thread}/maps", "rb") as maps:  # noqa: PTH123 -- every process
            for line in maps:
                if line.endswith(_MAPPED_RING):
                    listed.mapped_rings.setdefault(int(line.split()[_MAPS_INODE]), pid)
    except OSError as error:
        if error.errno not in _NO_LONGER:
            listed.unseen.append(f"the memory of process {pid} cannot be looked at: {error.strerror}")


# --- of all that was found


def _hidden_rings(found: Scan) -> list[str]:
    """Before Linux 5.12 all instances have the same inode: one that a descriptor shows hides the others there."""
    hidden = {pid for inode, pid in found.mapped_rings.items() if inode not in found.rings}
    return [f"process {pid} has io_uring without a descriptor: its files are not known" for pid in sorted(hidden)]


def _in_flight(found: Scan) -> Iterator[str]:
    """Descriptors that wait in a unix socket's queue, or in those of who waits to be accepted. They are shown nowhere
    else, and who sent them to itself can have them back at any time. Linux 5.10 and later."""
    for each in found.of_family(socket.AF_UNIX):
        handle = found.handles[each.inode]
        try:
            if waiting := _said(handle, "scm_fds:"):
                yield f"process {handle.pid} has {waiting} descriptors waiting in a unix socket's queue"
        except OSError as error:
            if error.errno not in _NO_LONGER:
                yield _cannot(handle, error)


def _said(handle: Handle, name: str) -> int:
    """A number of /proc/PID/fdinfo; 0 where it does not say."""
    path = f"/proc/{handle.pid}/task/{handle.thread}/fdinfo/{handle.fd}"
    with open(path, "rb", buffering=0) as info:  # noqa: PTH123 -- every descriptor of every process
        lines = info.read(FDINFO_BYTES).decode("ascii", "replace").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
