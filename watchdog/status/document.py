"""The status document: what this watcher tells others, built in one place.

`/`, `watchdog-mesh status --json`, the page and the metrics all start from one `MeshView`, a copy taken at one
moment, so that they never disagree. The keys self, peers and stats and those inside peers and stats are fixed;
new facts stand beside them. tests/unit/test_status_document.py holds a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from watchdog.clock import rfc3339
from watchdog.mesh.coordinator import Member, Silence
from watchdog.mesh.overview import NOTHING_SAID, Overview
from watchdog.model import PeerStatus, Stats, Status
from watchdog.paths.words import Coverage, Verdict

SCHEMA = "watchdog-mesh/status/1"

EXIT_HEALTHY = 0
EXIT_IMPAIRED = 1
EXIT_ISOLATED = 2
EXIT_UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class WatcherHealth:
    """How this watcher itself is. `ok` is false when its loop is late; `reason` then says so in a sentence."""

    ok: bool
    reason: str
    loop_age_s: float
    """Seconds since the loop last finished a round; not finite when it never did."""
    started_at: datetime | None
    self_doubt: str = ""
    """Why it acts on nobody and has no vote; empty while it trusts itself."""
    storm: str = ""
    """Why it isolates nobody: too many peers became suspect at once; empty in fair weather."""
    score: int = 0
    """Local health: 0 well, up to 8 the slower this watcher is; it is the more patient with its peers."""


class Dropped(NamedTuple):
    """What an isolation has dropped since it began, each way as seen from the peer."""

    ingress_packets: int = 0
    ingress_bytes: int = 0
    egress_packets: int = 0
    egress_bytes: int = 0
    frames_in: int = 0
    """Dropped at links, and in no other figure."""
    frames_out: int = 0


NOTHING_DROPPED = Dropped()


@dataclass(frozen=True, slots=True)
class IsolationView:
    """One isolation in force, as the kernel and the journal together show it."""

    peer: str
    """The configured peer; empty when a bare unit, process or cgroup was isolated."""
    unit: str
    cgroup: str
    since: datetime
    level: str
    reason: str
    dropped: Dropped = NOTHING_DROPPED
    drift: str = ""
    """What differs between the journal's intent and the kernel; empty when they agree."""
    paths: tuple[Verdict, ...] = ()
    """What holds of it, path by path; none while nothing of it runs."""
    moved_from: str = ""
    """The cgroup that its processes shared before this one was made for them; empty where it is their own."""
    until: datetime | None = None
    """When it ends by itself; None where a person has to release it."""
    overdue: bool = False
    """Whether that time has come, and nobody has released it."""
    holds: bool = True
    """Whether the kernel cuts it off."""
    holds_nothing: bool = False
    """Whether nothing of it runs where it is held, and there is nothing to put back."""
    state: str = "isolated"
    """Where the intent stands: isolating and releasing are of a command that has not ended, or was killed."""
    refused: int = 0
    """Calls of its that were refused before there was a packet."""

    @property
    def uncovered(self) -> tuple[Verdict, ...]:
        """The paths that are open to it."""
        return tuple(each for each in self.paths if each.coverage is Coverage.NOT_COVERED)


class Backlog(NamedTuple):
    """Notifications that one receiver has not taken yet. `gone_since`: it answered 410, and gets no more."""

    pending: int
    oldest_age_s: float | None
    last_error: str = ""
    gone_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class MeshView:
    """Everything the status shows, copied at `generated_at`."""

    self_name: str
    peers: Sequence[PeerStatus]
    stats: Stats
    health: WatcherHealth
    isolations: Sequence[IsolationView]
    outbox: Mapping[str, Backlog]
    generated_at: datetime
    mesh: Overview = NOTHING_SAID


def build(view: MeshView) -> dict[str, Any]:
    """The status document, ready for JSON: times are RFC 3339 UTC or null, every number is finite or null."""
    return {
        "schema": SCHEMA,
        "generated_at": rfc3339(view.generated_at),
        "self": view.self_name,
        "healthy": view.health.ok,
        "watcher": _watcher(view.health),
        "peers": [_peer(peer) | _of_mesh(peer.name, view.mesh) for peer in view.peers],
        "stats": _stats(view.stats),
        "isolations": [isolation_facts(isolation) for isolation in view.isolations],
        "outbox": {receiver: backlog_facts(backlog) for receiver, backlog in view.outbox.items()},
        "silences": [silence_facts(silence) for silence in view.mesh.silences.values()],
        "watchers": [_member(member) for member in view.mesh.members],
    }


def exit_status(peers: Iterable[PeerStatus]) -> int:
    """What `watchdog-mesh status` ends with: the worst of all peers.

    In this order, worst first: 2 a peer is isolated; 1 one is degraded or offline; 3 nothing is known of one;
    0 all are healthy. No peers at all is 0.
    """
    found = {_exit_of(peer) for peer in peers}
    return next((code for code in (EXIT_ISOLATED, EXIT_IMPAIRED, EXIT_UNKNOWN) if code in found), EXIT_HEALTHY)


def is_unknown(peer: PeerStatus) -> bool:
    """Nothing speaks against this peer, and nothing for it: never heard and never missed, or it cannot be asked."""
    never = peer.last_seen is None and peer.missed_count == 0
    return peer.status is Status.HEALTHY and (never or bool(peer.unasked))


def finite(number: float | None) -> float | None:
    """The number, or None for what JSON cannot say (infinities, NaN)."""
    return number if number is not None and math.isfinite(number) else None


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _exit_of(peer: PeerStatus) -> int:
    if peer.status is Status.ISOLATED:
        return EXIT_ISOLATED
    if peer.status is not Status.HEALTHY:
        return EXIT_IMPAIRED
    return EXIT_UNKNOWN if is_unknown(peer) else EXIT_HEALTHY


def _watcher(health: WatcherHealth) -> dict[str, Any]:
    return {
        "ok": health.ok,
        "reason": health.reason,
        "loop_age_s": finite(health.loop_age_s),
        "started_at": _time(health.started_at),
        "self_doubt": health.self_doubt,
        "storm": health.storm,
        "score": health.score,
    }


def _peer(peer: PeerStatus) -> dict[str, Any]:
    return {
        "name": peer.name,
        "endpoint": peer.endpoint,
        "status": peer.status.value,
        "last_seen": _time(peer.last_seen),
        "missed_count": peer.missed_count,
        "restart_count": peer.restart_count,
        "last_restart": _time(peer.last_restart),
        "response_time_ms": finite(peer.response_time_ms),
        "detail": peer.detail,
        "verified": peer.verified,
        "isolated_since": _time(peer.isolated_since),
        "restarts_left": peer.restarts_left,
        "unasked": peer.unasked,
    }


def _of_mesh(peer: str, mesh: Overview) -> dict[str, Any]:
    """What all watchers of the host say of the peer."""
    votes, silence = mesh.votes.get(peer), mesh.silences.get(peer)
    return {
        "votes": list(votes.cast) if votes else [],
        "votes_wanted": votes.wanted if votes else None,
        "silenced_until": _time(silence.until) if silence else None,
    }


def silence_facts(silence: Silence) -> dict[str, Any]:
    return {"peer": silence.peer, "until": rfc3339(silence.until), "reason": silence.reason, "by": silence.by}


def _member(member: Member) -> dict[str, Any]:
    return {"name": member.watcher, "age_s": finite(member.age_s), "self_doubt": member.self_doubt}


def _stats(stats: Stats) -> dict[str, Any]:
    return {
        "total_checks": stats.total_checks,
        "total_misses": stats.total_misses,
        "total_restarts": stats.total_restarts,
        "total_isolations": stats.total_isolations,
        "started_at": _time(stats.started_at),
        "peer_count": stats.peer_count,
    }


def isolation_facts(isolation: IsolationView) -> dict[str, Any]:
    dropped = isolation.dropped
    return {
        "peer": isolation.peer or None,
        "unit": isolation.unit or None,
        "cgroup": isolation.cgroup,
        "moved_from": isolation.moved_from or None,
        "since": rfc3339(isolation.since),
        "state": isolation.state,
        "holds": isolation.holds,
        "until": _time(isolation.until),
        "overdue": isolation.overdue,
        "level": isolation.level,
        "reason": isolation.reason,
        "dropped": {
            "ingress": {"packets": dropped.ingress_packets, "bytes": dropped.ingress_bytes},
            "egress": {"packets": dropped.egress_packets, "bytes": dropped.egress_bytes},
            "calls": isolation.refused,
            "frames": {"ingress": dropped.frames_in, "egress": dropped.frames_out},
        },
        "drift": isolation.drift,
        "partial": bool(isolation.drift or isolation.uncovered),
        "paths": [asdict(path) for path in isolation.paths],
    }


def backlog_facts(backlog: Backlog) -> dict[str, Any]:
    return {
        "pending": backlog.pending,
        "oldest_age_s": finite(backlog.oldest_age_s),
        "last_error": backlog.last_error,
        "gone_since": _time(backlog.gone_since),
    }
