"""Sockets that the target has from elsewhere, dropped by their cookies where they were made.

Made before its processes were moved in, passed over a unix socket, or opened for it by systemd: such a socket belongs
to another cgroup and to its packet hooks. Programs are attached to exactly the cgroups that such sockets belong to
(where sock_diag does not know one, to the nearest that is seen to be above it), and to none where there are no such
sockets, so that nobody else pays; never to the root cgroup, which every packet of the host would have to pass.
Another process that has the same socket open is cut off from it too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial

from watchdog import aside
from watchdog.aside import NoAnswer
from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import cgroups, elsewhere, hooks, scanning, sockets
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.common import Common
from watchdog.kernel.elsewhere import Entry, Origin, Origins
from watchdog.kernel.hooks import Placed
from watchdog.kernel.layers import whose
from watchdog.kernel.layers.base import Target, raise_together
from watchdog.kernel.layers.once import once
from watchdog.kernel.programs import BELOW, COOKIES, COOKIES_MAP, CgroupProgram, Hook
from watchdog.kernel.sockets import Exchanged, Handle, Scan, Socket

PACKET_HOOKS = (Hook.INGRESS, Hook.EGRESS)
POINT_HOOKS = (*PACKET_HOOKS, BELOW.hook)
POINT_NAMES = (*COOKIES.names, BELOW.name)

ByInode = dict[int, Origin]

ORIGINS_DEADLINE_S = 10.0
"""Every internet socket of a network namespace is listed for it: 0.4 s for 100,000 of them."""

NAMES_AT_MOST = 3
"""How many sockets a gap names."""


class Cookies:
    """The set of cookies, and the programs that look into it at the cgroups those sockets belong to."""

    name = "cookies"

    def missing(self, common: Common) -> str:
        """The kernel's reason for the first program it lacks."""
        return common.why_missing(COOKIES.programs)

    def not_applicable(self, target: Target) -> str:
        """Never."""
        return ""

    def attach(self, target: Target) -> None:
        """Find such sockets and drop their packets. Cheap where there are none, or none that are new."""
        refused = whose.ask(target)
        found, origins = _uncovered(target)
        if found.sockets and (reason := self.missing(target.common)):
            raise KernelRefused(reason)
        if found.sockets:
            with suppress(KernelRefused):  # no room to count it is no reason to let it pass
                elsewhere.begin(target.common.maps, target.isolation_id)
        known, unknown = _by_owner(target, origins)
        work = [partial(_cover_made_in, target, *each) for each in known.items()]
        work += [partial(_cover_made_somewhere, target, found, unknown)] if unknown else []
        for each in work:
            try:
                each()
            except WatchdogError as error:
                refused.append(error)
        raise_together(refused)

    def gaps(self, target: Target) -> list[str]:
        """Such sockets that are not dropped, and processes that could not be looked at."""
        found, origins = _uncovered(target)
        return [*_described(target, found, origins), *sorted(set(found.unseen))]

    def detach(self, target: Target) -> None:
        """Forget this isolation's sockets, and take the programs from wherever no isolation needs them."""
        whose.stop_asking(target)
        for map_id in {map_id for map_id, entry in _entries(target) if entry.isolation == target.isolation_id}:
            mine = [entry for entry in elsewhere.entries(map_id) if entry.isolation == target.isolation_id]
            elsewhere.remove(map_id, [entry.cookie for entry in mine])
        elsewhere.end(_programs(target), target.isolation_id)
        sweep(Cgroup(target.root, cgroups.ROOT_ID, target.root))


def sweep(top: Cgroup) -> list[Cgroup]:
    """Take the programs from every cgroup below `top` for which no entry is left; those cgroups."""
    attached = list(hooks.find_attached(top, POINT_HOOKS, lambda info: hooks.our_name(info.id) in POINT_NAMES))
    maps = hooks.maps_of({each.program_id for each in attached}, COOKIES_MAP)
    needed = {entry.point for map_id in maps for entry in elsewhere.entries(map_id)}
    unneeded = {each.cgroup for each in attached if each.cgroup.inode not in needed}
    for cgroup in unneeded:
        hooks.detach_ours(cgroup, POINT_HOOKS, POINT_NAMES)
    return sorted(unneeded, key=lambda cgroup: cgroup.path)


def look(target: Target) -> Scan:
    """Everything the target has open; sock_diag tells which internet sockets are its own while no program of ours does.

    What neither tells of counts as from elsewhere.
    """
    found = whose.look(target)
    foreign = [] if whose.is_told(target) else found.elsewhere()
    if not foreign:
        return found
    own = {below.inode for cgroup in target.cgroups for below in cgroups.tree(cgroup)}
    origins, lost = once(("origins", target.cgroups), lambda: _origins(target, found, foreign))
    its_own = {inode: replace(found.sockets[inode], own=True) for inode, of in origins.items() if of.cgroup_id in own}
    return replace(found, sockets={**found.sockets, **its_own}, unseen=[*found.unseen, *lost])


def _uncovered(target: Target) -> tuple[Scan, ByInode]:
    """What is open, with only those sockets left in it that ought to be dropped and are not; where these were made."""
    found = look(target)
    foreign = found.elsewhere()
    if foreign:
        points = {entry.cookie: entry.point for _, entry in _entries(target)}
        seeing = {point.inode for point in _alive(set(points.values()), target) if _sees(point)}
        foreign = [each for each in foreign if points.get(each.cookie) not in seeing]
    origins, lost = _origins(target, found, foreign) if foreign else ({}, [])
    left = {each.inode: each for each in foreign if each.inode in origins}
    return replace(found, sockets=left, unseen=[*found.unseen, *lost]), origins


def _origins(target: Target, found: Scan, foreign: Sequence[Socket]) -> tuple[ByInode, list[str]]:
    """By sock_diag, of those that are not closed meanwhile; and what could not be looked at, a sentence each."""
    try:
        return aside.answer(scanning.about(target.cgroups), lambda: _origins_of(found, foreign), ORIGINS_DEADLINE_S)
    except NoAnswer as error:
        return {}, [f"where its sockets were made could not be looked at: {error.message}"]


def _origins_of(found: Scan, foreign: Sequence[Socket]) -> tuple[ByInode, list[str]]:
    seen: ByInode = {}
    lost: list[str] = []
    origins = Origins()
    for each in foreign:
        handle = found.handles[each.inode]
        try:
            seen[each.inode] = origins.of(sockets.taken(handle), each.inode, each.cookie)
        except Exchanged as error:
            lost.append(f"a socket of process {handle.pid} cannot be looked at: {error.strerror}")
        except OSError:
            continue  # closed meanwhile: all is well
    return seen, lost


def _by_owner(target: Target, origins: ByInode) -> tuple[dict[Cgroup, ByInode], ByInode]:
    """Sockets by the cgroup they were made in; and those of which that is not known, or is gone."""
    known: dict[Cgroup, ByInode] = {}
    unknown: ByInode = {}
    owner_of = cache(lambda cgroup_id: cgroups.by_id(cgroup_id, target.root) if cgroup_id else None)
    for inode, origin in origins.items():
        owner = owner_of(origin.cgroup_id)
        (unknown if owner is None else known.setdefault(owner, {}))[inode] = origin
    return known, unknown


def _cover_made_in(target: Target, owner: Cgroup, made: ByInode) -> None:
    """Drop sockets where they were made. The entries come first: a dead process's programs are found by them."""
    if not owner.is_root:
        _add(target, _cookies(made), owner)
        with suppress(CgroupGone):
            _attach_point(target.common, owner)


def _cover_made_somewhere(target: Target, found: Scan, unknown: ByInode) -> None:
    """Drop sockets where they are seen, which is tried out."""
    left, undone = dict(unknown), dict(unknown)
    try:
        for point in _likely(target):
            _add(target, _cookies(left), point)
            was_there = bool(hooks.ours_at(point, POINT_HOOKS, POINT_NAMES))
            seen: dict[int, bool] = dict.fromkeys(left, False)
            try:
                with suppress(CgroupGone):
                    _attach_point(target.common, point)
                    seen = _seen_there(target, [found.handles[inode] for inode in left])
            finally:
                if not was_there and not any(seen.values()):
                    hooks.detach_ours(point, POINT_HOOKS, POINT_NAMES)
            undone = {inode: origin for inode, origin in undone.items() if not seen.get(inode)}
            left = {inode: origin for inode, origin in left.items() if seen.get(inode) is False}
            if not left:
                return
    finally:
        elsewhere.remove(target.common.maps[COOKIES_MAP], _cookies(undone))


def _seen_there(target: Target, handles: Sequence[Handle]) -> dict[int, bool]:
    """Whether the programs see each where they are attached now, by inode; without those that are gone."""

    def ask() -> dict[int, bool]:
        seen = {}
        for handle in handles:
            with suppress(OSError):
                seen[handle.inode] = sockets.is_answered(sockets.taken(handle), sockets.BELOW)
        return seen

    return aside.answer(scanning.about(target.cgroups), ask)


def _cookies(made: ByInode) -> set[int]:
    return {cookie for origin in made.values() for cookie in origin.cookies}


def _likely(target: Target) -> Iterator[Cgroup]:
    """The parents of the target, and what is directly below the root: a socket's own cgroup may be gone by now."""
    parents = {parent for cgroup in target.cgroups for parent in cgroup.path.parents}
    above = sorted((path for path in parents if path.is_relative_to(target.root) and path != target.root), reverse=True)
    top = sorted(path for path in target.root.iterdir() if path.is_dir() and path not in above)
    for path in (*above, *top):
        inode = cgroups.inode_at(path)
        if inode is not None:
            yield Cgroup(path, inode, target.root)


def _alive(ids: Iterable[int], target: Target) -> list[Cgroup]:
    found = (cgroups.by_id(each, target.root) for each in ids)
    return [cgroup for cgroup in found if cgroup is not None]


def _add(target: Target, cookies: Collection[int], point: Cgroup) -> None:
    wanted = [Entry(cookie, target.isolation_id, point.inode) for cookie in cookies]
    elsewhere.add(target.common.maps[COOKIES_MAP], wanted)


def _attach_point(common: Common, point: Cgroup) -> None:
    """Those that drop; and the one that proves that they see a socket, where it can be had."""
    hooks.attach(point, [_placed(program, common) for program in COOKIES.programs])
    if BELOW.name in common.programs:
        with suppress(KernelRefused):
            hooks.attach(point, [_placed(BELOW, common)])


def _sees(point: Cgroup) -> bool:
    return {each.hook for each in hooks.ours_at(point, PACKET_HOOKS, COOKIES.names)} == set(PACKET_HOOKS)


def _entries(target: Target) -> list[tuple[int, Entry]]:
    """Of the common set, and of an earlier version's that holds this isolation."""
    maps = {target.common.maps[COOKIES_MAP]} if COOKIES_MAP in target.common.maps else set()
    maps |= hooks.maps_of(target.ids(Cookies.name), COOKIES_MAP)
    return [(map_id, entry) for map_id in maps for entry in elsewhere.entries(map_id)]


def _programs(target: Target) -> set[int]:
    """Those that drop, of the common set and of an earlier version's."""
    return {target.common.programs[name] for name in COOKIES.names if name in target.common.programs} | target.ids(
        Cookies.name
    )


def _described(target: Target, found: Scan, origins: ByInode) -> Iterator[str]:
    """The sockets that are not dropped, by the reason."""
    known, unknown = _by_owner(target, origins)
    by_reason: dict[str, list[int]] = {}
    for owner, made in known.items():
        by_reason.setdefault(_why_not(owner), []).extend(made)
    by_reason.setdefault("where they were made is not known", []).extend(unknown)
    for reason, inodes in by_reason.items():
        handles = [found.handles[inode] for inode in sorted(inodes)]
        if handles:
            yield f"sockets from elsewhere are not cut off, {reason}: {_listed(handles)}"


def _why_not(owner: Cgroup) -> str:
    if owner.is_root:
        return "they were made in the root cgroup, which is never touched"
    held = next((held for hook in PACKET_HOOKS if (held := hooks.holder(owner, hook))), None)
    return str(held) if held else f"nothing drops them at {owner.path}"


def _listed(handles: Sequence[Handle]) -> str:
    named = [f"descriptor {handle.fd} of process {handle.pid}" for handle in handles[:NAMES_AT_MOST]]
    more = len(handles) - NAMES_AT_MOST
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _placed(program: CgroupProgram, common: Common) -> Placed:
    return Placed(program.hook, common.programs[program.name])
