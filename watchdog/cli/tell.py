"""Tell the receivers what an operator did by hand: queued in the outbox first, then tried at once, for a moment."""

from __future__ import annotations

from watchdog import clock
from watchdog.actions.place import Place
from watchdog.config import Config
from watchdog.errors import WatchdogError
from watchdog.host.caller import who
from watchdog.intents import Intent
from watchdog.model import Action, Escalation, EventState, Severity

FLUSH_S = 3.0
"""How long a command waits for receivers; what they have not taken then, a watcher delivers."""


def tell(
    settings: Config,
    place: Place,
    intent: Intent,
    action: Action,
    severity: Severity,
    reason: str,
    state: EventState = EventState.FIRING,
    what: str = "",
    flush_s: float = FLUSH_S,
) -> list[str]:
    """Publish one event and try to deliver it; what was not delivered yet, a sentence each. `what` tells apart several
    events of one isolation.

    Raises nothing of ours: what was done to the agent is done, whoever can be told of it.
    """
    if not settings.webhooks:
        return []
    try:
        return _tell(settings, place, intent, action, severity, reason, state, what, flush_s)
    except WatchdogError as error:
        return [f"nobody could be told: {error.one_line()}"]


def _tell(
    settings: Config,
    place: Place,
    intent: Intent,
    action: Action,
    severity: Severity,
    reason: str,
    state: EventState,
    what: str,
    flush_s: float,
) -> list[str]:
    import socket

    from watchdog.daemon import receivers
    from watchdog.outbox import Outbox
    from watchdog.sender import Sender

    at = clock.moment()
    outbox = Outbox(place.journal, receivers(settings), host=socket.gethostname())
    by = who().in_words()
    escalation = Escalation(
        timestamp=at.utc,
        peer_name=intent.name,
        action=action,
        reason=f"{reason} (by hand, {by})",
        severity=severity,
        state=state,
        watcher="",
    )
    outbox.publish(escalation, intent.event_key(state, what), at, incident=intent.why.incident)
    flushed = Sender(outbox, settings.paths.run, report=lambda _: None).flush(deadline_s=flush_s)
    return [
        f"{receiver}: {result.pending} pending ({result.why or 'a watcher delivers'})"
        for receiver, result in flushed.items()
        if result.pending
    ]
