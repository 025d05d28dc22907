"""A full disk and one that cannot be written: on small file systems made for the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from watchdog.database import FILE_NAME
from watchdog.errors import JournalCorrupt, JournalFailed
from watchdog.journal import Journal, open_or_set_aside

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REQUIRED = "WATCHDOG_KERNEL_TESTS"
Mount = Callable[[str], Path]

pytestmark = pytest.mark.kernel


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a tmpfs with these options; nothing of it stays."""
    if os.geteuid() != 0:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail("a mount needs root")
        pytest.skip("a mount needs root")
    place = tmp_path / "disk"
    place.mkdir()

    def make(options: str) -> Path:
        remount = f"remount,{options}" if place.is_mount() else options
        subprocess.run(["mount", "-t", "tmpfs", "-o", remount, "tmpfs", place], check=True, timeout=10)
        return place

    yield make
    if place.is_mount():
        subprocess.run(["umount", "-l", place], check=True, timeout=10)


def fill(place: Path) -> Path:
    """Leave no byte free."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file:
        for size_bytes in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size_bytes)
            except OSError:
                continue
    return filler


def write_much(journal: Journal) -> None:
    for number in range(1000):
        journal.record(NOW, "more", text="x" * 400, number=number)


def test_a_full_disk_is_said_to_be_full_and_nothing_is_lost(mount: Mount) -> None:
    place = mount("size=1m")
    with closing(Journal.open(place / "state")) as journal:
        journal.record(NOW, "before")
        filler = fill(place)
        with pytest.raises(JournalFailed, match="full") as failed:
            write_much(journal)
        assert not isinstance(failed.value, JournalCorrupt)
        assert "free space" in failed.value.hint
        kept = journal.trail()
        assert kept[0]["kind"] == "before"
        filler.unlink()
        journal.record(NOW, "after")
        assert [e["kind"] for e in journal.trail()] == [*(str(e["kind"]) for e in kept), "after"]
        assert journal.broken_records() == journal.damage() == []


def test_no_journal_is_made_on_a_full_disk_and_nothing_half_is_left(mount: Mount) -> None:
    place = mount("size=1m")
    state = place / "state"
    state.mkdir()
    filler = fill(place)
    with pytest.raises(JournalFailed) as failed:
        Journal.open(state)
    assert not isinstance(failed.value, JournalCorrupt)
    assert list(state.iterdir()) == []
    filler.unlink()
    Journal.open(state).close()


def test_a_disk_that_became_read_only(mount: Mount) -> None:
    place = mount("size=1m")
    with closing(Journal.open(place / "state")) as journal:
        journal.record(NOW, "before")
    mount("ro")
    with pytest.raises(JournalFailed) as failed, closing(Journal.open(place / "state")) as journal:
        journal.record(NOW, "lost")
    assert not isinstance(failed.value, JournalCorrupt)
    assert "mounted read-only" in failed.value.hint
    mount("rw")
    with closing(Journal.open(place / "state")) as journal:
        assert [entry["kind"] for entry in journal.trail()] == ["before"]


def test_a_directory_that_cannot_be_made(mount: Mount) -> None:
    place = mount("size=1m,ro")
    with pytest.raises(JournalFailed, match="Read-only file system"):
        Journal.open(place / "state")


def test_one_that_cannot_be_made_now_is_made_when_it_can_be(mount: Mount) -> None:
    state = mount("size=1m") / "state"
    state.mkdir()
    filler = fill(state)
    opened, told = open_or_set_aside(state, NOW)
    with closing(opened):
        for _ in range(2):
            with pytest.raises(JournalFailed):
                opened.record(NOW, "lost")
        filler.unlink()
        opened.record(NOW, "after")
        assert [entry["kind"] for entry in opened.trail()] == ["after"]
        assert told == ""
        (state / FILE_NAME).unlink()
        for _ in range(2):
            with pytest.raises(JournalFailed):
                opened.record(NOW, "lost, and never in a new one that nobody was told of")
    assert not (state / FILE_NAME).exists()


def test_a_damaged_one_is_told_of_though_there_is_no_room_for_a_new_one(mount: Mount) -> None:
    state = mount("size=1m") / "state"
    state.mkdir()
    (state / FILE_NAME).write_bytes(bytes(8192))
    filler = fill(state)
    opened, told = open_or_set_aside(state, NOW)
    with closing(opened):
        assert "is kept as" in told
        with pytest.raises(JournalFailed):
            opened.record(NOW, "lost")
        filler.unlink()
        opened.record(NOW, "after")
        assert [entry["kind"] for entry in opened.trail()] == ["after"]
