"""`verify`: ask the kernel, not the journal."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from watchdog import clock
from watchdog.actions import flow_facts, holding, inside, locate, shadow
from watchdog.actions.holding import Result
from watchdog.actions.locate import Named
from watchdog.actions.place import Place, configured
from watchdog.cli import report
from watchdog.cli.app import common, need_root, paths_option, place_of, usable
from watchdog.cli.output import Output, warning
from watchdog.cli.release import meant, name_of, shadow_meant
from watchdog.cli.target import named, target_options
from watchdog.config import Config
from watchdog.errors import Exit, JournalCorrupt
from watchdog.intents import Intent, State, Where
from watchdog.journal import Journal
from watchdog.kernel.layers.base import FROZEN

CUT_SHORT = "its release has not ended; end it"


@click.command()
@target_options
@common
@paths_option
@click.option("--inside", "from_inside", is_flag=True, help="Try it now, by a process in the agent's cgroup.")
def verb(config_path: Path | None, as_json: bool, all_paths: bool, from_inside: bool, **target: Any) -> int:
    """Ask the kernel and systemd whether an isolation holds, and change nothing of it.

    Ends with 0 when it holds, 4 when it holds in part, 1 when it does not or the target is not isolated,
    as under a shadow.
    """
    output, wanted = Output(as_json=as_json), named(target)
    need_root()
    settings, _ = usable(config_path)
    with ExitStack() as opened:
        try:
            place = opened.enter_context(place_of(settings, to_read=True))
        except JournalCorrupt as error:
            warning(error.one_line())
            return _without_journal(output, wanted, settings)
        intent = meant(wanted, settings, place)
        if intent is None and (watched := shadow_meant(wanted, settings, place)) is not None:
            return _of_shadow(output, watched, place)
        if intent is None:
            return _without_intent(output, name_of(wanted), locate.locate(wanted, settings, place).where, place)
        result = holding.verify(intent, place)
        tried_now = from_inside or (intent.inside is not None and bool(intent.inside.wrong))
        if tried_now:  # also where it was open the last time: who put it back since does not say
            found = inside.look(intent, place, clock.moment())
            result = replace(result, intent=place.intents.note_inside(intent, found))
        result = _with_inside(result)
        at = clock.moment()
        result = replace(result, flows=flow_facts.of(intent, place, result.dropped, at))
    output.document("verify", 1, report.facts_of(result))
    whole = "holds in part" if result.is_partial else "holds"
    whole = "holds nothing now" if result.holds_nothing else whole
    verdict = whole if result.holds else "DOES NOT HOLD"
    level = f", level {FROZEN}," if intent.why.level == FROZEN and not result.holds_nothing else ""
    output.words(f"The isolation of {intent.name}{level} {verdict}: {report.place_of(result)}")
    output.words(*(f"  {line}" for line in report.ending_in_words(intent.why, at)))
    output.words(*(f"  {line}" for line in report.moved_in_words(result)))
    output.words(*(f"  {line}" for line in report.uncovered_in_words(result)))
    is_old = not result.holds and not tried_now
    output.words(*(f"  {line}" for line in report.inside_in_words(result.intent.inside, is_old=is_old)))
    output.words(f"  {report.dropped_in_words(result)}")
    if all_paths:
        output.words(*(f"  {line}" for line in report.paths_in_words(result.verdicts)))
    allowed = report.allowed_in_words(intent.why.allow or (), at) + report.let_in_in_words(result)
    output.words(*(f"  {line}" for line in [*allowed, *report.flows_in_words(result)]))
    if not result.holds:
        cut_short = intent.state is State.RELEASING
        output.words(f"  {CUT_SHORT if cut_short else 'put it back'} with: watchdog-mesh reconcile")
        return Exit.FAILED
    return Exit.PARTIAL if result.is_partial else Exit.OK


def _without_journal(output: Output, wanted: Named, settings: Config) -> int:
    """What is meant nobody knows; what is cut off the kernel does."""
    with closing(Journal.in_memory()) as nothing:
        place = configured(settings, nothing)
        where = locate.locate(wanted, settings, place).where
        found, held = holding.still_over(where, place), holding.held_over(where, place)
        holds = holding.is_filtered(where, place)
    output.document("verify", 1, {"target": name_of(wanted), "holds": holds, "state": None, "gaps": [*found, *held]})
    is_cut_off = (
        "is cut off in the kernel; whether all of it holds the journal cannot say" if holds else "is not cut off"
    )
    output.words(f"{name_of(wanted)} {is_cut_off}", *(f"  {each}" for each in (*found, *held)))
    return Exit.PARTIAL if holds else Exit.FAILED


def _with_inside(result: Result) -> Result:
    """What was found open from inside the last time counts: nothing is covered because it is said to be."""
    found = result.intent.inside
    if found is None or not found.wrong:
        return result
    gap = f"tried from inside, it got through: {', '.join(found.wrong)}"
    return replace(result, gaps=(*result.gaps, gap))


def _of_shadow(output: Output, intent: Intent, place: Place) -> int:
    result = shadow.verify(intent, place, with_flows=True)
    output.document("verify", 1, report.shadow_facts_of(result))
    output.words(f"{intent.name} is NOT isolated: a shadow counts what would be dropped: {report.place_of(result)}")
    output.words(*(f"  {line}" for line in report.shadow_in_words(result, clock.moment())))
    return Exit.FAILED


def _without_intent(output: Output, name: str, where: Where, place: Place) -> int:
    """What is not meant to be isolated may be cut off all the same: the kernel is asked, not the journal."""
    found, held = holding.still_over(where, place), holding.held_over(where, place)
    gaps = [*(f"in no intent: {each}" for each in found), *held]
    output.document("verify", 1, {"target": name, "holds": bool(found), "state": None, "gaps": gaps})
    if not found:
        output.words(f"{name} is not isolated", *(f"  {each}" for each in held))
        return Exit.FAILED
    output.words(f"{name} is not meant to be isolated, and is cut off", *(f"  {gap}" for gap in gaps))
    output.words("  keep it so with: watchdog-mesh reconcile; let it back with: watchdog-mesh release")
    return Exit.PARTIAL
