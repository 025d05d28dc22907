"""Tell the receivers what an operator did by hand: queued in the outbox first, then tried at once, for a moment."""

from __future__ import annotations

from watchdog import clock
from watchdog.actions.place import Place
from watchdog.cli.output import Output
from watchdog.config import Config
from watchdog.intents import Intent
from watchdog.model import Action, Escalation, EventState, Severity

FLUSH_S = 3.0
"""How long a command waits for receivers; what they have not taken then, a watcher delivers."""


def tell(
    output: Output,
    settings: Config,
    place: Place,
    intent: Intent,
    action: Action,
    severity: Severity,
    reason: str,
    state: EventState = EventState.FIRING,
) -> None:
    """Publish one event and try to deliver it; says what was not delivered yet."""
    if not settings.webhooks:
        return
    import socket

    from watchdog.daemon import receivers
    from watchdog.outbox import Outbox
    from watchdog.sender import Sender

    at = clock.moment()
    outbox = Outbox(place.journal, receivers(settings), host=socket.gethostname())
    by = intent.why.by.get("user", "")
    escalation = Escalation(
        timestamp=at.utc,
        peer_name=intent.name,
        action=action,
        reason=f"{reason} (by hand, {by})" if by else reason,
        severity=severity,
        state=state,
        watcher="",
    )
    outbox.publish(escalation, f"intent/{intent.id}/{state}", at, incident=intent.why.incident)
    flushed = Sender(outbox, settings.paths.run, report=lambda _: None).flush(deadline_s=FLUSH_S)
    for receiver, result in flushed.items():
        if result.pending:
            output.words(f"  {receiver}: {result.pending} pending ({result.why or 'a watcher delivers'})")
