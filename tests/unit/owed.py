"""An outbox with things in it, a clock that is turned by hand, and a receiver that answers as it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from watchdog.clock import Moment
from watchdog.model import Action, Escalation, EventState, Severity
from watchdog.outbox import Outbox
from watchdog.webhook import Answer, Delivered, Receiver

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@dataclass
class Clock:
    """Both clocks; the wall clock can be set apart from the one that counts on."""

    s: float = 1000.0
    utc: datetime = START

    def __call__(self) -> Moment:
        return Moment(self.s, self.utc, "boot")

    def pass_s(self, seconds: float) -> None:
        self.s += seconds
        self.utc += timedelta(seconds=seconds)

    def step_wall(self, by: timedelta) -> None:
        self.utc += by


@dataclass
class Told:
    """Stands in for webhook.post: answers as told and remembers when it was asked for which event."""

    clock: Clock
    answer: Answer = field(default_factory=lambda: Delivered(200))
    tries: list[tuple[float, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    def __call__(
        self, receiver: Receiver, event_id: str, at: datetime, body: bytes, *, timeout_s: float | None = None
    ) -> Answer:
        self.tries.append((self.clock.s, event_id))
        if isinstance(self.answer, Delivered):
            self.taken.append(event_id)
        return self.answer

    @property
    def at_s(self) -> list[float]:
        return [s for s, _ in self.tries]

    @property
    def ids(self) -> list[str]:
        return [event_id for _, event_id in self.tries]


def escalation(reason: str = "3 misses", severity: Severity = Severity.CRITICAL, at: datetime = START) -> Escalation:
    return Escalation(at, "shield", Action.ISOLATE, reason, severity, EventState.FIRING, "immune", 1)


def publish(outbox: Outbox, clock: Clock, *reasons: str, severity: Severity = Severity.CRITICAL) -> None:
    """Publish one event for each reason, which is its key too."""
    for reason in reasons:
        assert outbox.publish(escalation(reason, severity, clock.utc), reason, clock())
