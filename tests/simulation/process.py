"""One watcher as a process: the real Watcher, driven as watchdog/loop.py drives it, and killed, stopped and started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.checks import Checks
from tests.simulation.host import KEEPER_S, Host, Killed
from watchdog.clock import Moment
from watchdog.errors import WatchdogError
from watchdog.ladder import PeerRecord, Standing
from watchdog.mesh.coordinator import Order
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action, Escalation, Heartbeat
from watchdog.watcher import Watcher

RESTART_TIMEOUT_S = 60.0
SLOWEST_RESTART_S = 15.0
SLOW_TICKS = 0.5
"""Share of a slow process' ticks that are late."""
Make = Callable[..., Watcher]


@dataclass
class Parts:
    """What a process is made of; planted faults replace some."""

    watcher: Make = Watcher
    coordinator: Callable[[Any], LocalCoordinator] = LocalCoordinator


class Process:
    """`start` may be called again after `kill`: a new watcher on the old journal."""

    def __init__(
        self, name: str, host: Host, checks: Checks, parts: Parts, *, phase_s: float, own_probed: bool
    ) -> None:
        self.name = name
        self.host = host
        self.checks = checks
        self.parts = parts
        self.phase_s = phase_s
        self.late_s = 0.0
        """Every tick begins up to this late: a starved process."""
        self.stopped_until_s = 0.0
        self.stop_at_order_s = 0.0
        self.stop_at: set[Action] = set()
        self.kill_in: int | None = None
        self.own_probed = own_probed
        self.life = 0
        """Grows with every start and kill: what was due for an older life does not happen."""
        self._alive: Watcher | None = None
        self._believed: dict[str, tuple[Standing, ...]] = {}
        self._at_begin: dict[str, Standing] = {}
        self._were_isolated: set[str] = set()
        self._last: tuple[float, float] | None = None
        self._stalled_until_s = 0.0
        self._beat: dict[str, Heartbeat] = {}
        self._isolating: set[str] = set()
        self._in_flight: set[str] = set()
        self._rounds = 0

    # Life

    @property
    def runs(self) -> bool:
        """It is not dead."""
        return self._alive is not None

    @property
    def watcher(self) -> Watcher:
        """Its mind, while it runs."""
        assert self._alive is not None, "nothing of a dead process runs"
        return self._alive

    def start(self) -> None:
        """Begin, or begin again."""
        self.host.say(f"{self.name} starts")
        self.life += 1
        coordinator = self.parts.coordinator(self.host.journal)
        self._watch_claims(coordinator)
        watcher = self.parts.watcher(
            self.name,
            self.host.policy,
            coordinator=coordinator,
            journal=self.host.journal,
            publish=self._publish,
            voters_on=lambda peer: set(self.host.names) - {peer},
            restart_timeout_s=RESTART_TIMEOUT_S,
        )
        for peer in self.host.names:
            if peer != self.name:
                watcher.watch(peer, "", self.host.at())
                loaded = watcher.peers[peer].standing
                self.checks.on_loaded(self.name, peer, loaded, self._believed.get(peer, (Standing(),)))
        self._alive = watcher
        self.checks.truth.on_start(self.name)
        self._last = None
        self._rounds = 0
        self._in_flight.clear()
        self.kill_in = None
        self._later(self.phase_s if self.life == 1 else 0.5, lambda: self._tick(self.host.now_s))

    def kill(self) -> None:
        """kill -9."""
        if self.runs:
            self.host.say(f"{self.name} is killed")
            self._note_believed()
            self._end(self.watcher)

    def _end(self, watcher: Watcher) -> None:
        """What was saved is what was saved last, or what it was about to save."""
        for name, peer in watcher.peers.items():
            self._believed[name] = (*self._believed.get(name, (Standing(),)), peer.standing)
        self.kill_in = None
        self.life += 1
        self._alive = None
        for name in sorted(self._isolating):
            self._let_go(name)

    def stop(self, for_s: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.stopped_until_s = max(self.stopped_until_s, self.host.now_s + for_s)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        """In this life, and when the process runs."""
        life = self.life

        def due() -> None:
            if self.life != life:
                return
            if self.host.now_s < self.stopped_until_s:
                self._stalled_until_s = self.stopped_until_s
                self.host.later(self.stopped_until_s - self.host.now_s, due)
                return
            self._guarded(call)

        self.host.later(delay_s, due)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Run something of the watcher's, as far as it comes before it is killed."""
        if self.kill_in is None and not self.host.refused.get(self.name):
            call()
            return
        self._note_believed()
        journal = self.host.journal
        journal.refusing, journal.kill_in = self.host.refused.get(self.name, 0) > 0, self.kill_in
        journal.has_refused = False
        try:
            call()
            self.kill_in = journal.kill_in
        except Killed:
            self.host.say(f"{self.name} is killed at work")
            self.checks.on_killed(self.name)
            self._end(self.watcher)
        finally:
            if journal.has_refused:
                self.checks.truth.on_refused(self.name)
            journal.refusing, journal.kill_in = False, None

    def _note_believed(self) -> None:
        """What is saved now: what it believes, or what it believed before the journal refused."""
        for name, peer in self.watcher.peers.items():
            if not peer.unsaved:
                self._believed[name] = (peer.standing,)

    # Rounds

    def _tick(self, due_s: float) -> None:
        if self.late_s and self.host.rng.random() < SLOW_TICKS:
            self._later(self.host.rng.uniform(0, self.late_s), lambda: self._round(due_s))
        else:
            self._round(due_s)

    def _round(self, due_s: float) -> None:
        if not self.watcher.round_is_complete:
            self._send(self.watcher.end_round(self.host.at()))
        at = self.host.at()
        wall_s = at.utc.timestamp()
        jump_s = (wall_s - self._last[1]) - (at.s - self._last[0]) if self._last else 0.0
        late_s = max(0.0, self.host.now_s - due_s)
        self._last = (at.s, wall_s)
        self._at_begin = {name: peer.standing for name, peer in self.watcher.peers.items()}
        self.checks.truth.on_round_begins(self.name, late_s)
        self._were_isolated = {peer for peer in self.watcher.peers if self.host.is_isolated(peer)}
        self.watcher.begin_round(at, late_s=late_s, clock_jump_s=jump_s, own_endpoint_probed=self.own_probed)
        due_s += self.host.policy.interval_s * (1 + int((self.host.now_s - due_s) // self.host.policy.interval_s))
        self._later(due_s - self.host.now_s, lambda: self._tick(due_s))
        jitter_s = self.host.policy.interval_s * 0.1
        if self.own_probed:
            self._later(0.02, self._hear_own)
        for peer in self.watcher.peers:
            self._later(self.host.rng.uniform(0, jitter_s), lambda peer=peer: self._ask(peer))  # type: ignore[misc]

    def _ask(self, peer: str) -> None:
        if peer in self._in_flight or not self.watcher.waits_for(peer):
            return
        self._in_flight.add(peer)
        beat, takes_s = self.host.probe(self.name, peer)
        asked_s, was_up = self.host.now_s, self.host.is_up(peer)
        self._later(takes_s, lambda: self._hear(beat, asked_s, was_up))

    def _hear_own(self) -> None:
        up = self.host.is_up(self.name)
        self.checks.truth.on_own_heard(self.name, up=up)
        self.watcher.hear_own(Heartbeat(self.name, healthy=up, detail="HTTP 200" if up else "no answer"))
        self._end_round_if_complete()

    def _hear(self, beat: Heartbeat, asked_s: float, was_up: bool) -> None:
        self._in_flight.discard(beat.peer)
        if not beat.healthy and asked_s <= self._stalled_until_s:
            self.watcher.skip(beat.peer, self._stalled_until_s - asked_s)
        else:
            if beat.healthy or beat.peer not in self._were_isolated or self.host.is_isolated(beat.peer):
                self.checks.on_heard(self.name, beat, was_up=was_up)
            self._beat[beat.peer] = beat
            self._send(self.watcher.hear(beat.peer, beat, self.host.at()))
        self._end_round_if_complete()

    def _end_round_if_complete(self) -> None:
        watcher = self.watcher
        if not watcher.round_is_complete:
            return
        self._note_lost(watcher)
        doubting = watcher.doubt.doubting
        self._send(watcher.end_round(self.host.at()))
        self._rounds += 1
        self.checks.truth.on_round_ended(self.name)
        self.checks.on_round(watcher, self._at_begin)
        if doubting != watcher.doubt.doubting:
            self.host.say(
                f"{self.name} {'doubts itself: ' + watcher.doubt.reason if not doubting else 'trusts itself'}"
            )

    def _note_lost(self, watcher: Watcher) -> None:
        """Everybody was heard in the last round, two at least, and nobody in this one, though somebody is there."""
        there = [name for name in watcher.peers if not self.host.is_isolated(name)]
        misses = [self.checks.of(self.name, name).misses for name in there]
        wrong = any(self.checks.of(self.name, name).false_misses for name in there)
        if len(misses) > 1 and all(count == 1 for count in misses) and wrong:
            self.checks.lost.add(self.name)
        elif not (all(misses) and wrong):
            self.checks.lost.discard(self.name)

    # Orders

    def _watch_claims(self, coordinator: LocalCoordinator) -> None:
        claim = coordinator.claim

        def watched(request: Any, at: Moment) -> Any:
            answer = claim(request, at)
            if isinstance(answer, Order):
                watcher, beat, first = self.watcher, self._beat[request.peer], self._rounds == 0
                self.host.journal.after_commit(
                    lambda: self.checks.on_claim(watcher, request, answer, beat, first_round=first)
                )
            return answer

        coordinator.claim = watched  # type: ignore[method-assign]
        forgive = coordinator.forgive

        def watched_forgiveness(peer: str, known: PeerRecord, at: Moment) -> bool:
            forgiven = forgive(peer, known, at)
            if forgiven:
                self.checks.on_forgive(self.name, peer)
            return forgiven

        coordinator.forgive = watched_forgiveness  # type: ignore[method-assign]

    def _send(self, orders: list[Order]) -> None:
        for order in orders:
            if self.stop_at_order_s and order.action in self.stop_at:
                self.stop(self.stop_at_order_s)
                self.stop_at_order_s = 0.0
            self._later(self.host.rng.uniform(0, 0.05), lambda order=order: self._begin(order))  # type: ignore[misc]

    def _begin(self, order: Order) -> None:
        at = self.host.at()
        try:
            begun = self.watcher.may_begin(order, at)
        except WatchdogError:
            begun = False
        if not begun:
            self._settle(lambda at: self.watcher.drop(order, "overtaken", at))
            return
        self.host.say(f"{self.name} begins {order.action} of {order.peer}")
        self.checks.on_begin(self.watcher, order, at)
        if order.action is Action.RESTART:
            self._restart(order)
        else:
            self._isolate(order)

    def _restart(self, order: Order) -> None:
        rng = self.host.rng
        hangs = rng.random() < self.host.restarts_hang
        worked = False if hangs else self.host.restart(order.peer)
        takes_s = RESTART_TIMEOUT_S if hangs else rng.uniform(0.05, SLOWEST_RESTART_S)
        self._later(takes_s, lambda: self._finish(order, failed=not worked))

    def _isolate(self, order: Order) -> None:
        peer, host = order.peer, self.host
        try:
            others = [each for each in host.intents.in_force() if each.where.peer != peer]
            if others or host.rng.random() < host.isolations_fail:
                self._later(0.1, lambda: self._finish(order, failed=True))
                return
            self._isolating.add(peer)
            host.being_isolated.add(peer)
            if host.intent(peer) is None:
                host.begin_isolation(peer, order.reason)
        except WatchdogError:
            self._let_go(peer)
            self._finish(order, failed=True)
            return
        self._later(host.rng.uniform(0.05, 0.5), lambda: self._cut_off(order))

    def _cut_off(self, order: Order) -> None:
        failed = False
        try:
            self.host.cut_off(order.peer)
        except WatchdogError:
            failed = True
        self._let_go(order.peer)
        self._later(0.05, lambda: self._finish(order, failed=failed))

    def _let_go(self, peer: str) -> None:
        self._isolating.discard(peer)
        self.host.being_isolated.discard(peer)
        self.host.later(KEEPER_S, self.host.carry_on)

    def _finish(self, order: Order, *, failed: bool) -> None:
        def settle(at: Moment) -> None:
            self.watcher.settle(order, at, failed=failed, outcome="failed" if failed else "worked")
            self.checks.on_end(order, failed=failed)

        self._settle(settle)

    def _settle(self, message: Callable[[Moment], object]) -> None:
        """As the loop does: again and again until the journal takes it."""
        try:
            message(self.host.at())
        except WatchdogError:
            self._later(self.host.policy.interval_s, lambda: self._settle(message))

    def _publish(self, escalation: Escalation, key: str, at: Moment) -> bool:
        published = self.host.outbox.publish(escalation, key, at)
        if published:
            self.host.say(f"    {escalation.severity} {escalation.state} {escalation.peer_name}: {escalation.reason}")
        return published
