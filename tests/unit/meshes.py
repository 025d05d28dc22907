"""A mesh of each kind that there is, for the tests that every kind must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from watchdog.clock import Moment
from watchdog.intents import Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.mesh.coordinator import Coordinator
from watchdog.mesh.local import LocalCoordinator

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class MeshOfKind:
    """`connect` gives one more watcher's Coordinator on the same mesh; it may be called in another process."""

    connect: Callable[[], Coordinator]
    isolate: Callable[[str], None]
    release: Callable[..., None]
    """A peer, and when; at the beginning if nothing is said."""
    fail: Callable[[], Coordinator]
    """A Coordinator whose backend does not answer."""


def at(s: float, *, boot: str = "boot", wall_step_s: float = 0.0) -> Moment:
    """That many seconds after the beginning; `wall_step_s` is how far somebody has set the wall clock since."""
    return Moment(s, START + timedelta(seconds=s + wall_step_s), boot)


@contextmanager
def local(folder: Path) -> Iterator[MeshOfKind]:
    """One host's journal."""
    opened: list[Journal] = []

    def journal() -> Journal:
        opened.append(Journal.open(folder))
        return opened[-1]

    def isolate(peer: str) -> None:
        Intents(journal()).begin(Where("/cg", 1, peer=peer), Why("test"), With(), START, State.ISOLATED)

    def release(peer: str, when: datetime = START) -> None:
        intents = Intents(journal())
        for intent in intents.in_force():
            if intent.where.peer == peer:
                intents.change(intent, State.RELEASED, when)

    def fail() -> Coordinator:
        closed = journal()
        closed.close()
        return LocalCoordinator(closed)

    yield MeshOfKind(lambda: LocalCoordinator(journal()), isolate, release, fail)
    for each in opened:
        each.close()


KINDS = {"local": local}
