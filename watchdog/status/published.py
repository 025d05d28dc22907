"""What each watcher of a host last said of itself, in a file: `status` needs no daemon, and no socket to one.

A watcher holds the lock on its file's neighbour as long as it lives, whatever kills it: a file without a held lock is
history, and says so.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from watchdog.clock import from_rfc3339
from watchdog.errors import WatchdogError
from watchdog.kernel import locks
from watchdog.kernel.locks import LockBusy

PREFIX = "watcher-"
LOOK_S = 0.5
"""A watcher that starts waits so long for its lock: who asks whether it lives (`status`) holds it for a moment."""


@dataclass(frozen=True, slots=True)
class Published:
    """One watcher's last status document, and whether it is still running."""

    watcher: str
    alive: bool
    document: Mapping[str, Any]
    """Empty when it never wrote one."""

    def age_s(self, now: datetime) -> float | None:
        """Seconds since it was written; None where that is not known."""
        try:
            return (now - from_rfc3339(self.document["generated_at"])).total_seconds()
        except (KeyError, TypeError, ValueError):
            return None


@contextmanager
def only_one(run: Path, watcher: str) -> Iterator[None]:
    """Be the only watcher of that name on this host. Raises WatchdogError when there is one, or no lock can be had."""
    path = _lock_path(run, watcher)
    with ExitStack() as held:
        try:
            held.enter_context(locks.locked(path, LOOK_S))
        except LockBusy as error:
            raise WatchdogError(
                f"a watcher named {watcher} runs already on this host",
                hint=f"stop it first: fuser {path} says which process it is",
            ) from error
        yield


def publish(run: Path, watcher: str, document: Mapping[str, Any]) -> None:
    """Write the document, whole or not at all. Raises OSError."""
    path = _document_path(run, watcher)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(document), encoding="utf-8")
    beside.replace(path)


def seen_of(run: Path, peer: str) -> dict[str, str]:
    """What each watcher that runs on this host last said of a peer, in words: for the record of what a person does."""
    seen = {}
    for each in read_all(run) if peer else []:
        peers = each.document.get("peers")
        rows = [row for row in peers if isinstance(row, dict)] if each.alive and isinstance(peers, list) else []
        for row in rows:
            if row.get("name") == peer:
                seen[each.watcher] = f"{row.get('status')}, {row.get('missed_count')} missed: {row.get('detail')}"
    return seen


def read_all(run: Path) -> list[Published]:
    """Every watcher that ever ran on this host since it booted, by name."""
    names = sorted({path.stem.removeprefix(PREFIX) for path in run.glob(f"{PREFIX}*.lock")})
    return [Published(name, _is_held(_lock_path(run, name)), _read(_document_path(run, name))) for name in names]


def pids(run: Path) -> set[int]:
    """The processes of the watchers that are alive."""
    return {pid for path in run.glob(f"{PREFIX}*.lock") for pid in locks.holders(path)}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _lock_path(run: Path, watcher: str) -> Path:
    return run / f"{PREFIX}{watcher}.lock"


def _document_path(run: Path, watcher: str) -> Path:
    return run / f"{PREFIX}{watcher}.json"
