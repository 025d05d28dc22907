"""inotify(7): what happens to names in directories, told by the kernel at once. The only door to it.

A watch is on an inode, and ends with it: whoever wants a path watched says so again after every change, which costs
nothing where it is watched already.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path

from watchdog.errors import HostCannot

_HEADER = struct.Struct("=iIII")
"""struct inotify_event without its name: watch, mask, cookie, length of the name."""

_READ_BYTES = 65536

_FULL = {
    errno.EMFILE: "fs.inotify.max_user_instances is reached",
    errno.ENOSPC: "fs.inotify.max_user_watches is reached",
}


class Event(IntFlag):
    """What happened (<linux/inotify.h>)."""

    MODIFY = 0x2
    CLOSE_WRITE = 0x8
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000


NAMES = Event.CREATE | Event.DELETE | Event.MOVED_FROM | Event.MOVED_TO | Event.CLOSE_WRITE
ITSELF = Event.MODIFY | Event.DELETE_SELF | Event.MOVE_SELF | Event.UNMOUNT

Names = Collection[str] | None
"""The names in a directory that matter; None where all do, and for a file."""


@dataclass
class Inotify:
    """Follows paths; `news` says whether anything happened that matters. HostCannot where a limit is reached."""

    _fd: int = -1
    _watches: dict[int, Names] = field(default_factory=dict)

    def fileno(self) -> int:
        """To wait for; -1 while nothing is followed."""
        return self._fd

    def close(self) -> None:
        """Let go of everything."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._watches.clear()

    def follow(self, wanted: Mapping[Path, Names]) -> bool:
        """Watch exactly these from now on; what is not there is left out. Whether any was not watched before."""
        if self._fd < 0 and wanted:
            self._fd = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        found: dict[int, Names] = {}
        for path, names in wanted.items():
            if (watch := self._add(path, names)) is not None:
                found[watch] = _either(found[watch], names) if watch in found else names
        for watch in self._watches.keys() - found.keys():
            _libc().inotify_rm_watch(self._fd, watch)
        new = not found.keys() <= self._watches.keys()
        self._watches = found
        return new

    def news(self) -> bool:
        """Whether anything that matters happened since this was asked last; never waits."""
        happened = [self._matters(*event) for event in self._read()]  # all of them, whichever matters
        return any(happened)

    def _add(self, path: Path, names: Names) -> int | None:
        mask = ITSELF if names is None and not path.is_dir() else (ITSELF & ~Event.MODIFY) | NAMES
        try:
            return _checked(_libc().inotify_add_watch(self._fd, os.fsencode(path), int(mask)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _matters(self, watch: int, happened: Event, name: str) -> bool:
        if happened & Event.Q_OVERFLOW:
            return True
        if happened & Event.IGNORED:
            self._watches.pop(watch, None)
            return False
        names = self._watches.get(watch, ())
        return names is None or not name or name in names

    def _read(self) -> Iterator[tuple[int, Event, str]]:
        """One read, or whoever makes news without end would be read without end."""
        if self._fd >= 0:
            with suppress(BlockingIOError):
                yield from parse(os.read(self._fd, _READ_BYTES))


def parse(data: bytes) -> Iterator[tuple[int, Event, str]]:
    """What one read gave: watch, what happened, and the name in the directory; "" for the watched thing itself."""
    at = 0
    while at + _HEADER.size <= len(data):
        watch, mask, _, length = _HEADER.unpack_from(data, at)
        name = data[at + _HEADER.size : at + _HEADER.size + length]
        yield watch, Event(mask), os.fsdecode(name.rstrip(b"\0"))
        at += _HEADER.size + length


def _either(one: Names, other: Names) -> Names:
    return None if one is None or other is None else {*one, *other}


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    """Of a call of inotify's; FileNotFoundError and NotADirectoryError are the caller's."""
    if result >= 0:
        return result
    code = ctypes.get_errno()
    if code in {errno.ENOENT, errno.ENOTDIR}:
        raise OSError(code, os.strerror(code))
    raise HostCannot(f"inotify: {_FULL.get(code, os.strerror(code))}", hint="sysctl fs.inotify; raise the limit")
