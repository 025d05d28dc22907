"""`notify test`: does a receiver take what we send?"""

from __future__ import annotations

import socket
from pathlib import Path

import click

from watchdog import clock
from watchdog.cli.app import closing_journal, common, configured, need_root
from watchdog.cli.output import Output
from watchdog.errors import Exit, UsageError


@click.group()
def verb() -> None:
    """Try the receivers of notifications."""


@verb.command()
@common
@click.argument("receiver", required=False)
def test(config_path: Path | None, as_json: bool, receiver: str | None) -> int:
    """Send a test event to RECEIVER, or to every receiver, and say what each answered."""
    from watchdog.daemon import receivers
    from watchdog.outbox import Outbox
    from watchdog.webhook import Delivered

    output = Output(as_json=as_json)
    need_root()
    settings = configured(config_path)
    chosen = [each for each in receivers(settings) if receiver in (None, each.name)]
    if not chosen:
        known = ", ".join(hook.name for hook in settings.webhooks) or "none"
        what = "no [[webhook]]" if receiver is None else f"no receiver {receiver!r}"
        raise UsageError(f"there is {what} in the configuration", hint=f"known: {known}")
    with closing_journal(settings) as journal:
        outbox = Outbox(journal, chosen, host=socket.gethostname())
        answers = {each.name: outbox.send_test(each, clock.moment()) for each in chosen}
    taken = {name: isinstance(answer, Delivered) for name, answer in answers.items()}
    whys = {name: getattr(answer, "why", "") for name, answer in answers.items()}
    output.document(
        "notify-test", 1, {"receivers": [{"name": n, "delivered": taken[n], "why": whys[n]} for n in answers]}
    )
    output.words(*(f"{name}: {'delivered' if taken[name] else f'NOT delivered: {whys[name]}'}" for name in answers))
    return Exit.OK if all(taken.values()) else Exit.FAILED
