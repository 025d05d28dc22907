"""Netlink sockets of a network namespace, as /proc/net/netlink lists them: those that have an address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from watchdog.kernel import netns
from watchdog.kernel.netns import Netns

USERSOCK = 2
"""NETLINK_USERSOCK: messages from process to process, without any privilege. On the others only CAP_NET_ADMIN sends to
anybody but the kernel."""

_LISTED = Path("/proc/thread-self/net/netlink")
_PROTOCOL, _PORT, _GROUPS, _INODE = 1, 2, 3, -1
"""Its columns; an inode is that of the socket where it has a port."""


@dataclass(frozen=True, slots=True)
class NetlinkSocket:
    """One socket that others can send to."""

    protocol: int
    inode: int


def listed_in(place: Netns) -> list[NetlinkSocket]:
    """The processes' sockets in a namespace. KernelRefused where it cannot be entered."""
    return parse(netns.inside(place, lambda: _LISTED.read_text(errors="replace")))


def parse(text: str) -> list[NetlinkSocket]:
    """Those with a port or a group, which the kernel's own have not."""
    rows = [line.split() for line in text.splitlines()[1:] if line.strip()]
    return [NetlinkSocket(int(row[_PROTOCOL]), int(row[_INODE])) for row in rows if _is_reachable(row)]


def _is_reachable(row: list[str]) -> bool:
    return row[_PORT] != "0" or int(row[_GROUPS], 16) != 0
