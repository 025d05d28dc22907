"""What people are told: which events a watcher publishes, in which episode, under which key.

A key is one event, however many watchers see the same. Each method is part of the transaction that is open, so that
an event is there exactly when what the journal says of it is.
"""

from __future__ import annotations

from typing import Protocol

from watchdog.clock import Moment
from watchdog.journal import Journal
from watchdog.ladder import PeerRecord
from watchdog.mesh.coordinator import Coordinator, Order
from watchdog.model import Action, Escalation, EventState, Severity

STORM = "*"
"""The name under which the storm's episode is kept: no peer can have it."""


class Publish(Protocol):
    """Hand an event to the outbox; False when that key was published before, by whichever watcher."""

    def __call__(self, escalation: Escalation, key: str, at: Moment) -> bool: ...


class Herald:
    """The events of the watcher `name`."""

    def __init__(self, name: str, coordinator: Coordinator, journal: Journal, publish: Publish, fresh_s: float) -> None:
        self.name = name
        self.itself = f"{name} (watcher)"
        self.asking = f"{name} (watcher, asking)"
        self._coordinator = coordinator
        self._journal = journal
        self._publish = publish
        self._fresh_s = fresh_s

    def degraded(self, peer: str, reason: str, at: Moment) -> None:
        """A peer's trouble begins, if nobody said so yet."""
        episode = self._coordinator.open_episode(peer, at)
        if episode is not None:
            self._emit(peer, episode, Action.ALERT, Severity.MEDIUM, reason, "degraded", at)

    def warn(self, peer: str, what: str, reason: str, at: Moment, severity: Severity = Severity.CRITICAL) -> None:
        """An alert, once an episode."""
        self._coordinator.open_episode(peer, at)
        episode = self._coordinator.record(peer, at).episode
        if self._emit(peer, episode, Action.ALERT, severity, reason, what, at):
            self._journal.record(at.utc, what, peer=peer, watcher=self.name, reason=reason)

    def over(self, peer: str, reason: str, at: Moment) -> None:
        """A peer's trouble ends, unless another watcher still has it; said to those who were told of it."""
        closed = self._coordinator.close_episode(peer, at, self._fresh_s)
        if closed is None:
            return
        self._journal.record(at.utc, "recovered", peer=peer, watcher=self.name, episode=closed.episode)
        if closed.told is not None:
            resolved = EventState.RESOLVED
            self._emit(peer, closed.episode, Action.ALERT, closed.told, reason, "resolved", at, resolved)

    def ordered(self, order: Order, at: Moment, *, again: bool) -> None:
        """An order was given; `again` when the one before it failed and people know."""
        self._note_order(order, at)
        if not again:
            self._tell_order(order, at)

    def ordered_before(self, order: Order, at: Moment) -> None:
        """An order was given before, and its news may have been lost: what was told is not told twice."""
        if self._tell_order(order, at):
            self._note_order(order, at)

    def _note_order(self, order: Order, at: Moment) -> None:
        self._journal.record(
            at.utc,
            f"{order.action} ordered",
            peer=order.peer,
            token=order.token,
            watcher=self.name,
            reason=order.reason,
        )

    def _tell_order(self, order: Order, at: Moment) -> bool:
        severity = Severity.CRITICAL if order.action is Action.ISOLATE else Severity.HIGH
        return self._of_order(order, order.action, severity, order.reason, "ordered", at)

    def ended(self, order: Order, outcome: str, at: Moment, *, failed: bool, kind: str = "") -> None:
        """An order was carried out, or failed: no news once the trouble is over, as nothing would end that alarm."""
        self._note_end(order, f"{order.action} {'failed' if failed else 'done'}", outcome, at)
        record = self._coordinator.record(order.peer, at)
        if failed and not (record.episode_open and record.episode == order.episode):
            return
        if order.action is Action.RESTART:
            if failed:
                self._of_order(order, Action.ALERT, Severity.HIGH, f"restart failed: {outcome}", "failed", at)
        elif failed:
            reason = f"isolation failed: {outcome}"
            # Not by its token: it is tried at every miss, and said again only when something else is wrong. Nor by its
            # words: the same trouble may name another pid each time.
            what = f"{order.action}/failed/{kind}"
            self._emit(order.peer, order.episode, Action.ALERT, Severity.CRITICAL, reason, what, at)
        else:
            self._of_order(order, Action.ALERT_ARCHITECT, Severity.CRITICAL, outcome, "isolated", at)

    def dropped(self, order: Order, why: str, at: Moment) -> None:
        """An order came to nothing: nobody needs to be told, but the trail says so."""
        self._note_end(order, f"{order.action} not begun", why, at)

    def lapsed(self, peer: str, record: PeerRecord, at: Moment) -> None:
        """Whoever was carrying out the peer's newest order was killed, or stood still: another takes over."""
        outcome = "its watcher never said how it ended"
        self._journal.record(at.utc, f"{record.last_action} lapsed", peer=peer, token=record.token, outcome=outcome)

    def _note_end(self, order: Order, kind: str, outcome: str, at: Moment) -> None:
        self._journal.record(at.utc, kind, peer=order.peer, token=order.token, watcher=order.watcher, outcome=outcome)

    def _of_order(self, order: Order, action: Action, severity: Severity, reason: str, what: str, at: Moment) -> bool:
        """False when people know, or are to hear nothing."""
        what = f"{order.action}/{order.token}/{what}"
        return self._emit(order.peer, order.episode, action, severity, reason, what, at)

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
        if state is EventState.FIRING and peer in self._coordinator.silences(at):
            return False
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
        published = self._publish(escalation, f"{peer}/{episode}/{what}", at)
        if state is EventState.FIRING:
            self._coordinator.told(peer, severity)
        return published
