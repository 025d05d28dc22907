"""The audit trail: every cut, edit and move of a record is found, and shows for ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.chain import CHAIN_START, canonical, chained, check_chain
from watchdog.journal import Journal

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
LENGTH = 6
Rows = list[tuple[int, str, str]]


def chain(length: int) -> Rows:
    rows, previous = [], CHAIN_START
    for seq in range(1, length + 1):
        record = canonical({"seq": seq, "kind": f"event {seq}"})
        previous = chained(previous, record)
        rows.append((seq, record, previous))
    return rows


@pytest.fixture
def journal() -> Iterator[Journal]:
    opened = Journal.in_memory()
    for number in range(LENGTH):
        opened.record(NOW, f"event {number}", peer="shield")
    yield opened
    opened.close()


def test_a_record_says_when_what_and_which(journal: Journal) -> None:
    journal.record(NOW, "intent isolated", peer="schild-ü", by={"uid": 0, "tty": "/dev/pts/1"}, took_s=1.5)
    assert journal.trail(newest=1) == [
        {
            "seq": LENGTH + 1,
            "at": "2026-03-01T12:00:00.250000Z",
            "kind": "intent isolated",
            "peer": "schild-ü",
            "by": {"uid": 0, "tty": "/dev/pts/1"},
            "took_s": 1.5,
        }
    ]
    assert journal.broken_records() == []


def test_the_newest_are_the_last_in_order(journal: Journal) -> None:
    assert [entry["seq"] for entry in journal.trail(newest=2)] == [LENGTH - 1, LENGTH]
    assert [entry["seq"] for entry in journal.trail()] == list(range(1, LENGTH + 1))
    assert journal.trail(newest=0) == []


EDIT = "UPDATE audit SET record = replace(record, 'shield', 'sidecar') WHERE seq = 3"
FORGE = "UPDATE audit SET hash = lower(hex(randomblob(32))) WHERE seq = 3"
CUT = "DELETE FROM audit WHERE seq BETWEEN 2 AND 4"
FIRST = "DELETE FROM audit WHERE seq = 1"
TAIL = "DELETE FROM audit WHERE seq > 4"
ALL = "DELETE FROM audit"
MOVE = "UPDATE audit SET seq = 99 WHERE seq = 6"


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        (EDIT, ["record 3 was changed, or the one before it was"]),
        (FORGE, ["record 3 was changed, or the one before it was", "record 4 was changed, or the one before it was"]),
        (CUT, ["records 2 to 4 are missing"]),
        (FIRST, ["record 1 is missing"]),
        (TAIL, ["records 5 to 6 are cut off at the end"]),
        (ALL, ["records 1 to 6 are cut off at the end"]),
        (MOVE, ["records 6 to 98 are missing"]),
    ],
)
def test_what_was_done_to_it_is_found(journal: Journal, tampering: str, found: list[str]) -> None:
    with journal.transaction() as tx:
        tx.execute(tampering)
    assert journal.broken_records() == found


def test_records_that_changed_places_are_found(journal: Journal) -> None:
    with journal.transaction() as tx:
        rows = {row["seq"]: row["record"] for row in tx.execute("SELECT seq, record FROM audit")}
        tx.executemany("UPDATE audit SET record = ? WHERE seq = ?", [(rows[4], 3), (rows[3], 4)])
    assert len(journal.broken_records()) == 2


@pytest.mark.parametrize(("tampering", "first", "last"), [(TAIL, 5, 6), (ALL, 1, 6)])
def test_a_cut_tail_shows_for_ever(journal: Journal, tampering: str, first: int, last: int) -> None:
    with journal.transaction() as tx:
        tx.execute(tampering)
    for _ in range(4):
        journal.record(NOW, "after the cut")
    assert journal.broken_records() == [f"records {first} to {last} are missing"]


def test_who_sets_the_counter_back_as_well_stops_nobody_from_writing(journal: Journal) -> None:
    with journal.transaction() as tx:
        tx.execute("DELETE FROM sqlite_sequence")
    journal.record(NOW, "after")
    assert [entry["seq"] for entry in journal.trail()] == list(range(1, LENGTH + 2))


Tamper = Callable[[Rows, int, int], Rows]


def drop(rows: Rows, at: int, _: int) -> Rows:
    return rows[:at] + rows[at + 1 :]


def swap(rows: Rows, at: int, other: int) -> Rows:
    changed = list(rows)
    changed[at], changed[other] = rows[other], rows[at]
    return changed


def edit(rows: Rows, at: int, other: int) -> Rows:
    seq, record, digest = rows[at]
    changed = json.loads(record) | {"kind": f"edited {other}"}
    return [*rows[:at], (seq, canonical(changed), digest), *rows[at + 1 :]]


def swap_contents(rows: Rows, at: int, other: int) -> Rows:
    changed = list(rows)
    changed[at] = (rows[at][0], *rows[other][1:])
    changed[other] = (rows[other][0], *rows[at][1:])
    return changed


def cut_tail(rows: Rows, at: int, _: int) -> Rows:
    return rows[:at]


@given(st.integers(2, 12), st.data(), st.sampled_from((drop, swap, edit, swap_contents, cut_tail)))
def test_any_single_act_is_found(length: int, data: st.DataObject, tamper: Tamper) -> None:
    rows = chain(length)
    assert check_chain(rows, length) == []
    at, other = data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True))
    assert check_chain(tamper(rows, at, other), length)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.floats(allow_nan=False), max_size=5))
def test_any_facts_can_be_recorded(facts: dict[str, object]) -> None:
    rows = [(1, canonical(facts | {"seq": 1}), "")]
    rows = [(1, rows[0][1], chained(CHAIN_START, rows[0][1]))]
    assert check_chain(rows, 1) == []
    assert json.loads(rows[0][1]) == facts | {"seq": 1}
