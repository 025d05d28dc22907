"""The ladder: from heartbeats to actions, as pure functions of (standing, heartbeat, policy, now).

A miss or two: DEGRADED, an alert. Three: OFFLINE, a restart. Three restarts that did not help: isolation.
Each watcher climbs for itself; what the mesh did in the meantime (another watcher's restart, an operator's
isolation or release) it learns from the shared record before it judges the next heartbeat.

A restart *helped* when the peer then stays healthy for `policy.forgive_after_s` without a break; each such
stretch takes one restart off the count. Until then a relapse climbs on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from watchdog.model import Action, Heartbeat, Status

MISSION_INTERVAL_S = 30.0
MISSION_TIMEOUT_S = 5.0
MISSION_MISSES = 3
MISSION_RESTARTS = 3
SPACING_SLACK = 0.2
"""Share of an interval by which two orders may be closer than their misses say: heartbeats are jittered."""
FORGIVE_AFTER_INTERVALS = 10
"""Healthy time that forgives one restart: five minutes at 30 s, so that three restarts are three in fifteen minutes."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The ladder's numbers; the defaults are the mission's (SEC-004)."""

    interval_s: float = MISSION_INTERVAL_S
    timeout_s: float = MISSION_TIMEOUT_S
    missed_before_restart: int = MISSION_MISSES
    restarts_before_isolation: int = MISSION_RESTARTS
    forgive_after_s: float = MISSION_INTERVAL_S * FORGIVE_AFTER_INTERVALS


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
    healthy_since_s: float | None = None
    """When the present unbroken run of healthy heartbeats began; None after a miss and before the first one."""
    impostor: bool = False


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What the mesh knows of one peer: shared by all watchers, kept by the Coordinator."""

    token: int = 0
    last_action: Action | None = None
    last_failed: bool = False
    """The order with that token ended without success (a failed restart has been counted all the same)."""
    ordered_s: float | None = None
    """When that order was given; None when there is none, or on another boot."""
    order_open: bool = False
    """An order is being carried out: nobody asks for another."""
    episode: int = 0
    episode_open: bool = False
    restart_count: int = 0
    forgiven_s: float | None = None
    last_restart: datetime | None = None
    isolated_since: datetime | None = None

    @property
    def isolated(self) -> bool:
        """Its traffic is cut."""
        return self.isolated_since is not None


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
    standing = replace(standing, restart_count=record.restart_count)
    if record.token <= standing.token or record.order_open:
        return standing
    return replace(standing, token=record.token, misses_since_order=_misses_kept(record, policy))


def _misses_kept(record: PeerRecord, policy: Policy) -> int:
    """After a restart the count begins anew; an isolation that failed is tried again at the next miss."""
    if record.last_action is Action.ISOLATE and record.last_failed:
        return policy.missed_before_restart - 1
    return 0


def hear(
    standing: Standing, beat: Heartbeat, record: PeerRecord, policy: Policy, now_s: float
) -> tuple[Standing, tuple[Demand, ...]]:
    """Judge one heartbeat. `standing` has learned `record`; `now_s` is CLOCK_BOOTTIME in seconds."""
    if beat.healthy:
        return _heard(standing, record, policy, now_s)
    missed = replace(
        standing,
        missed_count=standing.missed_count + 1,
        misses_since_order=standing.misses_since_order + 1,
        healthy_since_s=None,
        impostor=beat.impostor,
    )
    if standing.status is Status.ISOLATED:
        return missed, ()
    if beat.impostor:
        return _squatted(missed)
    return _climb(missed, record, policy, now_s)


def _heard(standing: Standing, record: PeerRecord, policy: Policy, now_s: float) -> tuple[Standing, tuple[Demand, ...]]:
    since_s = now_s if standing.healthy_since_s is None else standing.healthy_since_s
    heard = replace(standing, missed_count=0, misses_since_order=0, healthy_since_s=since_s, impostor=False)
    if standing.status is Status.ISOLATED:
        return heard, ()  # only a release ends an isolation, whatever the peer answers
    demands = [Demand.RESOLVE] if record.episode_open else []
    counted_from_s = max(since_s, record.forgiven_s or 0.0)
    if record.restart_count and now_s - counted_from_s >= policy.forgive_after_s:
        demands.append(Demand.FORGIVE)
    return replace(heard, status=Status.HEALTHY), tuple(demands)


def _squatted(missed: Standing) -> tuple[Standing, tuple[Demand, ...]]:
    """Somebody else answers in the peer's place: a restart of the innocent peer would not help."""
    status = Status.OFFLINE if missed.status is Status.OFFLINE else Status.DEGRADED
    return replace(missed, status=status, misses_since_order=0), (Demand.IMPOSTOR,)


def _too_soon(record: PeerRecord, policy: Policy, now_s: float) -> bool:
    """Another watcher's order is younger than the misses that the next one needs.

    Watchers tick at different times: without this the second could order after little more than two intervals.
    """
    if record.ordered_s is None or (record.last_action is Action.ISOLATE and record.last_failed):
        return False
    return now_s - record.ordered_s < (policy.missed_before_restart - SPACING_SLACK) * policy.interval_s


def _climb(missed: Standing, record: PeerRecord, policy: Policy, now_s: float) -> tuple[Standing, tuple[Demand, ...]]:
    if missed.misses_since_order < policy.missed_before_restart:
        status = Status.OFFLINE if missed.status is Status.OFFLINE else Status.DEGRADED
        return replace(missed, status=status), (() if record.episode_open else (Demand.ALERT,))
    offline = replace(missed, status=Status.OFFLINE)
    if record.order_open or _too_soon(record, policy, now_s):
        return offline, ()
    if missed.restart_count < policy.restarts_before_isolation:
        return offline, (Demand.RESTART,)
    return offline, (Demand.ISOLATE,)
