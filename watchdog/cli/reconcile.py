"""`reconcile`: bring the kernel back to what is meant."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from watchdog import clock, journal
from watchdog.actions import reconcile
from watchdog.actions.place import note_agents
from watchdog.actions.reconcile import Repair
from watchdog.cli.app import closing_journal, common, need_root, place_of, usable
from watchdog.cli.output import Output
from watchdog.cli.tell import FLUSH_S, deliver
from watchdog.config import Config, find
from watchdog.early import identity_of
from watchdog.errors import Exit, JournalCorrupt, UsageError
from watchdog.host.caller import who
from watchdog.journal import Journal


@click.command()
@common
@click.option("--boot", is_flag=True, help="At boot: bar isolated units until they are isolated; say nothing if none.")
@click.option("--set-aside-journal", is_flag=True, help="Keep a damaged journal beside, and rebuild from the kernel.")
def verb(config_path: Path | None, as_json: bool, boot: bool, set_aside_journal: bool) -> int:
    """Carry every intent in the journal to its end, and adopt what the kernel has and no intent explains."""
    output = Output(as_json=as_json)
    need_root()
    path = find(config_path)
    identity = identity_of(str(path))
    settings, wrong = usable(config_path, at_boot=boot)
    if set_aside_journal:
        _set_aside(settings, output)
    # At boot what can be read is barred and isolated again, whatever else is damaged: closed, not open.
    with place_of(settings, to_change=not boot) as place:
        if wrong is None:
            note_agents(settings, path, identity)
        nothing_to_do = boot and not place.intents.in_force()
        if boot and not nothing_to_do:
            reconcile.bar(place)
        repairs = [] if nothing_to_do else reconcile.reconcile(place, clock.moment())
        flush_s = 0.0 if boot else FLUSH_S  # a boot waits for no receiver: a watcher delivers
        notices = deliver(settings, place, flush_s) if repairs else []
    output.document("reconcile", 1, {"repairs": [_facts(repair) for repair in repairs], "notices": notices})
    output.words(*(repair.words for repair in repairs), *(f"  {notice}" for notice in notices))
    if not repairs and not boot:
        output.words("The kernel is as the journal means it; nothing was changed")
    return Exit.FAILED if any(repair.failed for repair in repairs) else Exit.OK


def _facts(repair: Repair) -> dict[str, Any]:
    return asdict(repair) | {"released": repair.released is not None}


def _set_aside(settings: Config, output: Output) -> None:
    """Only a journal that is damaged is moved: its history is the only one there is."""
    try:
        opened = Journal.open(settings.paths.state)
        problems = opened.damage()
        opened.close()
    except JournalCorrupt as error:
        problems = [error.message]
    if not problems:
        raise UsageError(
            f"the journal in {settings.paths.state} is not damaged; it stays", hint="run reconcile without the option"
        )
    at = clock.utc_now()
    kept = journal.set_aside(settings.paths.state, at)
    with closing_journal(settings) as begun:
        begun.record(at, journal.SET_ASIDE, kept=str(kept), found="; ".join(problems), by=asdict(who()))
    output.words(f"The damaged journal is kept as {kept}; a new one was begun")
