"""Who an isolated agent tried to talk to, and who tried to talk to it: what was dropped, as flows.

Two memories of fixed size (bpf/cgroup_skb.c). A hash counts the flows that were seen last, the least recent make room
for new ones. A ring keeps the first packets of the flows that were seen first; nobody takes them out before the slot
is used anew. What is in neither is counted. Everything is read from maps, as often as one likes, by anybody.
"""

from __future__ import annotations

import ipaddress
import mmap
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import attrgetter

from watchdog.kernel import hooks, libbpf
from watchdog.kernel.programs import EVENTS_MAP, FLOWS_MAP, TALLY_MAP, Hook

KEY = struct.Struct("=BBBx2s2x16s16s")
"""struct wd_flow_key: direction, family, protocol, port, source, destination; the last three in network order."""

VALUE = struct.Struct("=QQQQ2s6x")
"""struct wd_flow: first and last in ns of CLOCK_BOOTTIME, packets, bytes, source port."""

EVENT = struct.Struct(f"={KEY.size}sQI2s2x")
"""struct wd_flow_event: key, time in ns, bytes, source port."""

MAX_FLOWS = 4096
"""WD_FLOWS."""

NS_PER_S = 1_000_000_000

_ADDRESS_BYTES = {4: 4, 6: 16}

_PAGE = mmap.PAGESIZE
_POSITION = struct.Struct("=Q")
_HEADER = struct.Struct("=II")
"""struct bpf_ringbuf_hdr: length with flags, and what only the kernel needs."""
_RING_BUSY, _RING_DISCARDED = 1 << 31, 1 << 30
_RING_ALIGN_BYTES = 8


class Tally(IntEnum):
    """enum wd_tally in bpf/wd.h."""

    FLOWS_SEEN = 0
    FLOWS_LOST = 1
    EVENTS_LOST = 2


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets in one direction, by one protocol, from one address to one address and port."""

    direction: Hook
    protocol: int
    """IPPROTO_*; of IPv6 the first header after the fixed one."""
    source: str
    """ "" where the packet was none of IP."""
    destination: str
    port: int
    """Of the destination; 0 where it could not be read, or there is none."""
    source_port: int
    """Of the last packet: a new connection has a new one, and is the same flow."""
    first_s: float
    """CLOCK_BOOTTIME."""
    last_s: float
    packets: int
    bytes: int
    is_whole: bool = True
    """False where it made room for others: then its first packet is all that is known."""


@dataclass(frozen=True, slots=True)
class Flows:
    """What is known of the dropped packets."""

    listed: tuple[Flow, ...]
    """Most packets first."""
    seen: int
    """Flows that began; one that was forgotten and came back counts twice."""
    lost: int = 0
    """Packets of flows for which there was no memory."""
    events_lost: int = 0
    """First packets of flows for which there was no room."""

    @property
    def packets(self) -> int:
        """The packets of the listed flows."""
        return sum(flow.packets for flow in self.listed)

    def __add__(self, other: Flows) -> Flows:
        """Both; who was talked to in both ways is listed twice."""
        return Flows(
            _busiest_first((*self.listed, *other.listed)),
            self.seen + other.seen,
            self.lost + other.lost,
            self.events_lost + other.events_lost,
        )


def read(maps: Mapping[str, int]) -> Flows:
    """The flows of a slot, by the ids of its maps."""
    with libbpf.map_by_id(maps[EVENTS_MAP]) as fd:
        early = dict(_events(fd))
    with libbpf.map_by_id(maps[FLOWS_MAP]) as fd:
        found = libbpf.map_entries(fd, KEY.size, VALUE.size, MAX_FLOWS)
    listed = {key: flow_of(key, value) for key, value in found.items()}
    forgotten = (replace(flow, is_whole=False) for key, flow in early.items() if key not in listed)
    with libbpf.map_by_id(maps[TALLY_MAP]) as fd:
        seen, lost, events_lost = (libbpf.map_sum(fd, each, 1)[0] for each in Tally)
    return Flows(_busiest_first((*listed.values(), *forgotten)), seen, lost, events_lost)


def read_of_programs(program_ids: Collection[int]) -> Flows | None:
    """The same by program ids alone; None where they are gone, or of a version that kept no flows."""
    names = (EVENTS_MAP, FLOWS_MAP, TALLY_MAP)
    maps = {name: map_id for name in names for map_id in hooks.maps_of(program_ids, name)}
    return read(maps) if len(maps) == len(names) else None


def forget(maps: Mapping[str, int]) -> None:
    """Begin anew, before an isolation takes the slot."""
    with libbpf.map_by_id(maps[FLOWS_MAP]) as fd:
        libbpf.map_entries(fd, KEY.size, VALUE.size, MAX_FLOWS, remove=True)
    with libbpf.map_by_id(maps[TALLY_MAP]) as fd:
        for each in Tally:
            libbpf.map_zero(fd, each, 1)
    with libbpf.map_by_id(maps[EVENTS_MAP]) as fd, mmap.mmap(fd, _PAGE) as consumer, _ring(fd) as ring:
        consumer[: _POSITION.size] = ring[_PAGE : _PAGE + _POSITION.size]


def flow_of(key: bytes, value: bytes) -> Flow:
    """One flow as its map has it."""
    return _flow(key, *VALUE.unpack(value))


def _busiest_first(listed: Iterable[Flow]) -> tuple[Flow, ...]:
    return tuple(sorted(listed, key=attrgetter("packets", "last_s"), reverse=True))


def _events(fd: int) -> Iterator[tuple[bytes, Flow]]:
    """The first packets in the ring, oldest first. Its data is mapped twice in a row, so that no record is in two."""
    with _ring(fd) as ring:
        data, size = 2 * _PAGE, (len(ring) - 2 * _PAGE) // 2
        (position,), (end,) = _POSITION.unpack_from(ring, 0), _POSITION.unpack_from(ring, _PAGE)
        while position < end:
            at = data + position % size
            length, _ = _HEADER.unpack_from(ring, at)
            if length & _RING_BUSY:
                return  # being written, as everything after it may be
            if not length & _RING_DISCARDED:
                key, at_ns, size_bytes, port = EVENT.unpack_from(ring, at + _HEADER.size)
                yield key, _flow(key, at_ns, at_ns, 1, size_bytes, port)
            position += _HEADER.size + -(-(length & ~_RING_DISCARDED) // _RING_ALIGN_BYTES) * _RING_ALIGN_BYTES


def _ring(fd: int) -> mmap.mmap:
    """The consumer's page, the producer's, and the data twice. Read only: nobody is told that we have read."""
    size = libbpf.map_info(fd).max_entries
    return mmap.mmap(fd, 2 * _PAGE + 2 * size, prot=mmap.PROT_READ)


def _flow(key: bytes, first_ns: int, last_ns: int, packets: int, size_bytes: int, source_port: bytes) -> Flow:
    direction, family, protocol, port, source, destination = KEY.unpack(key)
    return Flow(
        Hook(direction),
        protocol,
        _address(family, source),
        _address(family, destination),
        int.from_bytes(port, "big"),
        int.from_bytes(source_port, "big"),
        first_ns / NS_PER_S,
        last_ns / NS_PER_S,
        packets,
        size_bytes,
    )


def _address(family: int, packed: bytes) -> str:
    return str(ipaddress.ip_address(packed[: _ADDRESS_BYTES[family]])) if family else ""
