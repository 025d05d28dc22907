"""The status document is a contract: this file holds a copy of it."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from datetime import timedelta, timezone

import pytest

from tests.unit.status_views import NOW, ago, health, hostile, incident, peer
from watchdog.model import PeerStatus, Stats, Status
from watchdog.status.document import build, exit_status

GOLDEN = {
    "schema": "watchdog-mesh/status/1",
    "generated_at": "2026-03-01T03:00:00.250000Z",
    "self": "immune",
    "healthy": True,
    "watcher": {
        "ok": True,
        "reason": "",
        "loop_age_s": 0.5,
        "started_at": "2026-02-28T01:00:00.250000Z",
        "self_doubt": "",
        "storm": "",
        "score": 0,
    },
    "peers": [
        {
            "name": "sidecar",
            "endpoint": "http://127.0.0.1:9103/sidecar",
            "status": "HEALTHY",
            "last_seen": "2026-03-01T02:59:48.250000Z",
            "missed_count": 0,
            "restart_count": 0,
            "last_restart": None,
            "response_time_ms": 1.5,
            "detail": "HTTP 200",
            "verified": True,
            "isolated_since": None,
            "restarts_left": 3,
            "unasked": "",
            "votes": [],
            "votes_wanted": None,
            "silenced_until": "2026-03-01T03:30:00.250000Z",
        },
        {
            "name": "shield",
            "endpoint": "http://127.0.0.1:9103/shield",
            "status": "ISOLATED",
            "last_seen": "2026-03-01T02:47:00.250000Z",
            "missed_count": 26,
            "restart_count": 3,
            "last_restart": "2026-03-01T02:52:00.250000Z",
            "response_time_ms": None,
            "detail": "no answer within 5 s",
            "verified": False,
            "isolated_since": "2026-03-01T02:52:40.250000Z",
            "restarts_left": 0,
            "unasked": "",
            "votes": ["immune"],
            "votes_wanted": 2,
            "silenced_until": None,
        },
    ],
    "stats": {
        "total_checks": 5712,
        "total_misses": 26,
        "total_restarts": 3,
        "total_isolations": 1,
        "started_at": "2026-02-28T01:00:00.250000Z",
        "peer_count": 2,
    },
    "isolations": [
        {
            "peer": "shield",
            "unit": "shield.service",
            "cgroup": "/sys/fs/cgroup/system.slice/shield.service",
            "moved_from": None,
            "since": "2026-03-01T02:52:40.250000Z",
            "state": "isolated",
            "holds": True,
            "until": None,
            "overdue": False,
            "level": "network",
            "reason": "3 restarts did not help; still no answer within 5 s",
            "dropped": {
                "ingress": {"packets": 41230, "bytes": 3210000},
                "egress": {"packets": 12, "bytes": 720},
                "calls": 0,
                "frames": {"ingress": 0, "egress": 3},
            },
            "drift": "the egress program is no longer attached; it will be attached again",
            "partial": True,
            "paths": [
                {
                    "path": "E12a",
                    "title": "vsock, to the hypervisor or other guests",
                    "coverage": "not covered",
                    "why": "only lsm or freeze would stop it",
                }
            ],
        }
    ],
    "outbox": {"architect": {"pending": 2, "oldest_age_s": 430.0, "last_error": "HTTP 503", "gone_since": None}},
    "silences": [
        {"peer": "sidecar", "until": "2026-03-01T03:30:00.250000Z", "reason": "upgrade", "by": "root (login alice)"}
    ],
    "watchers": [
        {"name": "immune", "age_s": 4.5, "self_doubt": ""},
        {"name": "sidecar", "age_s": 20.0, "self_doubt": "the clock jumped by +3600 s"},
    ],
}
OF_THE_MESH = {"votes", "votes_wanted", "silenced_until"}


def test_document_is_the_copy_we_hold() -> None:
    document = build(incident())
    assert document == GOLDEN
    assert list(document) == list(GOLDEN)


def test_fixed_keys_come_first_and_none_is_forgotten() -> None:
    document = build(incident())
    assert set(document["peers"][0]) == {field.name for field in fields(PeerStatus)} | OF_THE_MESH
    assert list(document["stats"]) == [field.name for field in fields(Stats)]
    assert list(document["peers"][0])[:8] == [
        "name",
        "endpoint",
        "status",
        "last_seen",
        "missed_count",
        "restart_count",
        "last_restart",
        "response_time_ms",
    ]


def test_times_are_utc_whatever_zone_they_came_in() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert build(incident(generated_at=elsewhere))["generated_at"] == GOLDEN["generated_at"]


@pytest.mark.parametrize("age_s", [math.inf, -math.inf, math.nan])
def test_what_json_cannot_say_is_null(age_s: float) -> None:
    late = replace(health(ok=False), loop_age_s=age_s)
    document = build(incident(health=late, peers=[peer("a", response_time_ms=age_s)]))
    assert document["watcher"]["loop_age_s"] is None
    assert document["peers"][0]["response_time_ms"] is None
    json.dumps(document, allow_nan=False)


def test_doubt_and_storm_are_said() -> None:
    found = build(incident(health=replace(health(), self_doubt="deaf", storm="3 of 4", score=2)))["watcher"]
    assert (found["ok"], found["self_doubt"], found["storm"], found["score"]) == (True, "deaf", "3 of 4", 2)


def test_hostile_text_survives_json_unchanged() -> None:
    document = build(hostile())
    assert json.loads(json.dumps(document)) == document


UNKNOWN = peer("unknown", last_seen=None, response_time_ms=None)
IMPAIRED = peer("impaired", Status.DEGRADED, last_seen=ago(seconds=40), missed_count=1)


@pytest.mark.parametrize(
    ("peers", "code"),
    [
        ([], 0),
        ([peer("a")], 0),
        ([peer("a"), UNKNOWN], 3),
        ([peer("a"), peer("b", unasked="cannot use the TLS files /ca.pem")], 3),
        ([peer("a"), peer("b", unasked="cannot use the TLS files /ca.pem", status=Status.OFFLINE)], 1),
        ([peer("a"), replace(UNKNOWN, missed_count=1)], 0),
        ([UNKNOWN, IMPAIRED], 1),
        ([peer("a", Status.OFFLINE)], 1),
        ([replace(UNKNOWN, status=Status.DEGRADED)], 1),
        ([replace(UNKNOWN, status=Status.ISOLATED)], 2),
        ([IMPAIRED, peer("a", Status.ISOLATED)], 2),
        ([peer("a", Status.ISOLATED), UNKNOWN, peer("b")], 2),
    ],
)
def test_exit_status_is_the_worst(peers: list[PeerStatus], code: int) -> None:
    assert exit_status(peers) == code
    assert exit_status(list(reversed(peers))) == code
