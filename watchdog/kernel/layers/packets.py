"""The layer that must not fail: every IP packet of the cgroup's sockets, in both directions."""

from __future__ import annotations

from contextlib import suppress

from watchdog.kernel import cgroups, gate
from watchdog.kernel.cgroups import CgroupGone
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target


class Packets:
    """cgroup_skb at both hooks of every cgroup of the target, with the slot's own programs."""

    name = "packets"

    def missing(self, common: Common) -> str:
        """Never: without it no slot can be built."""
        return ""

    def not_applicable(self, target: Target) -> str:
        """Never."""
        return ""

    def attach(self, target: Target) -> None:
        """Attach the gate's programs or none, cgroup by cgroup."""
        for cgroup in target.cgroups:
            with suppress(CgroupGone):  # a unit's old one: what runs now is in the next
                gate.attach(cgroup, target.slot)

    def gaps(self, target: Target) -> list[str]:
        """The cgroups where one of them is missing, whether another still holds or not."""
        there = [cgroup for cgroup in target.cgroups if cgroups.exists(cgroup)]
        return [gap for cgroup in there if (gap := gate.gap(cgroup, target.slot))]

    def detach(self, target: Target) -> None:
        """Detach the slot's programs and those recorded."""
        ids = {*target.slot.program_ids, *target.ids(self.name)}
        for cgroup in target.cgroups:
            gate.detach(cgroup, ids)
