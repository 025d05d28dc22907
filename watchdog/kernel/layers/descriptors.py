"""What is open already and can be disarmed from outside: packet sockets that send past the queueing layer, where tc is.

It is the agent's own setting, so release gives it back: the sockets are remembered by their cookies in the set that
drops sockets from elsewhere, which never sees a packet socket's packets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from watchdog.errors import KernelRefused
from watchdog.kernel import elsewhere, sockets
from watchdog.kernel.common import Common
from watchdog.kernel.elsewhere import Entry
from watchdog.kernel.layers import whose
from watchdog.kernel.layers.base import Target
from watchdog.kernel.programs import COOKIES_MAP
from watchdog.kernel.sockets import Exchanged, Handle

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
"""<linux/if_packet.h>"""

NOWHERE = 0
"""The point of an entry that is only a note: no program is attached for it."""


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
        refused: list[str] = []
        for handle, fd in _bypassing(target, refused):
            try:
                _note(target, fd)
                sockets.set_option(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 0)
            except OSError as error:
                refused.append(f"{_named(handle)} sends past the queueing layer, and keeps doing so: {error.strerror}")
        if refused:
            raise KernelRefused("; ".join(refused))

    def gaps(self, target: Target) -> list[str]:
        """The packet sockets that have it on, and those that can have it on again at any time."""
        found, lost = whose.look(target), list[str]()
        lent = [found.handles[each.inode] for each in found.of_family(socket.AF_PACKET) if not each.own]
        return [
            *(f"{_named(handle)} sends past the queueing layer" for handle, _ in _bypassing(target, lost)),
            *lost,
            *(
                f"{_named(handle)} was made elsewhere: the refusal of its options does not apply to it"
                for handle in lent
            ),
        ]

    def detach(self, target: Target) -> None:
        """Turn it on again where we turned it off; sockets that are closed by now need nothing."""
        map_id = target.common.maps.get(COOKIES_MAP)
        if map_id is None:
            return
        noted = {e.cookie for e in elsewhere.entries(map_id) if (e.isolation, e.point) == (_id(target), NOWHERE)}
        if not noted:
            return
        for _, fd in _packet_sockets(target, []):
            if _cookie(fd) in noted:
                with suppress(OSError):  # one from elsewhere, under another isolation's refusals
                    sockets.set_option(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        elsewhere.remove(map_id, noted)


def _bypassing(target: Target, lost: list[str]) -> Iterator[tuple[Handle, int]]:
    for handle, fd in _packet_sockets(target, lost):
        if any(sockets.option(fd, SOL_PACKET, PACKET_QDISC_BYPASS) or b""):
            yield handle, fd


def _packet_sockets(target: Target, lost: list[str]) -> Iterator[tuple[Handle, int]]:
    """Those that are there still, each with a descriptor of ours while it is looked at; `lost` is told of those that
    may be, and could not be had."""
    found = whose.look(target)
    for each in found.of_family(socket.AF_PACKET):
        handle = found.handles[each.inode]
        try:
            with sockets.opened(handle) as fd:
                yield handle, fd
        except OSError as error:
            if isinstance(error, Exchanged):
                lost.append(f"{_named(handle)} cannot be looked at: {error.strerror}")


def _note(target: Target, fd: int) -> None:
    if COOKIES_MAP in target.common.maps:
        elsewhere.add(target.common.maps[COOKIES_MAP], [Entry(_cookie(fd), _id(target), NOWHERE)])


def _id(target: Target) -> int:
    return target.isolation_id


def _cookie(fd: int) -> int:
    value = sockets.option(fd, socket.SOL_SOCKET, sockets.SO_COOKIE, elsewhere.COOKIE.size)
    return int.from_bytes(value or b"", "little")


def _named(handle: Handle) -> str:
    return f"the packet socket that process {handle.pid} has open as descriptor {handle.fd}"
