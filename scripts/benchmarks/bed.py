"""Runs inside the systemd test bed: every measurement of an isolation, handed out as one JSON document."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from scripts.benchmarks.flood import flooding_from
from scripts.benchmarks.sender import NS_PER_MS, Sender, away_from_sender, sending_from
from scripts.benchmarks.throughput import Stream, streaming
from scripts.benchmarks.ways import CONFIG, CONFIG_TEXT, MESH, UNIT, UNIT_CGROUP, Way, verify, ways
from watchdog import clock
from watchdog.actions import isolation, locate, programs
from watchdog.actions.locate import Named
from watchdog.actions.place import Place, configured, note_agents
from watchdog.config import Config, load
from watchdog.early import identity_of
from watchdog.errors import KernelRefused
from watchdog.intents import Why
from watchdog.journal import Journal
from watchdog.kernel import cgroups, hooks
from watchdog.kernel.programs import Hook
from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Order, OrderRequest
from watchdog.mesh.local import LocalCoordinator
from watchdog.mesh.overview import fresh_s
from watchdog.model import Action

LASTING = "lasting"
"""The step of an isolation that waits for systemd; what comes before it is in place at once."""

LEASE_S = 600.0

QUIET, BESIDE_FREE, BESIDE_CUT = "nobody floods", "it floods, free", "it floods, isolated"
TRIED_FREE, TRIED_CUT, VERIFY_S = "tried, free", "tried, isolated", "verify, s"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    runs: int
    repetitions: int
    slice_s: float


FULL = Size(runs=30, repetitions=20, slice_s=0.4)
QUICK = Size(runs=2, repetitions=1, slice_s=0.05)


@dataclass
class Cut:
    """Times from the beginning, in ms, one a run."""

    dropped: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)


class Beside(NamedTuple):
    """Bytes a second of others before a unit is isolated, while it is, and after."""

    before: float
    during: float
    after: float


@dataclass
class Measured:
    """Everything that was measured."""

    cold: dict[str, Cut] = field(default_factory=dict)
    warm: Cut = field(default_factory=Cut)
    """In a process that runs already: done is when all layers are in place."""
    steps: dict[str, list[float]] = field(default_factory=dict)
    streams: dict[str, dict[str, list[Beside]]] = field(default_factory=dict)
    """By path and by who cuts off, one a repetition."""
    flood: dict[str, list[float]] = field(default_factory=dict)
    """By name: packets tried a second, bytes a second of a neighbour, seconds that verify took; one a repetition."""
    attached_before: list[str] = field(default_factory=list)
    attached_after: list[str] = field(default_factory=list)


def measure(size: Size) -> Measured:
    """Everything, interleaved."""
    measured = Measured()
    with place() as here:
        programs.take(here)  # compiled beforehand, as on a host with a watcher
        note_agents(load(CONFIG), CONFIG, identity_of(str(CONFIG)))  # likewise
        measured.attached_before = attached(here)
        with sending_from(UNIT_CGROUP, own_cgroup()) as sender:
            for number in range(size.runs + 1):
                into = measured if number else Measured()  # the first run fills caches, and is not counted
                for way in ways():
                    cut_cold(way, sender, into.cold.setdefault(way.name, Cut()))
                cut_warm(here, sender, into)
        measured.attached_after = attached(here)
    with streaming() as streams:
        for number in range(size.repetitions):
            flood(streams[0], size.slice_s, measured.flood)
            for stream in streams:
                for way in turned(ways(), number):
                    slices = measured.streams.setdefault(stream.name, {}).setdefault(way.name, [])
                    slices.append(beside(stream, way, size.slice_s))
    return measured


@contextmanager
def place() -> Iterator[Place]:
    """The bed's own places, where the command's defaults lead to."""
    CONFIG.write_text(CONFIG_TEXT)
    journal = Journal.open(Config().paths.state)
    try:
        yield configured(Config(), journal)
    finally:
        journal.close()


def own_cgroup() -> Path:
    """Where this process runs."""
    return cgroups.of_pid(os.getpid()).path


def cut_cold(way: Way, sender: Sender, into: Cut) -> None:
    """One command, from just before its process is made."""
    sender.begin()
    begun_ns = time.monotonic_ns()
    ended_ns = way.finish(way.start())
    into.dropped.append((sender.seen().dropped_ns - begun_ns) / NS_PER_MS)
    into.done.append((ended_ns - begun_ns) / NS_PER_MS)
    way.release()
    sender.await_release()


def ordered(coordinator: LocalCoordinator) -> Order:
    """An isolation that two watchers have voted for, and that was begun."""
    at, peer, voters = clock.moment(), "bench", ("immune", "sidecar")
    for voter in voters:
        coordinator.suspect(voter, peer, Policy().missed_before_restart, at)
    known = coordinator.record(peer, at).token
    request = OrderRequest(peer, Action.ISOLATE, voters[0], "bench", known, at.s, LEASE_S, voters, fresh_s(Policy()))
    order = coordinator.claim(request, at)
    assert isinstance(order, Order), order
    assert coordinator.begin(order, at)
    return order


def cut_warm(here: Place, sender: Sender, into: Measured) -> None:
    """As a watcher carries out its order, from the decision."""
    coordinator = LocalCoordinator(here.journal)
    order = ordered(coordinator)

    def stands() -> None:
        assert coordinator.stands(order, clock.moment())

    sender.begin()
    steps: list[tuple[str, float]] = []

    def note(step: str) -> None:
        steps.append((step, (time.monotonic_ns() - begun_ns) / NS_PER_MS))

    with away_from_sender():
        begun_ns = time.monotonic_ns()
        located = locate.locate(Named(unit=UNIT), Config(), here)
        rails = partial(locate.check_rails, located, Config(), here, force=False)
        result = isolation.isolate(located.where, Why("benchmark"), here, note, rails, stands=stands, at_once=True)
    into.warm.dropped.append((sender.seen().dropped_ns - begun_ns) / NS_PER_MS)
    into.warm.done.append(_in_place(steps))
    for step, at_ms in steps:
        into.steps.setdefault(step, []).append(at_ms)
    isolation.release(result.intent, here)
    coordinator.finish(order.token, clock.moment(), failed=False, outcome="")
    sender.await_release()


def _in_place(steps: list[tuple[str, float]]) -> float:
    before = [at_ms for number, (step, at_ms) in enumerate(steps) if LASTING not in [s for s, _ in steps[: number + 1]]]
    if not before:
        raise KernelRefused("an isolation told of no step")
    return before[-1]


def turned(ways: Sequence[Way], number: int) -> Sequence[Way]:
    """Each as often first as any other."""
    first = number % len(ways)
    return [*ways[first:], *ways[:first]]


def beside(stream: Stream, way: Way, slice_s: float) -> Beside:
    """What others can send. The first slice after a pause is a processor's that has rested: it is not counted."""
    stream.bytes_a_second(slice_s)
    before = stream.bytes_a_second(slice_s)
    way.finish(way.start())
    stream.bytes_a_second(slice_s)
    during = stream.bytes_a_second(slice_s)
    way.release()
    stream.bytes_a_second(slice_s)
    return Beside(before, during, stream.bytes_a_second(slice_s))


def flood(stream: Stream, slice_s: float, into: dict[str, list[float]]) -> None:
    """A neighbour's stream alone, beside the unit's flood, and beside the same flood while the unit is isolated."""

    def note(name: str, value: float) -> None:
        into.setdefault(name, []).append(value)

    note(QUIET, stream.bytes_a_second(slice_s))
    mesh = next(way for way in ways() if way.name == MESH)
    with flooding_from(UNIT_CGROUP, own_cgroup()) as source:
        note(BESIDE_FREE, stream.bytes_a_second(slice_s))
        note(TRIED_FREE, source.attempts_a_second(slice_s))
        mesh.finish(mesh.start())
        note(BESIDE_CUT, stream.bytes_a_second(slice_s))
        note(TRIED_CUT, source.attempts_a_second(slice_s))
        begun_s = time.monotonic()
        verify()
        note(VERIFY_S, time.monotonic() - begun_s)
        mesh.release()


def attached(here: Place) -> list[str]:
    """Every program of ours at any hook of any cgroup, in words."""
    ours: Callable[..., bool] = hooks.uses_our_map
    return [
        f"program {each.program_id} at {each.hook.name} of {each.cgroup.path}"
        for each in hooks.find_attached(here.top, list(Hook), ours)
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure(QUICK if "--quick" in sys.argv else FULL))))
