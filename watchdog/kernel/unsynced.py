"""What a file is, by what the kernel has of it already: stat(2) asks a file's server, which may never answer.

A descriptor of an agent's may lead to a dead NFS server, or to a FUSE server of the agent's own.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from functools import cache

_AT_FDCWD, _AT_STATX_DONT_SYNC = -100, 0x4000
_STATX_TYPE, _STATX_MODE, _STATX_INO = 0x001, 0x002, 0x100
_WANTED = _STATX_TYPE | _STATX_MODE | _STATX_INO

_STATX = struct.Struct("=28xHxxQ88xII")
"""struct statx, <linux/stat.h>: mode, inode, and after sizes and times the device's numbers."""
_STATX_BYTES = 256


@dataclass(frozen=True, slots=True)
class File:
    """One file."""

    mode: int
    inode: int
    device: int
    """The number of the device that it is, as os.makedev has it."""


def look(path: str) -> File:
    """The file at a path, at once; OSError as from stat."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if _libc().statx(_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, _WANTED, found) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    mode, inode, major, minor = _STATX.unpack_from(found)
    return File(mode, inode, os.makedev(major, minor))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
