"""The journal: transactions, threads, versions, and what becomes of a file that is damaged, replaced or gone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from watchdog import journal as journals
from watchdog import schema
from watchdog.clock import Moment
from watchdog.database import FILE_NAME
from watchdog.errors import JournalCorrupt, JournalFailed
from watchdog.journal import Journal
from watchdog.mesh.local import LocalCoordinator

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PAGE_BYTES = 4096
INSERT = "INSERT INTO peer (name) VALUES (?)"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, state: Path) -> Iterator[Journal]:
    opened = Journal.open(state) if request.param == "file" else Journal.in_memory()
    yield opened
    opened.close()


@pytest.fixture
def kept(state: Path) -> Iterator[Journal]:
    opened = Journal.open(state)
    yield opened
    opened.close()


def names(journal: Journal) -> list[str]:
    return [row["name"] for row in journal.read("SELECT name FROM peer ORDER BY name")]


def in_thread(call: Callable[[], object]) -> None:
    """Run it on a thread of its own; raises what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


# Transactions


def test_a_transaction_inside_another_is_part_of_it(journal: Journal) -> None:
    with suppress(ZeroDivisionError), journal.transaction() as tx:
        tx.execute(INSERT, ("outer",))
        with journal.transaction() as inner:
            inner.execute(INSERT, ("inner",))
        raise ZeroDivisionError
    assert names(journal) == []
    with journal.transaction() as tx, journal.transaction() as inner:
        tx.execute(INSERT, ("outer",))
        inner.execute(INSERT, ("inner",))
    assert names(journal) == ["inner", "outer"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, ValueError])
def test_whatever_is_raised_undoes_it(journal: Journal, how: type[BaseException]) -> None:
    def write() -> None:
        with journal.transaction() as tx:
            tx.execute(INSERT, ("lost",))
            raise how

    with pytest.raises(how):
        write()
    with journal.transaction() as tx:
        tx.execute(INSERT, ("kept",))
    assert names(journal) == ["kept"]


def test_what_follows_a_commit_follows_only_a_commit(journal: Journal) -> None:
    called: list[str] = []
    journal.after_commit(lambda: called.append("at once"))
    with suppress(ZeroDivisionError), journal.transaction():
        journal.after_commit(lambda: called.append("undone"))
        raise ZeroDivisionError
    with journal.transaction():
        with journal.transaction():
            journal.after_commit(lambda: called.append("inner"))
        journal.after_commit(lambda: called.append("outer"))
        assert called == ["at once"]
    assert called == ["at once", "inner", "outer"]


def test_a_snapshot_sees_one_instant_and_keeps_nobody_from_writing(kept: Journal) -> None:
    def write() -> None:
        with kept.transaction() as tx:
            tx.execute(INSERT, ("shield",))

    with kept.snapshot() as tx:
        assert tx.execute("SELECT count(*) FROM peer").fetchone()[0] == 0
        in_thread(write)
        assert tx.execute("SELECT count(*) FROM peer").fetchone()[0] == 0
    assert names(kept) == ["shield"]


def test_a_snapshot_does_not_write(journal: Journal) -> None:
    with pytest.raises(AssertionError), journal.snapshot(), journal.transaction():
        pass


def test_many_threads_write_one_after_another(journal: Journal) -> None:
    threads, each = 8, 25

    def count() -> None:
        for _ in range(each):
            with journal.transaction() as tx:
                seen = tx.execute("SELECT count(*) FROM peer").fetchone()[0]
                tx.execute(INSERT, (f"{seen:04}",))

    running = [threading.Thread(target=count) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(names(journal)) == threads * each


def test_the_version_moves_when_somebody_else_has_written(kept: Journal, state: Path) -> None:
    before = kept.data_version()
    assert kept.data_version() == before
    with closing(Journal.open(state)) as other, other.transaction() as tx:
        tx.execute(INSERT, ("shield",))
    assert kept.data_version() != before


def test_in_memory_the_version_moves_with_every_write() -> None:
    journal = Journal.in_memory()
    before = journal.data_version()
    with journal.transaction() as tx:
        tx.execute(INSERT, ("shield",))
    assert journal.data_version() != before


def test_a_thread_that_ends_gives_its_connection_back(kept: Journal) -> None:
    def files() -> int:
        return sum("journal" in str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.exists())

    before = files()
    for _ in range(10):
        in_thread(lambda: names(kept))
    assert files() <= before + 1


def test_a_mistake_of_ours_is_no_failure_of_the_journals(journal: Journal) -> None:
    with journal.transaction() as tx:
        tx.execute(INSERT, ("shield",))
    with pytest.raises(sqlite3.IntegrityError), journal.transaction() as tx:
        tx.execute(INSERT, ("shield",))


def test_a_closed_journal_says_so(journal: Journal) -> None:
    names(journal)
    journal.close()
    for use in (lambda: names(journal), lambda: in_thread(lambda: names(journal)), journal.data_version):
        with pytest.raises(JournalFailed, match="closed"):
            use()
    journal.close()


def test_closing_it_while_others_use_it_ends_their_use_and_nothing_else(state: Path) -> None:
    """In a process of its own: SQLite's answer to this is SIGSEGV."""
    code = """
import sys, threading
from pathlib import Path
from watchdog.errors import JournalFailed
from watchdog.journal import Journal
def use(journal):
    try:
        while True:
            with journal.transaction() as tx:
                tx.execute("INSERT OR REPLACE INTO peer (name) VALUES ('shield')")
            journal.read("SELECT * FROM peer")
    except JournalFailed as error:
        assert "closed" in str(error), error
for _ in range(30):
    for journal in (Journal.open(Path(sys.argv[1])), Journal.in_memory()):
        users = [threading.Thread(target=use, args=(journal,)) for _ in range(4)]
        for user in users:
            user.start()
        journal.close()
        for user in users:
            user.join()
"""
    subprocess.run([sys.executable, "-c", code, state], check=True, timeout=60)


# Locks


def test_a_journal_that_stays_locked_fails_and_works_again(
    kept: Journal, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchdog.database.BUSY_TIMEOUT_MS", 50)

    def write() -> None:
        with kept.transaction() as tx:
            tx.execute(INSERT, ("shield",))

    with closing(sqlite3.connect(state / FILE_NAME, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalFailed, match="locked") as failed:
            in_thread(write)
        assert "fuser" in failed.value.hint
        assert names(kept) == [], "reading goes on"
        holder.execute("ROLLBACK")
    in_thread(write)
    assert names(kept) == ["shield"]


# The file


def test_it_is_made_once_whole_and_private(state: Path) -> None:
    with closing(Journal.open(state)) as journal:
        journal.record(NOW, "made")
    with closing(Journal.open(state)) as again:
        assert [entry["kind"] for entry in again.trail()] == ["made"]
        assert again.read("PRAGMA journal_mode")[0][0] == "wal"
        assert again.read("PRAGMA synchronous")[0][0] == 2
    assert state.stat().st_mode & 0o077 == 0
    assert (state / FILE_NAME).stat().st_mode & 0o077 == 0


def test_many_make_the_same_one(state: Path) -> None:
    state.mkdir()
    barrier = threading.Barrier(8)
    opened: list[Journal] = []

    def make() -> None:
        barrier.wait()
        opened.append(Journal.open(state))
        opened[-1].record(NOW, "here")

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened[0].trail()) == 8
    assert opened[0].broken_records() == []
    for journal in opened:
        journal.close()
    assert len(list(state.glob("journal-*.db"))) == 1


def test_a_newer_version_is_left_alone(state: Path) -> None:
    with closing(Journal.open(state)) as journal, journal.transaction() as tx:
        tx.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = (state / FILE_NAME).read_bytes()
    with pytest.raises(JournalFailed, match="newer version") as failed:
        Journal.open(state)
    assert not isinstance(failed.value, JournalCorrupt)
    assert (state / FILE_NAME).read_bytes() == before


def test_an_older_version_is_brought_forward(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Journal.open(state)) as journal:
        journal.record(NOW, "before")
    step = "ALTER TABLE peer ADD COLUMN mood TEXT;\nCREATE TABLE extra (a TEXT);\n"
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, step))
    for module in ("watchdog.schema", "watchdog.database", "watchdog.journal"):
        monkeypatch.setattr(f"{module}.VERSION", schema.VERSION + 1)
    for _ in range(2):
        with closing(Journal.open(state)) as migrated:
            assert [entry["kind"] for entry in migrated.trail()] == ["before"]
            assert migrated.read("SELECT mood FROM peer") == migrated.read("SELECT a FROM extra") == []


def empty(file: Path) -> None:
    os.truncate(file, 0)


def garbage(file: Path) -> None:
    file.write_bytes(b"this is no database\n" * 500)


def torn(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:PAGE_BYTES] + os.urandom(2048))


def another_program_s(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE things (a)")


@pytest.mark.parametrize("damage", [empty, garbage, torn, another_program_s])
def test_a_damaged_file_is_said_to_be_and_stays_as_it_is(state: Path, damage: Callable[[Path], None]) -> None:
    with closing(Journal.open(state)) as journal:
        journal.record(NOW, "before")
    file = (state / FILE_NAME).resolve()
    damage(file)
    left = file.read_bytes()
    with pytest.raises(JournalCorrupt, match="damaged") as corrupt:
        Journal.open(state).trail()
    assert "reconcile --set-aside-journal" in corrupt.value.hint
    assert file.read_bytes() == left


def test_a_damaged_file_is_kept_and_a_new_one_begun_by_whoever_is_first(state: Path) -> None:
    with closing(Journal.open(state)) as journal:
        journal.record(NOW, "before")
    garbage(state / FILE_NAME)
    left = (state / FILE_NAME).read_bytes()
    first, told = journals.open_or_set_aside(state, NOW)
    second, nothing = journals.open_or_set_aside(state, NOW)
    with closing(first), closing(second):
        first.record(NOW, "new")
        assert [entry["kind"] for entry in second.trail()] == [journals.SET_ASIDE, "new"]
        assert str(second.trail()[0]["kept"]) in told
    assert nothing == ""
    kept = next(state.glob("journal.db.damaged-*"))
    assert str(kept) in told
    assert kept.read_bytes() == left


def test_one_that_is_well_is_not_set_aside(state: Path) -> None:
    opened, told = journals.open_or_set_aside(state, NOW)
    opened.close()
    assert (told, list(state.glob("*.damaged-*"))) == ("", [])


def test_a_plain_file_is_set_aside_with_what_belongs_to_it(state: Path) -> None:
    state.mkdir()
    for suffix in ("", "-wal", "-shm"):
        (state / (FILE_NAME + suffix)).write_text(f"old{suffix}")
    kept = journals.set_aside(state, NOW)
    assert sorted(path.read_text() for path in state.iterdir()) == ["old", "old-shm", "old-wal"]
    assert kept.read_text() == "old"
    assert not (state / FILE_NAME).exists()


def test_a_file_where_the_directory_should_be(state: Path) -> None:
    state.write_text("a file")
    with pytest.raises(JournalFailed, match="File exists") as failed:
        Journal.open(state)
    assert "[paths] state" in failed.value.hint


def test_a_link_to_nothing_is_an_error_and_no_new_journal(state: Path) -> None:
    Journal.open(state).close()
    (state / FILE_NAME).resolve().unlink()
    with pytest.raises(JournalFailed, match="unable to open"):
        Journal.open(state)


# A file that changes while it is in use


def test_one_that_is_set_aside_is_noticed_and_the_new_one_used(kept: Journal, state: Path) -> None:
    kept.record(NOW, "old")
    journals.set_aside(state, NOW)
    with pytest.raises(JournalFailed, match="replaced or removed"):
        kept.record(NOW, "lost")
    with pytest.raises(JournalFailed, match="unable to open"):
        kept.record(NOW, "lost")
    with closing(Journal.open(state)) as new:
        kept.record(NOW, "after")
        new.record(NOW, "another's")
        assert [entry["kind"] for entry in kept.trail()] == ["after", "another's"]


def test_leaving_the_old_one_takes_nothing_from_the_new(state: Path) -> None:
    """SQLite removes the WAL by its name when the last connection closes: each journal has a name of its own."""
    old = Journal.open(state)
    old.record(NOW, "old")
    kept = journals.set_aside(state, NOW)
    with closing(Journal.open(state)) as new:
        new.record(NOW, "in the WAL")
        with pytest.raises(JournalFailed):
            old.trail()
        old.close()
        with closing(Journal.open(state)) as another:
            assert [entry["kind"] for entry in another.trail()] == ["in the WAL"]
            another.record(NOW, "more")
        assert len(new.trail()) == 2
        assert new.broken_records() == []
    with closing(sqlite3.connect(kept)) as damaged:
        assert damaged.execute("SELECT count(*) FROM audit").fetchone()[0] == 1


def test_a_backup_put_in_its_place_is_used(kept: Journal, state: Path) -> None:
    kept.record(NOW, "one")
    with closing(sqlite3.connect(state / "backup.db")) as backup, kept.snapshot() as tx:
        tx.backup(backup)
    kept.record(NOW, "two")
    (state / "backup.db").replace(state / FILE_NAME)
    with pytest.raises(JournalFailed):
        kept.trail()
    assert [entry["kind"] for entry in kept.trail()] == ["one"]


def test_garbage_put_in_its_place_fails_until_it_is_gone(kept: Journal, state: Path) -> None:
    link = (state / FILE_NAME).readlink()
    (state / "garbage").write_bytes(b"garbage" * 1000)
    (state / "garbage").replace(state / FILE_NAME)
    with pytest.raises(JournalFailed, match="replaced"):
        kept.trail()
    for _ in range(2):
        with pytest.raises(JournalCorrupt):
            kept.trail()
    (state / FILE_NAME).unlink()
    (state / FILE_NAME).symlink_to(link)
    assert kept.trail() == []


def test_a_whole_directory_that_is_moved_away(kept: Journal, state: Path) -> None:
    state.rename(state.with_name("elsewhere"))
    for _ in range(2):
        with pytest.raises(JournalFailed):
            kept.record(NOW, "lost")
    shutil.copytree(state.with_name("elsewhere"), state, symlinks=True)
    assert kept.trail() == []


def test_integrity(kept: Journal, state: Path) -> None:
    assert kept.damage() == []
    for number in range(300):
        kept.record(NOW, "filler", number=number, text="x" * 200)
    kept.close()
    file = (state / FILE_NAME).resolve()
    whole = bytearray(file.read_bytes())
    whole[5 * 4096 : 5 * 4096 + 200] = os.urandom(200)
    file.write_bytes(whole)
    with closing(Journal.open(state)) as again:
        try:
            problems = again.damage()
        except JournalCorrupt as corrupt:
            problems = [corrupt.message]
    assert problems


def test_the_coordinator_of_a_journal_in_memory_sees_what_is_changed_beside_it() -> None:
    journal = Journal.in_memory()
    one, other = LocalCoordinator(journal), LocalCoordinator(journal)
    before = one.version()
    other.trust("immune", "shield")
    assert one.version() == before, "nothing was changed"
    other.suspect("immune", "shield", 1, Moment(1.0, NOW, "boot"))
    assert one.version() != before


def deep_inside(file: Path) -> None:
    """What a bad sector does: the file opens, and a page in its middle does not read."""
    with file.open("r+b") as pages:
        for page in range(4, file.stat().st_size // PAGE_BYTES):
            pages.seek(page * PAGE_BYTES)
            pages.write(b"\xa5" * PAGE_BYTES)


@pytest.mark.parametrize("damage", [garbage, torn, deep_inside])
def test_what_is_damaged_while_it_is_used_is_found_kept_and_begun_anew_once(
    state: Path, damage: Callable[[Path], None]
) -> None:
    with closing(Journal.open(state)) as journal:
        for number in range(200):
            journal.record(NOW, "before", number=number, filling="x" * 500)
    file = (state / FILE_NAME).resolve()
    damage(file)
    left = file.read_bytes()
    with closing(Journal(state / FILE_NAME)) as journal:
        with pytest.raises(JournalCorrupt):
            journal.trail()
        assert journal.found_damaged
        told = journals.set_aside_if_damaged(state, NOW)
        assert "is damaged" in told
        assert journals.set_aside_if_damaged(state, NOW) == "", "whoever comes second finds the new one"
        with suppress(JournalFailed):
            journal.trail()  # it was replaced, which is said once
        assert [entry["kind"] for entry in journal.trail()] == [journals.SET_ASIDE]
    (kept,) = state.glob("journal.db.damaged-*")
    assert kept.read_bytes() == left
