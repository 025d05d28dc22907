"""The delivering threads and processes, with real receivers, real locks and real kills."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import format_datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.unit import receivers
from tests.unit.owed import escalation
from tests.unit.receivers import OK, Hook, answers
from watchdog.clock import moment, utc_now
from watchdog.journal import Journal
from watchdog.line import served_alone
from watchdog.model import Severity
from watchdog.outbox import DELIVERED, PENDING, REFUSED, Outbox
from watchdog.sender import Flushed, Sender
from watchdog.webhook import Receiver, Retry, verify

SECRET = b"a secret of ours"
QUICK = (0.0, 0.02)
"""A schedule without patience: the same rules, in hundredths of a second."""
NEVER = (0.0, 86400.0)
SOON = (0.0, 0.3)
POLL_S = 0.02
PATIENCE_S = 20.0
STOP_S = 2.0
EVENTS = 30


def wait_until(holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    end_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.005)


class Bench:
    """A journal, a run directory, and senders over them that are stopped in the end."""

    def __init__(self, directory: Path) -> None:
        self.state, self.run = directory / "state", directory / "run"
        self.journal = Journal.open(self.state)
        self.said: list[str] = []
        self.started: list[Sender] = []

    def outbox(self, *hooks: Hook) -> Outbox:
        chosen = [Receiver(f"r{n}", hook.url, (SECRET,), timeout_s=1.0) for n, hook in enumerate(hooks)]
        return Outbox(self.journal, chosen, host="soc-1")

    def sender(self, outbox: Outbox, schedule: tuple[float, ...] = QUICK, poll_s: float = POLL_S) -> Sender:
        return Sender(outbox, self.run, report=self.said.append, schedule=schedule, poll_s=poll_s)

    def start(self, outbox: Outbox, schedule: tuple[float, ...] = QUICK, poll_s: float = POLL_S) -> Sender:
        sender = self.sender(outbox, schedule, poll_s)
        self.started.append(sender)
        sender.start()
        return sender

    def close(self) -> None:
        for sender in self.started:
            sender.stop(STOP_S)
        self.journal.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def publish(outbox: Outbox, *reasons: str, severity: Severity = Severity.CRITICAL) -> list[str]:
    for reason in reasons:
        assert outbox.publish(escalation(reason, severity), reason, moment())
    return list(reasons)


def numbered(count: int = EVENTS) -> list[str]:
    return [str(number) for number in range(count)]


def test_delivered_in_order_and_signed(bench: Bench) -> None:
    with Hook() as hook:
        outbox = bench.outbox(hook)
        sender = bench.start(outbox)
        reasons = publish(outbox, *numbered())
        sender.notify()
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == EVENTS)
    assert hook.reasons == reasons
    for received in hook.received:
        assert verify(received.headers, received.body, (SECRET,), utc_now()) == received.id
    assert [record["kind"] for record in bench.journal.trail()] == ["event_delivered"] * EVENTS
    assert bench.said == []


def test_down_for_the_whole_incident_then_back(bench: Bench) -> None:
    """Every event once, each in order, though the receiver's port was closed, then failing, then fine."""
    with Hook() as placeholder:
        port = placeholder.server_port
        outbox = bench.outbox(placeholder)
    sender = bench.start(outbox)
    reasons = []
    for number in numbered(10):
        reasons += publish(outbox, number)
        sender.notify()
        time.sleep(0.01)
    with Hook(answers(500), answers(503), receivers.reset, receivers.garbage, OK, port=port) as hook:
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == len(reasons))
    assert hook.reasons[4:] == reasons
    assert set(hook.reasons[:4]) == {reasons[0]}
    assert len({received.id for received in hook.received}) == len(reasons)
    assert bench.said == [
        "receiver r0 takes no events: connection refused; they are kept and tried again",
        "receiver r0 takes events again",
    ]


@pytest.mark.parametrize("broken", [receivers.hang, receivers.drip_headers, receivers.reset, receivers.huge(500)])
def test_a_broken_receiver_delays_no_other(bench: Bench, broken: receivers.Manner) -> None:
    with Hook(broken) as bad, Hook() as good:
        outbox = bench.outbox(bad, good)
        sender = bench.start(outbox)
        reasons = publish(outbox, *numbered())
        sender.notify()
        wait_until(lambda: outbox.count("r1", DELIVERED, 0) == EVENTS, 5.0)
        assert good.reasons == reasons
        assert outbox.count("r0", DELIVERED, 0) == 0


def test_410_settles_everything_and_is_said(bench: Bench) -> None:
    with Hook(answers(410)) as hook:
        outbox = bench.outbox(hook)
        bench.start(outbox)
        publish(outbox, *numbered(3))
        wait_until(lambda: outbox.count("r0", REFUSED, 0) == 3)
        publish(outbox, "later")
        time.sleep(5 * POLL_S)
    assert len(hook.received) <= 2, "the first of the three may have been tried before the others were there"
    assert bench.said[0].startswith("receiver r0 is gone (HTTP 410)")


def in_seconds() -> str:
    return "1"


def as_a_date() -> str:
    """At least a second from now: dates have none of its parts."""
    return format_datetime(utc_now().replace(microsecond=0) + timedelta(seconds=2))


@pytest.mark.parametrize("asked", [in_seconds, as_a_date])
def test_429_is_given_its_time(bench: Bench, asked: Callable[[], str]) -> None:
    """A second and no less; the schedule alone would try again after hundredths of one."""
    came_s: list[float] = []

    def busy_once(handler: receivers.Handler) -> None:
        came_s.append(time.monotonic())
        answers(429, {"Retry-After": asked()})(handler) if len(came_s) == 1 else OK(handler)

    with Hook(busy_once) as hook:
        outbox = bench.outbox(hook)
        bench.start(outbox)
        publish(outbox, "one", "two")
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 2)
    assert came_s[1] - came_s[0] >= 0.99


def test_another_process_publishes_and_this_one_sends(bench: Bench) -> None:
    with Hook() as hook:
        bench.start(bench.outbox(hook))
        other = Journal.open(bench.state)
        publish(Outbox(other, (Receiver("r0", hook.url),), host="soc-1"), "from elsewhere")
        other.close()
        hook.wait_for(1)


def test_notify_wakes_at_once(bench: Bench) -> None:
    with Hook() as hook:
        outbox = bench.outbox(hook)
        sender = bench.start(outbox, poll_s=60.0)
        for count, reason in enumerate(numbered(50), start=1):
            publish(outbox, reason)
            sender.notify()
            hook.wait_for(count, 5.0)


def test_only_one_of_two_senders_serves(bench: Bench) -> None:
    with Hook() as hook:
        outbox = bench.outbox(hook)
        senders = [bench.start(outbox) for _ in range(3)]
        reasons = publish(outbox, *numbered())
        for sender in senders:
            sender.notify()
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == EVENTS)
        assert hook.reasons == reasons


def _send(state: Path, run: Path, url: str) -> None:
    journal = Journal.open(state)
    sender = Sender(Outbox(journal, (Receiver("r0", url),), host="soc-1"), run, schedule=QUICK, poll_s=POLL_S)
    sender.start()
    threading.Event().wait()


@contextmanager
def processes(bench: Bench, hook: Hook, count: int) -> Iterator[list[BaseProcess]]:
    context = multiprocessing.get_context("spawn")
    made: list[BaseProcess] = [
        context.Process(target=_send, args=(bench.state, bench.run, hook.url), daemon=True) for _ in range(count)
    ]
    try:
        for process in made:
            process.start()
        yield made
    finally:
        for process in made:
            process.kill()
            process.join(PATIENCE_S)


def lock_holder(bench: Bench) -> int:
    """The process that /proc/locks names for the receiver's lock, or 0."""
    path = bench.run / "outbox-r0.lock"
    if not path.exists():
        return 0
    inode = f":{path.stat().st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "->" not in fields and fields[1] == "FLOCK" and fields[5].endswith(inode):
            return int(fields[4])
    return 0


def test_two_processes_race_and_the_one_that_sends_is_killed(bench: Bench) -> None:
    """Nothing is lost and nothing overtakes; what comes twice comes under the same id, right after itself."""
    kills, between_s = 3, 0.002

    def slowly(handler: receivers.Handler) -> None:
        time.sleep(between_s)
        OK(handler)

    with Hook(slowly) as hook, processes(bench, hook, kills + 1) as senders:
        outbox = bench.outbox(hook)
        reasons: list[str] = []
        pids = {process.pid for process in senders}
        for kill in range(kills + 1):
            reasons += publish(outbox, *(f"{kill}.{n}" for n in range(EVENTS)))
            if kill < kills:
                wait_until(lambda: len(hook.received) >= len(reasons) - EVENTS // 2)  # noqa: B023 - asked right here
                wait_until(lambda: lock_holder(bench) in pids)
                holder = lock_holder(bench)
                os.kill(holder, signal.SIGKILL)
                pids.discard(holder)
        wait_until(lambda: outbox.count("r0", PENDING, 0) == 0)
    came = [received.id for received in hook.received]
    once = [id_ for id_, before in zip(came, [None, *came], strict=False) if id_ != before]
    assert once == [row["id"] for row in bench.journal.read("SELECT id FROM event ORDER BY seq")]
    assert list(dict.fromkeys(hook.reasons)) == reasons
    assert len(came) - len(once) <= kills
    assert bench.journal.broken_records() == []


def test_killed_between_the_answer_and_the_commit_comes_again_with_the_same_id(bench: Bench) -> None:
    writer = sqlite3.connect(str(bench.journal.path), isolation_level=None, check_same_thread=False)
    answered = threading.Event()

    def ok_but_no_commit(handler: receivers.Handler) -> None:
        writer.execute("BEGIN IMMEDIATE")
        OK(handler)
        answered.set()

    with Hook(ok_but_no_commit, OK) as hook:
        outbox = bench.outbox(hook)
        publish(outbox, "one", "two")
        with processes(bench, hook, 1):
            assert answered.wait(PATIENCE_S)
            time.sleep(0.1)  # so that the answer is there, and the commit waits for our writer
        writer.execute("ROLLBACK")
        writer.close()
        bench.start(outbox)
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 2)
    assert hook.reasons == ["one", "one", "two"]
    assert hook.received[0].id == hook.received[1].id


def test_a_cleaned_run_directory_does_not_make_two_senders(bench: Bench) -> None:
    """RuntimeDirectory= of a unit that stops takes the lock files of the others with it."""
    with Hook() as hook:
        outbox = bench.outbox(hook)
        senders = [bench.start(outbox) for _ in range(2)]
        wait_until(lambda: lock_holder(bench) == os.getpid())
        (bench.run / "outbox-r0.lock").unlink()
        wait_until(lambda: lock_holder(bench) == os.getpid())
        time.sleep(5 * POLL_S)  # whoever held the file that is gone has looked by now
        reasons = publish(outbox, *numbered())
        for sender in senders:
            sender.notify()
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == EVENTS)
        assert hook.reasons == reasons


def test_who_takes_over_does_not_sit_out_the_others_wait(bench: Bench) -> None:
    with Hook(answers(500), OK) as hook:
        outbox = bench.outbox(hook)
        publish(outbox, "one")
        first = bench.start(outbox, NEVER)
        wait_until(lambda: bench.said != [])
        first.stop(STOP_S)
        bench.start(outbox, NEVER)
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 1)


@pytest.mark.parametrize(("reached", "tries"), [(False, 2), (True, 1)], ids=["reaches nobody", "is refused"])
def test_who_reaches_nobody_lets_another_one_try(bench: Bench, reached: bool, tries: int) -> None:
    """A watcher that is cut off alone must not keep the others from telling."""
    sick: list[str] = []
    with Hook() as hook:
        outbox = bench.outbox(hook)

        def cut_off(receiver: Receiver, event_id: str, *_: object, **__: object) -> Retry:
            sick.append(event_id)
            return Retry("no way there", reached=reached)

        sender = Sender(outbox, bench.run, report=bench.said.append, schedule=SOON, poll_s=POLL_S, post=cut_off)
        bench.started.append(sender)
        sender.start()
        wait_until(lambda: lock_holder(bench) == os.getpid())
        bench.start(outbox, SOON)
        publish(outbox, "one")
        wait_until(lambda: len(sick) >= tries or outbox.count("r0", DELIVERED, 0) == 1)
        if not reached:
            wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 1)
    assert hook.reasons == ([] if reached else ["one"])


def test_a_receiver_that_is_down_is_tried_by_the_schedule_whoever_has_the_turn(bench: Bench) -> None:
    tried: list[str] = []

    def down(receiver: Receiver, event_id: str, *_: object, **__: object) -> Retry:
        tried.append(event_id)
        return Retry("no way there", reached=False)

    with Hook() as hook:
        outbox = bench.outbox(hook)
        publish(outbox, "one")
        for _ in range(3):
            sender = Sender(outbox, bench.run, report=bench.said.append, schedule=NEVER, poll_s=POLL_S, post=down)
            bench.started.append(sender)
            sender.start()
        wait_until(lambda: tried != [])
        time.sleep(20 * POLL_S)  # everybody has had the turn
    assert len(tried) == 1


def test_a_journal_in_trouble_is_said_once_and_survived(bench: Bench) -> None:
    with Hook() as hook:
        outbox = bench.outbox(hook)
        sender = bench.start(outbox)
        publish(outbox, "one")
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 1)
        with bench.journal.transaction() as tx:
            tx.execute("ALTER TABLE delivery RENAME TO elsewhere")
        wait_until(lambda: len(bench.said) == 1)
        time.sleep(10 * POLL_S)
        assert sender.dead() == []
        with bench.journal.transaction() as tx:
            tx.execute("ALTER TABLE elsewhere RENAME TO delivery")
        publish(outbox, "two")
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 2)
    assert hook.reasons == ["one", "two"]
    assert len(bench.said) == 2
    assert "no such table" in bench.said[0]
    assert bench.said[1].endswith("go on")


def test_a_run_directory_that_cannot_be_made_is_said_once_and_survived(bench: Bench) -> None:
    bench.run.write_text("in the way")
    with Hook() as hook:
        outbox = bench.outbox(hook)
        publish(outbox, "one")
        bench.start(outbox)
        wait_until(lambda: len(bench.said) == 1)
        time.sleep(5 * POLL_S)
        bench.run.unlink()
        wait_until(lambda: outbox.count("r0", DELIVERED, 0) == 1)
    assert len(bench.said) == 2
    assert "cannot open the lock" in bench.said[0]
    assert bench.said[1] == "notifications to r0 go on"


class TestFlush:
    """What commands do when they published something and no daemon may be there to send it."""

    def test_without_a_daemon(self, bench: Bench) -> None:
        with Hook() as up, Hook(answers(500)) as down:
            outbox = bench.outbox(up, down)
            publish(outbox, "one", "two")
            flushed = bench.sender(outbox, NEVER).flush(deadline_s=5.0)
        assert flushed == {"r0": Flushed(2, 0), "r1": Flushed(0, 2, "HTTP 500")}
        assert up.reasons == ["one", "two"]
        assert len(down.received) == 1, "its failure is the end of it"

    def test_nothing_to_do(self, bench: Bench) -> None:
        with Hook() as hook:
            assert bench.sender(bench.outbox(hook)).flush(deadline_s=5.0) == {"r0": Flushed(0, 0)}
            assert hook.received == []

    def test_one_receiver_alone(self, bench: Bench) -> None:
        with Hook() as first, Hook() as second:
            outbox = bench.outbox(first, second)
            publish(outbox, "one")
            assert bench.sender(outbox).flush("r1", deadline_s=5.0) == {"r1": Flushed(1, 0)}
            assert first.received == []

    def test_a_hanging_receiver_ends_at_the_deadline(self, bench: Bench) -> None:
        with Hook(receivers.hang) as hung, Hook() as up:
            outbox = bench.outbox(hung, up)
            publish(outbox, "one")
            began_s = time.monotonic()
            flushed = bench.sender(outbox, NEVER).flush(deadline_s=0.4)
            assert time.monotonic() - began_s < 4
            assert (flushed["r0"].delivered, flushed["r0"].pending) == (0, 1)
            assert "no answer within" in flushed["r0"].why
            assert flushed["r1"] == Flushed(1, 0)

    def test_a_wait_of_hours_is_cut_short(self, bench: Bench) -> None:
        with Hook(answers(500), OK) as hook:
            outbox = bench.outbox(hook)
            publish(outbox, "one")
            sender = bench.sender(outbox, NEVER)
            assert sender.flush(deadline_s=5.0) == {"r0": Flushed(0, 1, "HTTP 500")}
            assert sender.flush(deadline_s=5.0) == {"r0": Flushed(1, 0)}

    def test_the_daemon_is_made_to_send(self, bench: Bench) -> None:
        with Hook(answers(500), answers(500), OK) as hook:
            outbox = bench.outbox(hook)
            publish(outbox, "one")
            bench.start(outbox, NEVER)
            wait_until(lambda: outbox.pending(utc_now())["r0"].last_error != "")  # written, and not only answered
            command = bench.sender(outbox, NEVER)
            assert command.flush(deadline_s=5.0) == {"r0": Flushed(0, 1, "HTTP 500")}
            assert command.flush(deadline_s=5.0) == {"r0": Flushed(1, 0)}
        assert len(hook.received) == 3

    def test_says_why_though_the_one_that_tried_has_let_go_of_the_line(self, bench: Bench) -> None:
        """A watcher that reaches nobody hands its turn over: the command gets it, and finds nothing due."""
        with Hook() as hook:
            outbox = bench.outbox(hook)
            publish(outbox, "one")
            flushed: list[dict[str, Flushed]] = []
            with served_alone(bench.run, "r0"):
                command = threading.Thread(
                    target=lambda: flushed.append(bench.sender(outbox, NEVER).flush(deadline_s=5.0))
                )
                published = outbox.line("r0")[0].next_at
                command.start()
                wait_until(lambda: outbox.line("r0")[0].next_at > published)
                later = [(outbox.line("r0")[0].seq, 1, utc_now() + timedelta(hours=1))]
                outbox.postpone("r0", later[0][0], "connection refused", later)
            command.join()
        assert flushed == [{"r0": Flushed(0, 1, "connection refused")}]
        assert hook.received == []


def test_stop_begins_nothing_new_and_does_not_wait_for_ever(bench: Bench) -> None:
    with Hook(receivers.hang) as hook:
        outbox = bench.outbox(hook)
        publish(outbox, "one")
        sender = bench.start(outbox)
        hook.wait_for(1)
        began_s = time.monotonic()
        sender.stop(0.2)
        assert time.monotonic() - began_s < 4
        assert sender.dead() == []
        wait_until(lambda: not any(thread.name == "send r0" for thread in threading.enumerate()))
    assert len(hook.received) == 1


def test_no_receivers_no_threads(bench: Bench) -> None:
    outbox = bench.outbox()
    sender = bench.start(outbox)
    publish(outbox, "kept")
    sender.notify()
    assert sender.dead() == []
    assert sender.flush(deadline_s=1.0) == {}
