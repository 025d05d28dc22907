"""One watcher's mind: what it believes of each peer, and which orders follow. It has no threads and no clock.

The monitor feeds it heartbeats and carries out its orders; a simulator can drive the same code on a virtual clock.
What a watcher decides it decides with the others: every order goes through the Coordinator, every event through
the outbox, and an order and its event are written in one transaction. A standing is written before what follows
from it: killed in between, the watcher finds the same demand at its next miss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import msgspec

from watchdog import ladder, quorum
from watchdog.clock import Moment
from watchdog.journal import Journal
from watchdog.ladder import Demand, PeerRecord, Policy, Standing
from watchdog.mesh.coordinator import Coordinator, Denied, Order, OrderRequest
from watchdog.model import Action, Escalation, EventState, Heartbeat, PeerStatus, Severity, Status
from watchdog.quorum import Doubt, Round

VOTE_FRESH_TICKS = 2
LEASE_MARGIN_S = 10.0
ISOLATION_LEASE_S = 60.0
STORM = "*"
"""The name under which the storm's episode is kept: no peer can have it."""


class Publish(Protocol):
    """Hand an event to the outbox; False when that key was published before, by whichever watcher."""

    def __call__(self, escalation: Escalation, key: str, at: Moment) -> bool: ...


@dataclass
class Watched:
    """One peer and what this watcher knows of it."""

    endpoint: str
    standing: Standing = field(default_factory=Standing)
    last_seen: datetime | None = None
    beat: Heartbeat | None = None
    suspected: bool = False
    suspect_since_round: int = 0


@dataclass(frozen=True)
class Saved:
    """A standing as the journal keeps it. `healthy_since_s` means nothing on another boot."""

    standing: Standing
    boot: str
    last_seen: datetime | None


@dataclass
class _Tick:
    """The round that is under way."""

    number: int
    waiting: set[str]
    peers: int
    late_s: float
    clock_jump_s: float
    suspended_s: float
    own_endpoint: str = ""
    own_endpoint_waited_for: bool = False
    gone: set[str] = field(default_factory=set)
    newly_gone: set[str] = field(default_factory=set)
    held: list[tuple[str, Demand, Heartbeat]] = field(default_factory=list)


class Watcher:
    """Not safe for threads: one thread owns it."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        coordinator: Coordinator,
        journal: Journal,
        publish: Publish,
        voters_on: Callable[[str], Collection[str]],
        restart_timeout_s: float,
    ) -> None:
        self.name = name
        self.policy = policy
        self.peers: dict[str, Watched] = {}
        self.doubt = Doubt()
        self.storm = Doubt()
        self.score = 0
        self.rounds = 0
        self.total_checks = self.total_misses = self.total_restarts = self.total_isolations = 0
        self._coordinator = coordinator
        self._journal = journal
        self._publish = publish
        self._voters_on = voters_on
        self._restart_lease_s = restart_timeout_s + LEASE_MARGIN_S
        self._tick: _Tick | None = None
        self._records: dict[str, PeerRecord] = {}
        self._records_version = -1

    def watch(self, peer: str, endpoint: str, at: Moment) -> None:
        """Begin to watch a peer where this watcher left it, or with a clean slate."""
        saved = self._load(peer)
        watched = Watched(endpoint)
        if saved is not None:
            since_s = saved.standing.healthy_since_s if saved.boot == at.boot else None
            watched.standing = replace(saved.standing, healthy_since_s=since_s)
            watched.last_seen = saved.last_seen
            watched.suspected = watched.standing.missed_count > 0
        self.peers[peer] = watched

    def begin_round(
        self,
        at: Moment,
        *,
        late_s: float = 0.0,
        clock_jump_s: float = 0.0,
        suspended_s: float = 0.0,
        own_endpoint_probed: bool = False,
    ) -> None:
        """Begin a tick: every peer (and the own endpoint, where it is probed) is heard once, then the round ends."""
        self._refresh_records(at)
        self.score = quorum.score_after(self.score, late_s, self.policy.interval_s)
        probed = {name for name, peer in self.peers.items() if peer.standing.status is not Status.ISOLATED}
        self._tick = _Tick(
            number=self.rounds,
            waiting=set(self.peers),
            peers=len(probed),
            late_s=late_s,
            clock_jump_s=clock_jump_s,
            suspended_s=suspended_s,
            own_endpoint_waited_for=own_endpoint_probed,
        )

    def hear_own(self, beat: Heartbeat) -> None:
        """How the own agent answered this round."""
        assert self._tick is not None, "a round has begun"
        self._tick.own_endpoint_waited_for = False
        self._tick.own_endpoint = "" if beat.healthy else beat.detail

    @property
    def round_is_complete(self) -> bool:
        """Every answer of the tick is in."""
        return self._tick is None or not (self._tick.waiting or self._tick.own_endpoint_waited_for)

    def hear(self, peer: str, beat: Heartbeat, at: Moment) -> list[Order]:
        """Judge one heartbeat of the round; the orders that may be carried out now."""
        assert self._tick is not None, "a round has begun"
        watched = self.peers[peer]
        self._tick.waiting.discard(peer)
        self.total_checks += 1
        self.total_misses += not beat.healthy
        record = self._record(peer, at, fresh=not beat.healthy)
        policy = quorum.stretched(self.policy, self.score)
        learned = ladder.learn(watched.standing, record, policy)
        standing, demands = ladder.hear(learned, beat, record, policy, at.s)
        self._note(peer, watched, standing, beat)
        with self._journal.transaction() if self._must_write(watched, standing, beat) else nullcontext():
            self._believe(peer, watched, standing, beat, at)
        self._tick.held += [(peer, demand, beat) for demand in demands]
        if self._may_turn_out_sick():
            return []
        return self._carry_out_held(at)

    def skip(self, peer: str) -> None:
        """This watcher could not ask the peer: it is not heard in this round, and no miss is counted."""
        assert self._tick is not None, "a round has begun"
        self._tick.waiting.discard(peer)

    def end_round(self, at: Moment, coordinator_trouble: str = "") -> list[Order]:
        """All answers of the tick are in: doubt or trust, then act on what was held back."""
        tick = self._tick
        assert tick is not None, "a round has begun"
        seen = Round(
            peers=tick.peers,
            newly_gone=len(tick.newly_gone),
            gone=len(tick.gone),
            late_s=tick.late_s,
            interval_s=self.policy.interval_s,
            clock_jump_s=tick.clock_jump_s,
            suspended_s=tick.suspended_s,
            own_endpoint=tick.own_endpoint,
            coordinator=coordinator_trouble,
        )
        try:
            self._set_doubt(quorum.judge_round(self.doubt, seen), at)
            self._set_storm(quorum.judge_storm(self.storm, self._newly_suspect(), len(tick.gone), tick.peers), at)
            return self._carry_out_held(at)
        finally:
            self.rounds += 1
            self._tick = None

    def settle(self, order: Order, at: Moment, *, failed: bool, outcome: str) -> None:
        """An order ended: journal it and tell people."""
        with self._journal.transaction():
            self._coordinator.finish(order, at, failed=failed, outcome=outcome)
            self._journal.record(
                at.utc,
                f"{order.action} {'failed' if failed else 'done'}",
                peer=order.peer,
                token=order.token,
                watcher=self.name,
                outcome=outcome,
            )
            if order.action is Action.RESTART:
                self.total_restarts += 1
                if failed:
                    self._tell(order, Action.ALERT, Severity.HIGH, f"restart failed: {outcome}", "failed", at)
            elif failed:
                self._tell(order, Action.ALERT, Severity.CRITICAL, f"isolation failed: {outcome}", "failed", at)
            else:
                self.total_isolations += 1
                self._tell(order, Action.ALERT_ARCHITECT, Severity.CRITICAL, outcome, "isolated", at)
            self._learn(order.peer, at)

    def may_begin(self, order: Order, at: Moment) -> bool:
        """Ask once more before acting, from the thread that will: has the order been overtaken or expired?"""
        return self._coordinator.begin(order, at)

    def status_of(self, peer: str) -> PeerStatus:
        """A copy of what is believed of one peer."""
        watched = self.peers[peer]
        record = self._records.get(peer, PeerRecord())
        standing, beat = watched.standing, watched.beat
        return PeerStatus(
            name=peer,
            endpoint=watched.endpoint,
            status=standing.status,
            last_seen=watched.last_seen,
            missed_count=standing.missed_count,
            restart_count=standing.restart_count,
            last_restart=record.last_restart,
            response_time_ms=beat.response_time_ms if beat else None,
            detail=beat.detail if beat else "",
            verified=beat.verified if beat else False,
            isolated_since=record.isolated_since,
        )

    # What was heard

    def _note(self, peer: str, watched: Watched, standing: Standing, beat: Heartbeat) -> None:
        tick = self._tick
        assert tick is not None
        if beat.healthy or standing.status is Status.ISOLATED:
            return
        tick.gone.add(peer)
        if watched.standing.missed_count == 0:
            tick.newly_gone.add(peer)
            watched.suspect_since_round = tick.number

    @staticmethod
    def _must_write(watched: Watched, standing: Standing, beat: Heartbeat) -> bool:
        return standing != watched.standing or not beat.healthy or watched.suspected

    def _believe(self, peer: str, watched: Watched, standing: Standing, beat: Heartbeat, at: Moment) -> None:
        """Take over the new standing; the journal first, so that what it refused is not believed."""
        if standing != watched.standing:
            last_seen = at.utc if beat.healthy else watched.last_seen
            self._save(peer, Saved(standing, at.boot, last_seen))
        votes = not beat.healthy and standing.status is not Status.ISOLATED and not self.doubt.doubting
        if votes:
            self._coordinator.suspect(self.name, peer, standing.missed_count, at)
        elif watched.suspected:
            self._coordinator.trust(self.name, peer)
        watched.standing, watched.beat, watched.suspected = standing, beat, votes
        if beat.healthy:
            watched.last_seen = at.utc

    def _learn(self, peer: str, at: Moment) -> None:
        watched = self.peers[peer]
        record = self._record(peer, at, fresh=True)
        learned = ladder.learn(watched.standing, record, quorum.stretched(self.policy, self.score))
        if learned != watched.standing:
            self._save(peer, Saved(learned, at.boot, watched.last_seen))
            watched.standing = learned

    def _newly_suspect(self) -> int:
        since_round = self.rounds - quorum.STORM_TICKS + 1
        return sum(
            watched.standing.missed_count > 0
            and watched.standing.status is not Status.ISOLATED
            and watched.suspect_since_round >= since_round
            for watched in self.peers.values()
        )

    def _may_turn_out_sick(self) -> bool:
        """Answers that are still out could make this a round of doubt or a storm: act on nobody before they are in."""
        tick = self._tick
        assert tick is not None
        if tick.own_endpoint_waited_for:
            return True
        unknown = len(tick.waiting)
        return quorum.may_still_doubt(len(tick.newly_gone), unknown, tick.peers) or quorum.is_storm(
            self._newly_suspect() + unknown, tick.peers
        )

    # What follows

    def _carry_out_held(self, at: Moment) -> list[Order]:
        assert self._tick is not None
        held, self._tick.held = self._tick.held, []
        orders = [self._carry_out(peer, demand, beat, at) for peer, demand, beat in held]
        return [order for order in orders if order is not None]

    def _carry_out(self, peer: str, demand: Demand, beat: Heartbeat, at: Moment) -> Order | None:
        if demand is Demand.RESTART:
            return self._restart(peer, beat, at)
        if demand is Demand.ISOLATE:
            return self._isolate(peer, beat, at)
        with self._journal.transaction():
            if demand is Demand.ALERT:
                self._alert(peer, beat, at)
            elif demand is Demand.IMPOSTOR:
                self._warn(peer, "impostor", f"somebody else answers for it: {beat.detail}", at)
            elif demand is Demand.RESOLVE:
                self._resolve(peer, at)
            elif demand is Demand.FORGIVE and self._coordinator.forgive(peer, self._record(peer, at, fresh=True), at):
                self._journal.record(at.utc, "restart forgiven", peer=peer, watcher=self.name)
        self._record(peer, at, fresh=True)
        return None

    @property
    def _hands_bound(self) -> bool:
        return self.doubt.doubting or self.storm.doubting

    def _restart(self, peer: str, beat: Heartbeat, at: Moment) -> Order | None:
        if self.rounds == 0 or (self._hands_bound and not beat.unit_down):
            return None
        record = self._record(peer, at, fresh=True)
        number = record.restart_count + 1
        reason = f"{self._misses(peer)}: {beat.detail}; restart {number} of {self.policy.restarts_before_isolation}"
        return self._order(peer, Action.RESTART, Severity.HIGH, reason, (), self._restart_lease_s, at)

    def _isolate(self, peer: str, beat: Heartbeat, at: Moment) -> Order | None:
        if self.rounds == 0 or self._hands_bound:
            return None
        suspicions = self._coordinator.suspicions(at, self.policy.interval_s * VOTE_FRESH_TICKS)
        enough = self.policy.missed_before_restart
        votes = {s.watcher for s in suspicions if s.peer == peer and s.missed_count >= enough}
        against = quorum.may_isolate(
            watchers=self._voters_on(peer),
            votes=votes,
            accused_by_peer={s.peer for s in suspicions if s.watcher == peer},
            evidence=beat.evidence,
        )
        if against:
            with self._journal.transaction():
                self._warn(peer, "no-quorum", f"it should be isolated, and is not: {against}", at)
            return None
        proof = beat.evidence or f"votes of {', '.join(sorted(votes))}"
        reason = f"{self._record(peer, at, fresh=True).restart_count} restarts did not help: {beat.detail}; {proof}"
        return self._order(peer, Action.ISOLATE, Severity.CRITICAL, reason, tuple(sorted(votes)), ISOLATION_LEASE_S, at)

    def _order(
        self,
        peer: str,
        action: Action,
        severity: Severity,
        reason: str,
        voters: tuple[str, ...],
        lease_s: float,
        at: Moment,
    ) -> Order | None:
        with self._journal.transaction():
            token = self._record(peer, at, fresh=True).token
            claim = self._coordinator.claim(
                OrderRequest(peer, action, self.name, reason, token, lease_s, voters=voters), at
            )
            if isinstance(claim, Denied):
                return None
            self._journal.record(
                at.utc, f"{action} ordered", peer=peer, token=claim.token, watcher=self.name, reason=reason
            )
            self._tell(claim, action, severity, reason, "ordered", at)
        self._record(peer, at, fresh=True)
        return claim

    def _misses(self, peer: str) -> str:
        count = self.peers[peer].standing.missed_count
        return f"{count} heartbeat{'s' if count != 1 else ''} missed"

    # What people are told

    def _alert(self, peer: str, beat: Heartbeat, at: Moment) -> None:
        episode = self._coordinator.open_episode(peer, at)
        if episode is not None and not self._hands_bound:
            reason = f"{self._misses(peer)}: {beat.detail}"
            self._emit(peer, episode, Action.ALERT, Severity.MEDIUM, reason, "degraded", at)

    def _warn(self, peer: str, what: str, reason: str, at: Moment) -> None:
        """A CRITICAL alert, once an episode."""
        self._coordinator.open_episode(peer, at)
        self._coordinator.raise_severity(peer, Severity.CRITICAL)
        episode = self._record(peer, at, fresh=True).episode
        if self._emit(peer, episode, Action.ALERT, Severity.CRITICAL, reason, what, at):
            self._journal.record(at.utc, what, peer=peer, watcher=self.name, reason=reason)

    def _resolve(self, peer: str, at: Moment) -> None:
        closed = self._coordinator.close_episode(peer, at, self.policy.interval_s * VOTE_FRESH_TICKS)
        if closed is None:
            return
        episode, severity = closed
        self._emit(peer, episode, Action.ALERT, severity, "answers again", "resolved", at, EventState.RESOLVED)
        self._journal.record(at.utc, "recovered", peer=peer, watcher=self.name, episode=episode)

    def _tell(self, order: Order, action: Action, severity: Severity, reason: str, what: str, at: Moment) -> None:
        self._coordinator.raise_severity(order.peer, severity)
        self._emit(order.peer, order.episode, action, severity, reason, f"{order.action}/{order.token}/{what}", at)

    def _emit(
        self,
        peer: str,
        episode: int,
        action: Action,
        severity: Severity,
        reason: str,
        what: str,
        at: Moment,
        state: EventState = EventState.FIRING,
    ) -> bool:
        escalation = Escalation(
            timestamp=at.utc,
            peer_name=peer,
            action=action,
            reason=reason,
            severity=severity,
            state=state,
            watcher=self.name,
            episode=episode,
        )
        if state is EventState.FIRING and peer in self._coordinator.silences(at):
            return False
        return self._publish(escalation, f"{peer}/{episode}/{what}", at)

    def _set_doubt(self, doubt: Doubt, at: Moment) -> None:
        before, self.doubt = self.doubt, doubt
        if before.doubting == doubt.doubting:
            return
        own = f"{self.name} (watcher)"
        with self._journal.transaction():
            if doubt.doubting:
                self._withdraw_votes()
                episode = self._coordinator.open_episode(own, at) or self._coordinator.record(own, at).episode
                reason = f"this watcher doubts itself and acts on nobody: {doubt.reason}"
                self._emit(own, episode, Action.ALERT, Severity.MEDIUM, reason, "doubt", at)
            else:
                self._resolve(own, at)
            self._journal.record(at.utc, "self-doubt", watcher=self.name, reason=doubt.reason or "over")

    def _withdraw_votes(self) -> None:
        for peer, watched in self.peers.items():
            if watched.suspected:
                self._coordinator.trust(self.name, peer)
                watched.suspected = False

    def _set_storm(self, storm: Doubt, at: Moment) -> None:
        before, self.storm = self.storm, storm
        if before.doubting == storm.doubting:
            return
        with self._journal.transaction():
            if not storm.doubting:
                self._resolve(STORM, at)
                return
            gone = ", ".join(sorted(n for n, w in self.peers.items() if w.standing.missed_count))
            if self._coordinator.open_episode(STORM, at) is not None:
                self._warn(STORM, "storm", f"{storm.reason}: {gone}; nobody is isolated", at)

    # What is kept

    def _record(self, peer: str, at: Moment, *, fresh: bool) -> PeerRecord:
        if fresh:
            self._records[peer] = self._coordinator.record(peer, at)
        return self._records.get(peer, PeerRecord())

    def _refresh_records(self, at: Moment) -> None:
        """Read the shared records again when somebody else has written, or when one of them moves by itself."""
        version = self._journal.data_version()
        if version != self._records_version or any(record.order_open for record in self._records.values()):
            self._records = self._coordinator.records(at)
            self._records_version = version

    def _save(self, peer: str, saved: Saved) -> None:
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO standing (watcher, peer, body) VALUES (?, ?, ?)",
                (self.name, peer, msgspec.json.encode(saved).decode()),
            )

    def _load(self, peer: str) -> Saved | None:
        rows = self._journal.read("SELECT body FROM standing WHERE watcher = ? AND peer = ?", (self.name, peer))
        return msgspec.json.decode(rows[0]["body"], type=Saved) if rows else None
