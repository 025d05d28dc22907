"""The directory where programs and maps are pinned: on a bpffs, root's, and nobody else's to write."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused, NotRoot
from watchdog.kernel.mounts import fs_type_of

DEFAULT_PINS = Path("/sys/fs/bpf/watchdog-mesh")

PRIVATE_MODE = 0o700
ROOT_UID = 0
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_MOUNT_FLAGS = 0x2 | 0x4 | 0x8
"""MS_NOSUID, MS_NODEV, MS_NOEXEC."""


def prepare(pins: Path) -> Path:
    """Make `pins` a private directory on a bpffs and return it; doing it again changes nothing.

    On a bpffs it is only made. On an ordinary file system a bpffs of its own is mounted there, seen by this
    mount namespace only. HostCannot where neither can be, or where others could put their pins in our place;
    NotRoot for anybody but root.
    """
    check(pins)
    _make_directories(pins)
    if fs_type_of(pins) != "bpf":
        _mount_once(pins)
    _check_private(pins)
    return pins


def check(pins: Path) -> None:
    """Raises what `prepare` would, as far as that can be seen without making or mounting anything."""
    if os.geteuid() != ROOT_UID:
        raise NotRoot(f"only root can pin BPF programs in {pins}")
    if not pins.is_absolute() or ".." in pins.parts:
        raise HostCannot(f"the pin directory {pins} is no absolute path", hint="set paths.bpffs")
    if fs_type_of(_nearest_existing(pins)) == "sysfs":
        raise HostCannot(f"no bpffs is mounted for {pins}", hint=f"mount -t bpf bpf {DEFAULT_PINS.parent}")
    if pins.is_dir():
        _check_private(pins)
    else:
        check_writable(pins)


def check_writable(pins: Path) -> None:
    """HostCannot where nothing can be pinned, or no directory be made for pins, since it is mounted read-only."""
    if is_read_only(pins):
        raise HostCannot(f"nothing can be pinned in {pins}: {read_only(pins)}", hint=_remount(pins))


def is_read_only(pins: Path) -> bool:
    """Whether what `pins` is on, or would be, is mounted read-only; a directory for a bpffs to be mounted on may be."""
    nearest = _nearest_existing(pins)
    if not os.statvfs(nearest).f_flag & os.ST_RDONLY:
        return False
    return nearest != pins or fs_type_of(pins) == "bpf"


def read_only(pins: Path) -> str:
    """What is mounted read-only there, as a sentence's part."""
    return f"{_mount_point(pins)} is mounted read-only"


def _remount(pins: Path) -> str:
    return f"mount -o remount,rw {_mount_point(pins)}"


def _mount_point(pins: Path) -> Path:
    return next(path for path in (pins, *pins.parents) if path.is_mount())


def is_on_bpffs(pins: Path) -> bool:
    """Whether `pins` exists and is on a bpffs."""
    return pins.is_dir() and fs_type_of(pins) == "bpf"


def unmount(pins: Path) -> None:
    """Unmount a bpffs mounted at exactly `pins`, and with it let go of every pin; nothing mounted is success.

    Attached programs stay attached. KernelRefused while somebody is in it.
    """
    if _libc().umount2(os.fsencode(pins), 0) == 0:
        return
    code = ctypes.get_errno()
    if code not in {errno.EINVAL, errno.ENOENT}:
        raise KernelRefused(f"cannot unmount {pins}: {os.strerror(code)}", hint=f"see who uses it: fuser -vm {pins}")


def _nearest_existing(path: Path) -> Path:
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _make_directories(pins: Path) -> None:
    try:
        pins.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        pins.mkdir(mode=PRIVATE_MODE, exist_ok=True)
    except OSError as error:
        raise HostCannot(f"cannot make the pin directory {pins}: {error.strerror}", hint="set paths.bpffs") from error


def _mount_once(pins: Path) -> None:
    """Two commands may come here at once, and each mount is a file system of its own: the later would hide
    the earlier's pins. The lock is on the directory underneath, which both opened."""
    _check_private(pins)
    with _locked(pins):
        if fs_type_of(pins) == "bpf":
            return
        if any(pins.iterdir()):
            raise HostCannot(
                f"{pins} is not on a bpffs and not empty", hint="set paths.bpffs to a directory of its own"
            )
        _mount(pins)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _mount(pins: Path) -> None:
    options = f"mode={PRIVATE_MODE:04o}".encode()
    if _libc().mount(b"bpf", os.fsencode(pins), b"bpf", _MOUNT_FLAGS, options) == 0:
        return
    code = ctypes.get_errno()
    raise HostCannot(
        f"cannot mount a bpffs on {pins}: {os.strerror(code)}",
        hint="this needs CAP_SYS_ADMIN and a kernel with CONFIG_BPF_SYSCALL",
    )


def _check_private(pins: Path) -> None:
    """Whoever can write here can put a program that passes everything where we look for ours."""
    if pins.resolve() != pins:
        raise HostCannot(f"{pins} leads through a symbolic link to {pins.resolve()}", hint="set paths.bpffs to that")
    own = pins.stat()
    if own.st_uid != ROOT_UID or stat.S_IMODE(own.st_mode) & 0o077:
        raise HostCannot(
            f"{pins} is open to others: {_ownership(own)}", hint=f"chown root:root {pins}; chmod 0700 {pins}"
        )
    for above in pins.parents:
        found = above.stat()
        sticky = found.st_mode & stat.S_ISVTX
        if found.st_uid != ROOT_UID or (found.st_mode & OTHERS_WRITE and not sticky):
            raise HostCannot(f"others can replace {pins}: {above} is {_ownership(found)}", hint=f"chmod go-w {above}")


def _ownership(found: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(found.st_mode):04o}, uid {found.st_uid}"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
