"""The ladder as tables, both sides of every edge, and what no sequence of events may make it do."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from watchdog import ladder
from watchdog.errors import ConfigurationError
from watchdog.ladder import Demand, OrderState, PeerRecord, Policy, Standing
from watchdog.model import Action, Heartbeat, Status

POLICY = Policy()
HEALTHY, DEGRADED, OFFLINE, ISOLATED = Status
WELL = Heartbeat("shield", healthy=True, detail="HTTP 200")
SILENT = Heartbeat("shield", healthy=False, detail="no answer within 5 s")
SQUATTED = Heartbeat("shield", healthy=False, detail="port 9103 is pid 7's", impostor=True)
SINCE = datetime(2026, 3, 1, tzinfo=UTC)
ORDERED = PeerRecord(token=5, last_action=Action.RESTART, order=OrderState.DONE, ordered_age_s=0.0, episode_open=True)


def missed(count: int, **facts: object) -> Standing:
    status = HEALTHY if count == 0 else DEGRADED if count < 3 else OFFLINE
    return Standing(**{"status": status, "missed_count": count, "misses_since_order": count, **facts})  # type: ignore[arg-type]


def hear(
    standing: Standing, beat: Heartbeat, record: PeerRecord, round_age_s: float = 0.0
) -> tuple[Status, list[Demand]]:
    heard, demands = ladder.hear(standing, beat, record, POLICY, round_age_s)
    return heard.status, list(demands)


@pytest.mark.parametrize(
    ("misses_before", "restarts", "status", "demands"),
    [
        (0, 0, DEGRADED, [Demand.ALERT]),
        (1, 0, DEGRADED, [Demand.ALERT]),
        (2, 0, OFFLINE, [Demand.RESTART]),
        (3, 0, OFFLINE, [Demand.RESTART]),
        (2, 1, OFFLINE, [Demand.RESTART]),
        (2, 2, OFFLINE, [Demand.RESTART]),
        (2, 3, OFFLINE, [Demand.ISOLATE]),
        (2, 4, OFFLINE, [Demand.ISOLATE]),
        (1, 3, DEGRADED, [Demand.ALERT]),
        (99, 0, OFFLINE, [Demand.RESTART]),
    ],
)
def test_what_a_miss_asks_for(misses_before: int, restarts: int, status: Status, demands: list[Demand]) -> None:
    standing = missed(misses_before, restart_count=restarts)
    assert hear(standing, SILENT, PeerRecord(restart_count=restarts)) == (status, demands)


@pytest.mark.parametrize(
    ("changed", "demands"),
    [
        ({"episode_open": False}, [Demand.ALERT]),
        ({"episode_open": True}, []),
    ],
)
def test_the_first_alert_of_an_episode_is_the_only_one(changed: dict[str, bool], demands: list[Demand]) -> None:
    assert hear(missed(0), SILENT, PeerRecord(**changed)) == (DEGRADED, demands)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("since_order_s", "state", "action", "demands"),
    [
        (83.9, OrderState.DONE, Action.RESTART, []),
        (84.0, OrderState.DONE, Action.RESTART, [Demand.RESTART]),
        (83.9, OrderState.FAILED, Action.RESTART, []),
        (83.9, OrderState.LAPSED, Action.RESTART, []),
        (83.9, OrderState.VOID, Action.RESTART, [Demand.RESTART]),
        (83.9, OrderState.DONE, Action.ISOLATE, []),
        (83.9, OrderState.FAILED, Action.ISOLATE, [Demand.RESTART]),
        (83.9, OrderState.LAPSED, Action.ISOLATE, [Demand.RESTART]),
        (500.0, OrderState.OPEN, Action.RESTART, []),
        (500.0, OrderState.OPEN, Action.ISOLATE, []),
    ],
)
def test_how_soon_after_an_order(
    since_order_s: float, state: OrderState, action: Action, demands: list[Demand]
) -> None:
    for round_age_s in (0.0, 5.0):  # what counts is when the round began
        record = replace(ORDERED, order=state, last_action=action, ordered_age_s=since_order_s + round_age_s)
        assert hear(missed(9, token=5), SILENT, record, round_age_s) == (OFFLINE, demands)


def test_an_order_whose_age_is_not_known_keeps_nobody_waiting() -> None:
    assert hear(missed(2, token=5), SILENT, replace(ORDERED, ordered_age_s=None)) == (OFFLINE, [Demand.RESTART])


@pytest.mark.parametrize(
    ("tried", "since_order_s", "again"),
    [
        (0, 0.0, True),
        (1, 23.9, False),
        (1, 24.0, True),
        (2, 53.9, False),
        (2, 54.0, True),
        (5, 473.9, False),
        (5, 474.0, True),
        (6, 594.0, True),
        (2855, 593.9, False),
        (2855, 594.0, True),
    ],
)
def test_an_isolation_that_comes_to_nothing_is_tried_after_1_2_4_intervals_and_ten_minutes_at_most(
    tried: int, since_order_s: float, again: bool
) -> None:
    failed = replace(ORDERED, last_action=Action.ISOLATE, order=OrderState.FAILED, isolations_tried=tried)
    record = replace(failed, ordered_age_s=since_order_s)
    standing = missed(9, token=5, restart_count=3)
    assert hear(standing, SILENT, record) == (OFFLINE, [Demand.ISOLATE] if again else [])


@pytest.mark.parametrize(
    ("standing", "record", "learned"),
    [
        (missed(2), PeerRecord(), missed(2)),
        (missed(4), ORDERED, missed(4, misses_since_order=0, token=5)),
        (missed(4, token=5), ORDERED, missed(4, token=5)),
        (missed(4), replace(ORDERED, order=OrderState.OPEN), missed(4)),
        (missed(4), replace(ORDERED, restart_count=2), missed(4, misses_since_order=0, token=5, restart_count=2)),
        (missed(4), replace(ORDERED, order=OrderState.VOID), missed(4, misses_since_order=2, token=5)),
        (missed(0), replace(ORDERED, order=OrderState.VOID), missed(0, token=5)),
        (missed(1), replace(ORDERED, order=OrderState.VOID), missed(1, token=5)),
        (missed(9, token=7), ORDERED, missed(9, misses_since_order=0, token=5)),
    ],
    ids=["nothing new", "a restart", "known", "open", "counted", "in vain", "well", "one miss", "a new journal"],
)
def test_what_is_learned(standing: Standing, record: PeerRecord, learned: Standing) -> None:
    assert ladder.learn(standing, record, POLICY) == learned


def test_an_isolation_is_learned_and_kept_whatever_answers() -> None:
    record = replace(ORDERED, isolated_since=SINCE, ordered_age_s=900.0)
    standing = ladder.learn(missed(5), record, POLICY)
    assert standing.status is ISOLATED
    for beat in (SILENT, WELL, SQUATTED, SILENT, SILENT, SILENT, SILENT):
        standing, demands = ladder.hear(ladder.learn(standing, record, POLICY), beat, record, POLICY, 0.0)
        assert (standing.status, demands) == (ISOLATED, ())


def test_a_released_peer_begins_anew() -> None:
    standing = missed(40, status=ISOLATED, token=4, restart_count=3, healthy_count=7)
    learned = ladder.learn(standing, ORDERED, POLICY)
    assert learned == Standing(status=DEGRADED, token=5)
    assert hear(learned, SILENT, ORDERED)[0] is DEGRADED
    assert hear(learned, WELL, ORDERED) == (HEALTHY, [Demand.RESOLVE])


def test_somebody_else_in_its_place_restarts_nobody() -> None:
    standing = missed(2)
    for _ in range(20):
        standing, demands = ladder.hear(standing, SQUATTED, PeerRecord(), POLICY, 0.0)
        assert (standing.status, demands) == (DEGRADED, (Demand.IMPOSTOR,))
    assert hear(standing, SILENT, PeerRecord(episode_open=True)) == (DEGRADED, [])


@pytest.mark.parametrize(("restarts", "window_s"), [(1, 300.0), (2, 600.0), (3, 900.0)])
def test_the_budget_s_window_is_ten_intervals_for_each_restart(restarts: int, window_s: float) -> None:
    assert Policy(restarts_before_isolation=restarts).budget_window_s == window_s


def test_an_offline_peer_stays_offline_for_an_impostor() -> None:
    assert hear(missed(4), SQUATTED, PeerRecord()) == (OFFLINE, [Demand.IMPOSTOR])


@pytest.mark.parametrize(
    ("healthy_before", "restarts", "demands", "counted"),
    [
        (8, 1, [], 9),
        (9, 1, [Demand.FORGIVE], 10),
        (10, 3, [Demand.FORGIVE], 11),
        (9, 0, [], 0),
        (0, 1, [], 1),
    ],
)
def test_what_health_forgives(healthy_before: int, restarts: int, demands: list[Demand], counted: int) -> None:
    standing = Standing(restart_count=restarts, healthy_count=healthy_before)
    heard, found = ladder.hear(standing, WELL, PeerRecord(restart_count=restarts), POLICY, 0.0)
    assert (list(found), heard.healthy_count) == (demands, counted)


@pytest.mark.parametrize(("contested", "demands", "counted"), [(False, [Demand.FORGIVE], 11), (True, [], 10)])
def test_what_another_watcher_misses_forgives_nothing(contested: bool, demands: list[Demand], counted: int) -> None:
    standing, record = Standing(restart_count=1, healthy_count=10), PeerRecord(restart_count=1)
    heard, found = ladder.hear(standing, WELL, record, POLICY, 0.0, contested=contested)
    assert (list(found), heard.healthy_count) == (demands, counted)


def test_a_miss_in_between_takes_no_health_away_and_a_restart_does() -> None:
    record = PeerRecord(restart_count=1)
    standing, _ = ladder.hear(Standing(restart_count=1, healthy_count=6), SILENT, record, POLICY, 0.0)
    assert standing.healthy_count == 6
    assert ladder.learn(standing, replace(ORDERED, restart_count=2), POLICY).healthy_count == 0
    assert ladder.learn(standing, PeerRecord(restart_count=0), POLICY).healthy_count == 0


@pytest.mark.parametrize(("forgive_after_s", "count"), [(300.0, 10), (301.0, 11), (1.0, 1), (0.1, 1)])
def test_forgiveness_is_counted_in_heartbeats(forgive_after_s: float, count: int) -> None:
    assert Policy(forgive_after_s=forgive_after_s).forgive_after_count == count


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ({"interval_s": 0}, "interval_s: want seconds from 0.05 to 86400, got 0"),
        ({"interval_s": 0.049}, "interval_s: want seconds from 0.05 to 86400, got 0.049"),
        ({"interval_s": 86401}, "interval_s: want seconds from 0.05 to 86400, got 86401"),
        ({"interval_s": math.nan}, "interval_s: want seconds from 0.05 to 86400, got nan"),
        ({"interval_s": "30s"}, "interval_s: want seconds from 0.05 to 86400, got '30s'"),
        ({"timeout_s": 0.0}, "timeout_s: want seconds greater than 0 and at most 31622400, got 0.0"),
        ({"timeout_s": -1}, "timeout_s: want seconds greater than 0 and at most 31622400, got -1"),
        ({"forgive_after_s": math.inf}, "forgive_after_s: want seconds greater than 0 and at most 31622400, got inf"),
        ({"missed_before_restart": 0}, "missed_before_restart: want a whole number of at least 1, got 0"),
        ({"missed_before_restart": 2.5}, "missed_before_restart: want a whole number of at least 1, got 2.5"),
        ({"restarts_before_isolation": -3}, "restarts_before_isolation: want a whole number of at least 1, got -3"),
        ({"restarts_before_isolation": True}, "restarts_before_isolation: want a whole number of at least 1, got True"),
    ],
)
def test_numbers_that_are_no_policy(numbers: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Policy(**numbers)
    assert caught.value.problems == (wanted,)
    assert wanted in str(caught.value)


@pytest.mark.parametrize("interval_s", [0.05, 30, 86400])
def test_the_shortest_and_the_longest_interval(interval_s: float) -> None:
    assert Policy(interval_s=interval_s, missed_before_restart=1, restarts_before_isolation=1).interval_s == interval_s


class Peer(RuleBasedStateMachine):
    """One watcher's ladder with a record that changes as a mesh's does: orders end as they like, others act as well."""

    def __init__(self) -> None:
        super().__init__()
        self.standing, self.record = Standing(), PeerRecord()
        self.misses = 0
        self.restarts = 0
        self.demands: tuple[Demand, ...] = ()

    def _hear(self, beat: Heartbeat) -> None:
        age_s = self.record.ordered_age_s
        self.record = replace(self.record, ordered_age_s=None if age_s is None else age_s + POLICY.interval_s)
        self.misses = 0 if beat.healthy else self.misses + 1
        learned = ladder.learn(self.standing, self.record, POLICY)
        self.standing, self.demands = ladder.hear(learned, beat, self.record, POLICY, 0.0)
        self._check(beat)
        for demand in self.demands:
            self._follow(demand)

    def _check(self, beat: Heartbeat) -> None:
        asked = set(self.demands) & {Demand.RESTART, Demand.ISOLATE}
        if beat.healthy or beat.impostor or self.record.isolated or self.record.order_open:
            assert not asked
        if asked:
            assert self.misses >= POLICY.missed_before_restart
        if Demand.ISOLATE in asked:
            assert self.restarts >= POLICY.restarts_before_isolation
        if self.record.isolated:
            assert self.demands == ()

    def _follow(self, demand: Demand) -> None:
        record = self.record
        if demand in (Demand.RESTART, Demand.ISOLATE):
            action = Action.RESTART if demand is Demand.RESTART else Action.ISOLATE
            restart = action is Action.RESTART
            self.restarts += restart
            self.record = replace(
                record,
                token=record.token + 1,
                last_action=action,
                order=OrderState.OPEN,
                ordered_age_s=0.0,
                episode_open=True,
                restart_count=record.restart_count + restart,
            )
        elif demand is Demand.FORGIVE:
            self.restarts -= 1
            self.record = replace(record, restart_count=record.restart_count - 1)
        else:
            self.record = replace(record, episode_open=demand is not Demand.RESOLVE)

    @rule(beats=st.lists(st.sampled_from((WELL, SILENT, SILENT, SILENT, SQUATTED)), min_size=1, max_size=12))
    def heartbeats(self, beats: list[Heartbeat]) -> None:
        for beat in beats:
            self._hear(beat)

    @precondition(lambda self: self.record.order_open)
    @rule(state=st.sampled_from((OrderState.DONE, OrderState.DONE, OrderState.FAILED, OrderState.LAPSED)))
    def order_ends(self, state: OrderState) -> None:
        cut = self.record.last_action is Action.ISOLATE and state is OrderState.DONE
        self.record = replace(self.record, order=state, isolated_since=SINCE if cut else None)

    @precondition(lambda self: self.record.order_open)
    @rule()
    def order_is_never_begun(self) -> None:
        restart = self.record.last_action is Action.RESTART
        self.restarts -= restart
        self.record = replace(self.record, order=OrderState.VOID, restart_count=self.record.restart_count - restart)

    @precondition(lambda self: not self.record.order_open and not self.record.isolated)
    @rule()
    def another_watcher_restarts_it(self) -> None:
        self._follow(Demand.RESTART)

    @precondition(lambda self: not self.record.isolated)
    @rule()
    def an_operator_isolates_it(self) -> None:
        self.record = replace(self.record, isolated_since=SINCE)

    @precondition(lambda self: self.record.isolated)
    @rule()
    def an_operator_releases_it(self) -> None:
        self.restarts = 0
        self.record = replace(self.record, isolated_since=None, restart_count=0)

    @rule()
    def the_host_reboots(self) -> None:
        ended = {OrderState.OPEN: OrderState.LAPSED}
        order = ended.get(self.record.order, self.record.order) if self.record.order else None
        self.record = replace(self.record, order=order, ordered_age_s=None)

    @invariant()
    def an_isolation_is_not_forgotten(self) -> None:
        learned = ladder.learn(self.standing, self.record, POLICY)
        assert (learned.status is ISOLATED) is self.record.isolated


TestPeer = Peer.TestCase
TestPeer.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
