"""Who can send frames: packet sockets that processes have open, and processes that may open more.

The kernel lists packet sockets by namespace; which of them a process holds is asked only where there are any, which is
nowhere on most hosts.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog import aside
from watchdog.aside import NoAnswer
from watchdog.kernel import credentials, netns, sockets
from watchdog.kernel.netns import Netns, NetnsGone
from watchdog.kernel.sockets import Handle

CAP_NET_RAW_BIT = 13
"""<uapi/linux/capability.h>"""

_LISTED = Path("/proc/thread-self/net/packet")

_SOCKET = "socket:["
_COOKIE_BYTES = 8


@dataclass(frozen=True, slots=True)
class PacketSocket:
    """One packet socket that a process holds."""

    place: Netns
    """The namespace it sends into, wherever its process is."""
    cookie: int | None
    """0 where it is known to have been made in the cgroup of an isolated agent, and where it is gone; None where it
    did not answer."""


def may_be_opened(pids: Iterable[int]) -> bool:
    """Whether any thread of these processes has CAP_NET_RAW or takes it when it likes, in whatever user namespace."""
    return any(each.capabilities >> CAP_NET_RAW_BIT & 1 for pid in pids for each in credentials.of_threads(pid))


def open_ones(pids: Iterable[int], places: Iterable[Netns]) -> list[PacketSocket]:
    """The packet sockets of these namespaces that the processes hold. What goes midway is left out."""
    where = {inode: place for place in places for inode in _listed_in(place)}
    if not where:
        return []
    held: dict[int, Handle] = {}
    for inode, handle in _held(pids, where):
        held.setdefault(inode, handle)
    cookies = _cookies(held) if held else {}
    return [PacketSocket(where[inode], cookies.get(inode)) for inode in sorted(held)]


def parse_listed(text: str) -> set[int]:
    """The inodes in /proc/net/packet, its last column."""
    return {int(line.split()[-1]) for line in text.splitlines()[1:] if line.strip()}


def _listed_in(place: Netns) -> set[int]:
    with suppress(NetnsGone, OSError):  # OSError: a kernel without packet sockets has no such list
        return parse_listed(netns.inside(place, _LISTED.read_text))
    return set()


def _held(pids: Iterable[int], wanted: Iterable[int]) -> Iterator[tuple[int, Handle]]:
    links = {f"{_SOCKET}{inode}]": inode for inode in wanted}
    for pid in pids:
        for thread in _names(f"/proc/{pid}/task"):
            folder = f"/proc/{pid}/task/{thread}/fd"
            for name in _names(folder):
                with suppress(OSError):
                    inode = links.get(os.readlink(f"{folder}/{name}"))  # noqa: PTH115 -- every descriptor
                    if inode is not None:
                        yield inode, Handle(pid, int(thread), int(name), inode)


def _cookies(held: Mapping[int, Handle]) -> dict[int, int]:
    about = ("packet", *sorted(held))
    try:
        return aside.answer(about, lambda: {inode: _cookie(handle) for inode, handle in held.items()})
    except NoAnswer:
        return {}


def _cookie(handle: Handle) -> int:
    with suppress(OSError):
        fd = sockets.taken(handle)
        if not sockets.is_answered(fd, sockets.WHOSE):
            cookie = sockets.option(fd, socket.SOL_SOCKET, sockets.SO_COOKIE, _COOKIE_BYTES)
            return int.from_bytes(cookie or b"", sys.byteorder)
    return 0


def _names(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)  # noqa: PTH208 -- every descriptor of every process
    return []
