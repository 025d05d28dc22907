"""`isolate`: cut one agent off the network, now, with no daemon needed."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from watchdog import clock
from watchdog.actions import allowing, holding, isolation, locate, planning, shadow
from watchdog.actions.holding import Result
from watchdog.actions.locate import Named
from watchdog.actions.place import Place
from watchdog.cli import report
from watchdog.cli.allow import allow_options, asked
from watchdog.cli.app import common, configured, given_span_s, need_root, paths_option, place_of, stated, usable
from watchdog.cli.output import Output
from watchdog.cli.target import named, target_options
from watchdog.cli.tell import deliver, tell
from watchdog.config import Config
from watchdog.errors import ConfigurationError, Exit, UsageError, WatchdogError
from watchdog.host.caller import who
from watchdog.intents import Until, Where, Why
from watchdog.kernel.hold import Hold
from watchdog.kernel.layers.base import FROZEN, NETWORK
from watchdog.model import Action
from watchdog.status import published

LONGEST_S = 365 * 24 * 3600.0
"""What is to last longer is released by a person."""


@click.command()
@target_options
@common
@click.option("--reason", required=True, help="Why; it goes to the journal and to the receivers.")
@click.option("--incident", help="The incident it belongs to.")
@click.option("--ttl", metavar="TIME", help='Release it by itself after this time, as "15m": a watcher sees to it.')
@allow_options
@click.option("--shadow", "as_shadow", is_flag=True, help="Count what would be dropped, and drop nothing.")
@click.option("--level", type=click.Choice([NETWORK, FROZEN]), help="Cut off and running, or cut off and stopped.")
@click.option(
    "--adopt", "adopt_it", is_flag=True, help="Where it shares its cgroup, make one for it and move it there."
)
@paths_option
@click.option("--dry-run", is_flag=True, help="Say what would be done and what would hold then, and do nothing.")
@click.option("--force", is_flag=True, help="Do it even if a safety rail refuses.")
@click.pass_obj
def verb(
    held: Hold | None,
    /,
    config_path: Path | None,
    as_json: bool,
    reason: str,
    incident: str | None,
    ttl: str | None,
    as_shadow: bool,
    level: str | None,
    adopt_it: bool,
    dry_run: bool,
    all_paths: bool,
    force: bool,
    **options: Any,
) -> int:
    """Cut one agent off the network in the kernel, and see that it is.

    It stays cut off over restarts of the agent and of this host until it is released. Given for an agent that is
    isolated already, --allow, --allow-heartbeat and --no-allow exchange what it may reach, in one step, and --ttl
    only lengthens its time; what is not given stays as it is.
    """
    output, wanted, allow = Output(as_json=as_json), named(options), asked(options)
    stated(reason, "--reason")
    if as_shadow and dry_run:
        raise UsageError("--shadow and --dry-run exclude each other", hint="a shadow drops nothing either")
    if as_shadow and adopt_it:
        raise UsageError("--shadow and --adopt exclude each other", hint="a shadow changes nothing, and moves nobody")
    if incident is not None:
        stated(incident, "--incident")
    until = _until(given_span_s(ttl, "--ttl", LONGEST_S)) if ttl is not None else None
    need_root()
    settings = _settings(config_path, wanted)
    with place_of(settings, to_change=True) as place:
        located = locate.locate(wanted, settings, place, adopt_it=adopt_it)
        allowed = allow.of(located.where.peer, settings)
        by = asdict(who()) | {"seen": published.seen_of(place.run, located.where.peer)}
        why = Why(reason, incident or "", level or "", by, until, allow=allowed)
        if as_shadow:
            return _watch(output, located.where, replace(why, level=why.level or settings.isolation.level), place)
        rails = partial(locate.check_rails, located, settings, place, force=force)
        default = partial(allowing.configured, settings, located.where.peer, clock.moment())
        otherwise: dict[str, Any] = {
            "rails": rails,
            "default_allow": default,
            "default_level": settings.isolation.level,
        }
        if dry_run:
            return _tell(output, planning.plan(located.where, why, place, **otherwise), all_paths=all_paths)
        result = isolation.isolate(located.where, why, place, held=held, **otherwise)
        if result.holds:
            shadow.end_at(located.where, place)
        _say(output, result)
        notices: list[str] = []
        if result.changed:
            notices = _tell_people(result, why.reason, settings, place)
            stamp = clock.rfc3339(result.intent.changed)
            result, found = _from_inside(result, place)
            if found is not None:
                what = f"inside/{stamp}"
                notices = tell(settings, place, result.intent, Action.ALERT, found, what)
                output.words(f"  {found}")
            output.words(*(f"  {line}" for line in report.inside_in_words(result.intent.inside)))
    output.document("isolate", 1, report.facts_of(result) | {"notices": notices})
    output.words(*(f"  {line}" for line in report.paths_in_words(result.verdicts) if all_paths))
    output.words(*(f"  {notice}" for notice in notices))
    return Exit.PARTIAL if result.is_partial else Exit.OK


def _settings(config_path: Path | None, wanted: Named) -> Config:
    """Who a peer is only the configuration says, and all of it has to be right; for any other target what is right."""
    if not wanted.peer:
        return usable(config_path)[0]
    try:
        return configured(config_path)
    except ConfigurationError as error:
        hint = error.hint or "mend it, or name the agent by --unit, --pid or --cgroup: that needs none"
        raise ConfigurationError(error.message, problems=error.problems, hint=hint) from error


def _tell_people(result: Result, reason: str, settings: Config, place: Place) -> list[str]:
    """An isolation was published when it began; each change of it is now."""
    if not result.changes:
        return deliver(settings, place)
    what = f"changed/{clock.rfc3339(result.intent.changed)}"
    said = f"{reason}: {'; '.join(result.changes)}"
    return tell(settings, place, result.intent, Action.ALERT_ARCHITECT, said, what)


def _from_inside(result: Result, place: Place) -> tuple[Result, str | None]:
    """Try it from inside, and what had to be done about what was found open. It is cut off whatever comes of this."""
    from watchdog.actions import inside  # before the first drop nobody waits for it

    at = clock.moment()
    try:
        intent, repair = inside.verify(result.intent, place, at)
    except WatchdogError as error:
        return replace(result, intent=replace(result.intent, inside=inside.untried(at, error.one_line()))), None
    if repair is None:
        return replace(result, intent=intent), None
    after = replace(holding.verify(intent, place), changed=True)
    return after, f"{repair.found}; {repair.done}"


def _tell(output: Output, plan: planning.Plan, *, all_paths: bool) -> int:
    output.document("isolate-plan", 1, report.plan_facts_of(plan))
    output.words(*report.plan_in_words(plan, clock.moment()))
    output.words(*(f"  {line}" for line in report.paths_in_words(plan.verdicts) if all_paths))
    return Exit.OK


def _watch(output: Output, where: Where, why: Why, place: Place) -> int:
    result = shadow.begin(where, why, place)
    output.document("isolate", 1, report.shadow_facts_of(result))
    name = result.intent.name
    output.words(
        f"{name} is NOT isolated: a shadow counts what would be dropped, since {clock.rfc3339(result.intent.since)}",
        *(f"  {line}" for line in (*result.changes, *result.not_taken)),
        *(f"  {line}" for line in report.shadow_in_words(result, clock.moment())),
        f"  end it with: watchdog-mesh release {_again(result)} --reason ...",
    )
    return Exit.PARTIAL if result.gaps else Exit.OK


def _until(span_s: float) -> Until:
    at = clock.moment()
    return Until(at.utc + timedelta(seconds=span_s), at.s + span_s, at.boot)


def _say(output: Output, result: Result) -> None:
    name, frozen = result.intent.name, " and frozen" if result.intent.why.level == FROZEN else ""
    output.words(*(f"Although {objection} (--force)" for objection in result.intent.why.overruled))
    how = "cut off in part" if result.is_partial else f"isolated{frozen}"
    if not result.changed:
        output.words(f"{name} is {how} already, since {clock.rfc3339(result.intent.since)}; nothing was changed")
    else:
        output.words(f"{name} is {how}: {report.place_of(result)}")
    output.words(*(f"  {line}" for line in (*result.changes, *result.not_taken, *report.moved_in_words(result))))
    output.words(*(f"  {line}" for line in report.uncovered_in_words(result)))
    why, at = result.intent.why, clock.moment()
    output.words(*(f"  {line}" for line in report.allowed_in_words(why.allow or (), at)))
    output.words(*(f"  {line}" for line in report.let_in_in_words(result)))
    output.words(*(f"  {line}" for line in report.ending_in_words(why, at)))
    output.words(f"  let it back with: watchdog-mesh release {_again(result)} --reason ...")


def _again(result: Result) -> str:
    where = result.intent.where
    if where.peer:
        return where.peer
    return f"--unit {where.unit}" if where.unit else f"--cgroup {where.cgroup}"
