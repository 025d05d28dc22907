"""The same view as Prometheus text. The only import of prometheus_client.

The registry lives for one request: no counter is kept here, so nothing can drift from the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import watchdog
from watchdog.mesh.overview import Overview
from watchdog.model import PeerStatus, Stats, Status
from watchdog.status.document import Backlog, IsolationView, MeshView, WatcherHealth, finite, is_unknown

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "watchdog_mesh_"
MS_PER_S = 1000.0

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float | None]]


def render(view: MeshView) -> bytes:
    """Prometheus text format 0.0.4."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(view))
    return generate_latest(registry)


class _Collector:
    """What prometheus_client asks for: something with a collect()."""

    def __init__(self, view: MeshView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view
        yield from _of_watcher(view.self_name, view.health)
        yield from _of_stats(view.stats)
        yield from _of_peers(view.peers)
        yield from _of_mesh(view.peers, view.mesh)
        yield from _of_isolations(view.peers, view.isolations)
        yield from _of_outbox(view.outbox)


def _of_watcher(name: str, health: WatcherHealth) -> Iterator[Metric]:
    yield _gauge("build_info", "Always 1; the version runs.", ("version",), [((watchdog.__version__,), 1)])
    yield _gauge("healthy", "1 while this watcher's loop is on time.", ("self",), [((name,), float(health.ok))])
    yield _gauge("loop_age_seconds", "Seconds since the loop last finished a round.", (), [((), health.loop_age_s)])
    started_s = health.started_at.timestamp() if health.started_at else None
    yield _gauge("start_time_seconds", "When this watcher started, Unix time.", (), [((), started_s)])
    yield _gauge("self_doubt", "1 while it doubts itself and acts on nobody.", (), [((), bool(health.self_doubt))])
    yield _gauge("storm", "1 while it isolates nobody, for too many peers are gone.", (), [((), bool(health.storm))])
    yield _gauge("local_health_score", "0 well, up to 8 the slower this watcher is.", (), [((), health.score)])


def _of_stats(stats: Stats) -> Iterator[Metric]:
    yield _counter("checks", "Probes made.", (), [((), stats.total_checks)])
    yield _counter("misses", "Probes missed.", (), [((), stats.total_misses)])
    yield _counter("restarts", "Restarts ordered.", (), [((), stats.total_restarts)])
    yield _counter("isolations", "Isolations ordered.", (), [((), stats.total_isolations)])
    yield _gauge("peers", "Peers watched.", (), [((), stats.peer_count)])


def _of_peers(peers: Iterable[PeerStatus]) -> Iterator[Metric]:
    def gauge(name: str, says: str, values: Iterable[float | None]) -> Metric:
        return _gauge(name, says, ("peer",), zip(((peer.name,) for peer in peers), values, strict=True))

    yield gauge("peer_up", "1 when the peer was heard and is HEALTHY.", (_is_up(peer) for peer in peers))
    yield _gauge(
        "peer_status",
        "1 for the status the mesh believes, 0 for the others.",
        ("peer", "status"),
        (((peer.name, status.value), float(peer.status is status)) for peer in peers for status in Status),
    )
    yield gauge("peer_verified", "1 when the answer proved whose it is.", (float(p.verified) for p in peers))
    yield gauge("peer_misses", "Probes missed in a row.", (peer.missed_count for peer in peers))
    yield gauge("peer_restarts", "Restarts counted towards isolation.", (peer.restart_count for peer in peers))
    yield gauge("peer_restarts_left", "Restarts left before isolation.", (peer.restarts_left for peer in peers))
    yield gauge(
        "peer_last_seen_timestamp_seconds",
        "When the peer last answered, Unix time; absent when never.",
        (peer.last_seen.timestamp() if peer.last_seen else None for peer in peers),
    )
    yield gauge(
        "probe_duration_seconds",
        "How long the last answer took; absent when nothing answered.",
        (None if p.response_time_ms is None else p.response_time_ms / MS_PER_S for p in peers),
    )


def _of_mesh(peers: Iterable[PeerStatus], mesh: Overview) -> Iterator[Metric]:
    names = [peer.name for peer in peers]
    yield _gauge(
        "peer_votes",
        "Watchers whose vote for its isolation counts now.",
        ("peer",),
        (((name,), len(mesh.votes[name].cast) if name in mesh.votes else 0) for name in names),
    )
    yield _gauge(
        "peer_votes_wanted",
        "Votes that isolate it; absent while nobody suspects it.",
        ("peer",),
        (((name,), mesh.votes[name].wanted) for name in names if name in mesh.votes),
    )
    silenced = (((name,), float(name in mesh.silences)) for name in names)
    yield _gauge("peer_silenced", "1 while nothing acts on it.", ("peer",), silenced)
    ages = (((member.watcher,), member.age_s) for member in mesh.members)
    yield _gauge(
        "watcher_age_seconds", "Seconds since that watcher was last there; absent when long.", ("watcher",), ages
    )
    doubts = (((member.watcher,), float(bool(member.self_doubt))) for member in mesh.members)
    yield _gauge("watcher_self_doubt", "1 while that watcher doubts itself.", ("watcher",), doubts)


def _of_isolations(peers: Iterable[PeerStatus], isolations: Iterable[IsolationView]) -> Iterator[Metric]:
    isolated = {peer.name: peer.status is Status.ISOLATED for peer in peers}
    isolated |= {isolation.peer: isolation.holds for isolation in isolations if isolation.peer}
    yield _gauge(
        "isolated",
        "1 while the peer's traffic is cut.",
        ("peer",),
        (((name,), float(cut)) for name, cut in isolated.items()),
    )
    place = ("peer", "cgroup")
    yield _gauge(
        "isolation_start_timestamp_seconds",
        "When the isolation began, Unix time.",
        place,
        ((_place(isolation), isolation.since.timestamp()) for isolation in isolations),
    )
    yield _gauge(
        "isolation_drift",
        "1 when the kernel does not hold what the journal intends.",
        place,
        ((_place(isolation), float(bool(isolation.drift))) for isolation in isolations),
    )
    yield _gauge(
        "isolation_uncovered_paths",
        "Ways for traffic that apply to the isolated agent and that no layer in force stops.",
        place,
        ((_place(isolation), len(isolation.uncovered)) for isolation in isolations),
    )
    each_way = (*place, "direction")
    yield _counter("dropped_packets", "Packets this isolation dropped.", each_way, _dropped(isolations, "packets"))
    yield _counter("dropped_bytes", "Bytes this isolation dropped.", each_way, _dropped(isolations, "bytes"))
    yield _counter("dropped_frames", "Frames this isolation dropped at links.", each_way, _frames(isolations))


def _of_outbox(outbox: Mapping[str, Backlog]) -> Iterator[Metric]:
    receiver = ("receiver",)
    yield _gauge(
        "outbox_pending",
        "Notifications the receiver has not taken yet.",
        receiver,
        (((name,), backlog.pending) for name, backlog in outbox.items()),
    )
    yield _gauge(
        "outbox_oldest_age_seconds",
        "Age of the oldest of them; absent when none waits.",
        receiver,
        (((name,), backlog.oldest_age_s) for name, backlog in outbox.items()),
    )


def _is_up(peer: PeerStatus) -> float:
    return float(peer.status is Status.HEALTHY and not is_unknown(peer))


def _place(isolation: IsolationView) -> Labels:
    return (isolation.peer, isolation.cgroup)


def _dropped(isolations: Iterable[IsolationView], what: str) -> Samples:
    for isolation in isolations:
        for direction in ("ingress", "egress"):
            yield (*_place(isolation), direction), getattr(isolation.dropped, f"{direction}_{what}")


def _frames(isolations: Iterable[IsolationView]) -> Samples:
    for isolation in isolations:
        yield (*_place(isolation), "ingress"), isolation.dropped.frames_in
        yield (*_place(isolation), "egress"), isolation.dropped.frames_out


def _gauge(name: str, says: str, labels: Labels, samples: Samples) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, says, labels=labels)
    for values, value in _unique(samples).items():
        family.add_metric(values, value)
    return family


def _counter(name: str, says: str, labels: Labels, samples: Samples) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + name, says, labels=labels)
    for values, value in _unique(samples).items():
        family.add_metric(values, value)
    return family


def _unique(samples: Samples) -> Mapping[Labels, float]:
    """One value for each set of labels: Prometheus refuses the whole scrape over a repeated one."""
    known: dict[Labels, float] = {}
    for labels, value in samples:
        if finite(value) is not None:
            known[tuple(_text(label) for label in labels)] = float(value or 0)
    return known


def _text(label: str) -> str:
    """The label as valid UTF-8; file names may hold bytes that are not."""
    return label.encode("utf-8", "backslashreplace").decode("utf-8")
