"""The gate: our cgroup_skb programs at both hooks of a cgroup, beside whatever else is there.

Everything here works on program ids, so that any process can verify and undo what any other attached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from watchdog.kernel import hooks, libbpf
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.hooks import Attachment, Placed
from watchdog.kernel.libbpf import ProgramInfo
from watchdog.kernel.programs import GATE, CgroupProgram, Hook
from watchdog.kernel.slots import Slot

HOOKS = (Hook.INGRESS, Hook.EGRESS)

_OUR_NAMES = {program.name for program in GATE}


@dataclass(frozen=True, slots=True)
class HookView:
    """What one hook of a cgroup holds."""

    hook: Hook
    flags: int
    programs: tuple[ProgramInfo, ...]
    """Attached to this cgroup, in the order in which they run."""
    effective: tuple[ProgramInfo, ...]
    """What runs for its sockets: these and the ancestors' that apply."""

    @property
    def ours(self) -> tuple[ProgramInfo, ...]:
        """Those of `programs` that are ours."""
        return tuple(info for info in self.programs if is_ours(info))

    @property
    def foreign(self) -> tuple[ProgramInfo, ...]:
        """Those of `programs` that are another tool's."""
        return tuple(info for info in self.programs if not is_ours(info))


def attach(cgroup: Cgroup, slot: Slot) -> bool:
    """Attach the gate's programs of the slot, or none. False where all were there already.

    KernelRefused names the foreign program where one holds the cgroup exclusively; CgroupGone where the
    cgroup is not the one it was.
    """
    return hooks.attach(cgroup, _placed(slot))


def detach(cgroup: Cgroup, program_ids: Collection[int]) -> bool:
    """Detach these programs and nobody else's, verified by a query. False where none was attached.

    A cgroup that is gone has nothing attached. KernelRefused where one of them stays, which happens when
    somebody holds it by a bpf link.
    """
    return hooks.detach(cgroup, HOOKS, program_ids)


def holds(cgroup: Cgroup, slot: Slot) -> bool:
    """Whether the kernel says that all the gate's programs of the slot are attached to this very cgroup."""
    return not missing(cgroup, slot)


def stops(cgroup: Cgroup, slot: Slot) -> bool:
    """Whether nothing passes, even if some of them are missing: one of the slot's at each hook is enough."""
    return {each.hook for each in GATE if each not in missing(cgroup, slot)} == set(HOOKS)


def missing(cgroup: Cgroup, slot: Slot) -> tuple[CgroupProgram, ...]:
    """Which of the gate's programs of the slot are not attached to this very cgroup."""
    there = hooks.placed(cgroup, HOOKS)
    return tuple(each for each in GATE if Placed(each.hook, slot.programs[each.name]) not in there)


def gap(cgroup: Cgroup, slot: Slot) -> str:
    """What is not as it should be at this cgroup, in words; "" where all is."""
    absent = missing(cgroup, slot)
    if not absent:
        return ""
    if not stops(cgroup, slot):
        return f"{cgroup.path} is not filtered"
    return f"{cgroup.path} is filtered, but {', '.join(each.name for each in absent)} are not attached"


def query(cgroup: Cgroup) -> dict[Hook, HookView]:
    """Everything at both hooks of the cgroup, ours and others'."""
    with hooks.opened(cgroup) as cgroup_fd:
        return {hook: _view(cgroup_fd, hook) for hook in HOOKS}


def is_ours(info: ProgramInfo) -> bool:
    """Whether a program was made from our sources, by any version: its name, and a map of ours that it uses."""
    return info.name in _OUR_NAMES and hooks.uses_our_map(info)


def find_attached(top: Cgroup) -> Iterator[Attachment]:
    """Every attachment of ours in the tree below `top`, to find again what a lost journal knew.

    Cgroups that vanish midway are left out. The root of the hierarchy may be walked: it is only asked.
    """
    return hooks.find_attached(top, HOOKS, is_ours)


def _placed(slot: Slot) -> list[Placed]:
    return [Placed(program.hook, slot.programs[program.name]) for program in GATE]


def _view(cgroup_fd: int, hook: Hook) -> HookView:
    own = libbpf.prog_query(cgroup_fd, hook)
    effective = libbpf.prog_query(cgroup_fd, hook, effective=True)
    return HookView(hook, own.flags, hooks.infos(own.ids), hooks.infos(effective.ids))
