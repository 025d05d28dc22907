"""Who delivers: a thread a receiver, in whichever process holds that receiver's lock.

Every watcher of a host has a Sender over the same outbox. One of them serves a receiver, the others stand by and take
over when the kernel lets go of its lock, so a line is never served twice and never by nobody. One that reaches nobody
lets go of it, for it may be cut off alone. A receiver that hangs delays no other. A process that dies between a
receiver's answer and the commit leaves the event pending: whoever takes over posts it again under the same webhook-id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from watchdog import webhook
from watchdog.clock import Moment, moment
from watchdog.errors import WatchdogError
from watchdog.line import Line, Post, Turn, served_alone
from watchdog.outbox import DELIVERED, PENDING, Outbox
from watchdog.retry import SCHEDULE_S
from watchdog.webhook import Receiver

POLL_S = 1.0
"""How soon a thread sees what another process published, or that the lock is free."""
FLUSH_POLL_S = 0.05
COMMIT_GRACE_S = 0.5
"""What flush waits beyond its deadline for the journal to take an answer that came in time."""

_log = logging.getLogger(__name__)


class Flushed(NamedTuple):
    """What a flush came to for one receiver; `why` is the failure that ended it, or empty."""

    delivered: int
    pending: int
    why: str = ""


class Sender:
    """The delivering threads of this process. `report` gets a sentence whenever something changes."""

    def __init__(
        self,
        outbox: Outbox,
        lock_dir: Path,
        *,
        report: Callable[[str], None] = _log.warning,
        clock: Callable[[], Moment] = moment,
        post: Post = webhook.post,
        schedule: Sequence[float] = SCHEDULE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._outbox = outbox
        self._lock_dir = lock_dir
        self._report = report
        self._clock = clock
        self._post = post
        self._schedule = schedule
        self._poll_s = poll_s
        self._wakeup = threading.Condition()
        self._calls = 0
        self._stopping = False
        self._troubles: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self) -> None:
        """Begin to deliver, or to stand by; not twice."""
        assert not self._threads, "a Sender is started once"
        for receiver in self._outbox.receivers.values():
            thread = threading.Thread(target=self._serve, args=(receiver,), name=f"send {receiver.name}", daemon=True)
            self._threads[receiver.name] = thread
            thread.start()

    def stop(self, deadline_s: float) -> None:
        """Begin nothing new, and wait so long for what is under way; what is cut off is posted again later."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify_all()
        end_s = time.monotonic() + deadline_s
        for thread in self._threads.values():
            thread.join(max(0.0, end_s - time.monotonic()))

    def notify(self) -> None:
        """Something was published: look at once. Without it, it is seen at the next poll."""
        with self._wakeup:
            self._calls += 1
            self._wakeup.notify_all()

    def dead(self) -> list[str]:
        """Receivers whose thread has ended though nobody stopped it: a bug, which health checks must show."""
        return [name for name, thread in self._threads.items() if not thread.is_alive() and not self._stopping]

    def flush(self, receiver: str | None = None, *, deadline_s: float) -> dict[str, Flushed]:
        """Try everything pending now, for one receiver or all, and wait at most `deadline_s` for it.

        Needs no started threads: what no process serves is sent from here, up to a receiver's first failure; what
        another process serves, that process is made to send. Raises JournalFailed.
        """
        end_s = time.monotonic() + deadline_s
        chosen = [r for r in self._outbox.receivers.values() if receiver in (None, r.name)]
        first = {r.name: head.seq for r in chosen if (head := self._outbox.head(r.name))}
        whys: dict[str, str] = {}
        threads = [
            threading.Thread(target=self._flush_one, args=(r, end_s, whys), name=f"flush {r.name}", daemon=True)
            for r in chosen
            if r.name in first
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end_s + COMMIT_GRACE_S - time.monotonic()))
        return {r.name: self._flushed(r.name, first.get(r.name), whys.get(r.name, "")) for r in chosen}

    def _flush_one(self, receiver: Receiver, end_s: float, whys: dict[str, str]) -> None:
        try:
            now = self._clock().utc
            self._outbox.bring_forward(receiver.name, now)
            self.notify()
            while time.monotonic() < end_s:
                with served_alone(self._lock_dir, receiver.name) as turn:
                    why = self._drain(receiver, end_s) if turn else self._outbox.failed_since(receiver.name, now)
                if why is not None:
                    whys[receiver.name] = why
                    return
                time.sleep(FLUSH_POLL_S)
        except WatchdogError as error:
            whys[receiver.name] = error.message

    def _drain(self, receiver: Receiver, end_s: float) -> str:
        """Send until nothing is left or a try fails: why it did."""
        line = self._new_line(receiver, report=lambda _: None)
        while (left_s := end_s - time.monotonic()) > 0 and line.step(min(left_s, receiver.timeout_s)) <= 0:
            if line.failing:
                break
        return line.failing

    def _flushed(self, receiver: str, first_seq: int | None, why: str) -> Flushed:
        if first_seq is None:
            return Flushed(0, 0)
        delivered, pending = (self._outbox.count(receiver, state, first_seq) for state in (DELIVERED, PENDING))
        if pending and not why:  # somebody else tried it meanwhile, or nobody did
            why = self._outbox.last_error(receiver) or "no time was left"
        return Flushed(delivered, pending, why)

    def _new_line(self, receiver: Receiver, report: Callable[[str], None]) -> Line:
        return Line(self._outbox, receiver, clock=self._clock, post=self._post, report=report, schedule=self._schedule)

    def _serve(self, receiver: Receiver) -> None:
        """A thread's life: stand by for the lock, serve while it counts, never end for an error of the host's."""
        line = self._new_line(receiver, self._report)
        while not self._stopping:
            with ExitStack() as held:
                turn = None
                with self._survived(f"to {receiver.name}"):
                    turn = held.enter_context(served_alone(self._lock_dir, receiver.name))
                if turn:
                    self._serve_locked(line, turn)
            self._sleep(self._poll_s)

    def _serve_locked(self, line: Line, turn: Turn) -> None:
        """Serve while the lock counts, and until nobody was reached: another process may not be cut off."""
        taken_over = turn.was_handed_over
        while not self._stopping and turn.counts():
            calls, wait_s, unreached = self._calls, self._poll_s, False
            with self._survived(f"to {line.receiver.name}, in the journal,"):
                if not taken_over:
                    line.take_over()
                    taken_over = True
                wait_s = line.step()
                unreached = line.unreached
            if unreached:
                turn.hand_over()
                return
            self._sleep(min(wait_s, self._poll_s), calls)

    @contextmanager
    def _survived(self, what: str) -> Iterator[None]:
        """Say once what went wrong with the lock or the journal, and once that it is over."""
        try:
            yield
        except WatchdogError as error:
            if self._troubles.get(what) != error.message:
                self._report(f"notifications {what} wait: {error.one_line()}")
            self._troubles[what] = error.message
        else:
            if self._troubles.pop(what, None):
                self._report(f"notifications {what} go on")

    def _sleep(self, wait_s: float, calls: int | None = None) -> None:
        """Until then, or until somebody calls; not at all when somebody has called since `calls` was read."""
        with self._wakeup:
            if wait_s > 0 and not self._stopping and calls in (None, self._calls):
                self._wakeup.wait(wait_s)
