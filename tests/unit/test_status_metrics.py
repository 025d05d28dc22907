"""The metrics are what Prometheus itself reads: parsed here by its own client's parser."""

from __future__ import annotations

import math
from dataclasses import replace

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import watchdog
from tests.unit.status_views import HOSTILE, NOW, SHIELD_CUT, health, hostile, incident, large, peer
from watchdog.model import Status
from watchdog.status.document import MeshView
from watchdog.status.metrics import render

Read = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(view: MeshView) -> Read:
    samples: list[Sample] = []
    for family in text_string_to_metric_families(render(view).decode("utf-8")):
        assert family.name.startswith("watchdog_mesh_")
        assert family.documentation
        assert family.type in ("gauge", "counter")
        samples += family.samples
    found = {(s.name.removeprefix("watchdog_mesh_"), tuple(sorted(s.labels.items()))): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_what_an_incident_looks_like() -> None:
    found = read(incident())
    place = {"peer": "shield", "cgroup": SHIELD_CUT.cgroup}
    expected = {
        of("build_info", version=watchdog.__version__): 1,
        of("healthy", self="immune"): 1,
        of("loop_age_seconds"): 0.5,
        of("checks_total"): 5712,
        of("misses_total"): 26,
        of("restarts_total"): 3,
        of("isolations_total"): 1,
        of("peers"): 2,
        of("peer_up", peer="sidecar"): 1,
        of("peer_up", peer="shield"): 0,
        of("peer_status", peer="shield", status="ISOLATED"): 1,
        of("peer_status", peer="shield", status="HEALTHY"): 0,
        of("peer_verified", peer="sidecar"): 1,
        of("peer_misses", peer="shield"): 26,
        of("peer_restarts", peer="shield"): 3,
        of("peer_last_seen_timestamp_seconds", peer="sidecar"): NOW.timestamp() - 12,
        of("probe_duration_seconds", peer="sidecar"): 0.0015,
        of("isolated", peer="shield"): 1,
        of("isolated", peer="sidecar"): 0,
        of("isolation_start_timestamp_seconds", **place): SHIELD_CUT.since.timestamp(),
        of("isolation_drift", **place): 1,
        of("dropped_packets_total", direction="ingress", **place): 41_230,
        of("dropped_packets_total", direction="egress", **place): 12,
        of("dropped_bytes_total", direction="ingress", **place): 3_210_000,
        of("dropped_bytes_total", direction="egress", **place): 720,
        of("dropped_frames_total", direction="ingress", **place): 0,
        of("dropped_frames_total", direction="egress", **place): 3,
        of("self_doubt"): 0,
        of("storm"): 0,
        of("local_health_score"): 0,
        of("peer_restarts_left", peer="shield"): 0,
        of("peer_restarts_left", peer="sidecar"): 3,
        of("peer_votes", peer="shield"): 1,
        of("peer_votes", peer="sidecar"): 0,
        of("peer_votes_wanted", peer="shield"): 2,
        of("peer_silenced", peer="shield"): 0,
        of("peer_silenced", peer="sidecar"): 1,
        of("watcher_age_seconds", watcher="immune"): 4.5,
        of("watcher_self_doubt", watcher="immune"): 0,
        of("watcher_self_doubt", watcher="sidecar"): 1,
        of("outbox_pending", receiver="architect"): 2,
        of("outbox_oldest_age_seconds", receiver="architect"): 430,
    }
    assert expected.items() <= found.items()
    assert of("probe_duration_seconds", peer="shield") not in found
    assert of("peer_votes_wanted", peer="sidecar") not in found


def test_doubt_and_storm() -> None:
    found = read(incident(health=replace(health(), self_doubt="deaf", storm="3 of 4", score=2)))
    assert (found[of("self_doubt")], found[of("storm")], found[of("local_health_score")]) == (1, 1, 2)
    assert found[of("healthy", self="immune")] == 1


def test_every_peer_has_exactly_one_status() -> None:
    peers = [peer(status.value, status) for status in Status]
    found = read(incident(peers=peers, isolations=[]))
    for one in peers:
        assert sum(found[of("peer_status", peer=one.name, status=status.value)] for status in Status) == 1


def test_hostile_labels_come_back_as_they_were() -> None:
    found = read(hostile())
    shown = HOSTILE.encode("utf-8", "backslashreplace").decode("utf-8")
    assert found[of("peer_up", peer=shown)] == 0
    assert found[of("outbox_pending", receiver=shown)] == 1


def test_repeated_names_do_not_spoil_the_scrape() -> None:
    view = incident(peers=[peer("a"), peer("a")], isolations=[SHIELD_CUT, SHIELD_CUT])
    assert read(view)[of("peer_up", peer="a")] == 1


def test_isolation_without_a_peer_is_counted_by_its_cgroup() -> None:
    bare = replace(SHIELD_CUT, peer="", unit="", cgroup="/sys/fs/cgroup/x")
    found = read(incident(isolations=[bare]))
    assert found[of("dropped_packets_total", peer="", cgroup="/sys/fs/cgroup/x", direction="egress")] == 12
    assert of("isolated", peer="") not in found


def test_never_heard_is_not_up_and_has_no_times() -> None:
    found = read(incident(peers=[peer("a", last_seen=None, response_time_ms=None)]))
    assert found[of("peer_up", peer="a")] == 0
    assert of("peer_last_seen_timestamp_seconds", peer="a") not in found


def test_unknown_loop_age_is_absent() -> None:
    found = read(incident(health=replace(health(ok=False), loop_age_s=math.inf, started_at=None)))
    assert of("loop_age_seconds") not in found
    assert of("start_time_seconds") not in found
    assert found[of("healthy", self="immune")] == 0


def test_nothing_stays_behind_in_the_process() -> None:
    before = set(REGISTRY._names_to_collectors)
    render(incident())
    assert set(REGISTRY._names_to_collectors) == before


def test_thousand_peers() -> None:
    found = read(large(1000))
    assert sum(value for (name, _), value in found.items() if name == "peer_up") == 1000
