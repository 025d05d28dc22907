"""The one door to SQLite: connections as the journal needs them, its errors as ours, and the file they share.

A journal's file appears whole, with its tables, or not at all: one that is empty was damaged, and nobody begins a new
one in its place unasked. FILE_NAME is a link, and every journal ever begun has a name of its own: SQLite removes the
WAL by name when the last connection closes, and with one name for all a watcher that leaves a journal that was set
aside would remove the WAL of the new one.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from watchdog.errors import JournalCorrupt, JournalFailed
from watchdog.schema import VERSION, statements_after

FILE_NAME = "journal.db"
BUSY_TIMEOUT_MS = 5_000
LOCK_RETRY_S = 0.0005
"""SQLite's own waiting sleeps up to 100 ms between two looks, while others take the lock: one of three watchers waited
180 ms for transactions of 2 ms."""
PRIMARY_CODE = 0xFF
"""The low byte of SQLite's extended result codes."""
SET_ASIDE_HINT = "watchdog-mesh reconcile --set-aside-journal keeps it beside and rebuilds from the kernel"
FLUSHED, UNFLUSHED = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"
"""In WAL mode: flushed at every commit, or at checkpoints alone. Either way the file is whole after a loss of power."""
WAL = "-wal"
OUR_BUGS = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
"""What SQLite raises for a mistake in our code; but a connection that was closed is none."""


class Connection(sqlite3.Connection):
    """One thread's connection; a journal in memory has one for all threads."""

    inside = ""
    """The kind of transaction that is open: "write", "read" or none."""
    file: tuple[int, int] | None = None
    """Device and inode of the file it is connected to."""
    after_commit: tuple[Callable[[], None], ...] = ()

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.lock = threading.RLock()
        """Held while it is used: closing it meanwhile ends the process with SIGSEGV."""


def connect(path: Path) -> Connection:
    """A connection to a journal's file that is there."""
    connection = _connect(f"file:{quote(str(path))}?mode=rw", uri=True)
    connection.execute(FLUSHED)
    connection.file = identity(path)
    return connection


def connect_in_memory() -> Connection:
    """A new journal in memory, with its tables."""
    connection = _connect(":memory:", uri=False)
    migrate(connection)
    return connection


def _connect(name: str, *, uri: bool) -> Connection:
    connection = sqlite3.connect(
        name,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
        factory=Connection,
        uri=uri,
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextmanager
def between(connection: Connection, begin: str, kind: str) -> Iterator[None]:
    """A transaction of SQLite's: committed at the end, rolled back for whatever is raised."""
    _begin(connection, begin)
    connection.inside = kind
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.after_commit = ()
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.inside = ""


@contextmanager
def flushing(connection: Connection, *, flushed: bool) -> Iterator[None]:
    """Whether the transaction within is on disk when it is committed; SQLite takes this between transactions only."""
    if flushed:
        yield
        return
    connection.execute(UNFLUSHED)
    try:
        yield
    finally:
        connection.execute(FLUSHED)


def flush(path: Path) -> None:
    """Put on disk what unflushed transactions wrote, by whomever. Nothing to do where no connection has left a WAL."""
    wal = path.resolve()
    with suppress(FileNotFoundError):
        fd = os.open(wal.with_name(wal.name + WAL), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _begin(connection: Connection, begin: str) -> None:
    """Take what lock it needs, soon after it is free; raises as late as SQLite itself would."""
    if connection.file is None:  # in memory: nobody else has it
        connection.execute(begin)
        return
    timeout_ms = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    deadline_s = time.monotonic() + timeout_ms / 1000
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while not _begun(connection, begin, deadline_s):
            time.sleep(LOCK_RETRY_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")


def _begun(connection: Connection, begin: str, deadline_s: float) -> bool:
    try:
        connection.execute(begin)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
            raise
        return False
    return True


def version_of(connection: sqlite3.Connection) -> int:
    """How many steps of the schema the file has had."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: Connection) -> None:
    """Bring the tables to our version, whoever is first."""
    with between(connection, "BEGIN IMMEDIATE", "write"):
        for statement in statements_after(version_of(connection)):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def make(state: Path) -> None:
    """Make a journal under a name of its own, and link it when it is whole. Raises OSError and SQLite's errors."""
    handle, name = tempfile.mkstemp(prefix="journal-", suffix=".db", dir=state)
    os.close(handle)
    made = Path(name)
    try:
        with closing(connect(made)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        (state / FILE_NAME).symlink_to(made.name)
    except FileExistsError:
        made.unlink()  # somebody was faster: theirs it is
    except BaseException:
        for suffix in ("-wal", "-shm", "-journal", ""):
            made.with_name(made.name + suffix).unlink(missing_ok=True)
        raise
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def takes_nothing(folder: Path) -> bool:
    """Whether its disk is full, or mounted read-only."""
    return _is_read_only(folder) or _is_full(folder)


def copy(path: Path, folder: Path) -> Path:
    """A journal's copy in `folder`, with what its WAL holds. Raises OSError, also when it was written to meanwhile."""
    file = path.resolve()
    parts = [part for part in (file, file.with_name(file.name + WAL)) if part.exists()]
    before = [part.stat() for part in parts]
    for part in parts:
        shutil.copyfile(part, folder / part.name)
    if any(now.st_mtime_ns != then.st_mtime_ns for now, then in zip([p.stat() for p in parts], before, strict=True)):
        raise BlockingIOError(errno.EBUSY, "it was written to meanwhile")
    return folder / file.name


def identity(path: Path) -> tuple[int, int] | None:
    """Which file has that name now: device and inode; None when there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, before every transaction
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """What SQLite raises, as our errors; `path` is for their words."""
    try:
        yield
    except OUR_BUGS as error:
        if "closed database" not in str(error):
            raise
        raise JournalFailed(f"the journal {path} was closed") from error
    except sqlite3.OperationalError as error:
        raise JournalFailed(f"the journal {path}: {error}", hint=_hint(error, path)) from error
    except sqlite3.DatabaseError as error:
        raise JournalCorrupt(
            f"the journal {path} is damaged ({error}); it was left as it is", hint=SET_ASIDE_HINT
        ) from error


def _hint(error: sqlite3.OperationalError, path: Path | None) -> str:
    text = str(error)
    if path is not None and _is_read_only(path.parent):
        return "its disk is mounted read-only: mount -o remount,rw, or name another with $WATCHDOG_MESH_STATE_DIR"
    if "full" in text or (path is not None and _is_full(path.parent)):
        return "free space on that disk, or name another directory with $WATCHDOG_MESH_STATE_DIR"
    if "locked" in text:
        return "another process holds it for too long: see who with fuser"
    return "check the disk, and that it is root's"


def _is_read_only(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _is_full(folder: Path) -> bool:
    """SQLite says "disk I/O error" where it has no room for the WAL's index."""
    try:
        return os.statvfs(folder).f_bavail == 0
    except OSError:
        return False
