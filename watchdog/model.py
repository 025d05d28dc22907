"""The words everything else is written in: statuses, actions, severities and the documents others read.

Names and JSON keys are the mission's and do not change; new facts are added beside them. Times are aware
datetimes in UTC (RFC 3339 in JSON); durations and ages are seconds of CLOCK_BOOTTIME, which every watcher
of a host shares and which no clock step moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Status(StrEnum):
    """What the mesh believes of a peer."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    OFFLINE = "OFFLINE"
    ISOLATED = "ISOLATED"


class Action(StrEnum):
    """What the ladder can ask for."""

    ALERT = "alert"
    RESTART = "restart"
    ISOLATE = "isolate"
    ALERT_ARCHITECT = "alert_architect"


class Severity(StrEnum):
    """How loud an escalation is."""

    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"

    @property
    def rank(self) -> int:
        """0 for the mildest; compare severities by it."""
        return list(Severity).index(self)


class EventState(StrEnum):
    """Whether an escalation begins or ends something."""

    FIRING = "FIRING"
    RESOLVED = "RESOLVED"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one start of an agent had come at the last probe."""

    instance: str
    seq: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The result of one probe. A silent peer is a value, not an exception."""

    peer: str
    healthy: bool
    detail: str
    """One short sentence for people: "HTTP 200", "no answer within 5 s", "connection refused"."""
    response_time_ms: float | None = None
    """From the first byte sent to the last byte read; None when nothing answered."""
    verified: bool = False
    """The answer proved whose it is (docs/architecture.md, The heartbeat)."""
    impostor: bool = False
    """Somebody else answered in the peer's place: never healthy, an alarm, and no reason to restart the peer."""
    evidence: str = ""
    """What this host itself says against a silent peer ("unit shield.service is failed"); empty when nothing."""
    unit_down: bool = False
    """systemd itself reports the peer's unit failed or dead."""
    unfinished: str = ""
    """Another agent's restart that systemd has not ended: this one is not restarted meanwhile. Empty for none."""
    progress: Progress | None = None
    """What it said of its progress, or said last; None while it said nothing of it."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer as the status document shows it: a copy, never a live object."""

    name: str
    endpoint: str
    status: Status
    last_seen: datetime | None
    missed_count: int
    restart_count: int
    last_restart: datetime | None
    response_time_ms: float | None
    detail: str = ""
    verified: bool = False
    isolated_since: datetime | None = None
    restarts_left: int = 0
    """Of the budget: how many more before it is isolated."""
    unasked: str = ""
    """Why this watcher could not ask it for as many rounds as it may be missed; empty when it can."""


@dataclass(frozen=True, slots=True)
class Escalation:
    """Something the mesh did or wants people to know, as handlers and webhooks receive it."""

    timestamp: datetime
    peer_name: str
    action: Action
    reason: str
    severity: Severity
    state: EventState = EventState.FIRING
    watcher: str = ""
    episode: int = 0
    """Counts a peer's troubles on this host; every event of one trouble carries the same number."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one monitor since it was created."""

    total_checks: int
    total_misses: int
    total_restarts: int
    total_isolations: int
    started_at: datetime | None
    peer_count: int
