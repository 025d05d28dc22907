"""A mesh of each kind that there is, for the tests that every kind must pass."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, cast

from tests.unit.memory_mesh import EPOCH, MemoryCoordinator, Store
from watchdog.clock import Moment
from watchdog.journal import Journal
from watchdog.mesh.coordinator import THIS_HOST, Coordinator, OrderRequest
from watchdog.mesh.local import LocalCoordinator

START = EPOCH
ELSEWHERE = "elsewhere"
BOOTED_BEFORE_S = 4000.0
"""How much earlier than this host the other one was booted."""


@dataclass(frozen=True)
class MeshOfKind:
    """`connect` gives one more watcher's Coordinator on the same mesh; it may be called in another process."""

    connect: Callable[[], Coordinator]
    connect_other: Callable[[], Coordinator]
    """On another host of the mesh, where the kind has one."""
    fail: Callable[[], Coordinator]
    """A Coordinator whose backend does not answer."""


def at(s: float, *, boot: str = "boot", wall_step_s: float = 0.0) -> Moment:
    """That many seconds after the beginning; `wall_step_s` is how far somebody has set the wall clock since."""
    return Moment(s, START + timedelta(seconds=s + wall_step_s), boot)


def there(moment: Moment) -> Moment:
    """The same moment by the clock of the other host."""
    return replace(moment, s=moment.s + BOOTED_BEFORE_S, boot=f"{moment.boot} of {ELSEWHERE}")


class _ByItsOwnClock:
    """A Coordinator of the other host, told by that one's clock what a test says by this one's."""

    def __init__(self, asked: MemoryCoordinator) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._asked, name)
        return lambda *said, **named: method(*map(_by_its_own_clock, said), **named)


def _by_its_own_clock(said: object) -> object:
    if isinstance(said, Moment):
        return there(said)
    return replace(said, round_s=said.round_s + BOOTED_BEFORE_S) if isinstance(said, OrderRequest) else said


@contextmanager
def local(folder: Path) -> Iterator[MeshOfKind]:
    """One host's journal."""
    opened: list[Journal] = []

    def connect() -> Coordinator:
        opened.append(Journal.open(folder))
        return LocalCoordinator(opened[-1])

    def fail() -> Coordinator:
        failing = connect()
        opened[-1].close()
        return failing

    yield MeshOfKind(connect, connect, fail)
    for each in opened:
        each.close()


def store() -> Store:
    """What two hosts ask: it knows the clocks of both."""
    return Store({at(0.0).boot: 0.0, there(at(0.0)).boot: -BOOTED_BEFORE_S})


@contextmanager
def in_memory(_: Path) -> Iterator[MeshOfKind]:
    """A store with one host."""
    kept = store()
    yield MeshOfKind(
        lambda: MemoryCoordinator(kept, THIS_HOST),
        lambda: MemoryCoordinator(kept, THIS_HOST),
        lambda: _unreached(MemoryCoordinator(kept, THIS_HOST)),
    )


@contextmanager
def two_hosts(_: Path) -> Iterator[MeshOfKind]:
    """A store with two hosts, each with a boot and a clock of its own."""
    kept = store()
    yield MeshOfKind(
        lambda: MemoryCoordinator(kept, THIS_HOST),
        lambda: cast(Coordinator, _ByItsOwnClock(MemoryCoordinator(kept, ELSEWHERE))),
        lambda: _unreached(MemoryCoordinator(kept, THIS_HOST)),
    )


def _unreached(coordinator: MemoryCoordinator) -> MemoryCoordinator:
    coordinator.reached = False
    return coordinator


class _Server(BaseManager):
    """The store in a process of its own, as a store on the network is."""


@contextmanager
def served(_: Path) -> Iterator[MeshOfKind]:
    """A store that many processes ask."""
    kept = Store()
    _Server.register("coordinator", lambda: MemoryCoordinator(kept, THIS_HOST))
    with _Server(ctx=multiprocessing.get_context("fork")) as server:
        asked: Any = server

        def connect() -> Coordinator:
            return cast(Coordinator, asked.coordinator())

        yield MeshOfKind(connect, connect, connect)


Kind = Callable[[Path], AbstractContextManager[MeshOfKind]]

KINDS: dict[str, Kind] = {"local": local, "in memory": in_memory, "two hosts": two_hosts}
MANY_PROCESSES: dict[str, Kind] = {"local": local, "served": served}
