"""Layers that are nothing but common programs at the hooks of the target's own cgroups."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import cgroups, hooks
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.common import Common
from watchdog.kernel.hooks import Placed
from watchdog.kernel.layers.base import Target, raise_together
from watchdog.kernel.programs import CgroupProgram, Hook, ProgramSet


@dataclass(frozen=True)
class Hooked:
    """One such layer. A program that this kernel lacks is left out."""

    name: str
    programs: ProgramSet[CgroupProgram]

    def missing(self, common: Common) -> str:
        """The kernel's reason for the first program it lacks."""
        return common.why_missing(self.programs.programs)

    def not_applicable(self, target: Target) -> str:
        """Never."""
        return ""

    def attach(self, target: Target) -> None:
        """Attach each program where none of the same name is; one that cannot be does not keep back the others."""
        refused: list[WatchdogError] = []
        for cgroup in target.cgroups:
            there = hooks.placed(cgroup, self._hooks())
            for program in self._loaded(target.common):
                if there.isdisjoint(self._right_ones(program, target)):
                    try:
                        with suppress(CgroupGone):
                            hooks.attach(cgroup, [self._placed(program, target.common)])
                    except KernelRefused as error:
                        refused.append(error)
        raise_together(refused)

    def gaps(self, target: Target) -> list[str]:
        """Hooks without our program, of those that this kernel has."""
        return [gap for cgroup in target.cgroups for gap in self._gaps_of(cgroup, target)]

    def detach(self, target: Target) -> None:
        """Detach the common programs, those recorded, and those that an earlier version of ours left there."""
        ids = {self._placed(program, target.common).program_id for program in self._loaded(target.common)}
        ids |= target.ids(self.name)
        for cgroup in target.cgroups:
            hooks.detach(
                cgroup,
                self._hooks(),
                ids | {each.program_id for each in hooks.ours_at(cgroup, self._hooks(), self.programs.names)},
            )

    def _gaps_of(self, cgroup: Cgroup, target: Target) -> Iterable[str]:
        if not cgroups.exists(cgroup):
            return
        there, wanted = hooks.placed(cgroup, self._hooks()), self._loaded(target.common)
        without = [program for program in wanted if there.isdisjoint(self._right_ones(program, target))]
        held = {program: hooks.holder(cgroup, program.hook) for program in without}
        if without == wanted and without and not any(held.values()):
            yield f"{cgroup.path} has none of it"
            return
        for program in without:
            reason = f": {held[program]}" if held[program] else ""
            yield f"{program.name} is not attached to {cgroup.path}{reason}"

    def _loaded(self, common: Common) -> list[CgroupProgram]:
        return [program for program in self.programs.programs if program.name in common.programs]

    def _hooks(self) -> list[Hook]:
        return [program.hook for program in self.programs.programs]

    def _placed(self, program: CgroupProgram, common: Common) -> Placed:
        return Placed(program.hook, common.programs[program.name])

    def _right_ones(self, program: CgroupProgram, target: Target) -> set[Placed]:
        """The common program, or the one that an earlier version of ours attached for this isolation."""
        recorded = {Placed(program.hook, program_id) for program_id in target.ids(self.name)}
        return {self._placed(program, target.common), *recorded}
