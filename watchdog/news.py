"""What people are told of isolations that were not ordered by a watcher: one event a beginning, one an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from watchdog import clock
from watchdog.intents import Intent, State
from watchdog.model import Action, Escalation, EventState, Severity

if TYPE_CHECKING:
    from watchdog.outbox import Outbox


def of_change(outbox: Outbox, intent: Intent, words: str, watcher: str = "") -> Callable[[], None]:
    """Publishes, in the transaction that is open then, that it begins, or has ended; `watcher` is who saw to it."""
    if intent.state is State.ISOLATED:
        action, state = Action.ALERT_ARCHITECT, EventState.FIRING
    else:
        action, state = Action.ALERT, EventState.RESOLVED
    return lambda: publish(outbox, intent, action, words, state, watcher=watcher)


def publish(
    outbox: Outbox,
    intent: Intent,
    action: Action,
    reason: str,
    state: EventState = EventState.FIRING,
    *,
    what: str = "",
    watcher: str = "",
) -> None:
    """A CRITICAL event of an isolation; `what` tells apart several that are neither its beginning nor its end."""
    at = clock.moment()
    escalation = Escalation(at.utc, intent.name, action, reason, Severity.CRITICAL, state, watcher)
    outbox.publish(escalation, intent.event_key(state, what), at, incident=intent.why.incident)
