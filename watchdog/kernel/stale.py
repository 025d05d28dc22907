"""Pins of earlier versions and kernels: removed once nothing needs them."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from watchdog.kernel import builder, cgroups, gate, lsm, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import FOLDER
from watchdog.kernel.locks import LockBusy, locked
from watchdog.kernel.sources import KEY_HEX_DIGITS, source_key

_KEY = re.compile(rf"[0-9a-f]{{{KEY_HEX_DIGITS}}}")


def prune_stale(pins: Path, lock: Path, keep: Collection[Path] = (), root: Cgroup | None = None) -> list[Path]:
    """Remove the slots of other versions that are attached nowhere, and name them.

    `keep` lists slots that somebody still names: a stopped unit's drop-in keeps the unit from starting once
    its pin is gone. Nothing is removed while somebody builds.
    """
    old = [folder for folder in sorted(pins.glob("*")) if _KEY.fullmatch(folder.name) and folder.name != source_key()]
    if not old:
        return []
    attached = {each.program_id for each in gate.find_attached(root or hierarchy())}
    try:
        with locked(lock, timeout_s=0):
            return [path for folder in old for path in _prune_key(folder, attached, keep)]
    except LockBusy:
        return []


def hierarchy() -> Cgroup:
    """The whole v2 tree, for walking only."""
    root = cgroups.find_v2_root()
    return Cgroup(root, root.stat().st_ino, root)


def _prune_key(folder: Path, attached: Collection[int], keep: Collection[Path]) -> list[Path]:
    builder.remove_leftovers(folder)
    unused = [path for path in sorted(folder.glob("slot-*")) if path not in keep and not _is_attached(path, attached)]
    for path in unused:
        slots.remove(path)
    if not list(folder.glob("slot-*")):  # no isolation of that version is left that could need the common programs
        slots.remove(folder / FOLDER)
        slots.remove(folder / lsm.FOLDER)
    with suppress(OSError):  # not empty: something in it is needed
        folder.rmdir()
    return unused


def _is_attached(path: Path, attached: Collection[int]) -> bool:
    return any(program_id in attached for program_id in slots.pinned_programs(path))
