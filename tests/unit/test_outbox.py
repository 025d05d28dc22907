"""What receivers are owed: one event a key, one delivery for whoever wants it, settled once and then forgotten."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tests.unit.owed import START, Clock, escalation, publish
from tests.unit.receivers import Hook, answers
from watchdog.clock import moment
from watchdog.journal import Journal
from watchdog.model import Severity
from watchdog.outbox import DELIVERED, EXPIRED, PENDING, REFUSED, Backlog, Event, Outbox
from watchdog.webhook import Delivered, Receiver, Retry

ALL = Receiver("all", "http://127.0.0.1:1/all")
LOUD = Receiver("loud", "http://127.0.0.1:1/loud", min_severity=Severity.CRITICAL)
WATCHERS, EVENTS = 8, 25
PATIENCE_S = 30


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def outbox(journal: Journal) -> Outbox:
    return Outbox(journal, (ALL, LOUD), host="soc-1")


def head(outbox: Outbox, receiver: str = "all") -> Event:
    event = outbox.head(receiver)
    assert event is not None
    return event


def test_one_event_a_key(outbox: Outbox, journal: Journal) -> None:
    assert outbox.publish(escalation("first"), "shield/1", Clock()())
    assert not outbox.publish(escalation("second"), "shield/1", Clock()())
    assert [json.loads(row["body"])["data"]["reason"] for row in journal.read("SELECT body FROM event")] == ["first"]
    assert outbox.count("all", PENDING, 0) == 1


@pytest.mark.parametrize(("severity", "owed"), [(Severity.MEDIUM, (1, 0)), (Severity.CRITICAL, (1, 1))])
def test_who_is_owed_what(outbox: Outbox, severity: Severity, owed: tuple[int, int]) -> None:
    publish(outbox, Clock(), "event", severity=severity)
    pending = outbox.pending(START)
    assert (pending["all"].pending, pending["loud"].pending) == owed


def test_an_event_nobody_wants_is_kept(journal: Journal) -> None:
    nobody = Outbox(journal, (), host="soc-1")
    publish(nobody, Clock(), "event")
    assert nobody.pending(START) == {}
    assert not Outbox(journal, (ALL,), host="soc-1").publish(escalation(), "event", Clock()())


def test_publishing_is_part_of_the_transaction_around_it(outbox: Outbox, journal: Journal) -> None:
    with contextlib.suppress(ZeroDivisionError), journal.transaction():
        publish(outbox, Clock(), "event")
        assert outbox.head("all") is not None
        raise ZeroDivisionError
    assert outbox.head("all") is None
    publish(outbox, Clock(), "event")


def test_what_is_pending(outbox: Outbox, journal: Journal) -> None:
    clock = Clock()
    assert outbox.pending(START) == {"all": Backlog(0, None), "loud": Backlog(0, None)}
    publish(outbox, clock, "one", severity=Severity.MEDIUM)
    clock.pass_s(30)
    publish(outbox, clock, "two")
    clock.pass_s(30)
    outbox.postpone("all", head(outbox).seq, "connection refused", ())
    assert outbox.pending(clock.utc) == {"all": Backlog(2, 60.0, "connection refused"), "loud": Backlog(1, 30.0)}
    assert outbox.pending(START - timedelta(days=1))["all"].oldest_age_s == 0.0
    fewer = Outbox(journal, (ALL,), host="soc-1")
    assert fewer.pending(clock.utc)["loud"].pending == 1, "owed to a receiver that is configured no longer"


@pytest.mark.parametrize("state", [DELIVERED, EXPIRED])
def test_settled_once_and_on_record(outbox: Outbox, journal: Journal, state: str) -> None:
    publish(outbox, Clock(), "one", "two")
    event = head(outbox)
    for _ in range(2):
        outbox.settle("all", event, state, "why", START)
    assert [(r["kind"], r["event"], r["receiver"]) for r in journal.trail()] == [(f"event_{state}", event.id, "all")]
    assert head(outbox).seq == event.seq + 1
    assert outbox.count("all", state, 0) == 1
    assert head(outbox, "loud") == event, "another receiver's line does not move"


def test_a_receiver_that_is_gone_gets_nothing_until_its_url_changes(outbox: Outbox, journal: Journal) -> None:
    publish(outbox, Clock(), "one", "two")
    assert outbox.refuse_all(ALL, "HTTP 410", START) == 2
    publish(outbox, Clock(), "three")
    assert outbox.count("all", REFUSED, 0) == 3
    assert outbox.pending(START)["all"] == Backlog(0, None, "HTTP 410", START)
    assert outbox.count("loud", PENDING, 0) == 3
    assert journal.trail()[-1] | {"kind": "receiver_gone", "receiver": "all", "refused": 2} == journal.trail()[-1]
    moved = Outbox(journal, (Receiver("all", "http://127.0.0.1:1/new"),), host="soc-1")
    publish(moved, Clock(), "four")
    assert moved.pending(START)["all"] == Backlog(1, 0.0)


def test_a_test_that_arrives_brings_a_receiver_back(journal: Journal) -> None:
    with Hook(answers(500), answers(200)) as hook:
        receiver = Receiver("all", hook.url)
        outbox = Outbox(journal, (receiver,), host="soc-1")
        outbox.refuse_all(receiver, "HTTP 410", START)
        assert outbox.send_test(receiver, moment()) == Retry("HTTP 500")
        assert outbox.pending(START)["all"].gone_since
        assert outbox.send_test(receiver, moment()) == Delivered(200)
        assert outbox.pending(START)["all"] == Backlog(0, None)
    assert [received.id.startswith("test_") for received in hook.received] == [True, True]
    assert journal.read("SELECT * FROM event") == [], "a test is no event"


def test_pruning_forgets_what_is_settled_and_never_what_is_owed(outbox: Outbox, journal: Journal) -> None:
    clock = Clock()
    publish(outbox, clock, "unwanted", severity=Severity.MEDIUM)
    publish(outbox, clock, "half")
    clock.pass_s(60)
    publish(outbox, clock, "young")
    for _ in range(2):
        outbox.settle("all", head(outbox), DELIVERED, "", clock.utc)
    assert outbox.prune(START + timedelta(seconds=1)) == 1
    assert [row["key"] for row in journal.read("SELECT key FROM event ORDER BY seq")] == ["half", "young"]
    outbox.settle("loud", head(outbox, "loud"), EXPIRED, "", clock.utc)
    assert outbox.prune(START + timedelta(seconds=1)) == 1
    assert outbox.prune(START + timedelta(days=1)) == 0
    assert journal.read("SELECT count(*) FROM delivery")[0][0] == 2


def _watch(state: Path, start: Barrier) -> None:
    journal = Journal.open(state)
    outbox = Outbox(journal, (ALL, LOUD), host="soc-1")
    start.wait(PATIENCE_S)
    for number in range(EVENTS):
        outbox.publish(escalation(str(number)), f"shield/{number}", moment())
    journal.close()


def test_eight_watchers_see_the_same_and_it_is_one_event(outbox: Outbox, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(WATCHERS)
    watchers = [context.Process(target=_watch, args=(tmp_path / "state", start)) for _ in range(WATCHERS)]
    try:
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join(PATIENCE_S)
        assert [watcher.exitcode for watcher in watchers] == [0] * WATCHERS
    finally:
        for watcher in watchers:
            watcher.kill()
    assert [outbox.count(name, PENDING, 0) for name in ("all", "loud")] == [EVENTS, EVENTS]
