"""The monitor on real sockets with short intervals: what hangs or fails beside it, and how it is embedded."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.agents import HANG_S, Agent, Told, agents, eventually
from tests.unit.certificates import Authority
from watchdog import Monitor, clock
from watchdog.errors import ConfigurationError, JournalFailed, UsageError
from watchdog.heartbeat import Pulse, serve
from watchdog.journal import Journal, set_aside
from watchdog.ladder import Policy
from watchdog.loop import JITTER_SHARE, jumps, next_tick_s
from watchdog.mesh.coordinator import Order, Outcome, Silence
from watchdog.mesh.local import LocalCoordinator
from watchdog.mesh.overview import NOTHING_SAID, Votes
from watchdog.model import Action, Escalation, EventState, Heartbeat, Severity, Status
from watchdog.monitor import is_due
from watchdog.outbox import Outbox
from watchdog.probe import Target
from watchdog.status.document import is_unknown

INTERVAL_S = 0.12
FAST = Policy(interval_s=INTERVAL_S, timeout_s=INTERVAL_S / 2, forgive_after_s=60 * INTERVAL_S)
PATIENT = dataclasses.replace(FAST, missed_before_restart=1000)
"""Nobody is restarted while a test looks at something else."""


@pytest.fixture
def mesh() -> Iterator[dict[str, Agent]]:
    with agents("shield", "sidecar") as made:
        yield made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def monitors() -> Iterator[Callable[..., Monitor]]:
    """Makes monitors of `mesh`; each is stopped with the test."""
    made: list[Monitor] = []

    def make(mesh: dict[str, Agent], policy: Policy = FAST, **parts: object) -> Monitor:
        monitor = Monitor("immune", policy, **parts)  # type: ignore[arg-type]
        for name, agent in mesh.items():
            monitor.register_peer(name, agent.endpoint)
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.stop()


Monitors = Callable[..., Monitor]


def status(monitor: Monitor, peer: str = "shield") -> Status:
    found = monitor.get_peer_status(peer)
    assert found is not None
    return found.status


def is_status(monitor: Monitor, wanted: Status, peer: str = "shield") -> Callable[[], bool]:
    return lambda: status(monitor, peer) is wanted


# As a library, without journal, actions or root


def test_embedded_in_an_agent(mesh: dict[str, Agent], monitors: Monitors) -> None:
    heard: list[Escalation] = []
    monitor = monitors(mesh)
    monitor.on_escalation(heard.append)
    monitor.start()
    eventually(lambda: monitor.stats().total_checks >= 4)
    assert {peer.name: peer.status for peer in monitor.all_peers()} == dict.fromkeys(mesh, Status.HEALTHY)
    mesh["shield"].go_down()
    eventually(is_status(monitor, Status.ISOLATED))
    eventually(lambda: heard and heard[-1].action is Action.ALERT_ARCHITECT)
    assert [(e.action, e.severity) for e in heard] == [
        (Action.ALERT, Severity.MEDIUM),
        (Action.RESTART, Severity.HIGH),
        (Action.RESTART, Severity.HIGH),
        (Action.RESTART, Severity.HIGH),
        (Action.ISOLATE, Severity.CRITICAL),
        (Action.ALERT_ARCHITECT, Severity.CRITICAL),
    ]
    assert {e.peer_name for e in heard} == {"shield"}
    assert status(monitor, "sidecar") is Status.HEALTHY
    stats = monitor.stats()
    assert (stats.total_restarts, stats.total_isolations, stats.peer_count) == (3, 1, 2)
    assert stats.started_at is not None
    mesh["shield"].come_up()
    monitor.release_peer("shield")
    eventually(is_status(monitor, Status.HEALTHY))
    eventually(lambda: heard[-1].state is EventState.RESOLVED)


def test_what_it_gives_out_are_copies(mesh: dict[str, Agent], monitors: Monitors) -> None:
    monitor = monitors(mesh)
    before = monitor.get_peer_status("shield")
    listed, stats = monitor.all_peers(), monitor.stats()
    assert before is not None
    assert (before.status, before.last_seen, before.endpoint) == (Status.HEALTHY, None, mesh["shield"].endpoint)
    assert monitor.get_peer_status("nobody") is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.missed_count = 7  # type: ignore[misc]
    listed.clear()
    assert [peer.name for peer in monitor.all_peers()] == ["shield", "sidecar"]
    monitor.start()
    eventually(lambda: monitor.stats().total_checks)
    assert (before.last_seen, stats.total_checks) == (None, 0)


def test_who_cannot_be_registered(mesh: dict[str, Agent], monitors: Monitors) -> None:
    monitor = monitors(mesh)
    with pytest.raises(UsageError, match="own agent"):
        monitor.register_peer("immune", mesh["shield"].endpoint)
    with pytest.raises(UsageError, match="registered already"):
        monitor.register_peer("shield", mesh["shield"].endpoint)
    for name in ("", "b c", "../x", "a" * 65):
        with pytest.raises(UsageError, match=r"want letters, .* got "):
            monitor.register_peer(name, mesh["shield"].endpoint)
    for endpoint in ("", "shield", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:x/"):
        with pytest.raises(ConfigurationError, match="scribe"):
            monitor.register_peer("scribe", endpoint)
    monitor.register_peer("scribe", mesh["shield"].endpoint)
    assert monitor.stats().peer_count == 3


def test_whose_monitor_it_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"want letters, .* got ''"):
        Monitor("")


@pytest.mark.parametrize(
    ("parts", "one_word_is_enough"),
    [({}, True), ({"voters_on": lambda _: {"immune"}}, False), ({"actions": Told()}, False)],
    ids=["only handlers", "part of a mesh", "it could cut off"],
)
def test_whose_word_is_enough(
    mesh: dict[str, Agent], monitors: Monitors, parts: dict[str, object], one_word_is_enough: bool
) -> None:
    assert monitors(mesh, **parts).policy.single_observer is one_word_is_enough


def test_it_is_started_once(mesh: dict[str, Agent], monitors: Monitors) -> None:
    monitor = monitors(mesh)
    assert not monitor.health().ok
    monitor.start()
    with pytest.raises(UsageError, match="started already"):
        monitor.start()
    assert monitor.health().ok


def test_peers_registered_while_it_runs(mesh: dict[str, Agent], monitors: Monitors) -> None:
    monitor = monitors({})
    monitor.start()
    with agents(*(f"agent-{number}" for number in range(6))) as more:
        for name, agent in more.items():
            agent.hanging = True
            monitor.register_peer(name, agent.endpoint)
        monitor.register_peer("shield", mesh["shield"].endpoint)
        assert status(monitor) is Status.HEALTHY
        eventually(lambda: len(mesh["shield"].asked) >= 4)
        assert gaps(mesh["shield"]) < HANG_S / 10, "those that hang hold up nobody"
        assert [peer.name for peer in monitor.all_peers()] == [*more, "shield"]


def test_the_status_for_an_agent_that_serves_http_itself(mesh: dict[str, Agent], monitors: Monitors) -> None:
    monitor = monitors(mesh)
    monitor.start()
    eventually(lambda: monitor.stats().total_checks >= 2)
    seen: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1", "SERVER_PROTOCOL": "HTTP/1.1"}
    body = b"".join(monitor.wsgi_app(environ, lambda line, _headers, _exc=None: seen.append(line)))  # type: ignore[arg-type]
    assert seen == ["200 OK"]
    assert {peer["name"] for peer in json.loads(body)["peers"]} == set(mesh)


# What hangs


def gaps(agent: Agent) -> float:
    """The longest time between two probes of it, in seconds."""
    return max(later - earlier for earlier, later in zip(agent.asked, agent.asked[1:], strict=False))


def test_a_hung_peer_delays_no_other(mesh: dict[str, Agent], monitors: Monitors) -> None:
    mesh["shield"].hanging = True
    monitor = monitors(mesh, PATIENT)
    monitor.start()
    eventually(lambda: len(mesh["sidecar"].asked) >= 10)
    assert gaps(mesh["sidecar"]) < 10 * INTERVAL_S
    assert status(monitor, "sidecar") is Status.HEALTHY
    assert status(monitor) is not Status.HEALTHY


def test_a_restart_that_hangs_delays_no_probing(mesh: dict[str, Agent], monitors: Monitors) -> None:
    begun, over = threading.Event(), threading.Event()

    def hang(_: Order) -> Outcome:
        begun.set()
        over.wait(HANG_S)
        return Outcome(failed=True, detail="it hung")

    monitor = monitors(mesh, actions=Told(restart_with=hang))
    mesh["shield"].go_down()
    monitor.start()
    assert begun.wait(HANG_S)
    probed = len(mesh["sidecar"].asked)
    eventually(lambda: len(mesh["sidecar"].asked) >= probed + 5)
    assert monitor.health().ok
    assert monitor.stats().total_restarts == 0
    over.set()
    eventually(lambda: monitor.stats().total_restarts == 1)


def test_handlers_that_raise_or_hang_hold_up_nobody(mesh: dict[str, Agent], monitors: Monitors) -> None:
    over = threading.Event()
    heard: list[Escalation] = []

    def explode(_: Escalation) -> None:
        raise RuntimeError("a handler's bug")

    monitor = monitors(mesh)
    monitor.on_escalation(waiting_for(over))
    monitor.on_escalation(explode)
    monitor.on_escalation(heard.append)
    mesh["shield"].go_down()
    monitor.start()
    eventually(lambda: len([each for each in heard if each.peer_name == "shield"]) == 6)
    assert status(monitor) is Status.ISOLATED
    over.set()


def waiting_for(over: threading.Event) -> Callable[[Escalation], None]:
    def hang(_: Escalation) -> None:
        over.wait(HANG_S)

    return hang


class Broken:
    """A prober with a bug."""

    def __init__(self, peers: set[str]) -> None:
        self.peers = peers
        self.asked: list[str] = []

    def probe(self, target: Target) -> Heartbeat:
        self.asked.append(target.name)
        if target.name in self.peers:
            raise ZeroDivisionError
        return Heartbeat(target.name, healthy=True, detail="HTTP 200")

    def close(self) -> None:
        pass


def test_a_bug_while_probing_ends_neither_the_round_nor_the_monitor(
    mesh: dict[str, Agent], monitors: Monitors, caplog: pytest.LogCaptureFixture
) -> None:
    prober = Broken({"shield"})
    monitor = monitors(mesh, prober=prober)
    monitor.start()
    eventually(lambda: prober.asked.count("shield") >= 3 and prober.asked.count("sidecar") >= 3)
    found = monitor.get_peer_status("shield")
    assert found is not None
    assert found.missed_count == 0, "it says nothing of the peer"
    assert "probing shield failed" in caplog.text
    eventually(lambda: not monitor.health().ok)
    prober.peers.clear()
    eventually(lambda: monitor.health().ok)


class Endless(Broken):
    """A prober that does not come back from some peers."""

    def __init__(self, peers: set[str], over: threading.Event) -> None:
        super().__init__(set())
        self.endless, self.over = peers, over

    def probe(self, target: Target) -> Heartbeat:
        if target.name in self.endless:
            self.over.wait(HANG_S)
        return super().probe(target)


def test_a_probe_that_never_ends_is_told_and_its_peer_is_not_called_well(
    mesh: dict[str, Agent], monitors: Monitors
) -> None:
    over = threading.Event()
    prober = Endless(set(), over)
    monitor = monitors(mesh, prober=prober)
    monitor.start()
    eventually(lambda: prober.asked.count("shield") >= 2)
    prober.endless.add("shield")

    def unasked() -> str:
        return next(row.unasked for row in monitor.all_peers() if row.name == "shield")

    eventually(lambda: "a probe has not ended for" in unasked())
    over.set()
    eventually(lambda: not unasked())


def test_a_bug_while_acting_is_a_failed_order(mesh: dict[str, Agent], monitors: Monitors) -> None:
    heard: list[Escalation] = []

    def explode(_: Order) -> Outcome:
        raise ZeroDivisionError("a bug")

    monitor = monitors(mesh, actions=Told(restart_with=explode))
    monitor.on_escalation(heard.append)
    mesh["shield"].go_down()
    monitor.start()
    eventually(lambda: any("restart failed: ZeroDivisionError: a bug" in e.reason for e in heard))
    probed = len(mesh["sidecar"].asked)
    eventually(lambda: len(mesh["sidecar"].asked) > probed)


def test_evidence_is_asked_for_when_it_could_matter(mesh: dict[str, Agent], monitors: Monitors) -> None:
    told = Told(said={"shield": ("shield.service is failed", True)})
    policy = dataclasses.replace(FAST, restarts_before_isolation=1)
    monitor = monitors(mesh, policy, actions=told, voters_on=lambda _: {"immune", "sidecar"})
    mesh["shield"].go_down()
    monitor.start()
    eventually(lambda: len(told.orders) >= 2)
    assert [order.action for order in told.orders[:2]] == [Action.RESTART, Action.ISOLATE]
    assert "shield.service is failed" in told.orders[1].reason
    assert set(told.asked_for) == {"shield"}
    assert monitor.stats().total_misses >= len(told.asked_for) + 2


class Slow:
    """A prober whose first answers come when the second round has begun: after the round that asked."""

    def __init__(self) -> None:
        self.rounds = 0
        self.asked: list[str] = []
        self._second = threading.Event()

    def probe(self, target: Target) -> Heartbeat:
        if target.name == "immune":
            self.rounds += 1
            if self.rounds == 2:
                self._second.set()
            return Heartbeat(target.name, healthy=True, detail="HTTP 200")
        self.asked.append(target.name)
        answered = self._second.is_set()
        self._second.wait(HANG_S)
        return Heartbeat(target.name, healthy=answered, detail="")

    def close(self) -> None:
        pass


def test_an_answer_that_came_late_is_the_next_round_s_and_nobody_is_asked_for_another(
    monitors: Monitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peer would be asked again, and the answer to that, whatever it is, thrown away."""
    monkeypatch.setattr("watchdog.loop.JITTER_SHARE", 1.0)
    prober, names = Slow(), [f"agent-{number}" for number in range(20)]
    asked_at_ends: list[int] = []
    policy = dataclasses.replace(PATIENT, interval_s=0.5, timeout_s=0.1)
    own = Target("immune", "http://immune/", timeout_s=0.1)
    monitor = monitors({}, policy, prober=prober, own=own, on_round=lambda: asked_at_ends.append(len(prober.asked)))
    for name in names:
        monitor.register_peer(name, f"http://{name}/")
    monitor.start()
    eventually(lambda: len(asked_at_ends) >= 2)
    asked = prober.asked[: asked_at_ends[1]]
    assert len(asked) == len(set(asked)), "in two rounds, of which the second had the answers to the first"
    eventually(lambda: all(status(monitor, name) is Status.HEALTHY for name in names))


class Clocked:
    """A prober that notes when it is asked, and to whom everybody is well."""

    def __init__(self) -> None:
        self.asked_s: dict[str, float] = {}

    def probe(self, target: Target) -> Heartbeat:
        self.asked_s.setdefault(target.name, clock.now_s())
        return Heartbeat(target.name, healthy=True, detail="HTTP 200")

    def close(self) -> None:
        pass


def test_peers_are_not_all_asked_at_once(monitors: Monitors) -> None:
    """A hundredth of an interval is theirs: with thirty peers most of it is made use of."""
    prober, spread_s = Clocked(), 0.5
    policy = dataclasses.replace(PATIENT, interval_s=spread_s / JITTER_SHARE, timeout_s=1.0)
    monitor = monitors({}, policy, prober=prober)
    names = [f"agent-{number}" for number in range(30)]
    for name in names:
        monitor.register_peer(name, f"http://{name}/")
    monitor.start()
    eventually(lambda: len(prober.asked_s) == len(names))
    assert max(prober.asked_s.values()) - min(prober.asked_s.values()) > spread_s / 2


STOPS = 3
STOPPED_S = 0.8
WATCHER = """
import os, sys, time
from watchdog import Monitor
from watchdog.ladder import Policy
from watchdog.model import Heartbeat
TIMEOUT_S = 0.3
class Prober:
    def probe(self, target):
        began_s = time.monotonic()
        os.write(1, b"asked\\n")  # whole, whoever else writes
        time.sleep(TIMEOUT_S / 6)
        return Heartbeat(target.name, healthy=time.monotonic() - began_s < TIMEOUT_S, detail="")
    def close(self): pass
monitor = Monitor("immune", Policy(interval_s=0.4, timeout_s=TIMEOUT_S), prober=Prober())
for peer in ("shield", "sidecar", "scribe", "scout"):
    monitor.register_peer(peer, f"http://{peer}/")
monitor.start()
sys.stdin.readline()
monitor.stop()
print(monitor.stats().total_checks, monitor.stats().total_misses, flush=True)
"""


def test_a_watcher_that_was_stopped_blames_nobody() -> None:
    """Its probes were under way and could not take their answers in time: that is no miss of the peers'."""
    with subprocess.Popen(
        [sys.executable, "-c", WATCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        try:
            for stop in range(STOPS):
                assert watcher.stdout.readline() == "asked\n"
                time.sleep(0.01 * stop)
                watcher.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_S)
                watcher.send_signal(signal.SIGCONT)
                time.sleep(STOPPED_S)
            watcher.stdin.write("stop\n")
            checks, misses = (int(word) for word in watcher.stdout.read().splitlines()[-1].split())
        finally:
            watcher.kill()
    assert checks > STOPS
    assert misses == 0


# A journal that breaks midway


def test_a_journal_that_is_locked_for_a_while(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    told = Told()
    monitor = monitors(mesh, actions=told, journal=journal)
    monitor.start()
    eventually(lambda: monitor.stats().total_checks >= 4)
    refuse = JournalFailed("the journal: database is locked", hint="see who with fuser")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_connection", raising(refuse))
        mesh["shield"].go_down()
        eventually(is_status(monitor, Status.OFFLINE))
        eventually(lambda: not monitor.health().ok)
        assert "locked" in monitor.health().reason
        probed = len(mesh["sidecar"].asked)
        eventually(lambda: len(mesh["sidecar"].asked) >= probed + 3)
        assert told.orders == []
    eventually(lambda: monitor.health().ok)
    eventually(lambda: told.orders)
    assert caplog.text.count("locked") == 1, "said once"
    assert "works again" in caplog.text


def raising(error: Exception) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def test_a_journal_that_is_set_aside_under_a_running_monitor(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal, tmp_path: Path
) -> None:
    told = Told()
    monitor = monitors(mesh, actions=told, journal=journal)
    monitor.start()
    eventually(lambda: monitor.stats().total_checks >= 4)
    set_aside(tmp_path / "state", clock.utc_now())
    eventually(lambda: not monitor.health().ok)
    Journal.open(tmp_path / "state").close()
    eventually(lambda: monitor.health().ok)
    mesh["shield"].go_down()
    eventually(lambda: told.orders)
    with closing(Journal.open(tmp_path / "state")) as new:
        eventually(lambda: any(entry["kind"] == "restart ordered" for entry in new.trail()))


def test_the_status_shows_what_the_whole_mesh_says(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal
) -> None:
    at, coordinator = clock.moment(), LocalCoordinator(journal)
    until = at.utc + timedelta(minutes=30)
    coordinator.silence(Silence("shield", until, "upgrade", "root"), at)
    coordinator.attend("sidecar", "the clock jumped by +3600 s", at)
    policy = dataclasses.replace(FAST, interval_s=0.5, timeout_s=0.2)
    told = Told()
    monitor = monitors(mesh, policy, journal=journal, actions=told, voters_on=lambda _: {"immune", "sidecar"})
    mesh["shield"].go_down()
    monitor.start()
    eventually(lambda: monitor.view().mesh.votes.get("shield", Votes((), 0)).cast == ("immune",))
    seen = monitor.view().mesh
    assert seen.votes == {"shield": Votes(("immune",), wanted=2)}
    assert [(s.peer, s.reason) for s in seen.silences.values()] == [("shield", "upgrade")]
    eventually(lambda: ("immune", "") in {(each.watcher, each.self_doubt) for each in monitor.view().mesh.members})
    assert told.orders == [], "probing goes on, and nothing acts"
    shown = monitor.get_peer_status("shield")
    assert shown is not None
    assert (shown.missed_count >= 3, shown.restarts_left) == (True, 3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_connection", raising(JournalFailed("the journal: database is locked")))
        assert monitor.view().mesh == NOTHING_SAID
        eventually(lambda: monitor.view().health.self_doubt)
        assert "out of reach" in monitor.view().health.self_doubt


def test_what_was_done_is_settled_when_the_journal_is_back(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal
) -> None:
    acting, may_end = threading.Event(), threading.Event()

    def restart(_: Order) -> Outcome:
        acting.set()
        may_end.wait(HANG_S)
        return Outcome(failed=False, detail="worked")

    monitor = monitors(mesh, actions=Told(restart_with=restart), journal=journal)
    mesh["shield"].go_down()
    monitor.start()
    assert acting.wait(HANG_S)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_connection", raising(JournalFailed("the journal: database or disk is full")))
        may_end.set()
        eventually(lambda: not monitor.health().ok)
        assert monitor.stats().total_restarts == 0
    eventually(lambda: monitor.stats().total_restarts == 1)
    assert any(entry["kind"] == "restart done" for entry in journal.trail())


def test_a_peer_registered_while_the_journal_is_away_is_watched_later(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal
) -> None:
    monitor = monitors({"sidecar": mesh["sidecar"]}, journal=journal)
    monitor.start()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_connection", raising(JournalFailed("the journal: database is locked")))
        monitor.register_peer("shield", mesh["shield"].endpoint)
        eventually(lambda: not monitor.health().ok)
    eventually(lambda: mesh["shield"].asked)


def test_an_event_that_was_rolled_back_is_told_to_nobody(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal
) -> None:
    heard: list[Escalation] = []
    monitor = monitors(mesh, journal=journal)
    monitor.on_escalation(heard.append)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "record", raising_any(JournalFailed("the journal: database or disk is full")))
        mesh["shield"].go_down()
        monitor.start()
        eventually(lambda: not monitor.health().ok)
        eventually(lambda: monitor.stats().total_misses >= 8)
        assert [e for e in heard if e.action is not Action.ALERT] == []
    eventually(lambda: any(e.action is Action.RESTART for e in heard))


def raising_any(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


# What it remembers, and how it ends


def test_it_takes_up_where_it_left_off(mesh: dict[str, Agent], monitors: Monitors, journal: Journal) -> None:
    first = monitors(mesh, PATIENT, journal=journal)
    mesh["shield"].go_down()
    first.start()
    eventually(lambda: first.stats().total_misses >= 5)
    first.stop()
    left = first.get_peer_status("shield")
    second = monitors(mesh, PATIENT, journal=journal)
    taken_up = second.get_peer_status("shield")
    assert left is not None
    assert taken_up is not None
    assert (taken_up.status, taken_up.missed_count) == (left.status, left.missed_count)


def test_an_agent_that_stands_still_does_so_for_the_next_process_too(monitors: Monitors, journal: Journal) -> None:
    """It answers 200: without what it had said before, the next process' first probe finds it well."""

    def healthy_heartbeats(port: int) -> int:
        monitor = monitors({}, PATIENT, journal=journal)
        monitor.register_peer("shield", f"http://127.0.0.1:{port}/")
        monitor.start()
        eventually(lambda: monitor.stats().total_misses >= 3)
        monitor.stop()
        return monitor.stats().total_checks - monitor.stats().total_misses

    with serve(Pulse("shield")) as hung:
        assert [healthy_heartbeats(hung.port) for _ in range(2)] == [1, 0]


def test_what_is_published_of_a_round_says_what_went_wrong_in_it(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal
) -> None:
    """Not one round later: with the defaults that is half a minute."""
    published: list[tuple[int, bool]] = []
    monitor: Monitor = monitors(
        mesh,
        journal=journal,
        on_round=lambda: published.append((monitor.stats().total_misses, monitor.health().ok)),
    )
    monitor.start()
    eventually(lambda: published)
    refuse = JournalFailed("the journal: database is locked", hint="see who with fuser")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal, "_connection", raising(refuse))
        mesh["shield"].go_down()
        eventually(lambda: published[-1][0] >= 2)
    assert not any(ok for misses, ok in published if misses == 1)


def test_stop_returns_though_peers_hang(mesh: dict[str, Agent], monitors: Monitors) -> None:
    for agent in mesh.values():
        agent.hanging = True
    monitor = monitors(mesh)
    monitor.start()
    eventually(lambda: all(agent.asked for agent in mesh.values()))
    began_s = time.monotonic()
    monitor.stop()
    assert time.monotonic() - began_s < FAST.timeout_s + 5
    assert not monitor.health().ok
    probed = sum(len(agent.asked) for agent in mesh.values())
    time.sleep(2 * INTERVAL_S)
    assert sum(len(agent.asked) for agent in mesh.values()) == probed
    monitor.stop()


def test_stop_returns_though_a_restart_and_a_handler_hang(
    mesh: dict[str, Agent], monitors: Monitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchdog.monitor.JOIN_MARGIN_S", 0.5)
    begun, over = threading.Event(), threading.Event()

    def hang(_: Order) -> Outcome:
        begun.set()
        over.wait(HANG_S)
        return Outcome(failed=True, detail="")

    monitor = monitors(mesh, actions=Told(restart_with=hang))
    monitor.on_escalation(waiting_for(over))
    mesh["shield"].go_down()
    monitor.start()
    assert begun.wait(HANG_S)
    began_s = time.monotonic()
    monitor.stop()
    assert time.monotonic() - began_s < HANG_S / 2
    over.set()


def test_a_peer_whose_ca_file_is_none_any_more_is_told_and_not_restarted(
    mesh: dict[str, Agent], monitors: Monitors, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("bare words")
    actions = Told()
    told: list[Escalation] = []
    monitor = monitors(mesh, actions=actions)
    monitor.register_peer("scribe", "https://localhost:9/", Target("scribe", "https://localhost:9/", 0.06, ca_file))
    monitor.on_escalation(told.append)
    monitor.start()
    eventually(lambda: told)
    assert (told[0].peer_name, told[0].severity, told[0].state) == (
        "immune (watcher, asking)",
        Severity.MEDIUM,
        EventState.FIRING,
    )
    assert f"cannot use the TLS files {ca_file}" in told[0].reason
    eventually(lambda: (shown := monitor.get_peer_status("scribe")) and is_unknown(shown) and shown.unasked)
    assert actions.orders == []
    ca_file.write_bytes(Authority(tmp_path, "mesh").cert.read_bytes())
    eventually(lambda: ("immune (watcher, asking)", EventState.RESOLVED) in [(e.peer_name, e.state) for e in told])


def test_a_restart_that_ends_while_it_stops_is_settled(
    mesh: dict[str, Agent], monitors: Monitors, journal: Journal
) -> None:
    begun = threading.Event()

    def take_a_while(_: Order) -> Outcome:
        begun.set()
        time.sleep(3 * INTERVAL_S)
        return Outcome(failed=False, detail="worked")

    monitor = monitors(mesh, actions=Told(restart_with=take_a_while), journal=journal)
    mesh["shield"].go_down()
    monitor.start()
    assert begun.wait(HANG_S)
    monitor.stop()
    assert [entry["kind"] for entry in journal.trail()][-1] == "restart done"


def test_stop_from_a_handler_and_before_start(mesh: dict[str, Agent], monitors: Monitors) -> None:
    stopped = threading.Event()
    monitor = monitors(mesh)

    def stop(_: Escalation) -> None:
        monitor.stop()
        stopped.set()

    monitor.on_escalation(stop)
    mesh["shield"].go_down()
    monitor.start()
    assert stopped.wait(HANG_S)
    monitors(mesh).stop()


@pytest.mark.parametrize(
    ("due_s", "now_s", "next_s"),
    [
        (100.0, 100.0, 130.0),
        (100.0, 129.9, 130.0),
        (100.0, 130.0, 160.0),
        (100.0, 131.0, 160.0),
        (100.0, 415.0, 430.0),
        (100.0, 90.0, 130.0),
    ],
)
def test_ticks_stay_on_their_grid(due_s: float, now_s: float, next_s: float) -> None:
    assert next_tick_s(due_s, now_s, 30.0) == next_s


# What is forgotten


def test_it_forgets_settled_events_of_long_ago(monitors: Monitors, journal: Journal) -> None:
    at = clock.moment()
    outbox = Outbox(journal, (), host="soc-1")
    for key, age in (("old", timedelta(days=31)), ("new", timedelta(days=29))):
        then = at.utc - age
        event = Escalation(then, "shield", Action.ALERT, "", Severity.MEDIUM, EventState.FIRING, "immune", 1)
        assert outbox.publish(event, key, dataclasses.replace(at, utc=then))
    monitors({}, journal=journal).start()
    eventually(lambda: [row["key"] for row in journal.read("SELECT key FROM event")] == ["new"])


DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("pruned_s", "now_s", "due"),
    [(None, 5.0, True), (5.0, 5.0, False), (5.0, 4.9 + DAY_S, False), (5.0, 5.0 + DAY_S, True)],
)
def test_the_outbox_is_pruned_once_a_day(pruned_s: float | None, now_s: float, due: bool) -> None:
    assert is_due(pruned_s, now_s) is due


# A host that gives no more threads


@contextmanager
def no_more_threads() -> Iterator[None]:
    """No stack of this size can be had."""
    threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(0)


class Held:
    """Answers as told, and not before it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.gone: set[str] = set()

    def probe(self, target: Target) -> Heartbeat:
        self.may_answer.wait(HANG_S)
        return Heartbeat(target.name, healthy=target.name not in self.gone, detail="as told")

    def close(self) -> None:
        self.may_answer.set()


def test_who_cannot_be_asked_for_want_of_a_thread_is_skipped(monitors: Monitors) -> None:
    prober = Held()
    monitor = monitors({}, PATIENT, prober=prober)
    monitor.register_peer("shield", "http://shield/")
    monitor.start()
    eventually(lambda: monitor.stats().total_checks >= 2)
    with no_more_threads():
        prober.may_answer.clear()
        for number in range(5):
            monitor.register_peer(f"agent-{number}", "http://agent/")
        eventually(lambda: "this host gives no thread" in monitor.health().reason)
        assert not monitor.health().ok
        checks = monitor.stats().total_checks
        prober.may_answer.set()
        eventually(lambda: monitor.stats().total_checks > checks + 5)
    eventually(lambda: monitor.health().ok)
    eventually(lambda: all(peer.response_time_ms is None and peer.detail for peer in monitor.all_peers()))


def test_an_order_for_want_of_a_thread_is_not_begun_and_given_again(monitors: Monitors, journal: Journal) -> None:
    prober, told, heard = Held(), Told(), list[Escalation]()
    monitor = monitors({}, prober=prober, actions=told, journal=journal)
    for peer in ("shield", "sidecar", "scribe"):
        monitor.register_peer(peer, "http://agent/")
    monitor.on_escalation(heard.append)
    monitor.start()
    eventually(lambda: monitor.stats().total_checks >= 6)
    with no_more_threads():
        prober.gone.add("shield")
        eventually(lambda: [e for e in journal.trail() if e["kind"] == "restart not begun"])
        assert told.orders == []
        assert heard == []
        eventually(lambda: "this host gives no thread" in monitor.health().reason)
    eventually(lambda: told.orders)
    eventually(lambda: heard)


@pytest.mark.parametrize(
    ("wall_s", "boottime_s", "monotonic_s", "jumped_s", "slept_s"),
    [
        (30, 30, 30, 0, 0),
        (3630, 30, 30, 3600, 0),
        (-3570, 30, 30, -3600, 0),
        (330, 330, 30, 0, 300),
        (30, 330, 30, -300, 300),
    ],
)
def test_what_the_clocks_say_of_the_time_between_two_rounds(
    wall_s: float, boottime_s: float, monotonic_s: float, jumped_s: float, slept_s: float
) -> None:
    before = clock.Moment(1000.0, datetime(2026, 1, 2, tzinfo=UTC), "boot")
    at = clock.Moment(1000.0 + boottime_s, before.utc + timedelta(seconds=wall_s), "boot")
    assert jumps(before, 50.0, at, 50.0 + monotonic_s) == pytest.approx((jumped_s, slept_s))
