"""`release`: let an isolated agent back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from watchdog import clock
from watchdog.actions import adopt, holding, inside, isolation, locate, moving, shadow
from watchdog.actions.locate import Named
from watchdog.actions.place import Place, look
from watchdog.cli import report
from watchdog.cli.app import common, need_root, place_of, stated, usable
from watchdog.cli.output import Output
from watchdog.cli.target import named, target_options
from watchdog.cli.tell import by_hand, deliver
from watchdog.config import Config
from watchdog.errors import Exit, WatchdogError
from watchdog.host import systemd
from watchdog.host.caller import who
from watchdog.intents import Intent
from watchdog.status import published


@click.command()
@target_options
@common
@click.option("--reason", required=True, help="Why; it goes to the journal and to the receivers.")
def verb(config_path: Path | None, as_json: bool, reason: str, **target: Any) -> int:
    """Let an isolated agent back, and see that nothing of ours is left on it."""
    output, wanted = Output(as_json=as_json), named(target)
    stated(reason, "--reason")
    need_root()
    settings, _ = usable(config_path)
    with place_of(settings, to_change=True) as place:
        intent = meant(wanted, settings, place)
        if intent is None and (watched := shadow_meant(wanted, settings, place)) is not None:
            return _end_shadow(output, watched, place, reason)
        intent = intent or _adopted(wanted, settings, place)
        if intent is None:
            if held := holding.held_over(locate.locate(wanted, settings, place).where, place):
                raise WatchdogError(f"{name_of(wanted)} is not isolated, and is not free: {'; '.join(held)}")
            output.document("release", 1, {"target": name_of(wanted), "changed": False, "holds": True})
            output.words(f"{name_of(wanted)} is not isolated; nothing was changed")
            return Exit.OK
        _note(intent, place, reason)
        steps: list[str] = []
        result = isolation.release(intent, place, steps.append, reason=by_hand(reason))
        moved = report.moved_back_in_words(result, any_moved=moving.RETURNED in steps)
        output.words(f"{intent.name} is released: {report.place_of(result)}", f"  {report.dropped_in_words(result)}")
        output.words(*(f"  {line}" for line in [*moved, *report.flows_in_words(result)]))
        output.words(*(f"  but {gap}" for gap in result.gaps))
        notices = deliver(settings, place)
        freed = inside.look_freed(moving.returned(result.intent, place), place, clock.moment())
        result = replace(result, intent=replace(result.intent, inside=freed))
        output.words(*(f"  {line}" for line in report.inside_in_words(freed, report.FREE)))
    output.document("release", 1, report.facts_of(result) | {"reason": reason, "notices": notices})
    output.words(*(f"  {notice}" for notice in notices))
    return Exit.PARTIAL if result.gaps else Exit.OK


def _end_shadow(output: Output, intent: Intent, place: Place, reason: str) -> int:
    _note(intent, place, reason)
    result = shadow.end(intent, place)
    output.document("release", 1, report.shadow_facts_of(result) | {"reason": reason, "watched": False})
    output.words(f"The shadow of {intent.name} is gone: {report.place_of(result)}")
    output.words(*(f"  {line}" for line in report.shadow_in_words(result, clock.moment())))
    return Exit.OK


def _note(intent: Intent, place: Place, reason: str) -> None:
    """Into the audit trail: what follows there of the intent says who isolated it, and why."""
    by = asdict(who()) | {"seen": published.seen_of(place.run, intent.where.peer)}
    more = {"intent": intent.id, "target": intent.name, "reason": reason, "incident": intent.why.incident, "by": by}
    place.journal.record(clock.utc_now(), "release asked for", **more)


def name_of(wanted: Named) -> str:
    """What was named, for people."""
    return wanted.peer or wanted.unit or wanted.cgroup or f"process {wanted.pid}"


def meant(wanted: Named, settings: Config, place: Place) -> Intent | None:
    """The isolation in force that was named. What is gone from this host can still be named.

    Raises UsageError for a name that is neither isolated nor known.
    """
    if (intent := _named(wanted, place.intents.in_force())) is not None:
        return intent
    if _named(wanted, place.intents.shadows()) is not None:
        return None
    return isolation.find(place, locate.locate(wanted, settings, place).where)


def shadow_meant(wanted: Named, settings: Config, place: Place) -> Intent | None:
    """The shadow that was named, or that watches where what was named is now.

    Raises UsageError for a name that no shadow has, and that is not known.
    """
    if (intent := _named(wanted, place.intents.shadows())) is not None:
        return intent
    return shadow.find(place, locate.locate(wanted, settings, place).where)


def _named(wanted: Named, intents: Iterable[Intent]) -> Intent | None:
    unit = systemd.normalise(wanted.unit) if wanted.unit else ""
    names = {wanted.peer, unit, wanted.cgroup.rstrip("/")} - {""}
    return next((each for each in intents if names & {each.where.peer, each.where.unit, each.where.cgroup}), None)


def _adopted(wanted: Named, settings: Config, place: Place) -> Intent | None:
    """Ask the kernel, too: what our programs cut off is let back, whatever became of the journal."""
    where = locate.locate(wanted, settings, place).where
    with place.alone():
        adopt.adopt(place, named=look(where, place.root).cgroups)
    return isolation.find(place, where)
