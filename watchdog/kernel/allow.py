"""The allow-list of a slot: one longest-prefix-match trie that takes the place of the one before in a single step.

There is no moment between two lists: a packet is judged by the old one or by the new one, and when the exchange
returns no CPU uses the old one any more (the kernel waits for them). A list is frozen before it is put in force, so
that it can be exchanged and not edited. Entries end by the kernel's clock, with nobody's help.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network

from watchdog.errors import KernelRefused
from watchdog.kernel import hooks, libbpf
from watchdog.kernel.programs import ALLOW_MAP

PORT = struct.Struct(">H")
ADDRESS_BYTES = 16
KEY_BYTES = 24
"""struct wd_allow_key in bpf/wd.h: bits compared, way and family, protocol, port in network order, address."""

WAY_AT = 4
BITS_BEFORE_ADDRESS = 32
KEY_BITS = 160
"""WD_ALLOW_BITS in bpf/wd.h."""

WATCHER = struct.Struct("=IB3xQ8x")
"""The key of one: bits compared, way, the id of its cgroup."""

DEADLINE = struct.Struct("=Q")
"""wd_deadline in bpf/wd.h."""

FOREVER_NS = 0

MAX_KEYS = 65536
"""WD_ALLOW_KEYS in bpf/cgroup_skb.c."""

LIST_NAME = "wd_allow_list"

IPV4 = 4

MAP_ID = struct.Struct("=I")
"""What a map of maps answers; it takes a descriptor."""

_ONLY = bytes(4)
"""The one place of wd_allow."""


class Way(IntEnum):
    """Where a connection begins: enum wd_way in bpf/wd.h."""

    OUTWARD = 0
    INWARD = 1
    WATCHER = 2
    """No way of its own: who may go INWARD, which is over the loopback link."""
    FAR = 3
    """Inward over any other link, from another network namespace: whoever has that address there."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What may pass: to and from one network, by one protocol."""

    network: IPv4Network | IPv6Network
    protocol: int
    """IPPROTO_*."""
    port: int = 0
    """The other side's for OUTWARD, the agent's own for INWARD and FAR; 0: any."""
    way: Way = Way.OUTWARD
    until_ns: int = FOREVER_NS
    """CLOCK_BOOTTIME."""


def compiled(rules: Iterable[Rule], watchers: Iterable[int] = ()) -> dict[bytes, int]:
    """Keys and deadlines; `watchers` are ids of cgroups.

    The trie answers with the longest prefix only, so each key has what its wider ones have.
    """
    groups: dict[bytes, dict[int, dict[int, int]]] = {}
    for rule in rules:
        same_length = groups.setdefault(_group(rule), {}).setdefault(rule.network.prefixlen, {})
        address = int(rule.network.network_address)
        same_length[address] = _later(rule.until_ns, same_length.get(address, rule.until_ns))
    keys = {
        _key(group, length, address): _with_wider(by_length, length, address, _address_bits(group))
        for group, by_length in groups.items()
        for length, addresses in by_length.items()
        for address in addresses
    }
    return keys | {WATCHER.pack(KEY_BITS, Way.WATCHER << 4, each): FOREVER_NS for each in watchers}


def without_watchers(keys: Mapping[bytes, int]) -> dict[bytes, int]:
    """Of a compiled list what was meant by a person: watchers come and go."""
    return {key: until_ns for key, until_ns in keys.items() if key[WAY_AT] >> 4 != Way.WATCHER}


def watchers_in(keys: Iterable[bytes]) -> list[int]:
    """The ids of the cgroups from which a compiled list lets heartbeats in."""
    return [WATCHER.unpack(key)[2] for key in keys if key[WAY_AT] >> 4 == Way.WATCHER]


def _group(rule: Rule) -> bytes:
    """The part of the key that is compared whole."""
    return bytes((rule.way << 4 | rule.network.version, rule.protocol)) + PORT.pack(rule.port)


def _address_bits(group: bytes) -> int:
    return 32 if group[0] & 0xF == IPV4 else 128


def _key(group: bytes, length: int, address: int) -> bytes:
    packed = address.to_bytes(_address_bits(group) // 8, "big").ljust(ADDRESS_BYTES, b"\0")
    return struct.pack("=I", BITS_BEFORE_ADDRESS + length) + group + packed


def _with_wider(by_length: Mapping[int, Mapping[int, int]], length: int, address: int, bits: int) -> int:
    """The latest deadline of a network and of all that hold it."""
    until_ns = by_length[length][address]
    for wider in (each for each in by_length if each < length):
        mask = (1 << bits) - (1 << bits - wider)
        until_ns = _later(until_ns, by_length[wider].get(address & mask, until_ns))
    return until_ns


def _later(one_ns: int, other_ns: int) -> int:
    return FOREVER_NS if FOREVER_NS in (one_ns, other_ns) else max(one_ns, other_ns)


def install(map_id: int, wanted: Mapping[bytes, int]) -> bool:
    """Put a compiled list in force at a slot's wd_allow; an empty one allows nothing. False where it is already.

    KernelRefused where it has more than MAX_KEYS keys; the list before stays in force then, and on any error.
    """
    if len(wanted) > MAX_KEYS:
        raise KernelRefused(f"an allow-list of {len(wanted)} keys is too long: at most {MAX_KEYS}")
    with libbpf.map_by_id(map_id) as place:
        if _read(place) == wanted:
            return False
        if not wanted:
            libbpf.map_delete(place, _ONLY)
            return True
        with libbpf.trie_created(LIST_NAME, KEY_BYTES, DEADLINE.size, MAX_KEYS) as trie:
            for key, until_ns in wanted.items():
                libbpf.map_update(trie, key, DEADLINE.pack(until_ns))
            libbpf.map_freeze(trie)
            libbpf.map_update(place, _ONLY, struct.pack("=I", trie))
    return True


def installed(map_id: int) -> dict[bytes, int]:
    """The list in force at a slot's wd_allow, as `compiled` makes it; what is over is in it still."""
    with libbpf.map_by_id(map_id) as place:
        return _read(place)


def place_of(program_ids: Iterable[int]) -> int | None:
    """The wd_allow that these programs ask; None where they are gone, or of a version without allow-lists."""
    return next(iter(hooks.maps_of(program_ids, ALLOW_MAP)), None)


def has_list(program_ids: Iterable[int]) -> bool:
    """Whether these programs let anything pass, if it were only for a time."""
    map_id = place_of(program_ids)
    if map_id is None:
        return False
    with libbpf.map_by_id(map_id) as place:
        return libbpf.map_lookup(place, _ONLY, MAP_ID.size) is not None


def _read(place: int) -> dict[bytes, int]:
    inner = libbpf.map_lookup(place, _ONLY, MAP_ID.size)
    if inner is None:
        return {}
    with libbpf.map_by_id(*MAP_ID.unpack(inner)) as trie:
        found = {key: libbpf.map_lookup(trie, key, DEADLINE.size) for key in libbpf.map_keys(trie, KEY_BYTES)}
    return {key: DEADLINE.unpack(value)[0] for key, value in found.items() if value is not None}
