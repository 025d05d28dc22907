"""The mission's numbers as one table, through the real watcher and coordinator, on a clock turned by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdog.clock import Moment
from watchdog.intents import Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Order
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action, Escalation, Heartbeat, Status
from watchdog.watcher import Watcher

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
BOOT_S = 1000.0
PEER = "shield"


def moment_at(now_s: float) -> Moment:
    return Moment(BOOT_S + now_s, BEGINNING + timedelta(seconds=now_s), "boot")


@dataclass
class Mesh:
    """Watchers of one host over one journal; orders are carried out at once, restarts as `helps` says."""

    policy: Policy = field(default_factory=Policy)
    watchers: tuple[str, ...] = ("immune", "sidecar")
    done: list[tuple[float, Action]] = field(default_factory=list)
    told: list[Escalation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policy = replace(self.policy, single_observer=len(self.watchers) == 1)  # as in `Monitor` without a mesh
        self.journal = Journal.in_memory()
        self.coordinator = LocalCoordinator(self.journal)
        self.keys: set[str] = set()
        self.each = {name: self._watcher(name) for name in self.watchers}

    def _watcher(self, name: str) -> Watcher:
        watcher = Watcher(
            name,
            self.policy,
            coordinator=self.coordinator,
            journal=self.journal,
            publish=self.publish,
            voters_on=lambda _: set(self.watchers),
            restart_timeout_s=60.0,
        )
        watcher.watch(PEER, "http://127.0.0.1:9103/", moment_at(0))
        return watcher

    def publish(self, escalation: Escalation, key: str, at: Moment) -> bool:
        if key in self.keys:
            return False
        self.keys.add(key)
        self.told.append(escalation)
        return True

    def round(self, name: str, now_s: float, *, healthy: bool) -> None:
        watcher, beat = self.each[name], Heartbeat(PEER, healthy=healthy, detail="HTTP 200" if healthy else "silence")
        watcher.begin_round(moment_at(now_s))
        orders = [*watcher.hear(PEER, beat, moment_at(now_s)), *watcher.end_round(moment_at(now_s))]
        for order in orders:
            self.carry_out(watcher, order, now_s)

    def carry_out(self, watcher: Watcher, order: Order, now_s: float) -> None:
        assert self.coordinator.begin(order, moment_at(now_s))
        self.done.append((now_s, order.action))
        if order.action is Action.ISOLATE:
            where = Where(cgroup="/none", cgroup_id=1, peer=PEER)
            Intents(self.journal).begin(where, Why(order.reason), With(), moment_at(now_s).utc, State.ISOLATED)
        watcher.settle(order, moment_at(now_s), failed=False, outcome="done")

    def run(self, until_s: float, phases_s: Iterable[float], *, silent_from_s: float = 1.0) -> None:
        interval_s = self.policy.interval_s
        ticks = [
            (number * interval_s + phase_s, name)
            for name, phase_s in zip(self.watchers, phases_s, strict=True)
            for number in range(int(until_s / interval_s) + 1)
        ]
        for now_s, name in sorted(ticks):
            self.round(name, now_s, healthy=now_s < silent_from_s)

    @property
    def status(self) -> Status:
        return self.each[self.watchers[0]].status_of(PEER).status


def times(mesh: Mesh, action: Action) -> list[float]:
    return [now_s for now_s, done in mesh.done if done is action]


def test_restarts_at_90_180_and_270_s_isolation_at_360_s() -> None:
    mesh = Mesh(watchers=("immune",))
    mesh.run(900, [0.0])
    assert times(mesh, Action.RESTART) == [90, 180, 270]
    assert times(mesh, Action.ISOLATE) == [360]
    assert mesh.status is Status.ISOLATED


@pytest.mark.parametrize("phase_s", [0.0, 1.0, 6.0, 14.9, 15.0, 20.0, 29.0])
def test_the_same_with_two_watchers_whatever_their_phase(phase_s: float) -> None:
    mesh = Mesh()
    mesh.run(900, [0.0, phase_s])
    restarts, isolations = times(mesh, Action.RESTART), times(mesh, Action.ISOLATE)
    assert (len(restarts), len(isolations)) == (3, 1)
    rungs = [*restarts, *isolations]
    assert all(84 <= after_s - before_s <= 90 for before_s, after_s in pairwise(rungs))
    assert 60 < restarts[0] <= 90, "of whoever was the first to miss it three times"
    assert 330 <= isolations[0] <= 360


@pytest.mark.parametrize("interval_s", [0.5, 5.0, 60.0])
def test_a_shorter_interval_scales_them(interval_s: float) -> None:
    mesh = Mesh(Policy(interval_s=interval_s, forgive_after_s=10 * interval_s), watchers=("immune",))
    mesh.run(30 * interval_s, [0.0], silent_from_s=interval_s / 2)
    assert times(mesh, Action.RESTART) == [3 * interval_s, 6 * interval_s, 9 * interval_s]
    assert times(mesh, Action.ISOLATE) == [12 * interval_s]


def test_what_people_are_told() -> None:
    mesh = Mesh()
    mesh.run(900, [0.0, 7.0])
    assert [(each.action, each.severity.value) for each in mesh.told if each.action is not Action.ISOLATE] == [
        (Action.ALERT, "MEDIUM"),
        (Action.RESTART, "HIGH"),
        (Action.RESTART, "HIGH"),
        (Action.RESTART, "HIGH"),
        (Action.ALERT_ARCHITECT, "CRITICAL"),
    ]


@pytest.mark.parametrize("phase_s", [1.0, 7.0, 15.0, 22.0, 29.0])
def test_an_agent_that_answers_once_after_each_restart_is_isolated_without_a_false_alarm(phase_s: float) -> None:
    """Each watcher counts anew from an answer of its own: the other's vote is there up to an interval later."""
    mesh = Mesh()
    ticks = sorted(
        (30.0 * number + late_s, name)
        for number in range(60)
        for name, late_s in (("immune", 0.0), ("sidecar", phase_s))
    )
    answered: set[tuple[str, int]] = set()
    for now_s, name in ticks:
        start = (name, len(times(mesh, Action.RESTART)))
        mesh.round(name, now_s, healthy=start not in answered)
        answered.add(start)
    assert (len(times(mesh, Action.RESTART)), len(times(mesh, Action.ISOLATE))) == (3, 1)
    assert [each.reason for each in mesh.told if "it should be isolated, and is not" in each.reason] == []


def test_without_a_quorum_people_are_told_an_interval_later_and_once() -> None:
    mesh = Mesh(watchers=("immune", "sidecar", "shade"))
    for number in range(30):
        mesh.round("immune", 30.0 * number, healthy=number < 1)
    said = [each.reason for each in mesh.told if "it should be isolated, and is not" in each.reason]
    assert times(mesh, Action.ISOLATE) == []
    assert len(said) == 1
    assert "nothing is heard of the watcher of shade, sidecar" in said[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=120))
def test_no_schedule_does_what_it_must_not(schedule: list[bool]) -> None:
    """Nobody healthy is restarted, nobody isolated before three restarts, nobody isolated is escalated or forgotten."""
    mesh = Mesh(watchers=("immune",))
    misses = 0
    for number, healthy in enumerate(schedule):
        before = list(mesh.done)
        mesh.round("immune", number * 30.0, healthy=healthy)
        misses = 0 if healthy else misses + 1
        if len(mesh.done) > len(before):
            assert misses >= 3
            assert Action.ISOLATE not in [action for _, action in before]
        if mesh.done and mesh.done[-1][1] is Action.ISOLATE:
            assert len(times(mesh, Action.RESTART)) >= 3
            assert mesh.status is Status.ISOLATED


def test_a_budget_used_up_over_three_hours_isolates_nobody() -> None:
    mesh = Mesh(watchers=("immune",))
    for number in range(3 * 120):
        mesh.round("immune", number * 30.0, healthy=number % 60 >= 3)
    assert times(mesh, Action.ISOLATE) == []
    assert len(times(mesh, Action.RESTART)) == 6
