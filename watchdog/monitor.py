"""The monitor: probes every peer side by side, tick after tick, and carries out what its watcher decides.

One thread owns the watcher and reads the clocks; probes and actions run on threads of their own, so that no hung peer
and no hung restart delays another. Embedded in an agent:

    monitor = Monitor("immune")
    monitor.register_peer("shield", "http://127.0.0.1:9103/healthz")
    monitor.on_escalation(print)
    monitor.start()
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from watchdog import clock
from watchdog.clock import Moment
from watchdog.config_check import NAME, NAME_WANTED
from watchdog.errors import UsageError, WatchdogError
from watchdog.handlers import Handler, Handlers
from watchdog.intents import Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.ladder import Policy
from watchdog.loop import LONGEST_WAIT_S, Hands, Loop, Probe
from watchdog.mesh import coordinator_of, overview
from watchdog.mesh.coordinator import Coordinator, Order, Outcome
from watchdog.mesh.overview import NOTHING_SAID, Overview
from watchdog.model import Action, Escalation, Heartbeat, PeerStatus, Stats, Status
from watchdog.outbox import Outbox
from watchdog.watcher import Watcher

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from watchdog.probe import Target
    from watchdog.status.document import MeshView, WatcherHealth

LATE_TURNS = 3
JOIN_MARGIN_S = 2.0
DEFAULT_RESTART_TIMEOUT_S = 25.0
EVENTS_KEPT = timedelta(days=30)
"""How long settled events stay in the outbox; the audit trail keeps what happened for ever."""
PRUNE_EVERY_S = 24 * 3600.0
OVERTAKEN = "overtaken by a newer order, or its time was up; nothing was done"

log = logging.getLogger("watchdog")


class Actions(Protocol):
    """What carries out orders. Called on worker threads; returns an outcome and raises only for bugs."""

    def restart(self, order: Order) -> Outcome:
        """Restart the peer's agent and see that it came up."""

    def isolate(self, order: Order) -> Outcome:
        """Cut the peer's traffic, see that it holds, and enter it in the journal as isolated."""

    def evidence(self, peer: str) -> tuple[str, bool]:
        """What this host itself says against a silent peer, and whether systemd reports its unit down."""

    def unfinished(self, peer: str) -> str:
        """Another agent of this host whose restart is given up, and not over; empty when there is none."""


class Monitor:
    """Monitors peers for the agent `self_name`.

    Without `journal` it remembers nothing after the process; without `actions` it only tells its handlers what
    should be done. `voters_on` says which watchers have a vote on a peer: an isolation needs two of them, or hard local
    evidence. Without it this monitor is the only one; that is enough for its handlers to be told to isolate, and not
    for `actions` to do it. Every method may be called from any thread.
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
        self.self_name = _checked(self_name)
        self.policy = policy or Policy()
        if voters_on is None and actions is None:
            self.policy = replace(self.policy, single_observer=True)
        self._journal = journal or Journal.in_memory()
        self._outbox = outbox or Outbox(self._journal, (), host=socket.gethostname())
        self._actions = actions
        self._prober = prober
        self._own = own
        self._on_turn = on_turn or (lambda: None)
        self._on_round = on_round or (lambda: None)
        self._coordinator = coordinator or coordinator_of(self._journal)
        self._voters_on = voters_on or (lambda _: {self_name})
        self._watcher = Watcher(
            self_name,
            self.policy,
            coordinator=self._coordinator,
            journal=self._journal,
            publish=self._publish,
            voters_on=self._voters_on,
            restart_timeout_s=restart_timeout_s,
        )
        self._targets: dict[str, Target] = {}
        self._handlers = Handlers()
        self._lock = threading.Lock()
        self._shown: dict[str, PeerStatus] = {}
        self._loop: Loop | None = None
        self._started: Moment | None = None
        self._pruned_s: float | None = None

    # What others call

    def register_peer(self, name: str, endpoint: str, target: Target | None = None) -> None:
        """Watch one more peer; `target` says more about how to ask it than its endpoint. Before or after start()."""
        if _checked(name) == self.self_name:
            raise UsageError(f"{name} is this monitor's own agent; it does not watch itself")
        if target is None:
            from watchdog.probe import Target as PlainTarget

            target = PlainTarget(name=name, endpoint=endpoint, timeout_s=self.policy.timeout_s)
        with self._lock:
            if name in self._targets:
                raise UsageError(f"peer {name} is registered already")
            if self._loop is None:
                self._watcher.watch(name, target.endpoint, clock.moment())
                self._shown[name] = self._watcher.status_of(name)
            else:
                self._shown[name] = PeerStatus(name, target.endpoint, Status.HEALTHY, None, 0, 0, None, None)
            self._targets[name] = target
        if self._loop is not None:
            self._loop.post(lambda at: self._watch(target, at))

    def on_escalation(self, handler: Handler) -> None:
        """Have `handler` called with every escalation, on a thread of its own; what it raises is logged."""
        self._handlers.add(handler)

    def start(self) -> None:
        """Begin to probe. A monitor can be started once."""
        if self._prober is None:
            from watchdog.probe import Prober

            self._prober = Prober(len(self._targets))
        hands = Hands(
            self._prober, self._look, self._carry_out, self._show, on_turn=self._on_turn, on_round=self._end_round
        )
        with self._lock:
            if self._loop is not None:
                raise UsageError(f"the monitor of {self.self_name} was started already")
            self._started = clock.moment()
            self._loop = Loop(self._watcher, self._targets, self._own, hands)
        self._loop.start()

    def stop(self) -> None:
        """Stop probing and wait until what was begun has ended, at most a probe's timeout and a little."""
        if self._loop is not None:
            self._loop.stop(self.policy.timeout_s + JOIN_MARGIN_S)
        self._handlers.close(JOIN_MARGIN_S)
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

        loop = self._loop
        if loop is None:
            return WatcherHealth(ok=False, reason="not started", loop_age_s=0.0, started_at=None)
        age_s = clock.now_s() - loop.turned_s
        reason = loop.trouble
        if loop.stopping:
            reason = "stopping"
        elif age_s > LATE_TURNS * LONGEST_WAIT_S:
            reason = f"its loop has stood still for {age_s:.1f} s" + (f": {reason}" if reason else "")
        ok, watcher = not reason, self._watcher
        if ok and watcher.doubt.doubting:
            reason = f"in self-doubt: {watcher.doubt.reason}"
        elif ok and watcher.storm.doubting:
            reason = f"in a storm: {watcher.storm.reason}"
        return WatcherHealth(
            ok=ok,
            reason=reason,
            loop_age_s=age_s,
            started_at=self._started.utc if self._started else None,
            self_doubt=watcher.doubt.reason,
            storm=watcher.storm.reason,
            score=watcher.score,
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
            mesh=self._overview(),
        )

    def _overview(self) -> Overview:
        """A mesh that does not answer is told by the health; the rest of the status is worth having all the same."""
        with self._lock:
            peers = tuple(self._targets)
        try:
            return overview.look(self._coordinator, peers, self._voters_on, self.policy, clock.moment())
        except WatchdogError:
            return NOTHING_SAID

    @property
    def wsgi_app(self) -> WSGIApplication:
        """The status as a WSGI application, for agents that serve HTTP themselves."""
        from watchdog.status.app import create_app

        return create_app(self.view)

    # What the loop has done

    def _watch(self, target: Target, at: Moment) -> None:
        self._watcher.watch(target.name, target.endpoint, at)
        self._show(target.name)

    def _end_round(self) -> None:
        self._on_round()
        at = clock.moment()
        if is_due(self._pruned_s, at.s) and not self._watcher.trouble:
            self._outbox.prune(at.utc - EVENTS_KEPT)
            self._pruned_s = at.s

    def _look(self, peer: str, beat: Heartbeat) -> Heartbeat:
        """A miss, with what this host says; asked for only when it could matter: it costs a systemctl."""
        shown = self.get_peer_status(peer)
        suspect = shown is not None and shown.missed_count + 1 >= self.policy.missed_before_restart
        if not suspect or self._actions is None:
            return beat
        said, unit_down = self._actions.evidence(peer)
        unfinished = self._actions.unfinished(peer)
        detail = f"{beat.detail}; {unfinished}" if unfinished else beat.detail
        return replace(beat, detail=detail, evidence=said, unit_down=unit_down, unfinished=unfinished)

    def _carry_out(self, order: Order) -> Outcome:
        """Carry out one order, unless it was overtaken while it waited."""
        try:
            if not self._watcher.may_begin(order, clock.moment()):
                return Outcome(failed=True, detail=OVERTAKEN, begun=False)
        except WatchdogError as error:
            return Outcome(failed=True, detail=f"nothing was done: {error.one_line()}", begun=False)
        if self._actions is None:
            return self._leave_to_handlers(order)
        return self._actions.restart(order) if order.action is Action.RESTART else self._actions.isolate(order)

    def _leave_to_handlers(self, order: Order) -> Outcome:
        """Without actions the handlers act; the peer counts as isolated until `release_peer` says otherwise."""
        if order.action is Action.ISOLATE:
            where = Where(cgroup="", cgroup_id=0, peer=order.peer)
            Intents(self._journal).begin(where, Why(order.reason), With(), clock.utc_now(), State.ISOLATED)
        return Outcome(failed=False, detail=f"left to the handlers: {order.reason}")

    def _show(self, peer: str) -> None:
        shown = self._watcher.status_of(peer)
        with self._lock:
            before = self._shown.get(peer)
            self._shown[peer] = shown
        if before is not None and before.status is not shown.status:
            log.info("%s is %s: %s", peer, shown.status, shown.detail or "nothing heard yet")

    def _publish(self, escalation: Escalation, key: str, at: Moment) -> bool:
        """Into the outbox, and to the handlers once it is certain to be there."""
        if not self._outbox.publish(escalation, key, at):
            return False
        self._journal.after_commit(lambda: self._handlers.hand_out(escalation))
        return True


def _checked(name: str) -> str:
    """An agent's name, as a configuration may have it. Raises UsageError for any other."""
    if not NAME.fullmatch(name):
        raise UsageError(f"an agent's name: want {NAME_WANTED}, got {name!r}")
    return name


def is_due(pruned_s: float | None, now_s: float) -> bool:
    """Whether the outbox is to be pruned: in the first round, and then once a day."""
    return pruned_s is None or now_s - pruned_s >= PRUNE_EVERY_S
