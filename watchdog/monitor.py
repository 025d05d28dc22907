"""The monitor: probes every peer side by side, tick after tick, and carries out what its watcher decides.

One thread owns the watcher and reads the clocks; probes and actions run on threads of their own, so that no hung peer
and no hung restart delays another. Embedded in an agent:

    monitor = Monitor("immune")
    monitor.register_peer("shield", "http://127.0.0.1:9103/healthz")
    monitor.on_escalation(print)
    monitor.start()
"""

from __future__ import annotations

import heapq
import logging
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from watchdog import clock
from watchdog.clock import Moment
from watchdog.errors import UsageError, WatchdogError
from watchdog.intents import Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Coordinator, Order
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action, Escalation, Heartbeat, PeerStatus, Stats
from watchdog.outbox import Outbox
from watchdog.watcher import Watcher

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from watchdog.probe import Target
    from watchdog.status.document import MeshView, WatcherHealth

MOST_PROBES_AT_ONCE = 128
MOST_ACTIONS_AT_ONCE = 4
JITTER_SHARE = 0.1
"""Probes of a round begin within this share of the interval, so that peers are not all asked at one instant."""
LONGEST_WAIT_S = 1.0
"""The loop turns at least this often, so that a loop that stands still is seen to."""
LATE_TURNS = 3
JOIN_MARGIN_S = 2.0
DEFAULT_RESTART_TIMEOUT_S = 60.0

log = logging.getLogger("watchdog")

Handler = Callable[[Escalation], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended, in a sentence for people."""

    failed: bool
    detail: str


class Actions(Protocol):
    """What carries out orders. Called on worker threads; returns an outcome and raises only for bugs."""

    def restart(self, order: Order) -> Outcome:
        """Restart the peer's agent and see that it came up."""

    def isolate(self, order: Order) -> Outcome:
        """Cut the peer's traffic, see that it holds, and enter it in the journal as isolated."""

    def evidence(self, peer: str) -> tuple[str, bool]:
        """What this host itself says against a silent peer, and whether systemd reports its unit down."""


class Probe(Protocol):
    """One GET to one heartbeat."""

    def probe(self, target: Target) -> Heartbeat: ...

    def close(self) -> None: ...


class Monitor:
    """Monitors peers for the agent `self_name`.

    Without `journal` it remembers nothing after the process; without `actions` it only tells its handlers what
    should be done. Every method may be called from any thread.
    """

    def __init__(
        self,
        self_name: str,
        policy: Policy | None = None,
        *,
        journal: Journal | None = None,
        coordinator: Coordinator | None = None,
        outbox: Outbox | None = None,
        actions: Actions | None = None,
        prober: Probe | None = None,
        voters_on: Callable[[str], Collection[str]] | None = None,
        own: Target | None = None,
        restart_timeout_s: float = DEFAULT_RESTART_TIMEOUT_S,
        on_turn: Callable[[], None] | None = None,
        on_round: Callable[[], None] | None = None,
    ) -> None:
        self.self_name = self_name
        self.policy = policy or Policy()
        self._journal = journal or Journal.in_memory()
        self._outbox = outbox or Outbox(self._journal, (), host=socket.gethostname())
        self._actions = actions
        self._prober = prober
        self._own = own
        self._on_turn = on_turn or (lambda: None)
        self._on_round = on_round or (lambda: None)
        self._watcher = Watcher(
            self_name,
            self.policy,
            coordinator=coordinator or LocalCoordinator(self._journal),
            journal=self._journal,
            publish=self._publish,
            voters_on=voters_on or (lambda _: {self_name}),
            restart_timeout_s=restart_timeout_s,
        )
        self._targets: dict[str, Target] = {}
        self._handlers: list[Handler] = []
        self._lock = threading.Lock()
        self._shown: dict[str, PeerStatus] = {}
        self._inbox: queue.SimpleQueue[Callable[[Moment], None] | None] = queue.SimpleQueue()
        self._escalations: queue.SimpleQueue[Escalation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started: Moment | None = None
        self._turned_s = clock.now_s()
        self.turns = 0
        self._trouble = ""

    # What others call

    def register_peer(self, name: str, endpoint: str, target: Target | None = None) -> None:
        """Watch one more peer; `target` says more about how to ask it than its endpoint. Before or after start()."""
        if name == self.self_name:
            raise UsageError(f"{name} is this monitor's own agent; it does not watch itself")
        if name in self._targets:
            raise UsageError(f"peer {name} is registered already")
        if target is None:
            from watchdog.probe import Target as PlainTarget

            target = PlainTarget(name=name, endpoint=endpoint, timeout_s=self.policy.timeout_s)
        self._targets[name] = target
        if self._thread is None:
            self._watch(target, clock.moment())
        else:
            self._inbox.put(lambda at: self._watch(target, at))

    def on_escalation(self, handler: Handler) -> None:
        """Have `handler` called with every escalation, on a thread of its own; what it raises is logged."""
        self._handlers.append(handler)

    def start(self) -> None:
        """Begin to probe. A monitor can be started once."""
        if self._thread is not None:
            raise UsageError(f"the monitor of {self.self_name} was started already")
        if self._prober is None:
            from watchdog.probe import Prober

            self._prober = Prober(len(self._targets))
        self._started = clock.moment()
        self._turned_s = self._started.s
        threading.Thread(target=self._hand_out, name="watchdog-handlers", daemon=True).start()
        self._thread = threading.Thread(target=self._run, name="watchdog-monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop probing and wait until what was begun has ended, at most a probe's timeout and a little."""
        self._stopping.set()
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join(self.policy.timeout_s + JOIN_MARGIN_S)
        self._escalations.put(None)
        if self._prober is not None:
            self._prober.close()

    def release_peer(self, name: str) -> None:
        """Without actions: say that the handlers have let an isolated peer back. Unknown names are no error."""
        intents = Intents(self._journal)
        for intent in intents.in_force():
            if intent.where.peer == name and not intent.where.cgroup:
                intents.change(intent, State.RELEASED, clock.utc_now())

    def get_peer_status(self, name: str) -> PeerStatus | None:
        """A copy of what is believed of one peer; None when it is not registered."""
        with self._lock:
            return self._shown.get(name)

    def all_peers(self) -> list[PeerStatus]:
        """Copies, in the order of registration."""
        with self._lock:
            return list(self._shown.values())

    def stats(self) -> Stats:
        """A copy of the counters since this monitor was made."""
        watcher = self._watcher
        return Stats(
            total_checks=watcher.total_checks,
            total_misses=watcher.total_misses,
            total_restarts=watcher.total_restarts,
            total_isolations=watcher.total_isolations,
            started_at=self._started.utc if self._started else None,
            peer_count=len(self._targets),
        )

    def health(self) -> WatcherHealth:
        """How this watcher itself is: late when its loop has not turned for three of its turns."""
        from watchdog.status.document import WatcherHealth

        age_s = clock.now_s() - self._turned_s
        limit_s = LATE_TURNS * LONGEST_WAIT_S
        reason = self._trouble
        if self._started is None:
            reason = "not started"
        elif self._stopping.is_set():
            reason = "stopping"
        elif age_s > limit_s:
            reason = f"its loop has stood still for {age_s:.1f} s"
        elif self._watcher.doubt.doubting:
            reason = f"in self-doubt: {self._watcher.doubt.reason}"
        late = self._started is None or self._stopping.is_set() or age_s > limit_s or bool(self._trouble)
        return WatcherHealth(
            ok=not late, reason=reason, loop_age_s=age_s, started_at=self._started.utc if self._started else None
        )

    def view(self) -> MeshView:
        """Everything the status shows of this monitor, copied now."""
        from watchdog.status.document import MeshView

        return MeshView(
            self_name=self.self_name,
            peers=self.all_peers(),
            stats=self.stats(),
            health=self.health(),
            isolations=(),
            outbox={},
            generated_at=clock.utc_now(),
        )

    @property
    def wsgi_app(self) -> WSGIApplication:
        """The status as a WSGI application, for agents that serve HTTP themselves."""
        from watchdog.status.app import create_app

        return create_app(self.view)

    # The loop

    def _run(self) -> None:
        workers = max(1, min(len(self._targets) + 1, MOST_PROBES_AT_ONCE))
        with (
            ThreadPoolExecutor(workers, thread_name_prefix="watchdog-probe") as self._probes,
            ThreadPoolExecutor(MOST_ACTIONS_AT_ONCE, thread_name_prefix="watchdog-action") as self._work,
        ):
            due, before = clock.moment(), None
            while not self._stopping.is_set():
                before = self._round(due, before)
                due_s = next_tick_s(due.s, clock.now_s(), self.policy.interval_s)
                due = Moment(due_s, due.utc, due.boot)
                while not self._stopping.is_set() and (wait_s := due_s - clock.now_s()) > 0:
                    self._turn(wait_s)

    def _round(self, due: Moment, before: tuple[Moment, float] | None) -> tuple[Moment, float]:
        """Probe every peer once; what both clocks said at its beginning is the next round's `before`."""
        at, monotonic_s = clock.moment(), time.monotonic()
        passed_s = at.s - before[0].s if before else 0.0
        clock_jump_s = (at.utc - before[0].utc).total_seconds() - passed_s if before else 0.0
        suspended_s = passed_s - (monotonic_s - before[1]) if before else 0.0
        self._attempt(
            lambda now: self._watcher.begin_round(
                now,
                late_s=max(0.0, at.s - due.s) if before else 0.0,
                clock_jump_s=clock_jump_s,
                suspended_s=suspended_s,
                own_endpoint_probed=self._own is not None,
            )
        )
        self._probe_all(at.s)
        self._attempt(lambda now: self._carry_out(self._watcher.end_round(now, self._trouble)))
        self._on_round()
        return at, monotonic_s

    def _probe_all(self, begun_s: float) -> None:
        pending = [(begun_s + random.uniform(0, self._jitter_s), name) for name in self._watcher.peers]  # noqa: S311
        heapq.heapify(pending)
        if self._own is not None:
            self._probes.submit(self._ask_own, self._own)
        while not self._stopping.is_set() and (pending or not self._watcher.round_is_complete):
            now_s = clock.now_s()
            while pending and pending[0][0] <= now_s:
                self._probes.submit(self._ask, self._targets[heapq.heappop(pending)[1]])
            self._turn(pending[0][0] - now_s if pending else LONGEST_WAIT_S)

    @property
    def _jitter_s(self) -> float:
        spare_s = self.policy.interval_s - self.policy.timeout_s
        return max(0.0, min(self.policy.interval_s * JITTER_SHARE, spare_s / 2))

    def _turn(self, wait_s: float) -> None:
        """Do one thing that has come in, or wait for it."""
        self._turned_s = clock.now_s()
        self.turns += 1
        self._on_turn()
        try:
            message = self._inbox.get(timeout=max(0.0, min(wait_s, LONGEST_WAIT_S)))
        except queue.Empty:
            return
        if message is not None:
            self._attempt(message)

    def _attempt(self, message: Callable[[Moment], None]) -> None:
        """The journal may be full or locked: say so once, go on probing, and order nothing meanwhile."""
        try:
            message(clock.moment())
        except WatchdogError as error:
            if self._trouble != error.one_line():
                self._trouble = error.one_line()
                log.error("%s", self._trouble)
            return
        if self._trouble:
            log.warning("the journal works again")
            self._trouble = ""

    # What runs on other threads

    def _ask(self, target: Target) -> None:
        assert self._prober is not None
        try:
            beat = self._prober.probe(target)
        except WatchdogError as error:
            self._cannot_probe(target.name, error)
            return
        if not beat.healthy and self._actions is not None and self._is_suspect(target.name):
            said, unit_down = self._actions.evidence(target.name)
            beat = Heartbeat(
                peer=beat.peer,
                healthy=False,
                detail=beat.detail,
                response_time_ms=beat.response_time_ms,
                verified=beat.verified,
                impostor=beat.impostor,
                evidence=said,
                unit_down=unit_down,
            )
        self._inbox.put(lambda at: self._hear(target.name, beat, at))

    def _cannot_probe(self, peer: str, error: WatchdogError) -> None:
        """This watcher could not even ask: that is no miss of the peer's."""

        def skip(_: Moment) -> None:
            self._watcher.skip(peer)
            raise error

        self._inbox.put(skip)

    def _is_suspect(self, peer: str) -> bool:
        shown = self.get_peer_status(peer)
        return shown is not None and shown.missed_count + 1 >= self.policy.missed_before_restart

    def _ask_own(self, target: Target) -> None:
        assert self._prober is not None
        try:
            beat = self._prober.probe(target)
        except WatchdogError as error:
            beat = Heartbeat(target.name, healthy=False, detail=error.one_line())
        self._inbox.put(lambda _: self._watcher.hear_own(beat))

    def _do(self, order: Order) -> None:
        """Carry out one order, unless it was overtaken while it waited."""
        try:
            outcome = self._outcome(order)
        except WatchdogError as error:
            outcome = Outcome(failed=True, detail=error.one_line())
        self._inbox.put(lambda at: self._settle(order, outcome, at))

    def _outcome(self, order: Order) -> Outcome:
        if not self._watcher_may_begin(order):
            return Outcome(failed=True, detail="overtaken by a newer order, or its time was up; nothing was done")
        if self._actions is None:
            return self._leave_to_handlers(order)
        return self._actions.restart(order) if order.action is Action.RESTART else self._actions.isolate(order)

    def _leave_to_handlers(self, order: Order) -> Outcome:
        """Without actions the handlers act; the peer counts as isolated until `release_peer` says otherwise."""
        if order.action is Action.ISOLATE:
            where = Where(cgroup="", cgroup_id=0, peer=order.peer)
            Intents(self._journal).begin(where, Why(order.reason), With(), clock.utc_now(), State.ISOLATED)
        return Outcome(failed=False, detail=f"left to the handlers: {order.reason}")

    def _watcher_may_begin(self, order: Order) -> bool:
        return self._watcher.may_begin(order, clock.moment())

    def _hand_out(self) -> None:
        while (escalation := self._escalations.get()) is not None:
            for handler in list(self._handlers):
                try:
                    handler(escalation)
                except Exception:  # a handler is anybody's code
                    log.exception("a handler of escalations failed")

    # What the loop's thread does with what came in

    def _watch(self, target: Target, at: Moment) -> None:
        self._watcher.watch(target.name, target.endpoint, at)
        self._show(target.name)

    def _hear(self, peer: str, beat: Heartbeat, at: Moment) -> None:
        try:
            self._carry_out(self._watcher.hear(peer, beat, at))
        finally:
            self._show(peer)

    def _carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            self._work.submit(self._do, order)

    def _settle(self, order: Order, outcome: Outcome, at: Moment) -> None:
        self._watcher.settle(order, at, failed=outcome.failed, outcome=outcome.detail)
        self._show(order.peer)
        self._on_round()

    def _show(self, peer: str) -> None:
        shown = self._watcher.status_of(peer)
        with self._lock:
            before = self._shown.get(peer)
            self._shown[peer] = shown
        if before is not None and before.status is not shown.status:
            log.info("%s is %s: %s", peer, shown.status, shown.detail or "nothing heard yet")

    def _publish(self, escalation: Escalation, key: str, at: Moment) -> bool:
        if not self._outbox.publish(escalation, key, at):
            return False
        self._escalations.put(escalation)
        return True


def next_tick_s(due_s: float, now_s: float, interval_s: float) -> float:
    """When the next round begins: on the grid of the first one; ticks that were slept through are not made up for."""
    missed = max(0, int((now_s - due_s) // interval_s))
    return due_s + (missed + 1) * interval_s
