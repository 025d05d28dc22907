"""The maps behind the tc filters: whose frames to drop, and how many were.

They are found through every loaded program of our names, not through pins: a filter goes on working when its pins are
gone, or were made anew by a later version, and its map is then the one that counts. A counter's entry is made first
and removed last, so that it also says that filters of an isolation may be somewhere.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack

from watchdog.kernel import hooks, libbpf
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import TC_DROP, TC_EGRESS, Program, ProgramSet
from watchdog.kernel.slots import TRAFFIC_FIELDS, Counters, Traffic

CGROUPS_MAP, COOKIES_MAP, COUNT_MAP = TC_EGRESS.maps
CUT_MAP, TAG_MAP = TC_DROP.maps

CUT_FIELDS = 2 * TRAFFIC_FIELDS
"""struct wd_tc_cut_traffic in bpf/tc_drop.c: in, out."""

MOST_TAG = 0xFFFF
"""What a filter's program sees of its classid."""

KEPT_EARLIER = 32
"""Cgroups and sockets of an isolation that are not there any more; both have ids that grow."""

_ID = struct.Struct("=Q")
_ISOLATION = struct.Struct("=I")

Maps = Mapping[str, int]
"""Map ids by name, of one load of a program set."""


def begin(maps: Maps, counter: str, isolation: int) -> None:
    """Make an isolation's counter where there is none: from now on filters of it may be somewhere."""
    fields = CUT_FIELDS if counter == CUT_MAP else TRAFFIC_FIELDS
    with libbpf.map_by_id(maps[counter]) as fd:
        if not _has(fd, isolation, fields):
            libbpf.map_zero(fd, isolation, fields)


def has_begun(of: ProgramSet[Program], counter: str, isolation: int) -> bool:
    """Whether filters of an isolation may be somewhere."""
    fields = CUT_FIELDS if counter == CUT_MAP else TRAFFIC_FIELDS
    for maps in _loaded(of):
        with libbpf.map_by_id(maps[counter]) as fd:
            if _has(fd, isolation, fields):
                return True
    return False


def end(of: ProgramSet[Program], counter: str, isolation: int) -> None:
    """Remove an isolation's counter, everywhere: nothing of it is left."""
    for maps in _loaded(of):
        with libbpf.map_by_id(maps[counter]) as fd:
            libbpf.map_delete(fd, _ISOLATION.pack(isolation))


def begin_cut(maps: Maps, isolation: int) -> None:
    """Make the counter of an isolation that cuts host ends, and the tag that its filters have for a classid."""
    begin(maps, CUT_MAP, isolation)
    taken = _tags()
    wanted = (tag for step in range(MOST_TAG) if (tag := (isolation + step) % MOST_TAG + 1) not in taken)
    tag = tag_of(isolation) or next(wanted)
    with libbpf.map_by_id(maps[TAG_MAP]) as fd:
        libbpf.map_update(fd, _ISOLATION.pack(tag), _ISOLATION.pack(isolation))


def tag_of(isolation: int) -> int:
    """The classid of an isolation's filters at host ends, the same in every load of their programs; 0 where none."""
    return next((tag for tag, owner in _tags().items() if owner == isolation), 0)


def end_cut(isolation: int) -> None:
    """Remove tag and counter, when no filter of the isolation is at a host end any more."""
    if tag := tag_of(isolation):
        for maps in _loaded(TC_DROP):
            with libbpf.map_by_id(maps[TAG_MAP]) as fd:
                libbpf.map_delete(fd, _ISOLATION.pack(tag))
    end(TC_DROP, CUT_MAP, isolation)


def enlist(maps: Maps, isolation: int, cgroup_ids: Collection[int], cookies: Collection[int] = ()) -> None:
    """Have the frames of these cgroups, and of these sockets, dropped for an isolation.

    Earlier ones stay, since a socket outlives its cgroup, but of a unit that restarts for ever only the newest.
    """
    for name, ids in ((CGROUPS_MAP, cgroup_ids), (COOKIES_MAP, cookies)):
        with libbpf.map_by_id(maps[name]) as fd:
            mine = sorted(_ID.unpack(key)[0] for key, owner in _entries(fd) if owner == isolation)
            for each in [each for each in mine if each not in ids][:-KEPT_EARLIER]:
                libbpf.map_delete(fd, _ID.pack(each))
            for each in ids:
                libbpf.map_update(fd, _ID.pack(each), _ISOLATION.pack(isolation))


def strike(isolation: int) -> None:
    """Have nothing dropped for an isolation any more, on whatever link a filter of ours is."""
    for maps in _loaded(TC_EGRESS):
        for name in (CGROUPS_MAP, COOKIES_MAP):
            with libbpf.map_by_id(maps[name]) as fd:
                for key, owner in _entries(fd):
                    if owner == isolation:
                        libbpf.map_delete(fd, key)


def enlisted() -> set[int]:
    """The cgroup ids of all isolations whose frames a filter drops."""
    found: set[int] = set()
    for maps in _loaded(TC_EGRESS):
        with libbpf.map_by_id(maps[CGROUPS_MAP]) as fd:
            found |= {_ID.unpack(key)[0] for key, _ in _entries(fd)}
    return found


def serving(isolation: int, cgroup_ids: Collection[int]) -> set[int]:
    """The egress programs, of whatever version, that drop the frames of all these cgroups."""
    found: set[int] = set()
    for program_id, maps in _loads(TC_EGRESS):
        with libbpf.map_by_id(maps[CGROUPS_MAP]) as fd:
            keys = (_ID.pack(each) for each in cgroup_ids)
            if all(libbpf.map_lookup(fd, key, _ISOLATION.size) == _ISOLATION.pack(isolation) for key in keys):
                found.add(program_id)
    return found


def take_over(maps: Maps) -> None:
    """Bring here what other loads of the egress program know, before a filter of theirs is replaced by one of this."""
    for other in _loaded(TC_EGRESS):
        if other[CGROUPS_MAP] != maps[CGROUPS_MAP]:
            for name in (CGROUPS_MAP, COOKIES_MAP):
                with libbpf.map_by_id(other[name]) as source, libbpf.map_by_id(maps[name]) as fd:
                    for key, owner in _entries(source):
                        libbpf.map_update(fd, key, _ISOLATION.pack(owner))
            with libbpf.map_by_id(other[COUNT_MAP]) as source, libbpf.map_by_id(maps[COUNT_MAP]) as fd:
                _move_counters(source, fd)


def dropped(isolation: int) -> Traffic:
    """Frames that the agent sent and no link took."""
    return _sum(_read(TC_EGRESS, COUNT_MAP, isolation, TRAFFIC_FIELDS))


def cut(isolation: int) -> Counters:
    """What was stopped at the host end of its veth; ingress is what the agent received, egress what it sent."""
    values = _read(TC_DROP, CUT_MAP, isolation, CUT_FIELDS)
    sent, received = (_sum(value[at : at + TRAFFIC_FIELDS] for value in values) for at in (0, TRAFFIC_FIELDS))
    return Counters(ingress=received, egress=sent)


def frames(isolation: int) -> Counters:
    """All frames that were dropped for an isolation at links; none of them was seen by a packet hook."""
    nothing, at_ends, sent = Traffic(0, 0), cut(isolation), dropped(isolation)
    out = Traffic(at_ends.egress.packets + sent.packets, at_ends.egress.bytes + sent.bytes)
    return Counters(nothing, nothing, frames_in=at_ends.ingress, frames_out=out)


def _tags() -> dict[int, int]:
    """Tag to isolation, of all loads."""
    found: dict[int, int] = {}
    for maps in _loaded(TC_DROP):
        with libbpf.map_by_id(maps[TAG_MAP]) as fd:
            found |= {_ISOLATION.unpack(tag)[0]: isolation for tag, isolation in _entries(fd, _ISOLATION.size)}
    return found


def _read(of: ProgramSet[Program], counter: str, isolation: int, fields: int) -> list[tuple[int, ...]]:
    values = []
    for maps in _loaded(of):
        with libbpf.map_by_id(maps[counter]) as fd:
            if _has(fd, isolation, fields):
                values.append(libbpf.map_sum(fd, isolation, fields))
    return values


def _sum(values: Iterable[tuple[int, ...]]) -> Traffic:
    packets, size_bytes = (sum(column) for column in zip((0, 0), *values, strict=True))
    return Traffic(packets, size_bytes)


def _move_counters(source: int, fd: int) -> None:
    """Where both count, each goes on by itself; what was counted is counted once."""
    for key in libbpf.map_keys(source, _ISOLATION.size):
        counted = libbpf.map_lookup(source, key, _value_bytes(TRAFFIC_FIELDS))
        if counted is not None and not _has(fd, _ISOLATION.unpack(key)[0], TRAFFIC_FIELDS):
            libbpf.map_update(fd, key, counted)
            libbpf.map_update(source, key, bytes(len(counted)))


def _has(fd: int, isolation: int, fields: int) -> bool:
    return libbpf.map_lookup(fd, _ISOLATION.pack(isolation), _value_bytes(fields)) is not None


def _value_bytes(fields: int) -> int:
    return libbpf.possible_cpus() * fields * libbpf.VALUE_ALIGN_BYTES


def _entries(fd: int, key_bytes: int = _ID.size) -> Iterator[tuple[bytes, int]]:
    """Keys, and the isolation that each belongs to."""
    for key in libbpf.map_keys(fd, key_bytes):
        value = libbpf.map_lookup(fd, key, _ISOLATION.size)
        if value is not None:
            yield key, _ISOLATION.unpack(value)[0]


def _loaded(of: ProgramSet[Program]) -> Iterator[Maps]:
    """The maps of every load of a program set, each once; they stay while they are looked at."""
    seen: set[int] = set()
    for _, maps in _loads(of):
        if maps[of.maps[0]] not in seen:
            seen.add(maps[of.maps[0]])
            yield maps


def _loads(of: ProgramSet[Program]) -> Iterator[tuple[int, Maps]]:
    """The id and the maps of every load of a set's first program. What goes meanwhile, and namesakes, are left out."""
    for program_id in libbpf.program_ids():
        if hooks.our_name(program_id) != of.programs[0].name:
            continue
        with ExitStack() as held:
            try:
                fd = held.enter_context(libbpf.prog_by_id(program_id))
                maps = _by_name(libbpf.prog_info(fd).map_ids)
            except BpfRefused as error:
                if error.code != errno.ENOENT:
                    raise
                continue
            if set(maps) >= set(of.maps):
                yield program_id, maps


def _by_name(map_ids: Iterable[int]) -> Maps:
    found = {}
    for map_id in map_ids:
        with libbpf.map_by_id(map_id) as fd:
            found[libbpf.map_info(fd).name] = map_id
    return found
