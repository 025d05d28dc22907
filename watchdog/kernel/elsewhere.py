"""Sockets from elsewhere: which cgroup each belongs to, the set of those that are dropped there, what was dropped."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import diag, flows, hooks, libbpf
from watchdog.kernel.diag import Listed
from watchdog.kernel.flows import Flows
from watchdog.kernel.netns import Netns
from watchdog.kernel.programs import MADE_COUNT_MAP, MADE_FLOWS_MAP
from watchdog.kernel.slots import TRAFFIC_FIELDS, Counters, Traffic
from watchdog.kernel.sockets import SIOCGSKNS

COOKIE = struct.Struct("=Q")
ELSEWHERE = struct.Struct("=IIQ")
"""struct wd_elsewhere in bpf/wd_sockets.h: isolation, zero, point."""

ISOLATION = struct.Struct("=I")

COUNT_FIELDS = 2 * TRAFFIC_FIELDS + 2
"""struct wd_made_count in bpf/wd_sockets.h: in, out, flows seen, flows lost."""

FLOW_KEY = struct.Struct(f"={flows.KEY.size}sI4x")
"""struct wd_made_key in bpf/wd_sockets.h: flow, isolation."""

FLOWS_MAX = 4096
"""WD_MADE_FLOWS: of all isolations together, those that were seen last."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One socket that is dropped."""

    cookie: int
    isolation: int
    point: int
    """The id of the cgroup where the programs are attached that see it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What sock_diag knows of one socket."""

    cgroup_id: int
    """Where it was made; 0 where that is not known."""
    cookies: frozenset[int]
    """Of what carries its packets: the socket itself, the subflows of multipath TCP, and the connections that wait
    at a listening socket to be accepted."""


@dataclass
class Namespace:
    """The internet sockets of one network namespace."""

    by_inode: dict[int, list[Listed]]
    waiting: dict[tuple[int, int], list[Listed]]
    """Connections that nobody has accepted yet, by the port and the cgroup of their listening socket."""

    def origin(self, inode: int, cookie: int) -> Origin:
        """What is known of one socket in it."""
        itself = self.by_inode.get(inode, [])
        listening = [each for each in itself if each.state == diag.LISTEN]
        waiting = [each for listener in listening for each in self.waiting.get((listener.port, listener.cgroup_id), ())]
        owner = next((each.cgroup_id for each in itself), 0)
        return Origin(owner, frozenset({cookie, *(each.cookie for each in (*itself, *waiting))}))


@dataclass
class Origins:
    """Asks each network namespace once."""

    _namespaces: dict[int, Namespace] = field(default_factory=dict)

    def of(self, fd: int, inode: int, cookie: int) -> Origin:
        """The origin of a socket that we have as `fd`."""
        try:
            netns_fd = fcntl.ioctl(fd, SIOCGSKNS)
        except OSError:
            return Origin(0, frozenset({cookie}))
        try:
            netns_inode = os.fstat(netns_fd).st_ino
            if netns_inode not in self._namespaces:
                place = Netns(netns_inode, Path(f"/proc/self/fd/{netns_fd}"))
                self._namespaces[netns_inode] = _namespace(_listed(place))
            return self._namespaces[netns_inode].origin(inode, cookie)
        finally:
            os.close(netns_fd)


def _namespace(listed: Collection[Listed]) -> Namespace:
    found = Namespace({}, {})
    for each in listed:
        if each.inode:
            found.by_inode.setdefault(each.inode, []).append(each)
        else:
            found.waiting.setdefault((each.port, each.cgroup_id), []).append(each)
    return found


def _listed(place: Netns) -> list[Listed]:
    """Without an answer the origin is not known, which is no reason to let the socket be."""
    try:
        return diag.internet_sockets(place)
    except (WatchdogError, OSError):
        return []


def entries(map_id: int) -> list[Entry]:
    """The whole set."""
    with libbpf.map_by_id(map_id) as fd:
        return list(_entries(fd))


def _entries(fd: int) -> Iterator[Entry]:
    for key in libbpf.map_keys(fd, COOKIE.size):
        value = libbpf.map_lookup(fd, key, ELSEWHERE.size)
        if value is not None:
            isolation, _, point = ELSEWHERE.unpack(value)
            yield Entry(COOKIE.unpack(key)[0], isolation, point)


def add(map_id: int, wanted: Collection[Entry]) -> None:
    """Drop these from now on, wherever a program of the set sees them. KernelRefused where the set is full."""
    with libbpf.map_by_id(map_id) as fd:
        for each in wanted:
            try:
                libbpf.map_update(fd, COOKIE.pack(each.cookie), ELSEWHERE.pack(each.isolation, 0, each.point))
            except libbpf.BpfRefused as error:
                raise KernelRefused(f"no more sockets from elsewhere can be dropped: {error.message}") from error


def remove(map_id: int, cookies: Collection[int]) -> None:
    """Drop these no longer; those that are not in the set are fine."""
    with libbpf.map_by_id(map_id) as fd:
        for cookie in cookies:
            libbpf.map_delete(fd, COOKIE.pack(cookie))


# What was dropped of them


def begin(maps: Mapping[str, int], isolation: int) -> None:
    """Count, from now on, what is dropped of an isolation's sockets; what is counted already stays."""
    with libbpf.map_by_id(maps[MADE_COUNT_MAP]) as fd:
        if not _is_counted(fd, isolation):
            _forget_flows(maps[MADE_FLOWS_MAP], isolation)
            libbpf.map_zero(fd, isolation, COUNT_FIELDS)


def end(program_ids: Collection[int], isolation: int) -> None:
    """Forget what was counted of an isolation, by these programs."""
    for map_id in hooks.maps_of(program_ids, MADE_COUNT_MAP):
        with libbpf.map_by_id(map_id) as fd:
            libbpf.map_delete(fd, ISOLATION.pack(isolation))
    for map_id in hooks.maps_of(program_ids, MADE_FLOWS_MAP):
        _forget_flows(map_id, isolation)


def dropped(program_ids: Collection[int], isolation: int) -> Counters:
    """What these programs dropped of an isolation's sockets from elsewhere."""
    packets_in, bytes_in, packets_out, bytes_out, *_ = _counted(program_ids, isolation)
    return Counters(Traffic(packets_in, bytes_in), Traffic(packets_out, bytes_out))


def flows_of(program_ids: Collection[int], isolation: int) -> Flows:
    """Whom an isolation's sockets from elsewhere talked to, as far as these programs dropped it."""
    *_, seen, lost = _counted(program_ids, isolation)
    found = [each for map_id in hooks.maps_of(program_ids, MADE_FLOWS_MAP) for each in _flows(map_id, isolation)]
    listed = tuple(flows.flow_of(FLOW_KEY.unpack(key)[0], value) for key, value in found)
    return Flows((), seen, lost) + Flows(listed, 0)


def _counted(program_ids: Collection[int], isolation: int) -> tuple[int, ...]:
    found = [(0,) * COUNT_FIELDS]
    for map_id in hooks.maps_of(program_ids, MADE_COUNT_MAP):
        with libbpf.map_by_id(map_id) as fd:
            if _is_counted(fd, isolation):
                found.append(libbpf.map_sum(fd, isolation, COUNT_FIELDS))
    return tuple(map(sum, zip(*found, strict=True)))


def _is_counted(fd: int, isolation: int) -> bool:
    size = libbpf.possible_cpus() * COUNT_FIELDS * libbpf.VALUE_ALIGN_BYTES
    return libbpf.map_lookup(fd, ISOLATION.pack(isolation), size) is not None


def _flows(map_id: int, isolation: int) -> list[tuple[bytes, bytes]]:
    with libbpf.map_by_id(map_id) as fd:
        found = libbpf.map_entries(fd, FLOW_KEY.size, flows.VALUE.size, FLOWS_MAX)
    return [(key, value) for key, value in found.items() if FLOW_KEY.unpack(key)[1] == isolation]


def _forget_flows(map_id: int, isolation: int) -> None:
    mine = _flows(map_id, isolation)
    with libbpf.map_by_id(map_id) as fd:
        for key, _ in mine:
            libbpf.map_delete(fd, key)
