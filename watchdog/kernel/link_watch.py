"""Links that come and filters that go, told by the kernel at once: rtnetlink's notifications, namespace by namespace.

A socket that listens in a namespace keeps the namespace alive, and with it its links, when everybody else has left.
So a watch follows the namespaces that it is told of now, and lets go of the others.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType

from watchdog.errors import HostCannot
from watchdog.kernel import netns
from watchdog.kernel.netns import Netns, NetnsGone
from watchdog.kernel.tc_plan import Handle

_RTMGRP_LINK, _RTMGRP_TC = 0x1, 0x8
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_DELQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER = 37, 44, 45

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_LINK = struct.Struct("=BxHi")
"""The beginning of struct ifinfomsg: family, type, index."""
_TC = struct.Struct("=BxxxiI")
"""The beginning of struct tcmsg: family, index, handle."""
_ALIGN_BYTES = 4

_SO_RCVBUFFORCE = 33
"""<asm-generic/socket.h>: past net.core.rmem_max, for CAP_NET_ADMIN."""

_RECEIVE_BYTES = 65536
_BUFFER_BYTES = 1 << 20
"""Room for some thousand notifications; more are lost, and that is told."""

_OURS = frozenset(Handle)


class Change(StrEnum):
    """What happened."""

    LINK_CAME = "a link came"
    LINK_WENT = "a link went"
    FILTERS_CHANGED = "a qdisc or a filter went, or somebody added one"
    LOOK = "look at everything"
    """The namespace is followed only from now on, or too much happened at once to be told."""


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """One change in one namespace."""

    inode: int
    change: Change
    index: int = 0
    """The link; 0 where it is not known."""


@dataclass
class _Followed:
    sock: socket.socket
    known: set[int] = field(default_factory=set)


class LinkWatch:
    """Follows namespaces; what is not closed keeps them alive."""

    def __init__(self) -> None:
        self._followed: dict[int, _Followed] = {}
        self._news: list[LinkEvent] = []

    def __enter__(self) -> LinkWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all namespaces."""
        self.follow({})

    def follow(self, places: Mapping[int, Netns]) -> None:
        """Listen in exactly these namespaces from now on; those that are gone are left out."""
        for inode in self._followed.keys() - places.keys():
            self._followed.pop(inode).sock.close()
        for inode in places.keys() - self._followed.keys():
            try:
                self._followed[inode] = _subscribed(places[inode])
            except NetnsGone:
                continue
            except OSError as error:
                raise HostCannot(f"cannot follow the links of {places[inode]}: {error.strerror}") from error
            self._news.append(LinkEvent(inode, Change.LOOK))

    def filenos(self) -> list[int]:
        """To wait for."""
        return [each.sock.fileno() for each in self._followed.values()]

    def news(self) -> list[LinkEvent]:
        """What has happened since this was asked last; never waits."""
        news, self._news = self._news, []
        return news + [event for inode in self._followed for event in self._read(inode)]

    def _read(self, inode: int) -> list[LinkEvent]:
        followed = self._followed[inode]
        events: list[LinkEvent] = []
        while True:
            try:
                data = followed.sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return events
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                events.append(LinkEvent(inode, Change.LOOK))
                continue
            events += [LinkEvent(inode, *found) for found in parse(data, followed.known)]


def parse(data: bytes, known: set[int]) -> Iterator[tuple[Change, int]]:
    """The changes in what one read gave. The kernel tells of every change of a link: `known` are no news, and kept."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        found = _parse_one(kind, data[at + _HEADER.size : at + length], known)
        if found is not None:
            yield found
        at += -(-length // _ALIGN_BYTES) * _ALIGN_BYTES


def _parse_one(kind: int, body: bytes, known: set[int]) -> tuple[Change, int] | None:
    if kind in {_RTM_NEWLINK, _RTM_DELLINK} and len(body) >= _LINK.size:
        family, _, index = _LINK.unpack_from(body)
        return _link_change(kind, index, known) if family == socket.AF_UNSPEC else None  # else a bridge's own news
    if kind in {_RTM_DELQDISC, _RTM_NEWTFILTER, _RTM_DELTFILTER} and len(body) >= _TC.size:
        _, index, handle = _TC.unpack_from(body)
        news = kind != _RTM_NEWTFILTER or handle not in _OURS
        return (Change.FILTERS_CHANGED, index) if news else None
    return None


def _link_change(kind: int, index: int, known: set[int]) -> tuple[Change, int] | None:
    if kind == _RTM_DELLINK:
        known.discard(index)
        return Change.LINK_WENT, index
    if index in known:
        return None
    known.add(index)
    return Change.LINK_CAME, index


def _subscribed(place: Netns) -> _Followed:
    sock = netns.netlink_socket(place, _RTMGRP_LINK | _RTMGRP_TC)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    return _Followed(sock, set(netns.links(place)))
