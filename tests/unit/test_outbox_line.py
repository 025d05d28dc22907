"""One receiver's line by clocks turned by hand: when the head is tried, what a failure moves, what ends it."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.owed import Clock, Told, publish
from watchdog.errors import JournalFailed
from watchdog.journal import Journal
from watchdog.line import Line, served_alone
from watchdog.outbox import DELIVERED, EXPIRED, PENDING, REFUSED, Outbox
from watchdog.retry import GIVE_UP_AFTER, SCHEDULE_S
from watchdog.webhook import Answer, Delivered, Gone, Receiver, Retry

RECEIVER = Receiver("architect", "http://127.0.0.1:1/hook")
DOWN = Retry("connection refused")
HOUR_S = 3600.0
THREE_DAYS_S = GIVE_UP_AFTER.total_seconds()


class Desk:
    """A line, everything it works with, and what it said."""

    def __init__(self, journal: Journal) -> None:
        self.clock = Clock()
        self.told = Told(self.clock)
        self.said: list[str] = []
        self.journal = journal
        self.outbox = Outbox(journal, (RECEIVER,), host="soc-1")
        self.line = self.new_line()

    def new_line(self) -> Line:
        return Line(
            self.outbox,
            RECEIVER,
            clock=self.clock,
            post=self.told,
            report=self.said.append,
            jitter=lambda: 0.0,
        )

    def publish(self, *reasons: str) -> None:
        publish(self.outbox, self.clock, *reasons)

    def work(self, for_s: float = 0.0) -> float:
        """Let time pass, a step whenever one is due; what is left of the wait that is under way then."""
        end_s = self.clock.s + for_s
        while (wait_s := self.line.step()) + self.clock.s <= end_s:
            self.clock.pass_s(wait_s)
        self.clock.pass_s(end_s - self.clock.s)
        return wait_s

    def count(self, state: str) -> int:
        return self.outbox.count("architect", state, 0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    journal = Journal.open(tmp_path / "state")
    yield Desk(journal)
    journal.close()


def test_in_order_and_once(desk: Desk) -> None:
    desk.publish("one", "two", "three")
    assert desk.work(HOUR_S) == math.inf
    ids = [row["id"] for row in desk.journal.read("SELECT id FROM event ORDER BY seq")]
    assert desk.told.ids == ids
    assert desk.count(DELIVERED) == 3
    assert desk.said == [], "a quiet mesh says nothing"


def test_the_head_waits_by_the_schedule_and_the_rest_behind_it(desk: Desk) -> None:
    desk.told.answer = DOWN
    desk.publish("one", "two", "three")
    desk.work(3 * HOUR_S)
    began_s = desk.told.at_s[0]
    assert [s - began_s for s in desk.told.at_s] == [0, 5, 35, 335, 2135, 9335]
    assert len(set(desk.told.ids)) == 1
    assert desk.said == ["receiver architect takes no events: connection refused; they are kept and tried again"]


def test_one_success_and_everything_pending_goes_out(desk: Desk) -> None:
    desk.told.answer = DOWN
    desk.publish("one")
    desk.work(HOUR_S)
    for reason in ("two", "three", "four"):
        desk.publish(reason)
        desk.work(2.0)  # so that each has a time of its own for its next try
    desk.told.answer, desk.told.tries = Delivered(200), []
    desk.work(30.0)
    assert desk.count(DELIVERED) == 4
    assert len(set(desk.told.at_s)) == 1, "no waiting between them"
    assert desk.said[1:] == ["receiver architect takes events again"]


def test_a_new_event_is_a_new_chance_for_the_line(desk: Desk) -> None:
    """The head is in the middle of a wait of hours; what happens now is not left to that."""
    desk.told.answer = DOWN
    desk.publish("old")
    left_s = desk.work(12 * HOUR_S)
    assert left_s > HOUR_S
    desk.told.tries = []
    desk.publish("new")
    began_s = desk.clock.s
    desk.work(HOUR_S)
    assert [s - began_s for s in desk.told.at_s] == [0, 5, 35, 335, 2135], "by the schedule of the new one"
    assert len(set(desk.told.ids)) == 1, "and it is the head that is tried"
    waiting = desk.outbox.line("architect")
    assert [w.attempts for w in waiting] == [7, 5], "the head's own schedule is not used up by it"


def test_given_up_after_three_days_in_order_and_on_record(desk: Desk) -> None:
    desk.told.answer = DOWN
    desk.publish("one")
    desk.work(HOUR_S)
    desk.publish("two")
    desk.work(THREE_DAYS_S - HOUR_S - 1)
    assert desk.count(PENDING) == 2
    desk.work(2)
    assert (desk.count(EXPIRED), desk.count(PENDING)) == (1, 1)
    desk.work(HOUR_S)
    assert (desk.count(EXPIRED), desk.count(PENDING)) == (2, 0)
    assert [record["kind"] for record in desk.journal.trail()] == ["event_expired"] * 2
    assert [line for line in desk.said if "is given up" in line] == desk.said[1:]


def test_410_ends_it_loudly(desk: Desk) -> None:
    desk.told.answer = Gone("HTTP 410")
    desk.publish("one", "two")
    assert desk.work(HOUR_S) == math.inf
    desk.publish("three")
    assert desk.work(HOUR_S) == math.inf
    assert len(desk.told.tries) == 1
    assert desk.count(REFUSED) == 3
    assert desk.said[0].startswith("receiver architect is gone (HTTP 410): 2 events refused")


@pytest.mark.parametrize(
    ("asked_s", "waits_s"), [(0.0, 5), (17.0, 17), (3600.0, 3600)], ids=["at once", "seconds", "the longest"]
)
def test_retry_after_is_honoured_also_for_what_comes_meanwhile(desk: Desk, asked_s: float, waits_s: float) -> None:
    desk.told.answer = Retry("HTTP 429", asked_s)
    desk.publish("one")
    desk.line.step()
    desk.told.answer = Delivered(200)
    desk.clock.pass_s(asked_s / 2)
    desk.publish("two")
    desk.work(waits_s - asked_s / 2 - 0.5 if asked_s else 0.0)
    if asked_s:
        assert len(desk.told.tries) == 1
    desk.work(1.0)
    assert len(desk.told.tries) == 3
    assert desk.told.at_s[1] - desk.told.at_s[0] in (waits_s, 0.0)


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1), timedelta(days=-3650)], ids=str)
def test_a_clock_step_while_waiting_moves_no_try(desk: Desk, step: timedelta) -> None:
    desk.told.answer = DOWN
    desk.publish("one")
    desk.work(40.0)
    began_s = desk.told.at_s[0]
    desk.clock.step_wall(step)
    desk.work(HOUR_S)
    assert [s - began_s for s in desk.told.at_s] == [0, 5, 35, 335, 2135]


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(days=-3650)], ids=str)
def test_a_clock_step_before_a_process_takes_over_costs_no_hour(desk: Desk, step: timedelta) -> None:
    """Whoever takes over has only the wall clock times that were written down."""
    desk.told.answer = DOWN
    desk.publish("one")
    desk.work(40.0)
    desk.publish("of before the step")
    desk.clock.step_wall(step)
    desk.told.answer, desk.told.tries = Delivered(200), []
    desk.line = desk.new_line()
    desk.work(360.0)
    assert len(desk.told.tries) == 2, "without take_over: no longer than the schedule's own step"


def test_an_event_published_by_a_clock_that_is_ahead_goes_out_at_once(desk: Desk) -> None:
    desk.clock.step_wall(timedelta(hours=1))
    desk.publish("one")
    desk.clock.step_wall(timedelta(hours=-1))
    assert desk.work() == math.inf
    assert desk.count(DELIVERED) == 1


def test_a_clock_that_jumps_by_years_gives_nothing_up_untried(desk: Desk) -> None:
    desk.told.answer = DOWN
    desk.publish("one", "two")
    desk.clock.step_wall(timedelta(days=3650))
    desk.work(60.0)
    assert desk.count(EXPIRED) == 0


def test_who_takes_over_tries_at_once_and_uses_up_no_place(desk: Desk) -> None:
    desk.told.answer = DOWN
    desk.publish("one")
    desk.work(HOUR_S)
    before = desk.outbox.line("architect")
    for _ in range(20):  # a daemon that is restarted again and again
        desk.line = desk.new_line()
        desk.line.take_over()
        desk.told.tries = []
        desk.line.step()
        assert len(desk.told.tries) == 1
    assert [w.attempts for w in desk.outbox.line("architect")] == [w.attempts for w in before]


def test_an_answer_the_journal_does_not_take_is_not_asked_for_twice(desk: Desk) -> None:
    desk.publish("one", "two")
    desk.journal.read("PRAGMA busy_timeout = 1")
    writer = sqlite3.connect(str(desk.journal.path), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        with pytest.raises(JournalFailed, match="locked"):
            desk.line.step()
    assert len(desk.told.tries) == 1
    writer.close()
    desk.work()
    assert len(desk.told.tries) == 2
    assert desk.count(DELIVERED) == 2


def _kill(desk: Desk) -> None:
    desk.line = desk.new_line()
    desk.line.take_over()


def _answer(answer: Answer) -> Callable[[Desk], None]:
    def told(desk: Desk) -> None:
        desk.told.answer = answer

    return told


def _pass(seconds: float) -> Callable[[Desk], None]:
    def work(desk: Desk) -> None:
        desk.work(seconds)

    return work


DEEDS: dict[str, Callable[[Desk], None]] = {
    "an event": lambda desk: desk.publish(f"{desk.journal.read('SELECT count(*) FROM event')[0][0]}"),
    "receiver up": _answer(Delivered(200)),
    "receiver down": _answer(DOWN),
    "receiver busy": _answer(Retry("HTTP 429", 20.0)),
    "a minute": _pass(60.0),
    "six hours": _pass(6 * HOUR_S),
    "wall clock back an hour": lambda desk: desk.clock.step_wall(timedelta(hours=-1)),
    "wall clock on an hour": lambda desk: desk.clock.step_wall(timedelta(hours=1)),
    "sender killed": _kill,
    "forced": lambda desk: desk.outbox.bring_forward("architect", desk.clock.utc),
}


@given(st.lists(st.sampled_from(sorted(DEEDS)), max_size=25))
@settings(max_examples=300, deadline=None)
def test_whatever_happens_every_event_arrives_once_and_in_order(deeds: list[str]) -> None:
    journal = Journal.in_memory()
    try:
        desk = Desk(journal)
        for deed in deeds:
            DEEDS[deed](desk)
        desk.told.answer = Delivered(200)
        desk.work(SCHEDULE_S[-1] * 1.2)
        published = [row["id"] for row in journal.read("SELECT id FROM event ORDER BY seq")]
        given_up = desk.count(EXPIRED)
        assert desk.told.taken == published[given_up:]
        assert given_up == 0 or deeds.count("six hours") >= THREE_DAYS_S / HOUR_S / 6
    finally:
        journal.close()


def test_a_lock_is_held_once_and_counts_while_its_file_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with served_alone(run, "a/../b") as turn:
        assert turn is not None
        assert turn.counts()
        with served_alone(run, "a/../b") as second:
            assert second is None
        with served_alone(run, "c") as other:
            assert other is not None
        next(run.iterdir()).unlink()
        for left in run.iterdir():
            left.unlink()
        assert not turn.counts(), "somebody cleaned the run directory: another process would lock a new file"
    with served_alone(run, "a/../b") as again:
        assert again is not None


def test_the_next_one_knows_whether_the_lock_was_handed_over(tmp_path: Path) -> None:
    for was_handed_over, hands_over in ((False, True), (True, False), (False, False)):
        with served_alone(tmp_path, "a") as turn:
            assert turn is not None
            assert turn.was_handed_over is was_handed_over
            if hands_over:
                turn.hand_over()
