"""Programs at the hooks of a cgroup: attach, detach, ask; beside whatever else is there, never in its place.

Everything here works on program ids, so that any process can verify and undo what any other attached. An
attachment outlives its process and its pins; it ends by `detach` or with the cgroup.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel import cgroups, libbpf
from watchdog.kernel.cgroups import Cgroup, CgroupGone, inode_at
from watchdog.kernel.libbpf import BpfRefused, ProgramInfo
from watchdog.kernel.programs import OUR_PREFIX, Hook

REMEMBERED = 4096
"""Programs whose names are remembered."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One program for one hook."""

    hook: Hook
    program_id: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program of ours at one hook of one cgroup."""

    cgroup: Cgroup
    hook: Hook
    program_id: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Another tool's program that lets nobody beside it."""

    place: Path
    hook: Hook
    program: ProgramInfo

    def __str__(self) -> str:
        """What an operator can look up."""
        described = f"{self.program.name or '(no name)'} (BPF program {self.program.id}, {self.hook.name.lower()})"
        return f"another tool's program {described} holds {self.place} without sharing it"


def attach(cgroup: Cgroup, wanted: Sequence[Placed]) -> bool:
    """Attach all of these, or none. False where all were there already.

    KernelRefused names the foreign program where one holds the cgroup exclusively; CgroupGone where the
    cgroup is not the one it was.
    """
    with opened(cgroup) as cgroup_fd, ExitStack() as undo:
        changed = False
        for each in wanted:
            if _attach_one(cgroup, cgroup_fd, each):
                undo.callback(_detach_one, cgroup_fd, each)
                changed = True
        undo.pop_all()
        return changed


def detach(cgroup: Cgroup, hooks: Collection[Hook], program_ids: Collection[int]) -> bool:
    """Detach these programs and nobody else's, verified by a query. False where none was attached.

    A cgroup that is gone has nothing attached. KernelRefused where one of them stays, which happens when
    somebody holds it by a bpf link.
    """
    try:
        with opened(cgroup) as cgroup_fd:
            found = [each for each in _placed(cgroup_fd, hooks) if each.program_id in program_ids]
            changed = [_detach_one(cgroup_fd, each) for each in found]
            if changed:
                _check_detached(cgroup, cgroup_fd, hooks, program_ids)
            return any(changed)
    except CgroupGone:
        return False


def placed(cgroup: Cgroup, hooks: Collection[Hook]) -> set[Placed]:
    """What is attached to this very cgroup at these hooks, ours and others'; nothing where it is gone."""
    try:
        with opened(cgroup) as cgroup_fd:
            return set(_placed(cgroup_fd, hooks))
    except CgroupGone:
        return set()


def find_attached(top: Cgroup, hooks: Collection[Hook], is_ours: Callable[[ProgramInfo], bool]) -> Iterator[Attachment]:
    """Every attachment of ours in the tree below `top`, to find again what a lost journal knew.

    Cgroups that vanish midway are left out. The root of the hierarchy may be walked: it is only asked.
    """
    known: dict[int, bool] = {}
    for cgroup in cgroups.tree(top):
        for each in sorted(placed(cgroup, hooks), key=lambda each: (each.hook, each.program_id)):
            if each.program_id not in known:
                info = info_or_none(each.program_id)
                known[each.program_id] = info is not None and is_ours(info)
            if known[each.program_id]:
                yield Attachment(cgroup, each.hook, each.program_id)


def uses_our_map(info: ProgramInfo) -> bool:
    """Every program of ours uses a map whose name is ours; one that has only taken our name does not."""
    return any(_map_name(map_id).startswith(OUR_PREFIX) for map_id in info.map_ids)


@lru_cache(maxsize=REMEMBERED)
def our_name(program_id: int) -> str:
    """The name of a program of ours, of any version; "" for another tool's, and for one that is gone.

    Remembered: a program does not change, and ids are not given again.
    """
    info = info_or_none(program_id)
    return info.name if info and info.name.startswith(OUR_PREFIX) and uses_our_map(info) else ""


def ours_at(cgroup: Cgroup, hooks: Collection[Hook], names: Collection[str]) -> set[Placed]:
    """Programs of ours of these names that are attached to this very cgroup at these hooks."""
    return {each for each in placed(cgroup, hooks) if our_name(each.program_id) in names}


def detach_ours(cgroup: Cgroup, hooks: Collection[Hook], names: Collection[str]) -> bool:
    """Detach programs of ours of these names, of whatever version. False where there was none."""
    return detach(cgroup, hooks, {each.program_id for each in ours_at(cgroup, hooks, names)})


def maps_of(program_ids: Iterable[int], name: str) -> set[int]:
    """The ids of the maps of a name that these programs use, of those programs that are still there."""
    used = {map_id for info in infos(tuple(program_ids)) for map_id in info.map_ids}
    return {map_id for map_id in used if _map_name(map_id) == name}


@contextmanager
def opened(cgroup: Cgroup) -> Iterator[int]:
    """As `cgroups.opened`, also where the cgroup goes while it is open: bpf(2) answers ENOENT then."""
    with cgroups.opened(cgroup) as fd:
        try:
            yield fd
        except BpfRefused as error:
            if error.code == errno.ENOENT and not cgroups.exists(cgroup):
                raise CgroupGone(f"the cgroup {cgroup.path} went while we worked on it") from error
            raise


def ids_at(target: int, hook: int) -> tuple[int, ...]:
    """The program ids at one hook of an open cgroup, or of a link of this network namespace, which is its index.

    None where this kernel does not know the hook, or the link is gone.
    """
    try:
        return libbpf.prog_query(target, hook).ids
    except BpfRefused as error:
        if error.code in (errno.EINVAL, errno.ENODEV):
            return ()
        raise


def name_of(program_id: int) -> str:
    """A program in words, whoever's it is."""
    info = info_or_none(program_id)
    return f"{info.name if info and info.name else '(no name)'} (BPF program {program_id})"


def infos(program_ids: Collection[int]) -> tuple[ProgramInfo, ...]:
    """Their descriptions, of those that are still there."""
    return tuple(info for program_id in program_ids if (info := info_or_none(program_id)) is not None)


def info_or_none(program_id: int) -> ProgramInfo | None:
    """None where the program was detached and freed since it was listed."""
    try:
        return libbpf.prog_info_of(program_id)
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def _placed(cgroup_fd: int, hooks: Collection[Hook]) -> list[Placed]:
    return [Placed(hook, program_id) for hook in hooks for program_id in ids_at(cgroup_fd, hook)]


def _attach_one(cgroup: Cgroup, cgroup_fd: int, each: Placed) -> bool:
    if each.program_id in libbpf.prog_query(cgroup_fd, each.hook).ids:
        return False
    try:
        with libbpf.prog_by_id(each.program_id) as prog_fd:
            libbpf.prog_attach(prog_fd, cgroup_fd, each.hook)
    except BpfRefused as error:
        # EINVAL: attached already, by whoever was quicker since the query.
        if error.code == errno.EINVAL and each.program_id in libbpf.prog_query(cgroup_fd, each.hook).ids:
            return False
        if error.code == errno.EPERM:
            _raise_if_held(cgroup, each.hook, error)
        raise
    return True


def _detach_one(cgroup_fd: int, each: Placed) -> bool:
    try:
        with libbpf.prog_by_id(each.program_id) as prog_fd:
            return libbpf.prog_detach(prog_fd, cgroup_fd, each.hook)
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return False
        raise


def _check_detached(cgroup: Cgroup, cgroup_fd: int, hooks: Collection[Hook], program_ids: Collection[int]) -> None:
    left = sorted({each.program_id for each in _placed(cgroup_fd, hooks)} & set(program_ids))
    if left:
        raise KernelRefused(
            f"BPF programs {left} are still attached to {cgroup.path}: somebody else holds them there by a bpf link",
            hint="see the links: bpftool link list; detach one: bpftool link detach id ID",
        )


def holder(cgroup: Cgroup, hook: Hook) -> Holder | None:
    """Which program keeps ours from a hook: attached without BPF_F_ALLOW_MULTI, here or, if exclusive, further up."""
    for place in (cgroup.path, *cgroup.path.parents):
        inode = inode_at(place)
        if inode is None or not place.is_relative_to(cgroup.root):
            return None
        with suppress(CgroupGone), opened(Cgroup(place, inode, cgroup.root)) as fd:
            found = libbpf.prog_query(fd, hook)
            programs = infos(found.ids)
            if programs and found.flags != libbpf.ALLOW_MULTI:
                return Holder(place, hook, programs[0])
    return None


def _raise_if_held(cgroup: Cgroup, hook: Hook, error: BpfRefused) -> None:
    if held := holder(cgroup, hook):
        raise KernelRefused(
            f"cannot isolate {cgroup.path}: {held}",
            hint=f"see it: bpftool prog show id {held.program.id}; stop the tool that attached it, "
            "or let it attach with BPF_F_ALLOW_MULTI",
        ) from error


def _map_name(map_id: int) -> str:
    try:
        with libbpf.map_by_id(map_id) as fd:
            return libbpf.map_info(fd).name
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return ""
        raise
