"""Frames of packet sockets: an egress filter on every link of the namespaces that the target can send into.

A filter serves all isolations and stays as long as one of them needs it. On the links of the host's own namespaces it
is put only where the target says so: it matches nobody but isolated agents, but it is the host's own traffic that
passes it.
"""

from __future__ import annotations

from watchdog.errors import KernelRefused
from watchdog.kernel import cgroups, tc_links, tc_maps, tc_proof
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.reach import Reach, reach_of
from watchdog.kernel.netns import Netns
from watchdog.kernel.programs import TC_EGRESS
from watchdog.kernel.tc_plan import FIRST_PRIO, Filter, Handle, TcHook

PROGRAM = TC_EGRESS.programs[0].name

NOT_ALLOWED = "the links of the host's own network namespace are not to be touched: frames that it sends there pass"


class Tc:
    """wd_tc_egress through a clsact on every link, lo too."""

    name = "tc"

    def missing(self, common: Common) -> str:
        """The kernel's reason, where it did not take the program."""
        return common.why_missing(TC_EGRESS.programs)

    def not_applicable(self, target: Target) -> str:
        """Why this target needs no such filters; "" where it does."""
        reach = reach_of(target.cgroups)
        return _why_not(reach) or ("" if _allowed(target, reach) or reach.unseen else NOT_ALLOWED)

    def attach(self, target: Target) -> None:
        """Cover every link that is not; KernelRefused names those that cannot be, the others are covered then."""
        cover_new_links(target)

    def gaps(self, target: Target) -> list[str]:
        """Links without a filter that drops this target's frames, and places where there can be none."""
        reach = reach_of(target.cgroups)
        if _why_not(reach) or self.missing(target.common):
            return []
        right = tc_maps.serving(target.isolation_id, [cgroup.inode for cgroup in target.cgroups])
        found = [] if right else ["no filter knows its cgroups"]
        seen = target.seen_links(self.name, reach.spaces)
        for place in _allowed(target, reach):
            found += tc_links.gaps(place, [_wanted(target.common)], right, covered=seen)
        if len(_allowed(target, reach)) < len(reach.spaces):
            found.append(NOT_ALLOWED)
        return [*found, *reach.unseen]

    def detach(self, target: Target) -> None:
        """Let the frames pass at once, then take the filters from where no other isolation needs them."""
        if not tc_maps.has_begun(TC_EGRESS, tc_maps.COUNT_MAP, target.isolation_id):
            return
        tc_maps.strike(target.isolation_id)
        tc_links.uncover(lambda each: each.handle == Handle.EGRESS, keep=_needed_by_others(target))
        tc_maps.end(TC_EGRESS, tc_maps.COUNT_MAP, target.isolation_id)


def watched(target: Target) -> dict[int, Netns]:
    """The namespaces whose links matter to this target, by inode; none for one that needs no filters."""
    reach = reach_of(target.cgroups)
    return {} if _why_not(reach) else {place.inode: place for place in _allowed(target, reach)}


def cover_new_links(target: Target) -> list[str]:
    """Cover the links that have come since, or whose filter is gone: each with its namespace.

    Also the whole of `Tc.attach`: none is covered before. Nothing is done for a target that needs no filters.
    """
    reach = reach_of(target.cgroups)
    if _why_not(reach):
        return []
    if reason := target.common.why_missing(TC_EGRESS.programs):
        raise KernelRefused(reason)
    maps = target.common.maps
    tc_maps.take_over(maps)
    tc_maps.begin(maps, tc_maps.COUNT_MAP, target.isolation_id)
    tc_maps.enlist(maps, target.isolation_id, [cgroup.inode for cgroup in target.cgroups], reach.cookies)
    covered = tc_links.Covered()
    for place in _allowed(target, reach):
        covered += tc_links.cover(place, [_wanted(target.common)])
    covered.raise_refusals()
    return covered.newly


def _why_not(reach: Reach) -> str:
    if not reach.pids and not reach.unseen:
        return "nothing of it runs"
    return "" if reach.sends_frames else "it has no packet socket and no tap open, and lacks CAP_NET_RAW"


def _allowed(target: Target, reach: Reach) -> list[Netns]:
    return list((reach.spaces if target.host_links else reach.own_spaces).values())


def why_not_here(common: Common) -> str:
    """Why this host can have no such filters, tried on a namespace made for it; "" where it can."""
    return common.why_missing(TC_EGRESS.programs) or tc_proof.why_not([_wanted(common)])


def _wanted(common: Common) -> Filter:
    return Filter(TcHook.EGRESS, FIRST_PRIO, Handle.EGRESS, name=PROGRAM, program_id=common.programs[PROGRAM])


def _needed_by_others(target: Target) -> set[int]:
    """The namespaces that other isolations' cgroups can send into."""
    alive = (cgroups.by_id(each, target.root) for each in tc_maps.enlisted())
    return set(reach_of([cgroup for cgroup in alive if cgroup is not None]).spaces)
