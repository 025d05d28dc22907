"""BPF LSM: whether it is in force here, and the pinned links that keep our programs attached.

The programs are attached for the whole machine, so they are as long as anybody is isolated, and not a moment longer.
The links have a folder of their own beside the common programs: an upgrade has common programs of its own, and what
the version before attached holds until its last isolation is released.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import cgroups, libbpf, lsm_links, lsm_maps
from watchdog.kernel.bpffs import PRIVATE_MODE
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.lsm_maps import Isolated, Maps
from watchdog.kernel.programs import LSM, LSM_CGROUPS_MAP, LSM_CONFIG_MAP, LsmProgram

IN_FORCE = Path("/sys/kernel/security/lsm")
CGROUP_NAMESPACE = Path("/proc/self/ns/cgroup")
INITIAL_CGROUP_NAMESPACE = 0xEFFFFFFB
"""PROC_CGROUP_INIT_INO: its inode, on every kernel that has cgroup namespaces."""

FOLDER = "lsm"
"""Of the links, beside the common programs."""
REPLACEMENT = "-new"
"""Ends the name of a link that is about to take another's place."""

_MAPS = {LSM_CGROUPS_MAP, LSM_CONFIG_MAP}


def why_not_in_force(listed: Path = IN_FORCE, namespace: Path = CGROUP_NAMESPACE) -> str:
    """Why programs that this kernel takes would do nothing here; "" where they work."""
    try:
        modules = listed.read_text(encoding="ascii").strip().split(",")
    except OSError as error:
        return (
            f"cannot tell which security modules are in force: {listed}: {error.strerror} "
            "(mount -t securityfs securityfs /sys/kernel/security)"
        )
    if "bpf" not in modules:
        wanted = ",".join([*(name for name in modules if name != "capability"), "bpf"])
        return f"bpf is not in lsm=: the security modules in force are {', '.join(modules)} (boot with lsm={wanted})"
    if namespace.stat().st_ino != INITIAL_CGROUP_NAMESPACE:
        return "in a cgroup namespace it cannot be told how deep a cgroup is"
    return ""


def hold(common: Common, held: Sequence[Cgroup], isolation: int) -> None:
    """Refuse what is asked from within these cgroups, and attach what is not attached.

    KernelRefused names the programs that cannot be; the others are attached then.
    """
    wanted = {cgroup.inode: Isolated(lsm_maps.depth_of(cgroup), isolation) for cgroup in held}
    for maps in _maps_of_links(_folder(common)):  # of common programs that were lost and made anew
        if maps[LSM_CGROUPS_MAP] != common.maps[LSM_CGROUPS_MAP]:
            wanted = lsm_maps.entries(maps) | wanted
    lsm_maps.enlist(common.maps, wanted)
    lsm_maps.strike(common.maps, lsm_maps.gone(lsm_maps.entries(common.maps), isolation, held))
    _attach_all(common)


def let_go(common: Common, held: Collection[Cgroup], isolation: int) -> None:
    """Forget these cgroups and all of that isolation, whichever version holds them; detach where nobody is left."""
    here = {cgroup.inode for cgroup in held}
    if _loaded(common):
        _forget(common.maps, here, isolation)  # also where nothing could be attached
    for folder in sorted(common.path.parents[1].glob(f"*/{FOLDER}")):
        left = [_forget(maps, here, isolation) for maps in _maps_of_links(folder)]
        if not any(left):
            _detach_all(folder)


def _forget(maps: Maps, here: Collection[int], isolation: int) -> int:
    """How many others are left."""
    found = lsm_maps.entries(maps)
    mine = {cgroup_id for cgroup_id, each in found.items() if each.isolation == isolation or cgroup_id in here}
    lsm_maps.strike(maps, mine)
    return len(found) - len(mine)


def gaps(common: Common, held: Collection[Cgroup]) -> list[str]:
    """What of it does not hold for these cgroups, a sentence each."""
    known, depths = lsm_maps.entries(common.maps), lsm_maps.looks_at(common.maps)
    alive = [cgroup for cgroup in held if cgroups.exists(cgroup)]
    found = [
        f"the LSM programs do not know {cgroup.path}"
        for cgroup in alive
        if cgroup.inode not in known or lsm_maps.depth_of(cgroup) not in depths
    ]
    folder = _folder(common)
    off = [each.name for each in _loaded(common) if _linked_id(folder / each.name) != common.programs[each.name]]
    return found + ([f"not attached: {', '.join(off)}"] if off else [])


def _attach_all(common: Common) -> None:
    folder = _folder(common)
    try:
        folder.mkdir(mode=PRIVATE_MODE, exist_ok=True)
    except OSError as error:
        raise KernelRefused(f"cannot make {folder}: {error.strerror}") from error
    refused: list[str] = []
    for program in _loaded(common):
        try:
            _attach(folder / program.name, common.programs[program.name])
        except WatchdogError as error:
            refused.append(error.message)
        except OSError as error:
            refused.append(f"cannot replace the link in {folder}: {error.strerror}")
    if refused:
        raise KernelRefused("; ".join(refused))


def _attach(pin: Path, program_id: int) -> None:
    """A link of another program gives way once ours holds."""
    linked = _linked_id(pin)
    if linked == program_id:
        return
    beside = pin.with_name(f"{pin.name}{REPLACEMENT}")
    beside.unlink(missing_ok=True)
    with libbpf.prog_by_id(program_id) as fd:
        lsm_links.attach(fd, pin if linked is None else beside)
    if linked is not None:
        beside.replace(pin)


def _detach_all(folder: Path) -> None:
    """With the last pin of a link goes the attachment."""
    try:
        for pin in folder.iterdir():
            pin.unlink(missing_ok=True)
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelRefused(f"cannot remove the links in {folder}: {error.strerror}") from error
    with suppress(OSError):  # not empty: the folder of a version in use
        folder.parent.rmdir()


def _maps_of_links(folder: Path) -> list[Maps]:
    """The maps that attached programs use: of one load of them, unless common programs were lost and made anew."""
    found: dict[int, Maps] = {}
    for program in (lsm_links.linked_program(pin) for pin in folder.glob("*")):
        if program is not None:
            maps = {name: map_id for map_id in program.map_ids if (name := _map_name(map_id)) in _MAPS}
            if len(maps) == len(_MAPS):
                found[maps[LSM_CGROUPS_MAP]] = maps
    return list(found.values())


def _map_name(map_id: int) -> str:
    with libbpf.map_by_id(map_id) as fd:
        return libbpf.map_info(fd).name


def _linked_id(pin: Path) -> int | None:
    program = lsm_links.linked_program(pin)
    return program.id if program is not None else None


def _loaded(common: Common) -> list[LsmProgram]:
    return [program for program in LSM.programs if program.name in common.programs]


def _folder(common: Common) -> Path:
    return common.path.with_name(FOLDER)
