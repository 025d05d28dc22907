"""Unit files on disk: telling one that was renamed by what it is, not by its name (systemd.unit(5))."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = tuple(
    Path(path)
    for path in (
        "/etc/systemd/system",
        "/run/systemd/system",
        "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    )
)
SIZE_AT_MOST_BYTES = 1 << 20
"""systemd reads no line longer than this either; what is larger is no unit file."""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One unit file as it was seen."""

    path: str
    inode: int
    sha256: str


def read(path: str) -> UnitFile | None:
    """The unit file at a path; None where there is none that can be read."""
    try:
        found = Path(path).stat()
        if found.st_size > SIZE_AT_MOST_BYTES:
            return None
        return UnitFile(path, found.st_ino, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    except OSError:
        return None


def renamed_to(gone: UnitFile, folders: Iterable[Path] = FOLDERS) -> list[str]:
    """The names that a unit file may have now that is not where it was: of the same file, or else of equal ones."""
    if Path(gone.path).exists():
        return []
    found = list(_others(Path(gone.path), folders))
    same = [each for each in found if each.inode == gone.inode] or [
        each for each in found if each.sha256 == gone.sha256
    ]
    return sorted({Path(each.path).name for each in same} - {Path(gone.path).name})


def _others(gone: Path, folders: Iterable[Path]) -> Iterator[UnitFile]:
    for folder in dict.fromkeys([gone.parent, *folders]):
        for path in _listed(folder):
            if path.suffix == gone.suffix and not path.is_symlink() and (found := read(str(path))) is not None:
                yield found


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
