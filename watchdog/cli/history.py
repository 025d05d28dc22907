"""`history`: the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from watchdog.actions import flow_facts
from watchdog.cli.app import closing_journal, common, need_root, usable
from watchdog.cli.output import Output
from watchdog.errors import Exit
from watchdog.numbers import counted

SHOWN_BY_DEFAULT = 50
WHOM = ("target", "peer", "watcher", "receiver")
TOLD = ("reason", "outcome", "found", "done", "error", "until", "why", "event")
FLOWS_SHOWN = 3
INDENT = " " * 22
"""As far as a line's time reaches."""
BEGUN_AS = {
    "intent releasing": "isolated",
    "intent released": "isolated",
    "intent ending": "watched",
    "intent ended": "watched",
}
"""Records of an end, which say who had begun it and why: why it was to end is in "release asked for"."""
TIME_LENGTH = len("2026-01-01T00:00:00")


class Count(click.IntRange):
    """How many, called so that a person knows it in what click says of one that is none."""

    name = "whole number"


@click.command()
@common
@click.option(
    "--last",
    "newest",
    type=Count(min=1),
    metavar="N",
    default=SHOWN_BY_DEFAULT,
    show_default=True,
    help="Only so many, the newest.",
)
@click.option("--peer", help="Only what concerns this peer or target.")
@click.option("--verify", "check", is_flag=True, help="Check that no record was cut, edited or moved.")
def verb(config_path: Path | None, as_json: bool, newest: int, peer: str | None, check: bool) -> int:
    """What was ordered, done and seen, the newest last."""
    output = Output(as_json=as_json)
    need_root()
    with closing_journal(usable(config_path)[0], to_read=True) as journal:
        if check:
            return _check(output, journal.broken_records())
        records = journal.trail(newest=None if peer else newest)
    records = [record for record in records if peer in (None, record.get("peer"), record.get("target"))][-newest:]
    output.document("history", 1, {"records": records})
    output.words(*(line for record in records for line in _lines(record)))
    if not records:
        output.words(f"No record is about {peer!r}" if peer else "Nothing has happened yet")
    return Exit.OK


def _check(output: Output, problems: list[str]) -> int:
    output.document("history-check", 1, {"whole": not problems, "problems": problems})
    output.words(*problems or ["The audit trail is whole: no record was cut, edited or moved"])
    return Exit.FAILED if problems else Exit.OK


def _lines(record: dict[str, Any]) -> list[str]:
    """One record for people, and who was talked to where it says so; --json has all of it."""
    flows = record.get("flows")
    talked = flow_facts.in_words(flows, FLOWS_SHOWN) if isinstance(flows, dict) else []
    return [_line(record), *(f"{INDENT}{line}" for line in talked)]


def _line(record: dict[str, Any]) -> str:
    """The facts that people ask for first."""
    whom = next((str(record[key]) for key in WHOM if record.get(key)), "")
    if record.get("asked"):  # of one that was isolated already: why it was asked for now, and by whom
        record = record | {"reason": record["asked"], "by": record.get("asked_by")}
    facts = _begun(record)
    if facts:
        record = record | {"reason": None, "by": None}
    facts += [str(record[key]) for key in TOLD if record.get(key)]
    facts += [*record.get("changes", ()), *record.get("not_taken", ())]
    if record.get("incident") and not record.get("asked"):
        facts.append(f"incident {record['incident']}")
    if record.get("dropped_packets") is not None:
        frames = f" and {counted(record['dropped_frames'], 'frame')}" if record.get("dropped_frames") else ""
        facts.append(f"dropped {counted(record['dropped_packets'], 'packet')}{frames}")
    if record.get("moved_from"):
        facts.append(f"moved there from {record['moved_from']}")
    if by := _name(record.get("by")):
        facts.append(f"by {by}")
    when, kind = f"{str(record['at'])[:TIME_LENGTH]}Z", record["kind"].replace("_", " ")
    said = ": ".join(part for part in (whom, "; ".join(facts)) if part)
    return f"{when}  {kind:<18}  {said}"


def _begun(record: dict[str, Any]) -> list[str]:
    """Of the record of an end: who had begun it, and why."""
    if record["kind"] not in BEGUN_AS:
        return []
    by, why = _name(record.get("by")), record.get("reason")
    return [f"was {BEGUN_AS[record['kind']]}{f' by {by}' if by else ''}{f': {why}' if why else ''}"]


def _name(by: Any) -> str:
    """Who it was, as a record keeps that."""
    if not isinstance(by, dict):
        return str(by or "")
    return f"{by.get('user', '')} (login {by['login']})" if by.get("login") else str(by.get("user") or "")
