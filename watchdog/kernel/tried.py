"""Whom an isolated agent called and was refused at once: no packet of such a call is ever seen (bpf/calls.c)."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from watchdog.kernel import hooks, libbpf
from watchdog.kernel.programs import TRIED_MAP

KEY = struct.Struct("=Q16s2sBB4x")
"""struct wd_tried_key: cgroup of the process, address and port in network order, family, protocol."""

VALUE = struct.Struct("=QQQI4x16s")
"""struct wd_tried: first and last in ns of CLOCK_BOOTTIME, how often, pid, name of the process."""

TRIED_MAX = 4096
"""WD_TRIED_MAX: of all isolations together, those that were called last."""

NS_PER_S = 1_000_000_000

_IPV4 = 4
_IPV4_BYTES = 4


@dataclass(frozen=True, slots=True)
class Tried:
    """Connections and datagrams for one address and port, none of which was begun."""

    address: str
    port: int
    protocol: int
    """IPPROTO_*."""
    times: int
    first_s: float
    """CLOCK_BOOTTIME."""
    last_s: float
    pid: int
    """Of the process that called last."""
    command: str
    """Its name; any process can give itself any."""


def read(program_ids: Collection[int], cgroup_ids: Collection[int]) -> list[Tried]:
    """What processes of these cgroups called, the most recent first: by whatever programs refused it."""
    found = [_tried(key, value) for _, key, value in _entries(program_ids, cgroup_ids)]
    return sorted(found, key=lambda tried: tried.last_s, reverse=True)


def forget(program_ids: Collection[int], cgroup_ids: Collection[int]) -> None:
    """An isolation is over: what these cgroups called is not to be told of the next."""
    for fd, key, _ in _entries(program_ids, cgroup_ids):
        libbpf.map_delete(fd, key)


def _entries(program_ids: Collection[int], cgroup_ids: Collection[int]) -> Iterator[tuple[int, bytes, bytes]]:
    for map_id in hooks.maps_of(program_ids, TRIED_MAP):
        with libbpf.map_by_id(map_id) as fd:
            for key, value in libbpf.map_entries(fd, KEY.size, VALUE.size, TRIED_MAX).items():
                if KEY.unpack(key)[0] in cgroup_ids:
                    yield fd, key, value


def _tried(key: bytes, value: bytes) -> Tried:
    _, address, port, family, protocol = KEY.unpack(key)
    first_ns, last_ns, times, pid, command = VALUE.unpack(value)
    return Tried(
        _address(family, address),
        int.from_bytes(port, "big"),
        protocol,
        times,
        first_ns / NS_PER_S,
        last_ns / NS_PER_S,
        pid,
        command.rstrip(b"\0").decode(errors="replace"),
    )


def _address(family: int, packed: bytes) -> str:
    """An IPv4 address that came in IPv6's clothes is told as what it is."""
    found = ipaddress.ip_address(packed[:_IPV4_BYTES] if family == _IPV4 else packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
