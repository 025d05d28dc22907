"""A lock file that processes share, with a deadline."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchdog.errors import WatchdogError

RETRY_S = 0.02
"""flock has no deadline of its own, and an alarm would hit the caller's whole process."""

_MODE = 0o600
_FOLDER_MODE = 0o700

_TABLE = Path("/proc/locks")


class LockBusy(WatchdogError):
    """Somebody else held the lock until the deadline."""


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[int]:
    """Hold the lock file, made where it is missing; LockBusy after `timeout_s`.

    Yields its descriptor: a child that inherits it keeps the lock after we are gone.
    """
    fd = _opened(path)
    try:
        _take(fd, path, time.monotonic() + timeout_s)
        yield fd
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        raise WatchdogError(f"cannot open the lock {path}: {error.strerror}", hint="set paths.run") from error


def _take(fd: int, path: Path, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline_s:
                raise LockBusy(f"{path} is held by another process", hint=f"see which: fuser -v {path}") from error
        time.sleep(RETRY_S)


def holders(path: Path) -> set[int]:
    """The pids that hold a flock on a file, as far as they are seen from here (proc_locks(5))."""
    try:
        found = path.stat()
    except OSError:
        return set()
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    rows = [line.split() for line in _TABLE.read_text().splitlines()]
    return {int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == device}
