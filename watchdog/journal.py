"""The journal: one SQLite file that remembers what the mesh believed, ordered, did and owes.

WAL with synchronous=FULL: what a transaction wrote is on disk when it returns, and a kill -9 at any point leaves
either all of it or nothing. Several watchers and commands share it; each thread has its own connection.
The audit trail in it is chained by SHA-256 (watchdog/chain.py), so that a record cut out, edited or moved is found.

A journal that is replaced under a running watcher is noticed, reported, and used from then on.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from watchdog import database
from watchdog.chain import CHAIN_START, canonical, chained, check_chain
from watchdog.clock import rfc3339
from watchdog.database import FILE_NAME, Connection, between, flushing, translated
from watchdog.errors import JournalCorrupt, JournalFailed
from watchdog.schema import VERSION

DIRECTORY_MODE = 0o700
SET_ASIDE = "journal set aside"
"""The first record of the journal that was begun instead: where the history before it is."""


class _Own:
    """One thread's connection, closed when the thread ends: it is in a cycle, and the collector may come much later."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class Journal:
    """One open journal. Safe to share between threads; close it when done."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._in_memory = None if path else database.connect_in_memory()
        self.found_damaged = False
        """Whether somebody who used it came upon damage."""
        self._awaited = False
        """It was never open: what is not there may be made, and nobody's history is lost by that."""
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def in_memory(cls) -> Journal:
        """A journal that remembers nothing after its process, for a Monitor embedded without one."""
        return cls(None)

    @classmethod
    def open(cls, state: Path) -> Journal:
        """Open the journal in the directory `state`, making both when they are not there.

        Raises JournalCorrupt when the file is damaged (it stays where it is) and JournalFailed when it
        cannot be made, opened or was written by a newer version.
        """
        journal = cls.awaiting(state)
        journal.data_version()
        return journal

    @classmethod
    def awaiting(cls, state: Path) -> Journal:
        """The same, opened when it is first used: until it can be, every use tries to and raises what `open` does."""
        journal = cls(state / FILE_NAME)
        journal._awaited = True
        return journal

    def _connection(self) -> Connection:
        """This thread's connection; in memory there is one for all."""
        if self._closed:
            raise JournalFailed(f"the journal {self.path} was closed")
        if self._in_memory is not None:
            return self._in_memory
        own: _Own | None = getattr(self._local, "own", None)
        if own is None:
            self._local.own = own = _Own(self._open_file())
        elif not own.connection.inside and self.path and own.connection.file != database.identity(self.path):
            self._local.own = None
            own.connection.close()
            raise JournalFailed(
                f"the journal {self.path} was replaced or removed while it was in use",
                hint="what is there now is used from here on; what was replaced holds the history until then",
            )
        return own.connection

    def _open_file(self) -> Connection:
        assert self.path is not None
        if self._awaited:
            _make(self.path)
        connection = database.connect(self.path)
        try:
            self._bring_forward(connection)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._opened.add(connection)
        self._awaited = False
        return connection

    def _bring_forward(self, connection: Connection) -> None:
        """Check what version wrote the file, and migrate an older one."""
        version = database.version_of(connection)
        if version > VERSION:
            raise JournalFailed(
                f"the journal {self.path} was written by a newer version (schema {version}, known {VERSION})",
                hint="run the newer watchdog-mesh; going back is not supported",
            )
        if version <= 0:
            raise JournalCorrupt(
                f"the journal {self.path} is damaged (it is empty, or no journal); it was left as it is",
                hint=database.SET_ASIDE_HINT,
            )
        if version < VERSION:
            database.migrate(connection)

    @contextmanager
    def _used(self) -> Iterator[Connection]:
        """This thread's connection, which nobody closes meanwhile; in memory it is one thread's at a time."""
        try:
            with translated(self.path):
                connection = self._connection()
                with connection.lock:
                    yield connection
        except JournalCorrupt:
            self.found_damaged = True
            raise

    @contextmanager
    def transaction(self, *, flushed: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk when it returns. A transaction inside another is part of that one.

        One that is not `flushed` outlives every kill at once, and a loss of power from the next flush on.
        """
        with self._used() as connection:
            assert connection.inside != "read", "a snapshot cannot write"
            if connection.inside:
                yield connection
                return
            with flushing(connection, flushed=flushed), between(connection, "BEGIN IMMEDIATE", "write"):
                yield connection
            done, connection.after_commit = connection.after_commit, ()
        for call in done:
            call()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Several reads of one instant, which keep nobody from writing."""
        with self._used() as connection:
            if connection.inside:
                yield connection
                return
            with between(connection, "BEGIN", "read"):
                yield connection

    def read(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Rows of one query."""
        with self._used() as connection:
            return connection.execute(sql, values).fetchall()

    def flush(self) -> None:
        """Put on disk what transactions wrote that were not flushed."""
        if self.path is None:
            return
        try:
            database.flush(self.path)
        except OSError as error:
            raise JournalFailed(f"cannot put the journal {self.path} on disk: {error.strerror}") from error

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` called once what was written so far holds: after this thread's open transaction, or now."""
        with self._used() as connection:
            if connection.inside:
                connection.after_commit += (call,)
                return
        call()

    def data_version(self) -> int:
        """A number that changes when another thread or process has written: cheap to poll from one thread."""
        if self._in_memory is not None and not self._closed:
            return self._in_memory.total_changes
        return int(self.read("PRAGMA data_version")[0][0])

    def record(self, at: datetime, kind: str, **facts: object) -> None:
        """Add one record to the audit trail, within the transaction that is open or in its own.

        Numbers are never given twice: records cut off at the end leave a gap for ever.
        """
        with self.transaction() as tx:
            last = tx.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
            made = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
            seq = max(made["seq"] if made else 0, last["seq"] if last else 0) + 1
            record = canonical({"seq": seq, "at": rfc3339(at), "kind": kind, **facts})
            tx.execute(
                "INSERT INTO audit (seq, record, hash) VALUES (?, ?, ?)",
                (seq, record, chained(last["hash"] if last else CHAIN_START, record)),
            )

    def trail(self, *, newest: int | None = None) -> list[dict[str, object]]:
        """The audit trail, oldest first; `newest` keeps only that many of the last records."""
        limit = -1 if newest is None else newest
        rows = self.read("SELECT record FROM audit ORDER BY seq DESC LIMIT ?", (limit,))
        return [json.loads(row["record"]) for row in reversed(rows)]

    def broken_records(self) -> list[str]:
        """What is wrong with the audit trail, a sentence each; empty when it is whole."""
        with self.snapshot() as tx:
            rows = tx.execute("SELECT seq, record, hash FROM audit ORDER BY seq").fetchall()
            ever = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
        return check_chain([(row["seq"], row["record"], row["hash"]) for row in rows], ever["seq"] if ever else 0)

    def must_be_whole(self) -> None:
        """Raises JournalCorrupt where a later write could fail half way; the trail, the longest table, is left out.

        What cannot be written there is refused before anything is done: every act begins with a record.
        """
        for row in self.read("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'audit'"):
            found = [str(each[0]) for each in self.read(f"PRAGMA quick_check({row['name']})")]
            if found != ["ok"]:
                self.found_damaged = True
                raise JournalCorrupt(f"the journal {self.path} is damaged ({found[0]})", hint=database.SET_ASIDE_HINT)

    def damage(self) -> list[str]:
        """What SQLite itself finds wrong with the file, a sentence each; reads all of it."""
        found = [str(row[0]) for row in self.read("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close every thread's connection, each when its thread is not using it: SQLite does not survive less."""
        self._closed = True
        with self._lock:
            opened = [*self._opened, *([self._in_memory] if self._in_memory else [])]
        for connection in opened:
            with connection.lock:
                connection.close()


def _make(path: Path) -> None:
    """The directory and the file, where they are not there."""
    try:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            database.make(path.parent)
    except OSError as error:
        raise JournalFailed(
            f"cannot make the journal in {path.parent}: {error.strerror}",
            hint="check [paths] state, the disk and its permissions",
        ) from error


@contextmanager
def readable(state: Path, scratch: Path) -> Iterator[tuple[Journal, str]]:
    """The journal for a command that only reads, and why it is a copy of it; empty when it is none. Closed at the end.

    SQLite writes beside a file even to read it. Where the disk takes nothing, what is there is read from a copy in
    `scratch`; what is written to that is lost.
    """
    with ExitStack() as ended:
        try:
            journal, why = Journal.open(state), ""
        except JournalFailed as error:
            if not database.takes_nothing(state):
                raise
            try:
                scratch.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
                folder = ended.enter_context(tempfile.TemporaryDirectory(prefix="journal-", dir=scratch))
                copied = database.copy(state / FILE_NAME, Path(folder))
            except OSError:
                raise error from None
            journal, why = Journal(copied), error.one_line()
        with closing(journal):
            yield journal, why


def open_or_set_aside(state: Path, at: datetime) -> tuple[Journal, str]:
    """The journal, and what is to be told when it was damaged: it is kept, and a new one begun by whoever is first.

    One that cannot be opened now, as it is locked or its disk is full, is opened as soon as it can be.
    """
    try:
        return _opened_or_begun_anew(state, at)
    except JournalFailed:
        return Journal.awaiting(state), ""


def _opened_or_begun_anew(state: Path, at: datetime) -> tuple[Journal, str]:
    try:
        return Journal.open(state), ""
    except JournalCorrupt:
        with _held(state):
            try:
                return Journal.open(state), ""
            except JournalCorrupt as error:
                return _begun_anew(state, error.message.partition(";")[0], at)


def set_aside_if_damaged(state: Path, at: datetime) -> str:
    """What is to be told when the journal proves to be damaged, also deep inside: as above. Empty when it is whole."""
    with _held(state):
        if not (found := _damage(state)):
            return ""
        begun, told = _begun_anew(state, found, at)
        begun.close()
    return told


def _damage(state: Path) -> str:
    try:
        with closing(Journal.open(state)) as opened:
            problems = opened.damage()
            return f"the journal {opened.path} is damaged ({problems[0]})" if problems else ""
    except JournalCorrupt as error:
        return error.message.partition(";")[0]


def _begun_anew(state: Path, found: str, at: datetime) -> tuple[Journal, str]:
    kept = set_aside(state, at)
    begun = Journal.awaiting(state)
    with suppress(JournalFailed):  # the damage is told of all the same
        begun.record(at, SET_ASIDE, kept=str(kept), found=found)
    return begun, f"{found}; it is kept as {kept}, and a new one was begun"


def set_aside(state: Path, at: datetime) -> Path:
    """Take its name from a damaged journal, which stays whole, and say where it is now."""
    current = state / FILE_NAME
    kept = state / f"{FILE_NAME}.damaged-{at.strftime('%Y%m%dT%H%M%S.%fZ')}"
    beside = () if current.is_symlink() else ("-wal", "-shm")
    try:
        for suffix in (*beside, ""):
            with suppress(FileNotFoundError):
                current.with_name(current.name + suffix).rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise JournalFailed(f"cannot move the damaged journal aside in {state}: {error.strerror}") from error
    return kept


@contextmanager
def _held(state: Path) -> Iterator[None]:
    """One process at a time sets a journal aside, or it would be the new one of another."""
    directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
