"""Network namespaces: those of a target's processes, all of this host, and how to do something inside one.

A namespace is its inode on nsfs; a path into it (/proc/PID/ns/net) is good only as long as its process lives, so
whoever goes in checks that it leads where it should. Nothing here makes a namespace.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from watchdog.errors import HostCannot, KernelRefused
from watchdog.kernel.mounts import read_mounts

OWN, INIT = Path("/proc/self/ns/net"), Path("/proc/1/ns/net")

CLONE_NEWNET = 0x40000000

NAMES_AT_MOST = 8
"""How many strangers an error lists."""

_NSFS_ROOT = re.compile(r"net:\[(\d+)\]")

T = TypeVar("T")


class NetnsGone(KernelRefused):
    """The namespace, or the last way into it that was known, is gone."""


@dataclass(frozen=True, slots=True)
class Netns:
    """One network namespace."""

    inode: int
    path: Path
    """A way in."""

    def __str__(self) -> str:
        """What an operator can look up: `lsns -t net`, `nsenter --net=PATH`."""
        return f"network namespace {self.inode} ({self.path})"


def of_processes(pids: Iterable[int]) -> dict[int, Netns]:
    """The namespaces of these processes by inode, their threads asked one by one: each can be in another.

    Processes and threads that end midway are left out.
    """
    found: dict[int, Netns] = {}
    for pid in sorted(pids):
        for thread in _threads(pid):
            _note(found, f"/proc/{pid}/task/{thread}/ns/net")
    return found


def all_visible() -> dict[int, Netns]:
    """Every namespace that a process lives in or that is mounted by name (`ip netns`, container runtimes)."""
    found = {inode: Netns(inode, path) for inode, path in _mounted()}
    for pid in _pids():
        _note(found, f"/proc/{pid}/ns/net")
    return found


def hosts_own() -> dict[int, Netns]:
    """The namespaces that are the host's and not some agent's, by inode: PID 1's and our own."""
    found: dict[int, Netns] = {}
    for path in (INIT, OWN):
        _note(found, str(path))
    return found


def residents(inode: int) -> dict[int, str]:
    """The processes in a namespace: pid to name. Zombies are in none."""
    inside = [pid for pid in _pids() if _inode(f"/proc/{pid}/ns/net") == inode]
    return {pid: _name(pid) for pid in inside}


def strangers(inode: int, members: Collection[int]) -> dict[int, str]:
    """Processes in a namespace that are none of `members`: pid to name."""
    return {pid: name for pid, name in residents(inode).items() if pid not in members}


def listed(processes: Mapping[int, str]) -> str:
    """Processes as an error names them: "dockerd (712), sh (801) and 3 more"."""
    named = [f"{name} ({pid})" for pid, name in sorted(processes.items())]
    more = len(named) - NAMES_AT_MOST
    return ", ".join(named[:NAMES_AT_MOST]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def opened(netns: Netns) -> Iterator[int]:
    """A descriptor of exactly this namespace, which keeps it alive; NetnsGone where its path leads elsewhere now."""
    try:
        fd = os.open(netns.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NetnsGone(f"{netns} is gone") from error
    except OSError as error:
        raise KernelRefused(
            f"cannot open {netns}: {error.strerror}", hint="this needs root with CAP_SYS_PTRACE"
        ) from error
    try:
        if os.fstat(fd).st_ino != netns.inode:
            raise NetnsGone(f"{netns} is gone: another one is there now")
        yield fd
    finally:
        os.close(fd)


def inside(netns: Netns, work: Callable[[], T]) -> T:
    """Do something short in a namespace: in a thread of its own, which never comes back out of it.

    The caller's threads stay where they are, whatever happens. KernelRefused where it cannot be entered.
    """
    with opened(netns) as fd:
        return _in_thread(netns, fd, work)


def netlink_socket(netns: Netns, groups: int = 0) -> socket.socket:
    """An rtnetlink socket that belongs to a namespace, whoever uses it from wherever.

    It keeps the namespace alive when all processes have left it, so it must not be kept.
    """

    def make() -> socket.socket:
        # SOCK_DGRAM: asyncio, inside pyroute2, takes nothing else.
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        made.bind((0, groups))
        return made

    return inside(netns, make)


def links(netns: Netns) -> dict[int, str]:
    """The links of a namespace: index to name."""
    return dict(inside(netns, socket.if_nameindex))


def _in_thread(netns: Netns, fd: int, work: Callable[[], T]) -> T:
    done: list[T] = []
    failed: list[Exception] = []

    def enter() -> None:
        try:
            _setns(netns, fd)
            done.append(work())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            failed.append(error)

    thread = threading.Thread(target=enter, name="watchdog-netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _setns(netns: Netns, fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0:
        return
    reason = os.strerror(ctypes.get_errno())
    raise HostCannot(f"cannot enter {netns}: {reason}", hint="this needs root with CAP_SYS_ADMIN")


def _note(found: dict[int, Netns], path: str) -> None:
    inode = _inode(path)
    if inode is not None and inode not in found:
        found[inode] = Netns(inode, Path(path))


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 -- every thread of every process
    except OSError:  # ended midway, or a zombie; PID 1 may be closed even to root
        return None


def _mounted() -> Iterator[tuple[int, Path]]:
    for mount in read_mounts():
        match = _NSFS_ROOT.fullmatch(mount.root)
        if match:
            yield int(match[1]), mount.point


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 -- every process


def _threads(pid: int) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 -- every thread
    return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"
