"""One receiver's line and who may serve it: the first is posted, its answer is written down, the next comes up."""

from __future__ import annotations

import fcntl
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from watchdog import webhook
from watchdog.clock import Moment, from_rfc3339
from watchdog.errors import WatchdogError
from watchdog.outbox import DELIVERED, EXPIRED, Event, Outbox, Waiting
from watchdog.retry import SCHEDULE_S, longest_wait_s, next_try
from watchdog.webhook import Answer, Delivered, Gone, Receiver, Retry

LOCK_MODE = 0o600
DIRECTORY_MODE = 0o700
HANDED_OVER = b"handed over\n"


class Post(Protocol):
    """Has the shape of webhook.post."""

    def __call__(
        self, receiver: Receiver, event_id: str, at: datetime, body: bytes, *, timeout_s: float | None = None
    ) -> Answer: ...


class CannotLock(WatchdogError):
    """A lock file cannot be opened: nobody can tell who sends."""


class Turn:
    """A process's turn to serve a receiver: it holds the lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self.was_handed_over = os.pread(descriptor, len(HANDED_OVER), 0) == HANDED_OVER
        """The one before gave it up of itself. Otherwise it died, and what kept its line waiting may have with it."""
        os.ftruncate(descriptor, 0)

    def counts(self) -> bool:
        """A cleaned run directory takes the file's name away, and the next process would lock a new file."""
        return _names(self._path, self._descriptor)

    def hand_over(self) -> None:
        """Say so before the lock is let go. What cannot be written down looks like a death, and costs one try."""
        with suppress(OSError):
            os.pwrite(self._descriptor, HANDED_OVER, 0)


@contextmanager
def served_alone(lock_dir: Path, receiver: str) -> Iterator[Turn | None]:
    """Hold the receiver's lock, or yield None when another process does.

    Raises CannotLock. The kernel lets go when the process dies.
    """
    path = lock_dir / f"outbox-{quote(receiver, safe='')}.lock"
    try:
        lock_dir.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, LOCK_MODE)
    except OSError as error:
        raise CannotLock(f"cannot open the lock {path}: {error.strerror}", hint="check [paths] run") from error
    try:
        mine = _locked(descriptor) and _names(path, descriptor)
        yield Turn(path, descriptor) if mine else None
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _names(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


class Line:
    """Serves one receiver's line, one step at a time, while its lock is held.

    Waits are counted on the clock that no step of the wall clock moves: a next try, written down as wall clock time, is
    turned into a wait when it is first seen, and never into a longer one than the schedule has there.
    """

    def __init__(
        self,
        outbox: Outbox,
        receiver: Receiver,
        *,
        clock: Callable[[], Moment],
        post: Post = webhook.post,
        report: Callable[[str], None],
        schedule: Sequence[float] = SCHEDULE_S,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - it spreads load, it guards nothing
    ) -> None:
        self.receiver = receiver
        self.failing = ""
        """Why the last try failed; empty after one that did not."""
        self.unreached = False
        """The last step was a try that reached nobody: it may be this process that is cut off."""
        self._outbox = outbox
        self._clock = clock
        self._post = post
        self._report = report
        self._schedule = schedule
        self._jitter = jitter
        self._open = False
        self._quiet_until_s = -math.inf
        self._due: dict[int, tuple[str, float]] = {}
        self._answered: tuple[Event, Answer] | None = None

    def take_over(self) -> None:
        """Make the line due: whoever served it last may have died, and what kept it waiting with it."""
        self._due, self._open, self._quiet_until_s = {}, False, -math.inf
        self._outbox.bring_forward(self.receiver.name, self._clock().utc)

    def step(self, timeout_s: float | None = None) -> float:
        """Try the head when the line is due; seconds until the next step is worth it (inf: nothing is owed).

        Raises JournalFailed. An answer the journal did not take is kept, and written down before anything else is sent.
        """
        self.unreached = False
        self._write_down()
        head = self._outbox.head(self.receiver.name)
        if head is None:
            return math.inf
        now = self._clock()
        if not self._open and (left_s := self._due_s(now) - now.s) > 0:
            return left_s
        answer = self._post(self.receiver, head.id, now.utc, head.body, timeout_s=timeout_s)
        self._answered = head, answer
        self._write_down()
        return 0.0

    def _due_s(self, now: Moment) -> float:
        """When the line is due: as soon as any in it is, and not while the receiver asked for quiet."""
        return max(min((due_s for _, due_s in self._dues(now)), default=now.s), self._quiet_until_s)

    def _dues(self, now: Moment) -> list[tuple[Waiting, float]]:
        line = self._outbox.line(self.receiver.name)
        self._due = {waiting.seq: self._seen(waiting, now) for waiting in line}
        return [(waiting, self._due[waiting.seq][1]) for waiting in line]

    def _seen(self, waiting: Waiting, now: Moment) -> tuple[str, float]:
        known = self._due.get(waiting.seq)
        if known and known[0] == waiting.next_at:
            return known
        left_s = (from_rfc3339(waiting.next_at) - now.utc).total_seconds()
        return waiting.next_at, now.s + min(max(left_s, 0.0), longest_wait_s(waiting.attempts, self._schedule))

    def _write_down(self) -> None:
        if self._answered is None:
            return
        event, answer = self._answered
        now = self._clock()
        if isinstance(answer, Delivered):
            self._outbox.settle(self.receiver.name, event, DELIVERED, "", now.utc)
            self._delivered()
        elif isinstance(answer, Gone):
            refused = self._outbox.refuse_all(self.receiver, answer.why, now.utc)
            self._report(
                f"receiver {self.receiver.name} is gone ({answer.why}): {refused} events refused, and it gets no more"
                f" until its URL is changed or `watchdog-mesh notify test {self.receiver.name}` reaches it"
            )
        else:
            self._failed(event, answer, now)
        self._answered = None

    def _delivered(self) -> None:
        self._open = True
        if self.failing:
            self._report(f"receiver {self.receiver.name} takes events again")
            self.failing = ""

    def _failed(self, event: Event, retry: Retry, now: Moment) -> None:
        """Everything that was due moves on in its schedule; the head, which alone was tried, may expire."""
        self._open, self.unreached = False, not retry.reached
        due = [waiting for waiting, due_s in self._dues(now) if due_s <= now.s]
        later = self._later(due, now, retry)
        if event.seq in later and later[event.seq] is None:
            self._outbox.settle(self.receiver.name, event, EXPIRED, retry.why, now.utc)
            self._report(f"event {event.id} never reached {self.receiver.name} and is given up: {retry.why}")
        else:
            moved = [(w.seq, w.attempts + 1, later[w.seq] or now.utc + self._last_step()) for w in due]
            self._outbox.postpone(self.receiver.name, event.seq, retry.why, moved)
        self._quiet_until_s = now.s + (retry.after_s or 0.0)
        if not self.failing:
            self._report(f"receiver {self.receiver.name} takes no events: {retry.why}; they are kept and tried again")
        self.failing = retry.why

    def _later(self, due: Sequence[Waiting], now: Moment, retry: Retry) -> dict[int, datetime | None]:
        jitter = self._jitter()
        return {w.seq: next_try(w.attempts + 1, w.at, now.utc, jitter, retry.after_s, self._schedule) for w in due}

    def _last_step(self) -> timedelta:
        """For one that would be given up but is not the head, which was the one tried: its turn to be it comes."""
        return timedelta(seconds=self._schedule[-1])
