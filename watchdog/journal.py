"""The journal: one SQLite file that remembers what the mesh believed, ordered, did and owes.

WAL with synchronous=FULL: what a transaction wrote is on disk when it returns, and a kill -9 at any point leaves
either all of it or nothing. Several watchers and commands share it; each thread has its own connection.
The audit trail in it is chained by SHA-256, so that a record cut out, edited or moved is found.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from watchdog.clock import rfc3339
from watchdog.errors import JournalCorrupt, JournalFailed

FILE_NAME = "journal.db"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_MS = 5_000
DIRECTORY_MODE = 0o700
CHAIN_START = "0" * 64

SCHEMA = """
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    record TEXT NOT NULL,           -- canonical JSON, with its own seq inside
    hash TEXT NOT NULL              -- SHA-256 of the previous hash and the record
);
CREATE TABLE standing (             -- what each watcher believes of each peer
    watcher TEXT NOT NULL,
    peer TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (watcher, peer)
);
CREATE TABLE peer (                 -- what the mesh knows of each peer
    name TEXT PRIMARY KEY,
    episode INTEGER NOT NULL DEFAULT 0,
    episode_open INTEGER NOT NULL DEFAULT 0,
    episode_since TEXT,
    severity TEXT NOT NULL DEFAULT 'MEDIUM',
    restart_count INTEGER NOT NULL DEFAULT 0,
    last_restart TEXT,
    forgiven_s REAL,
    forgiven_boot TEXT
);
CREATE TABLE observation (          -- who suspects whom; a row only while it does
    watcher TEXT NOT NULL,
    peer TEXT NOT NULL,
    missed_count INTEGER NOT NULL,
    seen_s REAL NOT NULL,
    boot TEXT NOT NULL,
    PRIMARY KEY (watcher, peer)
);
CREATE TABLE orders (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    peer TEXT NOT NULL,
    episode INTEGER NOT NULL,
    action TEXT NOT NULL,
    watcher TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TEXT NOT NULL,
    ordered_s REAL NOT NULL,
    expires_s REAL NOT NULL,
    boot TEXT NOT NULL,
    state TEXT NOT NULL,            -- open, done, failed
    outcome TEXT NOT NULL DEFAULT '',
    ended TEXT
);
CREATE INDEX orders_by_peer ON orders (peer, token);
CREATE TABLE silence (
    peer TEXT PRIMARY KEY,
    until TEXT NOT NULL,            -- what people read, and what counts after a reboot
    until_s REAL NOT NULL,          -- what counts on this boot: no clock step moves it
    boot TEXT NOT NULL,
    reason TEXT NOT NULL,
    by TEXT NOT NULL
);
CREATE TABLE isolation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    peer TEXT,                      -- NULL for a target that is no configured peer
    target TEXT NOT NULL,           -- JSON: unit, cgroup path, cgroup id
    state TEXT NOT NULL,            -- isolating, isolated, releasing, released
    body TEXT NOT NULL,             -- JSON: level, reason, incident, slot, program ids, who
    since TEXT NOT NULL,
    changed TEXT NOT NULL
);
CREATE INDEX isolation_by_state ON isolation (state);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,        -- the webhook-id, the same for every receiver and try
    key TEXT NOT NULL UNIQUE,       -- what makes it one event, however many watchers saw it
    at TEXT NOT NULL,
    severity TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE delivery (
    receiver TEXT NOT NULL,
    event_seq INTEGER NOT NULL REFERENCES event (seq),
    state TEXT NOT NULL,            -- pending, delivered, expired, refused
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at TEXT NOT NULL,          -- wall clock: it must mean the same after a reboot
    last_error TEXT NOT NULL DEFAULT '',
    settled_at TEXT,
    PRIMARY KEY (receiver, event_seq)
);
CREATE INDEX delivery_pending ON delivery (receiver, event_seq) WHERE state = 'pending';
CREATE INDEX delivery_by_event ON delivery (event_seq);
CREATE TABLE gone (                 -- receivers that answered 410, until their URL changes or a test arrives
    receiver TEXT PRIMARY KEY,
    url_hash TEXT NOT NULL,         -- a URL's path may be a secret
    at TEXT NOT NULL,
    why TEXT NOT NULL
);
"""


class Journal:
    """One open journal. Safe to share between threads; close it when done."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.RLock()

    @classmethod
    def in_memory(cls) -> Journal:
        """A journal that remembers nothing after its process, for a Monitor embedded without one."""
        journal = cls(None)
        journal._prepare()
        return journal

    @classmethod
    def open(cls, state: Path) -> Journal:
        """Open the journal in the directory `state`, making both when they are not there.

        Raises JournalCorrupt when the file is damaged (it stays where it is) and JournalFailed when it
        cannot be made, opened or was written by a newer version.
        """
        try:
            state.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise JournalFailed(
                f"cannot make the journal's directory {state}: {error.strerror}",
                hint="check [paths] state, the disk and its permissions",
            ) from error
        journal = cls(state / FILE_NAME)
        try:
            journal._prepare()
        except BaseException:
            journal.close()
            raise
        return journal

    def _prepare(self) -> None:
        version = self.read("PRAGMA user_version")[0][0]
        if version == SCHEMA_VERSION:
            return
        if version > SCHEMA_VERSION:
            raise JournalFailed(
                f"the journal {self.path} was written by a newer version (schema {version}, known {SCHEMA_VERSION})",
                hint="run the newer watchdog-mesh; going back is not supported",
            )
        with self.transaction() as tx:
            if tx.execute("PRAGMA user_version").fetchone()[0] == 0:  # nobody was faster
                for statement in SCHEMA.split(";\n"):
                    tx.execute(statement)
                tx.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection; in memory there is one for all."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._opened[0] if self._opened and self.path is None else self._connect()
            self._local.connection = connection
            self._local.depth = 0
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path or ":memory:", isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
        )
        connection.row_factory = sqlite3.Row
        with self._lock:
            self._opened.append(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _alone(self) -> AbstractContextManager[object]:
        """In memory the one connection is one thread's at a time; SQLite itself sees to that in a file."""
        return self._lock if self.path is None else nullcontext()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk when it returns. A transaction inside another is part of that one."""
        with self._alone(), self._translated():
            connection = self._connection()
            if self._local.depth:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            self._local.depth = 1
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._local.depth = 0

    def read(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Rows of one query."""
        with self._alone(), self._translated():
            return self._connection().execute(sql, values).fetchall()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise JournalFailed(f"the journal {self.path}: {error}", hint=_hint(error)) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise JournalCorrupt(
                f"the journal {self.path} is damaged ({error}); it was left as it is",
                hint="watchdog-mesh reconcile --set-aside-journal keeps it beside and rebuilds from the kernel",
            ) from error

    def data_version(self) -> int:
        """A number that changes when another connection has written: cheap to poll."""
        return int(self.read("PRAGMA data_version")[0][0])

    def record(self, at: datetime, kind: str, **facts: object) -> None:
        """Add one record to the audit trail, within the transaction that is open or in its own."""
        with self.transaction() as tx:
            last = tx.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
            seq = last["seq"] + 1 if last else 1
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
        rows = self.read("SELECT seq, record, hash FROM audit ORDER BY seq")
        ever = self.read("SELECT seq FROM sqlite_sequence WHERE name = 'audit'")
        return check_chain([(row["seq"], row["record"], row["hash"]) for row in rows], ever[0]["seq"] if ever else 0)

    def damage(self) -> list[str]:
        """What SQLite itself finds wrong with the file, a sentence each; reads all of it."""
        found = [str(row[0]) for row in self.read("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close every thread's connection."""
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()


def canonical(facts: Mapping[str, object]) -> str:
    """The one way a record is written, so that it hashes the same wherever it is checked."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def chained(previous: str, record: str) -> str:
    """The hash of a record that follows the one with hash `previous`."""
    return hashlib.sha256(f"{previous}\n{record}".encode()).hexdigest()


def check_chain(rows: Sequence[tuple[int, str, str]], written: int) -> list[str]:
    """Pure: what is wrong with rows of (seq, record, hash), of which `written` were ever made."""
    problems = []
    previous, expected = CHAIN_START, 1
    for seq, record, digest in rows:
        if seq != expected:
            problems.append(f"records {expected} to {seq - 1} are missing")
        elif digest != chained(previous, record):
            problems.append(f"record {seq} was changed, or the one before it was")
        previous, expected = digest, seq + 1
    if expected <= written:
        problems.append(f"records {expected} to {written} were cut off at the end")
    return problems


def set_aside(state: Path, at: datetime) -> Path:
    """Move a damaged journal out of the way, whole, and say where it is now."""
    stamp = at.strftime("%Y%m%dT%H%M%S.%fZ")
    kept = state / f"{FILE_NAME}.damaged-{stamp}"
    try:
        for suffix in ("-wal", "-shm", ""):
            beside = state / (FILE_NAME + suffix)
            if beside.exists():
                beside.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise JournalFailed(f"cannot move the damaged journal aside in {state}: {error.strerror}") from error
    return kept


def _hint(error: sqlite3.OperationalError) -> str:
    text = str(error)
    if "full" in text:
        return "free space on that disk, or name another directory with $WATCHDOG_MESH_STATE_DIR"
    if "locked" in text:
        return "another process holds it for too long: see who with fuser"
    return "check the disk, and that it is root's"
