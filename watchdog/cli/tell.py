"""Tell the receivers what an operator did by hand: queued in the outbox first, then tried at once, for a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from watchdog import news
from watchdog.actions.place import News, Place, no_news
from watchdog.config import Config
from watchdog.errors import WatchdogError
from watchdog.host.caller import who
from watchdog.intents import Intent
from watchdog.journal import Journal
from watchdog.model import Action

if TYPE_CHECKING:
    from watchdog.outbox import Outbox

FLUSH_S = 3.0
"""How long a command waits for receivers; what they have not taken then, a watcher delivers."""


def news_of(settings: Config, journal: Journal) -> News:
    """How a command tells that an isolation begins or ends. What keeps it from telling, `deliver` says."""

    def prepare(intent: Intent, words: str) -> Callable[[], None]:
        try:
            return news.of_change(_outbox(settings, journal, sign=False), intent, words)
        except WatchdogError:
            return lambda: None

    return prepare if settings.webhooks else no_news


def tell(settings: Config, place: Place, intent: Intent, action: Action, reason: str, what: str) -> list[str]:
    """Publish a CRITICAL event and try to deliver it; what was not delivered yet, a sentence each. `what` tells apart
    several events of one isolation.

    Raises nothing of ours: what was done to the agent is done, whoever can be told of it.
    """
    try:
        if settings.webhooks:
            news.publish(_outbox(settings, place.journal, sign=False), intent, action, by_hand(reason), what=what)
    except WatchdogError as error:
        return [f"nobody could be told: {error.one_line()}"]
    return deliver(settings, place)


def by_hand(reason: str) -> str:
    """A reason, and who gives it."""
    return f"{reason} (by hand, {who().in_words()})"


def deliver(settings: Config, place: Place, flush_s: float = FLUSH_S) -> list[str]:
    """Try to deliver what was published; what was not taken yet, a sentence each. Raises nothing of ours."""
    if not settings.webhooks:
        return []
    from watchdog.sender import Sender

    try:
        sender = Sender(_outbox(settings, place.journal), settings.paths.run, report=lambda _: None)
        flushed = sender.flush(deadline_s=flush_s)
    except WatchdogError as error:
        return [f"nobody could be told: {error.one_line()}"]
    return [
        f"{receiver}: {result.pending} pending ({result.why or 'a watcher delivers'})"
        for receiver, result in flushed.items()
        if result.pending
    ]


def _outbox(settings: Config, journal: Journal, *, sign: bool = True) -> Outbox:
    """What is owed can be written down whether a secret can be read or not."""
    import socket

    from watchdog.daemon import receivers
    from watchdog.outbox import Outbox

    return Outbox(journal, receivers(settings, sign=sign), host=socket.gethostname())
