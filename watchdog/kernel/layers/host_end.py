"""The host end of the target's own veth, cut in both directions whoever sends.

Only where all that lives in the namespace is the target's: a stranger there would be cut off with it. It stops what
nothing inside the namespace can, and the answers that the namespace's kernel gives by itself. With an allow-list it is
not for this target: what is allowed goes the same way.
"""

from __future__ import annotations

from watchdog.errors import KernelRefused
from watchdog.kernel import allow, hooks, libbpf, netns, tc_links, tc_maps
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.reach import Reach, reach_of
from watchdog.kernel.programs import TC_DROP
from watchdog.kernel.tc_plan import FIRST_PRIO, Filter, Handle, TcHook
from watchdog.kernel.veth import Ends, ends_of

_SIDES = tuple(zip((TcHook.INGRESS, TcHook.EGRESS), TC_DROP.names, strict=True))

NO_SPACE = "it has no network namespace of its own"


class HostEnd:
    """wd_tc_drop_in and wd_tc_drop_out through a clsact on the other end of every veth that leads out."""

    name = "host_end"

    def missing(self, common: Common) -> str:
        """The kernel's reason, where it did not take the programs."""
        return common.why_missing(TC_DROP.programs)

    def not_applicable(self, target: Target) -> str:
        """Why this target has no host end to cut; "" where it has, or where one is cut that should be open."""
        reach = reach_of(target.cgroups)
        shared = [others for inode in reach.own_spaces if (others := netns.strangers(inode, reach.pids))]
        if len(shared) == len(reach.own_spaces) and not _is_cut(target):
            return f"it shares its network namespace with {netns.listed(shared[0])}" if shared else NO_SPACE
        return "its allow-list goes the same way" if allows(target) and not _is_cut(target) else ""

    def attach(self, target: Target) -> None:
        """Cut every end that is not; KernelRefused names those that cannot be, the others are cut then.

        Where an allow-list has come since, what was cut is opened again.
        """
        if allows(target):
            return self.detach(target)
        reach = reach_of(target.cgroups)
        if not reach.own_spaces:
            return None
        if reason := self.missing(target.common):
            raise KernelRefused(reason)
        ends = _ends(target, reach)
        if ends.found:
            tc_maps.begin_cut(target.common.maps, target.isolation_id)
        covered = tc_links.Covered()
        for place, links in ends.by_place():
            covered += tc_links.cover(place, _wanted(target), links)
        return covered.raise_refusals()

    def gaps(self, target: Target) -> list[str]:
        """Ends that are not cut, and links that lead out and have none, or none that may be cut."""
        if allows(target):
            return ["what its allow-list names is cut off"] if _is_cut(target) else []
        reach = reach_of(target.cgroups)
        if not reach.own_spaces or self.missing(target.common):
            return []
        ends, wanted, right = _ends(target, reach), _wanted(target), _any()
        seen = target.seen_links(self.name, ends.found)
        found = [gap for place, links in ends.by_place() for gap in tc_links.gaps(place, wanted, right, links, seen)]
        return [*ends.problems, *found]

    def detach(self, target: Target) -> None:
        """Open every end that was cut for this isolation, wherever it is now."""
        if not _is_cut(target):
            return
        mine = (Handle.DROP, tc_maps.tag_of(target.isolation_id))
        tc_links.uncover(lambda each: (each.handle, each.classid) == mine)
        tc_maps.end_cut(target.isolation_id)


def allows(target: Target) -> bool:
    """Whether the isolation lets anything pass."""
    if target.allows is not None:
        return target.allows
    return allow.has_list(target.slot.program_ids)


def _ends(target: Target, reach: Reach) -> Ends:
    return ends_of(reach.own_spaces, reach.pids, in_host=target.host_links, named=target.host_end)


def _is_cut(target: Target) -> bool:
    return tc_maps.has_begun(TC_DROP, tc_maps.CUT_MAP, target.isolation_id)


def _wanted(target: Target) -> list[Filter]:
    tag = tc_maps.tag_of(target.isolation_id)
    return [
        Filter(hook, FIRST_PRIO, Handle.DROP, name=name, program_id=program_id, classid=tag)
        for hook, name in _SIDES
        if (program_id := target.common.programs.get(name))
    ]


def _any() -> set[int]:
    """They drop everything, of whatever version they are."""
    return {program_id for program_id in libbpf.program_ids() if hooks.our_name(program_id) in TC_DROP.names}
