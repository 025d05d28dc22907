"""Devices that put frames on a link, or packets into the host: TUN and TAP by one number, macvtap and ipvtap by majors
that the kernel gives out when it loads them.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from watchdog.kernel import libbpf, unsynced
from watchdog.kernel.unsynced import File

TUN_DEVICE = os.makedev(10, 200)
NAMES = frozenset({"macvtap", "ipvtap"})

_DEVICES = Path("/proc/devices")
_MAJOR = struct.Struct("=I")
_KNOWN = struct.pack("=I", 1)


def majors() -> frozenset[int]:
    """Those of the kinds that this kernel has loaded."""
    with suppress(OSError):
        return parse(_DEVICES.read_text(errors="replace"))
    return frozenset()


def parse(text: str) -> frozenset[int]:
    """From the text of /proc/devices: a major and a name in each line."""
    rows = [line.split() for line in text.splitlines()]
    return frozenset(int(row[0]) for row in rows if len(row) == 2 and row[1] in NAMES)  # noqa: PLR2004 -- just said


def is_one(file: File, tap_majors: Collection[int]) -> bool:
    """Whether an open file is such a device."""
    return stat.S_ISCHR(file.mode) and (file.device == TUN_DEVICE or os.major(file.device) in tap_majors)


def are_held(pids: Iterable[int]) -> bool:
    """Whether any of these processes has a tap open. Asked only where the kernel has any kind of it."""
    loaded = majors()
    return bool(loaded) and any(is_one(file, loaded) for pid in pids for file in _open_files(pid))


def _open_files(pid: int) -> Iterator[File]:
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 -- every descriptor of every process
            folder = f"/proc/{pid}/task/{thread}/fd"
            for name in os.listdir(folder):  # noqa: PTH208
                with suppress(OSError):
                    path = f"{folder}/{name}"
                    if os.readlink(path).startswith("/"):  # noqa: PTH115 -- no file otherwise, and there may be thousands
                        yield unsynced.look(path)


def refused(map_id: int) -> frozenset[int]:
    """The majors that the device program knows."""
    with libbpf.map_by_id(map_id) as fd:
        return frozenset(_MAJOR.unpack(key)[0] for key in libbpf.map_keys(fd, _MAJOR.size))


def refuse(map_id: int, wanted: Collection[int]) -> None:
    """Have the device program know these and no others: a major is given out again when its module is gone."""
    known = refused(map_id)
    with libbpf.map_by_id(map_id) as fd:
        for major in set(wanted) - known:
            libbpf.map_update(fd, _MAJOR.pack(major), _KNOWN)
        for major in known - set(wanted):
            libbpf.map_delete(fd, _MAJOR.pack(major))
