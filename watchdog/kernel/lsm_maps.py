"""The maps behind the LSM programs: who is isolated, how deep to look, and where the kernel's members are."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from watchdog.errors import KernelRefused
from watchdog.kernel import btf, cgroups, libbpf
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import LSM_CGROUPS_MAP, LSM_CONFIG_MAP

DEPTHS_MAX = 8
"""WD_LSM_DEPTHS in bpf/lsm.c: at how many different levels below the root cgroups can be isolated at once."""

DEPTHS = struct.Struct(f"={DEPTHS_MAX}I")
MEMBER_OFFSETS = struct.Struct(f"={len(btf.MEMBERS)}I")
CONFIG_BYTES = DEPTHS.size + MEMBER_OFFSETS.size
ISOLATED = struct.Struct("=2I")

_ONLY_KEY = struct.pack("=I", 0)
_ID = struct.Struct("=Q")

Maps = Mapping[str, int]
"""Map ids by name, of one load of the programs."""


@dataclass(frozen=True, slots=True)
class Isolated:
    """What the programs know of one isolated cgroup: struct wd_lsm_isolated."""

    depth: int
    """Levels below the root."""
    isolation: int


def describe_members(config_fd: int) -> None:
    """Tell the programs where in this kernel's structures the members are; at build time, before anybody is held."""
    offsets = MEMBER_OFFSETS.pack(*btf.member_offsets())
    libbpf.map_update(config_fd, _ONLY_KEY, bytes(DEPTHS.size) + offsets)


def entries(maps: Maps) -> dict[int, Isolated]:
    """Who is isolated, by cgroup id."""
    found: dict[int, Isolated] = {}
    with libbpf.map_by_id(maps[LSM_CGROUPS_MAP]) as fd:
        for key in libbpf.map_keys(fd, _ID.size):
            value = libbpf.map_lookup(fd, key, ISOLATED.size)
            if value is not None:
                found[_ID.unpack(key)[0]] = Isolated(*ISOLATED.unpack(value))
    return found


def enlist(maps: Maps, held: Mapping[int, Isolated]) -> None:
    """Refuse what is asked from within these cgroups, by id. KernelRefused where they are too many, or at too many
    different depths."""
    depths = {each.depth for each in [*entries(maps).values(), *held.values()]}
    if len(depths) > DEPTHS_MAX:
        raise KernelRefused(f"cgroups are isolated at more than {DEPTHS_MAX} different depths: {sorted(depths)}")
    with libbpf.map_by_id(maps[LSM_CGROUPS_MAP]) as fd:
        for cgroup_id, each in held.items():
            libbpf.map_update(fd, _ID.pack(cgroup_id), ISOLATED.pack(each.depth, each.isolation))
    _publish(maps, depths)


def strike(maps: Maps, cgroup_ids: Iterable[int]) -> None:
    """Refuse nothing more from within these; those that are not there are success."""
    with libbpf.map_by_id(maps[LSM_CGROUPS_MAP]) as fd:
        for cgroup_id in cgroup_ids:
            libbpf.map_delete(fd, _ID.pack(cgroup_id))
    _publish(maps, {each.depth for each in entries(maps).values()})


def looks_at(maps: Maps) -> set[int]:
    """The depths at which the programs look for an isolated cgroup."""
    return set(_depths(maps)) - {0}


def depth_of(cgroup: Cgroup) -> int:
    """Levels below the root of the hierarchy."""
    return len(cgroup.path.relative_to(cgroup.root).parts)


def gone(found: Mapping[int, Isolated], isolation: int, held: Collection[Cgroup]) -> set[int]:
    """The cgroups of an isolation that do not exist any more: a restarted unit leaves one each time."""
    if not held:
        return set()
    root, here = next(iter(held)).root, {cgroup.inode for cgroup in held}
    own = {cgroup_id for cgroup_id, each in found.items() if each.isolation == isolation}
    return {cgroup_id for cgroup_id in own - here if cgroups.by_id(cgroup_id, root) is None}


def _publish(maps: Maps, depths: Collection[int]) -> None:
    """Those that are there keep their place: a program may read the list while it is written."""
    places = [depth if depth in depths else 0 for depth in _depths(maps)]
    for depth in sorted(set(depths) - set(places)):
        places[places.index(0)] = depth
    with libbpf.map_by_id(maps[LSM_CONFIG_MAP]) as fd:
        members = (libbpf.map_lookup(fd, _ONLY_KEY, CONFIG_BYTES) or bytes(CONFIG_BYTES))[DEPTHS.size :]
        libbpf.map_update(fd, _ONLY_KEY, DEPTHS.pack(*places) + members)


def _depths(maps: Maps) -> tuple[int, ...]:
    with libbpf.map_by_id(maps[LSM_CONFIG_MAP]) as fd:
        value = libbpf.map_lookup(fd, _ONLY_KEY, CONFIG_BYTES) or bytes(CONFIG_BYTES)
    return DEPTHS.unpack(value[: DEPTHS.size])
