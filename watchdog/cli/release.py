"""`release`: let an isolated agent back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from watchdog import clock
from watchdog.actions import adopt, isolation, locate
from watchdog.actions.locate import Named
from watchdog.actions.place import Place, look
from watchdog.cli import report
from watchdog.cli.app import common, configured, need_root, place_of, stated
from watchdog.cli.output import Output
from watchdog.cli.target import named, target_options
from watchdog.cli.tell import tell
from watchdog.config import Config
from watchdog.errors import Exit
from watchdog.host import systemd
from watchdog.host.caller import who
from watchdog.intents import Intent
from watchdog.model import Action, EventState, Severity


@click.command()
@target_options
@common
@click.option("--reason", required=True, help="Why; it goes to the journal and to the receivers.")
def verb(config_path: Path | None, as_json: bool, reason: str, **target: Any) -> int:
    """Let an isolated agent back, and see that nothing of ours is left on it."""
    output, wanted = Output(as_json=as_json), named(target)
    stated(reason, "--reason")
    need_root()
    settings = configured(config_path)
    with place_of(settings) as place:
        intent = meant(wanted, settings, place) or _adopted(wanted, settings, place)
        if intent is None:
            output.document("release", 1, {"target": name_of(wanted), "changed": False, "holds": True})
            output.words(f"{name_of(wanted)} is not isolated; nothing was changed")
            return Exit.OK
        place.journal.record(clock.utc_now(), "release asked for", target=intent.name, reason=reason, by=asdict(who()))
        result = isolation.release(intent, place, clock.utc_now())
        output.words(f"{intent.name} is released: {report.place_of(result)}", f"  {report.dropped_in_words(result)}")
        output.words(*(f"  {line}" for line in report.flows_in_words(result)))
        output.words(*(f"  but {gap}" for gap in result.gaps))
        notices = tell(settings, place, intent, Action.ALERT, Severity.CRITICAL, reason, EventState.RESOLVED)
    output.document("release", 1, report.facts_of(result) | {"reason": reason, "notices": notices})
    output.words(*(f"  {notice}" for notice in notices))
    return Exit.PARTIAL if result.gaps else Exit.OK


def name_of(wanted: Named) -> str:
    """What was named, for people."""
    return wanted.peer or wanted.unit or wanted.cgroup or f"process {wanted.pid}"


def meant(wanted: Named, settings: Config, place: Place) -> Intent | None:
    """The isolation in force that was named. What is gone from this host can still be named.

    Raises UsageError for a name that is neither isolated nor known.
    """
    unit = systemd.normalise(wanted.unit) if wanted.unit else ""
    for intent in place.intents.in_force():
        where = intent.where
        if {wanted.peer, unit, wanted.cgroup.rstrip("/")} & ({where.peer, where.unit, where.cgroup} - {""}):
            return intent
    return isolation.find(place, locate.locate(wanted, settings, place).where)


def _adopted(wanted: Named, settings: Config, place: Place) -> Intent | None:
    """Ask the kernel, too: what our programs cut off is let back, whatever became of the journal."""
    where = locate.locate(wanted, settings, place).where
    with place.alone():
        adopt.adopt(place, clock.utc_now(), named=look(where, place.root).cgroups)
    return isolation.find(place, where)
