"""The ladder: from heartbeats to actions, as pure functions of (standing, heartbeat, policy, now).

A miss or two: DEGRADED, an alert. Three: OFFLINE, a restart. Three restarts that did not help: isolation.
Each watcher climbs for itself; what the mesh did in the meantime (another watcher's restart, an operator's
isolation or release) it learns from the shared record before it judges the next heartbeat.

A restart is forgiven for every `policy.forgive_after_s` worth of healthy heartbeats since the last one, whether or
not a single miss lies between them: a peer that is there most of the time is not isolated, however long that goes on.
Until then a relapse climbs on where it stopped. However much is forgiven, no more than the whole budget is used up in
`policy.budget_window_s`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum

from watchdog.errors import ConfigurationError
from watchdog.model import Action, Heartbeat, Status
from watchdog.spans import LEAST_INTERVAL_S, LONGEST_INTERVAL_S, LONGEST_S

MISSION_INTERVAL_S = 30.0
MISSION_TIMEOUT_S = 5.0
MISSION_MISSES = 3
MISSION_RESTARTS = 3
SPACING_SLACK = 0.2
"""Share of an interval by which two orders may be closer than their misses say: no round begins exactly on time."""
FORGIVE_AFTER_INTERVALS = 10
"""Healthy heartbeats that forgive one restart: five minutes, so that three restarts are three in a quarter hour."""
MOST_BACKOFF_INTERVALS = 20
"""The longest wait between two isolations that come to nothing: ten minutes."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The ladder's numbers; the defaults are the mission's (SEC-004). Raises ConfigurationError for what are none."""

    interval_s: float = MISSION_INTERVAL_S
    timeout_s: float = MISSION_TIMEOUT_S
    missed_before_restart: int = MISSION_MISSES
    restarts_before_isolation: int = MISSION_RESTARTS
    forgive_after_s: float = MISSION_INTERVAL_S * FORGIVE_AFTER_INTERVALS
    single_observer: bool = False
    """Nobody else will ever watch, and nothing is cut off by us: one word is enough to say that it should be."""

    def __post_init__(self) -> None:
        if problems := list(_problems(self)):
            raise ConfigurationError(f"the policy cannot be used: {'; '.join(problems)}", problems=problems)

    @property
    def budget_window_s(self) -> float:
        """In this time no more than `restarts_before_isolation` restarts of a peer begin, whatever was forgiven."""
        return self.restarts_before_isolation * FORGIVE_AFTER_INTERVALS * self.interval_s

    @property
    def forgive_after_count(self) -> int:
        """Healthy heartbeats that forgive one restart."""
        return math.ceil(self.forgive_after_s / self.interval_s)


def _problems(policy: Policy) -> Iterator[str]:
    """What is wrong with its numbers; `not ... <=` because NaN compares with nothing."""
    if not _is_number(policy.interval_s) or not LEAST_INTERVAL_S <= policy.interval_s <= LONGEST_INTERVAL_S:
        yield f"interval_s: want seconds from {LEAST_INTERVAL_S:g} to {LONGEST_INTERVAL_S:g}, got {policy.interval_s!r}"
    for name in ("timeout_s", "forgive_after_s"):
        span_s = getattr(policy, name)
        if not _is_number(span_s) or not 0 < span_s <= LONGEST_S:
            yield f"{name}: want seconds greater than 0 and at most {LONGEST_S:.0f}, got {span_s!r}"
    for name in ("missed_before_restart", "restarts_before_isolation"):
        count = getattr(policy, name)
        if not _is_number(count) or not isinstance(count, int) or count < 1:
            yield f"{name}: want a whole number of at least 1, got {count!r}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Standing:
    """What one watcher believes of one peer."""

    status: Status = Status.HEALTHY
    missed_count: int = 0
    """Misses in a row, whatever was done in between."""
    misses_since_order: int = 0
    """Misses in a row since the last restart or failed isolation: what the next rung is counted from."""
    token: int = 0
    """The newest order on this peer that this watcher knows of."""
    restart_count: int = 0
    """Restarts not yet forgiven, by whichever watcher."""
    healthy_count: int = 0
    """Healthy heartbeats, in a row or not, since the last restart or forgiveness; only counted while one is owed."""


class OrderState(StrEnum):
    """What became of an order."""

    OPEN = "open"
    """Given, or being carried out: nobody asks for another."""
    DONE = "done"
    FAILED = "failed"
    VOID = "void"
    """It ended without anything having been done."""
    LAPSED = "lapsed"
    """It was begun, and whoever carried it out never said how it ended."""


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What the mesh knows of one peer: shared by all watchers, kept by the Coordinator. Its ages make no difference."""

    token: int = 0
    """The newest order; what the next five say is about that one."""
    last_action: Action | None = None
    order: OrderState | None = None
    order_episode: int = 0
    ordered_age_s: float | None = field(default=None, compare=False)
    """How long before this record was read the round began in which it was asked for; None where that is not known."""
    begun_age_s: float | None = field(default=None, compare=False)
    """How long before this record was read it was begun; None when it was not, or where that is not known."""
    episode: int = 0
    episode_open: bool = False
    restart_count: int = 0
    """Restarts begun and not yet forgiven."""
    last_restart: datetime | None = None
    isolated_since: datetime | None = None
    isolations_tried: int = 0
    """Isolations begun and not done in the newest order's episode, since anybody was released; 0 when it is none."""

    @property
    def isolated(self) -> bool:
        """Its traffic is cut."""
        return self.isolated_since is not None

    @property
    def order_open(self) -> bool:
        """An order is being carried out: nobody asks for another."""
        return self.order is OrderState.OPEN

    @property
    def in_vain(self) -> bool:
        """The newest order changed nothing, and is asked for again: at the next miss, or after a while."""
        if self.order is OrderState.VOID:
            return True
        return self.last_action is Action.ISOLATE and self.order in (OrderState.FAILED, OrderState.LAPSED)


class Demand(Enum):
    """What a heartbeat asks the mesh to do."""

    ALERT = "alert"
    IMPOSTOR = "impostor"
    RESTART = "restart"
    ISOLATE = "isolate"
    RESOLVE = "resolve"
    FORGIVE = "forgive"


def learn(standing: Standing, record: PeerRecord, policy: Policy) -> Standing:
    """Take over what the mesh did to the peer since this watcher last looked."""
    if record.isolated:
        return replace(standing, status=Status.ISOLATED, token=record.token, restart_count=record.restart_count)
    if standing.status is Status.ISOLATED:
        return Standing(status=Status.DEGRADED, token=record.token, restart_count=record.restart_count)
    if record.restart_count != standing.restart_count:
        forgiven = record.restart_count < standing.restart_count
        healthy_count = 0 if forgiven else standing.healthy_count
        standing = replace(standing, restart_count=record.restart_count, healthy_count=healthy_count)
    if record.token == standing.token or record.order_open:
        return standing
    misses = min(policy.missed_before_restart - 1, standing.missed_count) if record.in_vain else 0
    return replace(standing, token=record.token, misses_since_order=misses, healthy_count=0)


def hear(
    standing: Standing,
    beat: Heartbeat,
    record: PeerRecord,
    policy: Policy,
    round_age_s: float,
    *,
    contested: bool = False,
) -> tuple[Standing, tuple[Demand, ...]]:
    """Judge one heartbeat. `standing` has learned `record`, and this round began `round_age_s` before that was read.

    `contested`: another watcher, which trusts itself, misses the peer. What only one of them hears forgives nothing.
    """
    if beat.healthy:
        return _heard(standing, record, policy, contested=contested)
    missed = replace(
        standing,
        missed_count=standing.missed_count + 1,
        misses_since_order=standing.misses_since_order + 1,
    )
    if standing.status is Status.ISOLATED:
        return missed, ()
    if beat.impostor:
        return _squatted(missed)
    return _climb(missed, record, policy, round_age_s)


def _heard(
    standing: Standing, record: PeerRecord, policy: Policy, *, contested: bool
) -> tuple[Standing, tuple[Demand, ...]]:
    isolated = standing.status is Status.ISOLATED
    owed = record.restart_count > 0 and not isolated
    counts = 0 if contested else 1
    heard = replace(
        standing,
        status=Status.ISOLATED if isolated else Status.HEALTHY,
        missed_count=0,
        misses_since_order=0,
        healthy_count=standing.healthy_count + counts if owed else 0,
    )
    if isolated:
        return heard, ()  # only a release ends an isolation, whatever the peer answers
    demands = [Demand.RESOLVE] if record.episode_open else []
    if owed and counts and heard.healthy_count >= policy.forgive_after_count:
        demands.append(Demand.FORGIVE)
    return heard, tuple(demands)


def _squatted(missed: Standing) -> tuple[Standing, tuple[Demand, ...]]:
    """Somebody else answers in the peer's place: a restart of the innocent peer would not help."""
    return replace(_degraded(missed), misses_since_order=0), (Demand.IMPOSTOR,)


def _degraded(missed: Standing) -> Standing:
    return missed if missed.status is Status.OFFLINE else replace(missed, status=Status.DEGRADED)


def _too_soon(record: PeerRecord, policy: Policy, round_age_s: float) -> bool:
    """The last order is younger than the misses that the next one needs.

    Watchers tick at different times: without this the second could order after little more than two intervals.
    """
    if record.ordered_age_s is None:
        return False
    intervals = _backoff_intervals(record) if record.in_vain else policy.missed_before_restart
    return record.ordered_age_s - round_age_s < (intervals - SPACING_SLACK) * policy.interval_s


def _backoff_intervals(record: PeerRecord) -> int:
    """What comes to nothing again and again, as a rail objects, is tried after 1, 2, 4 ... intervals."""
    return min(2 ** (record.isolations_tried - 1), MOST_BACKOFF_INTERVALS) if record.isolations_tried else 0


def _climb(
    missed: Standing, record: PeerRecord, policy: Policy, round_age_s: float
) -> tuple[Standing, tuple[Demand, ...]]:
    if missed.misses_since_order < policy.missed_before_restart:
        return _degraded(missed), (() if record.episode_open else (Demand.ALERT,))
    offline = replace(missed, status=Status.OFFLINE)
    if record.order_open or _too_soon(record, policy, round_age_s):
        return offline, ()
    if missed.restart_count < policy.restarts_before_isolation:
        return offline, (Demand.RESTART,)
    return offline, (Demand.ISOLATE,)
