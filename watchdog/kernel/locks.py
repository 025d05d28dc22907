"""A lock file that processes share, with a deadline."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
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


Waits = tuple[float, Callable[[], None]]
"""What is called once when a lock has been waited for so many seconds."""


def held_by_another(path: Path) -> LockBusy:
    """The error, for who knows no better words."""
    return LockBusy(f"{path} is held by another process", hint=f"see which: fuser -v {path}")


@contextmanager
def locked(
    path: Path, timeout_s: float, waits: Iterable[Waits] = (), busy: Callable[[Path], LockBusy] = held_by_another
) -> Iterator[int]:
    """Hold the lock file, made where it is missing; after `timeout_s` the error that `busy` makes.

    Yields its descriptor: a child that inherits it keeps the lock after we are gone.
    """
    fd = _opened(path)
    try:
        _take(fd, path, timeout_s, waits, busy)
        yield fd
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        raise WatchdogError(f"cannot open the lock {path}: {error.strerror}", hint="set paths.run") from error


def _take(fd: int, path: Path, timeout_s: float, waits: Iterable[Waits], busy: Callable[[Path], LockBusy]) -> None:
    begun_s, due = time.monotonic(), sorted(waits, key=lambda each: each[0])
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            waited_s = time.monotonic() - begun_s
            while due and waited_s >= due[0][0]:
                due.pop(0)[1]()
            if waited_s >= timeout_s:
                raise busy(path) from error
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
