"""The common programs: one copy for all isolations, pinned beside the slots, and the reasons for what is missing.

A program that this kernel refuses is no obstacle to the others: in the place of its pin lies a symbolic link whose
target is the kernel's reason, so that whoever looks later learns it without bcc, and from the same rename that put
the pins there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel import slots
from watchdog.kernel.bpffs import PRIVATE_MODE
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import COMMON_SETS, Program, ProgramSet
from watchdog.kernel.sources import own_key

FOLDER = "common"

REASON_CHARACTERS = 500

NOT_KNOWN = "its pin cannot be opened, and no isolation knows it by its id"

REMEMBERED = 8
"""Versions of them at once."""

_MAP_NAMES = {name for each in COMMON_SETS for name in each.maps}


@dataclass(frozen=True, slots=True)
class Common:
    """The common programs of one version; ids stay valid as long as they are pinned or attached."""

    path: Path
    programs: Mapping[str, int]
    """Program ids by name, of those that this kernel took."""
    maps: Mapping[str, int]
    """Map ids by name."""
    missing: Mapping[str, str]
    """Why this kernel did not take the others, by name."""

    def why_missing(self, programs: Iterable[Program]) -> str:
        """The kernel's reason for the first of these that it lacks; "" where it has them all."""
        return next((self.missing[each.name] for each in programs if each.name in self.missing), "")


def find(pins: Path, key: str | None = None) -> Common | None:
    """The whole common set of this process's version (or of another `key`); None where it is not built, or damaged."""
    path = pins / (key or own_key()) / FOLDER
    try:
        found = path.stat()
        return _common_at(path, found.st_ino, found.st_mtime_ns)
    except (BpfRefused, FileNotFoundError):
        return None


@lru_cache(maxsize=REMEMBERED)
def _common_at(path: Path, _inode: int, _changed_ns: int) -> Common:
    """Opening all these pins takes a millisecond; the folder says whether they are still those."""
    return common_at(path)


def common_at(path: Path) -> Common:
    """What is pinned at `path`; BpfRefused where a pin is missing and no reason is in its place."""
    missing = {name: reason for name in _program_names(COMMON_SETS) if (reason := _reason(path / name))}
    programs = {name: slots.pinned_program_id(path / name) for name in _program_names(COMMON_SETS) - missing.keys()}
    lost = {name for each in COMMON_SETS if set(each.names) <= missing.keys() for name in each.maps}
    maps = {name: slots.pinned_map_id(path / name) for name in _MAP_NAMES - lost}
    return Common(path, programs, maps, missing)


def of_ids(path: Path, programs: Mapping[str, int]) -> Common:
    """The same as its loaded programs make it, where their pins cannot be opened; BpfRefused where one is gone."""
    names = _program_names(COMMON_SETS)
    known = {name: program_id for name, program_id in programs.items() if name in names}
    missing = {name: _reason(path / name) or NOT_KNOWN for name in names - known.keys()}
    return Common(path, known, slots.maps_used(known.values()), missing)


def repin(path: Path, program_ids: Iterable[int]) -> None:
    """Put back the pins of common programs that are attached somewhere, and of their maps, found by their ids.

    Pins that are right stay. BpfRefused where a program is gone.
    """
    try:
        for folder in (path.parent, path):
            folder.mkdir(mode=PRIVATE_MODE, exist_ok=True)
    except OSError as error:
        raise KernelRefused(f"cannot make {path}: {error.strerror}") from error
    slots.put_pins(path, program_ids)


def leave_reason(path: Path, reason: str) -> None:
    """Say in the place of a pin why there is none. The target of a symbolic link is any text but an empty one."""
    one_line = " ".join(reason.split())[:REASON_CHARACTERS] or "no reason given"
    path.symlink_to(one_line)


def _reason(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:  # a pin, or nothing
        return ""


def _program_names(sets: Iterable[ProgramSet[Program]]) -> set[str]:
    return {name for each in sets for name in each.names}
