"""The write lock of a journal that several processes share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from watchdog import database
from watchdog.database import BUSY_TIMEOUT_MS, Connection

SHORT_MS = 20
SYNCHRONOUS_FULL = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.make(tmp_path)
    return tmp_path / database.FILE_NAME


@pytest.fixture
def holder(path: Path) -> Iterator[Connection]:
    """Somebody who holds the write lock."""
    with closing(database.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def timeout_ms(connection: Connection) -> int:
    return int(connection.execute("PRAGMA busy_timeout").fetchone()[0])


def test_a_lock_that_stays_held_is_an_error_at_the_timeout(path: Path, holder: Connection) -> None:
    with closing(database.connect(path)) as waiting:
        waiting.execute(f"PRAGMA busy_timeout = {SHORT_MS}")
        with pytest.raises(sqlite3.OperationalError, match="locked"), database.between(waiting, "BEGIN IMMEDIATE", "w"):
            pass
        assert timeout_ms(waiting) == SHORT_MS


def test_a_lock_that_is_let_go_is_taken(path: Path, holder: Connection) -> None:
    with closing(database.connect(path)) as waiting:
        threading.Timer(SHORT_MS / 1000, holder.execute, ("ROLLBACK",)).start()
        with database.between(waiting, "BEGIN IMMEDIATE", "write"):
            assert waiting.in_transaction
        assert timeout_ms(waiting) == BUSY_TIMEOUT_MS


def test_other_errors_are_not_waited_for(path: Path) -> None:
    with closing(database.connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="syntax"), database.between(connection, "BEGIN NOW", "w"):
            pass
        assert timeout_ms(connection) == BUSY_TIMEOUT_MS


def test_what_is_not_flushed_is_there_for_others_and_the_next_transaction_is_flushed(path: Path) -> None:
    with closing(database.connect(path)) as connection, closing(database.connect(path)) as other:
        with database.flushing(connection, flushed=False), database.between(connection, "BEGIN IMMEDIATE", "write"):
            connection.execute("INSERT INTO peer (name) VALUES ('shield')")
        assert [row["name"] for row in other.execute("SELECT name FROM peer")] == ["shield"]
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == SYNCHRONOUS_FULL


def test_flush_finds_the_wal_behind_the_link_and_needs_none(path: Path) -> None:
    with closing(database.connect(path)) as connection:
        connection.execute("INSERT INTO peer (name) VALUES ('shield')")
        assert path.resolve().with_name(path.resolve().name + database.WAL).exists()
        database.flush(path)
    database.flush(path)  # the last connection took the WAL away
