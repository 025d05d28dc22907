"""The mount table of this process: what kind of file system a path is on."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FS_MAGIC = {0xCAFE4A11: "bpf", 0x62656572: "sysfs"}
"""<uapi/linux/magic.h>: BPF_FS_MAGIC, SYSFS_MAGIC."""
STATFS_BYTES = 256
"""More than any struct statfs has; f_type, a long, comes first."""
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


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def fs_type_of(path: Path) -> str:
    """ "bpf" or "sysfs" where an existing path is on one, else "". Asks statfs(2): the mount table takes 0.3 ms."""
    buffer = ctypes.create_string_buffer(STATFS_BYTES)
    if _libc().statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return FS_MAGIC.get(ctypes.c_ulong.from_buffer(buffer).value, "")
