"""The mount table of this process: what kind of file system a path is on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    point: Path
    root: str
    """What of its file system is mounted there; "/" is all of it."""
    fs_type: str
    device: int
    """As in st_dev of what lies on it."""


def parse_mountinfo(text: str) -> list[Mount]:
    """Every mount, in the kernel's order: a later one hides an earlier one at the same point."""
    return [_parse_line(line) for line in text.splitlines() if " - " in line]


def _parse_line(line: str) -> Mount:
    left, right = line.split(" - ", 1)
    _, _, device, root, point = left.split(" ")[:5]
    major, minor = map(int, device.split(":"))
    return Mount(Path(_plain(point)), _plain(root), right.split(" ", 1)[0], os.makedev(major, minor))


def _plain(field: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def read_mounts() -> list[Mount]:
    """The mounts this process sees now."""
    return parse_mountinfo(MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape"))


def fs_type_of(path: Path) -> str:
    """The kind of file system an existing path is on; "" where the table does not say (btrfs subvolumes)."""
    device = path.stat().st_dev
    return next((mount.fs_type for mount in reversed(read_mounts()) if mount.device == device), "")
