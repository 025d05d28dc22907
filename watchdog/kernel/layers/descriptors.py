"""What is open already and can be disarmed from outside: packet sockets that send past the queueing layer, where tc is.

It is the agent's own setting, so release gives it back: the sockets are remembered by their cookies in the set that
drops sockets from elsewhere, which never sees a packet socket's packets.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from watchdog import aside
from watchdog.aside import NoAnswer
from watchdog.errors import KernelRefused
from watchdog.kernel import elsewhere, scanning, sockets
from watchdog.kernel.common import Common
from watchdog.kernel.elsewhere import Entry
from watchdog.kernel.layers import whose
from watchdog.kernel.layers.base import Target
from watchdog.kernel.programs import COOKIES_MAP
from watchdog.kernel.sockets import Exchanged, Handle, Scan

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
"""<linux/if_packet.h>"""

NOWHERE = 0
"""The point of an entry that is only a note: no program is attached for it."""

NOT_KNOWN = "whether it has packet sockets that send past the queueing layer is not known"

T = TypeVar("T")


class Descriptors:
    """PACKET_QDISC_BYPASS off, on every packet socket that the target has open."""

    name = "descriptors"

    def missing(self, common: Common) -> str:
        """Never: it needs no program."""
        return ""

    def not_applicable(self, target: Target) -> str:
        """Never."""
        return ""

    def attach(self, target: Target) -> None:
        """Turn it off where it is on."""

        def turn_off(handles: Sequence[Handle]) -> list[str]:
            refused: list[str] = []
            for handle, fd in _bypassing(handles, refused):
                try:
                    _note(target, fd)
                    sockets.set_option(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 0)
                except OSError as error:
                    refused.append(f"{_bypasses(handle)}, and keeps doing so: {error.strerror}")
            return refused

        if refused := _of_packet_sockets(target, whose.look(target), turn_off):
            raise KernelRefused("; ".join(refused))

    def gaps(self, target: Target) -> list[str]:
        """The packet sockets that have it on, and those that can have it on again at any time."""

        def told(handles: Sequence[Handle]) -> list[str]:
            lost: list[str] = []
            said = [_bypasses(handle) for handle, _ in _bypassing(handles, lost)]
            return said + lost

        found = whose.look(target)
        lent = [found.handles[each.inode] for each in found.of_family(socket.AF_PACKET) if not each.own]
        return [
            *_of_packet_sockets(target, found, told),
            *(
                f"{_named(handle)} was made elsewhere: the refusal of its options does not apply to it"
                for handle in lent
            ),
            *([] if found.is_whole else [NOT_KNOWN]),
        ]

    def detach(self, target: Target) -> None:
        """Turn it on again where we turned it off; sockets that are closed by now need nothing."""
        map_id = target.common.maps.get(COOKIES_MAP)
        if map_id is None:
            return
        noted = {e.cookie for e in elsewhere.entries(map_id) if (e.isolation, e.point) == (_id(target), NOWHERE)}
        if not noted:
            return

        def turn_on(handles: Sequence[Handle]) -> None:
            for _, fd in _taken(handles, []):
                if _cookie(fd) in noted:
                    with suppress(OSError):  # one from elsewhere, under another isolation's refusals
                        sockets.set_option(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1)

        with suppress(NoAnswer):  # it stays slower than it was, which is no reason to stay cut off
            _of_packet_sockets(target, whose.look(target), turn_on)
        elsewhere.remove(map_id, noted)


def _of_packet_sockets(target: Target, found: Scan, work: Callable[[Sequence[Handle]], T]) -> T | tuple[()]:
    """What is found out or done, aside, about those that it has; nothing where it has none."""
    handles = [found.handles[each.inode] for each in found.of_family(socket.AF_PACKET)]
    return aside.answer(scanning.about(target.cgroups), lambda: work(handles)) if handles else ()


def _bypassing(handles: Sequence[Handle], lost: list[str]) -> Iterator[tuple[Handle, int]]:
    for handle, fd in _taken(handles, lost):
        if any(sockets.option(fd, SOL_PACKET, PACKET_QDISC_BYPASS) or b""):
            yield handle, fd


def _taken(handles: Sequence[Handle], lost: list[str]) -> Iterator[tuple[Handle, int]]:
    """Those that are there still, each with a descriptor of ours; `lost` is told of those that may be, and could not be
    had."""
    for handle in handles:
        try:
            yield handle, sockets.taken(handle)
        except Exchanged as error:
            lost.append(f"{_named(handle)} cannot be looked at: {error.strerror}")
        except OSError:
            continue


def _note(target: Target, fd: int) -> None:
    if COOKIES_MAP in target.common.maps:
        elsewhere.add(target.common.maps[COOKIES_MAP], [Entry(_cookie(fd), _id(target), NOWHERE)])


def _id(target: Target) -> int:
    return target.isolation_id


def _cookie(fd: int) -> int:
    value = sockets.option(fd, socket.SOL_SOCKET, sockets.SO_COOKIE, elsewhere.COOKIE.size)
    return int.from_bytes(value or b"", "little")


def _bypasses(handle: Handle) -> str:
    return f"{_named(handle)} sends past the queueing layer"


def _named(handle: Handle) -> str:
    return f"the packet socket that process {handle.pid} has open as descriptor {handle.fd}"
