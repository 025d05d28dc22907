"""Views of a mesh for the tests of the status."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from watchdog.mesh.coordinator import Member, Silence
from watchdog.mesh.overview import Overview, Votes
from watchdog.model import PeerStatus, Stats, Status
from watchdog.paths.words import Coverage, Verdict
from watchdog.status.document import Backlog, Dropped, IsolationView, MeshView, WatcherHealth

NOW = datetime(2026, 3, 1, 3, 0, 0, 250_000, tzinfo=UTC)
DOUBT = "the clock jumped by +3600 s"
HOSTILE = '"><script>alert(1)</script>\n\\"x"} 1\u202e\x1b[31m\x00\udcff'


def ago(**age: float) -> datetime:
    return NOW - timedelta(**age)


def ahead(**time: float) -> datetime:
    return NOW + timedelta(**time)


def peer(name: str, status: Status = Status.HEALTHY, **changed: object) -> PeerStatus:
    known = PeerStatus(
        name=name,
        endpoint=f"http://127.0.0.1:9103/{name}",
        status=status,
        last_seen=ago(seconds=12),
        missed_count=0,
        restart_count=0,
        last_restart=None,
        response_time_ms=1.5,
        detail="HTTP 200",
        verified=True,
        restarts_left=3,
    )
    return replace(known, **changed)  # type: ignore[arg-type]


def health(*, ok: bool = True) -> WatcherHealth:
    reason = "" if ok else "the loop is 95 s late"
    return WatcherHealth(ok=ok, reason=reason, loop_age_s=0.5 if ok else 125.0, started_at=ago(hours=26))


SHIELD_CUT = IsolationView(
    peer="shield",
    unit="shield.service",
    cgroup="/sys/fs/cgroup/system.slice/shield.service",
    since=ago(minutes=7, seconds=20),
    level="network",
    reason="3 restarts did not help; still no answer within 5 s",
    dropped=Dropped(ingress_packets=41_230, ingress_bytes=3_210_000, egress_packets=12, egress_bytes=720, frames_out=3),
    drift="the egress program is no longer attached; it will be attached again",
    paths=(
        Verdict(
            "E12a",
            "vsock, to the hypervisor or other guests",
            Coverage.NOT_COVERED,
            "only lsm or freeze would stop it",
        ),
    ),
)


def incident(**changed: object) -> MeshView:
    """One of each: what an operator sees in the middle of the night."""
    view = MeshView(
        self_name="immune",
        peers=[
            peer("sidecar"),
            peer(
                "shield",
                Status.ISOLATED,
                last_seen=ago(minutes=13),
                missed_count=26,
                restart_count=3,
                last_restart=ago(minutes=8),
                response_time_ms=None,
                detail="no answer within 5 s",
                verified=False,
                isolated_since=SHIELD_CUT.since,
                restarts_left=0,
            ),
        ],
        stats=Stats(
            total_checks=5712,
            total_misses=26,
            total_restarts=3,
            total_isolations=1,
            started_at=ago(hours=26),
            peer_count=2,
        ),
        health=health(),
        isolations=[SHIELD_CUT],
        outbox={"architect": Backlog(pending=2, oldest_age_s=430.0, last_error="HTTP 503")},
        generated_at=NOW,
        mesh=Overview(
            members=(Member("immune", "", 4.5), Member("sidecar", DOUBT, 20.0)),
            votes={"shield": Votes(("immune",), wanted=2)},
            silences={"sidecar": Silence("sidecar", ahead(minutes=30), "upgrade", "root (login alice)")},
        ),
    )
    return replace(view, **changed)  # type: ignore[arg-type]


def hostile() -> MeshView:
    """Every text that comes from elsewhere tries to be markup, a label or a terminal sequence."""
    return incident(
        peers=[peer(HOSTILE, Status.OFFLINE, endpoint=HOSTILE, detail=HOSTILE)],
        isolations=[
            replace(
                SHIELD_CUT, peer=HOSTILE, unit=HOSTILE, cgroup=HOSTILE, level=HOSTILE, reason=HOSTILE, drift=HOSTILE
            )
        ],
        outbox={HOSTILE: Backlog(1, 1.0, HOSTILE)},
        health=replace(health(ok=False), reason=HOSTILE, self_doubt=HOSTILE, storm=HOSTILE),
        self_name=HOSTILE,
        mesh=Overview(
            members=(Member(HOSTILE, HOSTILE, 1.0),),
            votes={HOSTILE: Votes((HOSTILE,), wanted=2)},
            silences={HOSTILE: Silence(HOSTILE, NOW, HOSTILE, HOSTILE)},
        ),
    )


def large(peers: int) -> MeshView:
    return incident(peers=[peer(f"agent-{number:05}") for number in range(peers)], isolations=[])
