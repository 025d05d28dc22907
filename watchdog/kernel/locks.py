"""A lock file that processes share, with a deadline."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from watchdog.errors import WatchdogError

RETRY_S = 0.02
"""flock has no deadline of its own, and an alarm would hit the caller's whole process."""

PATIENCE_S = 0.5
"""Longer than a keeper's sweep under the lock of isolations takes as a rule."""

_MODE = 0o600
_FOLDER_MODE = 0o700

_TABLE = Path("/proc/locks")


class LockBusy(WatchdogError):
    """Somebody else held the lock until the deadline."""


@contextmanager
def locked(path: Path, timeout_s: float, waits: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold the lock file, made where it is missing; LockBusy after `timeout_s`.

    `waits` is called once when it has been waited for as long as PATIENCE_S.

    Yields its descriptor: a child that inherits it keeps the lock after we are gone.
    """
    fd = _opened(path)
    try:
        _take(fd, path, timeout_s, waits)
        yield fd
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        raise WatchdogError(f"cannot open the lock {path}: {error.strerror}", hint="set paths.run") from error


def _take(fd: int, path: Path, timeout_s: float, waits: Callable[[], None]) -> None:
    begun_s, is_told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            waited_s = time.monotonic() - begun_s
            if waited_s >= PATIENCE_S and not is_told:
                waits()
                is_told = True
            if waited_s >= timeout_s:
                raise LockBusy(f"{path} is held by another process", hint=f"see which: fuser -v {path}") from error
        time.sleep(RETRY_S)


def holders(path: Path) -> set[int]:
    """The pids that hold a file's flock alone, as far as they are seen from here (proc_locks(5)). Who only asks whether
    it is held shares it for a moment."""
    try:
        found = path.stat()
    except OSError:
        return set()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    rows = [line.split() for line in _TABLE.read_text().splitlines()]
    return {int(row[4]) for row in rows if (row[1], row[3], row[5]) == ("FLOCK", "WRITE", device)}
