"""`release`: let an isolated agent back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from watchdog import clock
from watchdog.actions import isolation, locate
from watchdog.actions.locate import Named
from watchdog.actions.place import Place
from watchdog.cli import report
from watchdog.cli.app import common, configured, need_root, place_of
from watchdog.cli.output import Output
from watchdog.cli.target import named, target_options
from watchdog.cli.tell import tell
from watchdog.config import Config
from watchdog.errors import Exit, UsageError
from watchdog.host import systemd
from watchdog.intents import Intent
from watchdog.model import Action, EventState, Severity


@click.command()
@target_options
@common
@click.option("--reason", required=True, help="Why; it goes to the journal and to the receivers.")
def verb(config_path: Path | None, as_json: bool, reason: str, **target: Any) -> int:
    """Let an isolated agent back, and see that nothing of ours is left on it."""
    output, wanted = Output(as_json=as_json), named(target)
    need_root()
    settings = configured(config_path)
    with place_of(settings) as place:
        intent = meant(wanted, settings, place)
        if intent is None:
            name = wanted.peer or wanted.unit or wanted.cgroup or f"process {wanted.pid}"
            output.document("release", 1, {"target": name, "changed": False, "holds": True})
            output.words(f"{name} is not isolated; nothing was changed")
            return Exit.OK
        place.journal.record(clock.utc_now(), "release asked for", target=intent.name, reason=reason)
        result = isolation.release(intent, place, clock.utc_now())
        output.document("release", 1, report.facts_of(result) | {"reason": reason})
        output.words(f"{intent.name} is released: {report.place_of(result)}", f"  {report.dropped_in_words(result)}")
        tell(output, settings, place, intent, Action.ALERT, Severity.CRITICAL, reason, EventState.RESOLVED)
    return Exit.OK


def meant(wanted: Named, settings: Config, place: Place) -> Intent | None:
    """The isolation in force that was named. What is gone from this host can still be named.

    Raises UsageError for a name that is neither isolated nor known.
    """
    for intent in place.intents.in_force():
        where = intent.where
        names = {where.peer, where.unit, where.cgroup} - {""}
        if wanted.unit and systemd.normalise(wanted.unit) in names:
            return intent
        if {wanted.peer, wanted.cgroup.rstrip("/")} & names:
            return intent
    if wanted.peer and settings.peer(wanted.peer) is None:
        known = ", ".join(each.name for each in settings.peers) or "none"
        raise UsageError(f"there is no peer {wanted.peer!r} in the configuration", hint=f"known: {known}; or --unit")
    return isolation.find(place, locate.locate(wanted, settings, place).where)
