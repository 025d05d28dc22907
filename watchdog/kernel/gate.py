"""The gate: our cgroup_skb programs at both hooks of a cgroup, beside whatever else is there.

Everything here works on program ids, so that any process can verify and undo what any other attached. An
attachment outlives its process and its pins; it ends by `detach` or with the cgroup.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from watchdog.errors import KernelRefused
from watchdog.kernel import cgroups, libbpf
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.libbpf import BpfRefused, ProgramInfo
from watchdog.kernel.programs import CGROUP_SKB, OUR_PREFIX, Hook
from watchdog.kernel.slots import Slot

HOOKS = tuple(program.hook for program in CGROUP_SKB.programs)

_OUR_NAMES = {program.name for program in CGROUP_SKB.programs}


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


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program of ours at one hook of one cgroup."""

    cgroup: Cgroup
    hook: Hook
    program_id: int


def attach(cgroup: Cgroup, slot: Slot) -> bool:
    """Attach both programs of the slot, or neither. False where both were there already.

    KernelRefused names the foreign program where one holds the cgroup exclusively; CgroupGone where the
    cgroup is not the one it was.
    """
    with _opened(cgroup) as cgroup_fd, ExitStack() as undo:
        changed = False
        for program in CGROUP_SKB.programs:
            if _attach_one(cgroup, cgroup_fd, slot.programs[program.name], program.hook):
                undo.callback(_detach_one, cgroup_fd, slot.programs[program.name], program.hook)
                changed = True
        undo.pop_all()
        return changed


def detach(cgroup: Cgroup, program_ids: Collection[int]) -> bool:
    """Detach these programs and nobody else's, verified by a query. False where none was attached.

    A cgroup that is gone has nothing attached. KernelRefused where one of them stays, which happens when
    somebody holds it by a bpf link.
    """
    try:
        with _opened(cgroup) as cgroup_fd:
            found = [(hook, i) for hook in HOOKS for i in libbpf.prog_query(cgroup_fd, hook).ids if i in program_ids]
            changed = [_detach_one(cgroup_fd, program_id, hook) for hook, program_id in found]
            _check_detached(cgroup, cgroup_fd, program_ids)
            return any(changed)
    except CgroupGone:
        return False


def holds(cgroup: Cgroup, slot: Slot) -> bool:
    """Whether the kernel says that both programs of the slot are attached to this very cgroup."""
    try:
        with _opened(cgroup) as cgroup_fd:
            return all(
                slot.programs[program.name] in libbpf.prog_query(cgroup_fd, program.hook).ids
                for program in CGROUP_SKB.programs
            )
    except CgroupGone:
        return False


def query(cgroup: Cgroup) -> dict[Hook, HookView]:
    """Everything at both hooks of the cgroup, ours and others'."""
    with _opened(cgroup) as cgroup_fd:
        return {hook: _view(cgroup_fd, hook) for hook in HOOKS}


def is_ours(info: ProgramInfo) -> bool:
    """Whether a program was made from our sources, by any version: its name, and a map of ours that it uses."""
    return info.name in _OUR_NAMES and any(_map_name(map_id).startswith(OUR_PREFIX) for map_id in info.map_ids)


def find_attached(top: Cgroup) -> Iterator[Attachment]:
    """Every attachment of ours in the tree below `top`, to find again what a lost journal knew.

    Cgroups that vanish midway are left out. The root of the hierarchy may be walked: it is only asked.
    """
    known: dict[int, bool] = {}
    for cgroup in cgroups.tree(top):
        for hook, program_id in _attached_ids(cgroup):
            if program_id not in known:
                known[program_id] = _is_ours_by_id(program_id)
            if known[program_id]:
                yield Attachment(cgroup, hook, program_id)


@contextmanager
def _opened(cgroup: Cgroup) -> Iterator[int]:
    """As `cgroups.opened`, also where the cgroup goes while it is open: bpf(2) answers ENOENT then."""
    with cgroups.opened(cgroup) as fd:
        try:
            yield fd
        except BpfRefused as error:
            if error.code == errno.ENOENT and not cgroups.exists(cgroup):
                raise CgroupGone(f"the cgroup {cgroup.path} went while we worked on it") from error
            raise


def _attach_one(cgroup: Cgroup, cgroup_fd: int, program_id: int, hook: Hook) -> bool:
    if program_id in libbpf.prog_query(cgroup_fd, hook).ids:
        return False
    try:
        with libbpf.prog_by_id(program_id) as prog_fd:
            libbpf.prog_attach(prog_fd, cgroup_fd, hook)
    except BpfRefused as error:
        # EINVAL: attached already, by whoever was quicker since the query.
        if error.code == errno.EINVAL and program_id in libbpf.prog_query(cgroup_fd, hook).ids:
            return False
        if error.code == errno.EPERM:
            _raise_if_held(cgroup, hook, error)
        raise
    return True


def _detach_one(cgroup_fd: int, program_id: int, hook: Hook) -> bool:
    try:
        with libbpf.prog_by_id(program_id) as prog_fd:
            return libbpf.prog_detach(prog_fd, cgroup_fd, hook)
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return False
        raise


def _check_detached(cgroup: Cgroup, cgroup_fd: int, program_ids: Collection[int]) -> None:
    left = sorted({i for hook in HOOKS for i in libbpf.prog_query(cgroup_fd, hook).ids if i in program_ids})
    if left:
        raise KernelRefused(
            f"BPF programs {left} are still attached to {cgroup.path}: somebody else holds them there by a bpf link",
            hint="see the links: bpftool link list; detach one: bpftool link detach id ID",
        )


def _raise_if_held(cgroup: Cgroup, hook: Hook, error: BpfRefused) -> None:
    """EPERM means a program attached without BPF_F_ALLOW_MULTI, here or, if exclusive, further up."""
    for place in (cgroup.path, *cgroup.path.parents):
        if not place.is_relative_to(cgroup.root):
            return
        holder = Cgroup(place, place.stat().st_ino, cgroup.root)
        with cgroups.opened(holder) as fd:
            view = _view(fd, hook)
        if view.programs and view.flags != libbpf.ALLOW_MULTI:
            raise _held(cgroup, holder, view) from error


def _held(cgroup: Cgroup, holder: Cgroup, view: HookView) -> KernelRefused:
    program = view.programs[0]
    return KernelRefused(
        f"cannot isolate {cgroup.path}: another tool's program {program.name or '(no name)'} "
        f"(BPF program {program.id}, {view.hook.name.lower()}) holds {holder.path} without sharing it",
        hint=f"see it: bpftool prog show id {program.id}; stop the tool that attached it, "
        "or let it attach with BPF_F_ALLOW_MULTI",
    )


def _view(cgroup_fd: int, hook: Hook) -> HookView:
    own = libbpf.prog_query(cgroup_fd, hook)
    effective = libbpf.prog_query(cgroup_fd, hook, effective=True)
    return HookView(hook, own.flags, _infos(own.ids), _infos(effective.ids))


def _infos(program_ids: Collection[int]) -> tuple[ProgramInfo, ...]:
    return tuple(info for program_id in program_ids if (info := _info_or_none(program_id)) is not None)


def _info_or_none(program_id: int) -> ProgramInfo | None:
    """None where the program was detached and freed since it was listed."""
    try:
        return libbpf.prog_info_of(program_id)
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def _is_ours_by_id(program_id: int) -> bool:
    info = _info_or_none(program_id)
    return info is not None and is_ours(info)


def _map_name(map_id: int) -> str:
    try:
        with libbpf.map_by_id(map_id) as fd:
            return libbpf.map_info(fd).name
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return ""
        raise


def _attached_ids(cgroup: Cgroup) -> list[tuple[Hook, int]]:
    try:
        with _opened(cgroup) as fd:
            return [(hook, program_id) for hook in HOOKS for program_id in libbpf.prog_query(fd, hook).ids]
    except CgroupGone:
        return []
