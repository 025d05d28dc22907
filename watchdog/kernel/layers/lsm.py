"""What the agent asks the kernel for: refused by its cgroup at the moment it asks, whatever socket it asks with.

Its links are pinned for the whole machine while anybody is isolated. Where the kernel takes no BPF LSM programs, or
would not call them, the layer says so and does nothing. Not with an allow-list: which datagram goes where is judged
packet by packet, and a call says too little for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from watchdog.kernel import cgroups, lsm
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.host_end import allows
from watchdog.kernel.programs import LSM


@dataclass(frozen=True)
class Lsm:
    """Sockets of every family, bpf(), leaving the cgroup, tracing and killing others, pins."""

    name: str = "lsm"
    listed: Path = lsm.IN_FORCE
    """Where the kernel lists the security modules in force; tests use another."""

    def missing(self, common: Common) -> str:
        """The kernel's reason for the first program it did not take, or why it would not call them."""
        return common.why_missing(LSM.programs) or lsm.why_not_in_force(self.listed)

    def not_applicable(self, target: Target) -> str:
        """Why what it asks for is let through, where it is."""
        return "it has an allow-list, which is judged packet by packet" if allows(target) else ""

    def attach(self, target: Target) -> None:
        """Have the programs know the target's cgroups, and attach those that are not; where an allow-list has come
        since, forget them."""
        if self._is_useless(target.common):
            return
        if allows(target):
            self.detach(target)
        else:
            alive = [cgroup for cgroup in target.cgroups if cgroups.exists(cgroup)]
            lsm.hold(target.common, alive, target.isolation_id)

    def gaps(self, target: Target) -> list[str]:
        """Cgroups that the programs do not know, and programs that are not attached, of those that work here."""
        return [] if self._is_useless(target.common) else lsm.gaps(target.common, target.cgroups)

    def detach(self, target: Target) -> None:
        """Forget the target, in every version's programs, and detach them where they know nobody any more."""
        lsm.let_go(target.common, target.cgroups, target.isolation_id)

    def _is_useless(self, common: Common) -> bool:
        none_taken = not any(program.name in common.programs for program in LSM.programs)
        return none_taken or bool(lsm.why_not_in_force(self.listed))
