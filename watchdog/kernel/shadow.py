"""The shadow of a gate: programs at both packet hooks that count what the gate would drop, and drop nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from watchdog.kernel import hooks
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.gate import HOOKS
from watchdog.kernel.hooks import Attachment, Placed
from watchdog.kernel.libbpf import ProgramInfo
from watchdog.kernel.programs import SHADOW

_OUR_NAMES = {program.name for program in SHADOW}


def attach(cgroup: Cgroup, ids: Mapping[str, int]) -> bool:
    """Attach both programs, by their ids by name, or none. False where both were there already.

    KernelRefused and CgroupGone as for a gate.
    """
    return hooks.attach(cgroup, _placed(ids))


def detach(cgroup: Cgroup, program_ids: Collection[int]) -> bool:
    """Detach these programs and nobody else's. False where none was attached."""
    return hooks.detach(cgroup, HOOKS, program_ids)


def is_attached(cgroup: Cgroup, ids: Mapping[str, int]) -> bool:
    """Whether both are attached to this very cgroup."""
    return hooks.placed(cgroup, HOOKS) >= set(_placed(ids))


def find_attached(top: Cgroup) -> Iterator[Attachment]:
    """Every shadow of ours in the tree below `top`."""
    return hooks.find_attached(top, HOOKS, is_ours)


def is_ours(info: ProgramInfo) -> bool:
    """Whether a program was made from our sources, by any version."""
    return info.name in _OUR_NAMES and hooks.uses_our_map(info)


def _placed(ids: Mapping[str, int]) -> list[Placed]:
    return [Placed(program.hook, ids.get(program.name, 0)) for program in SHADOW]
