"""What an isolation in force becomes when it is asked for again, in words too, and what of that is not taken."""

from __future__ import annotations

from dataclasses import replace

from watchdog.clock import rfc3339
from watchdog.intents import Allowed, Intent, Until, Where, Why


def wanted(intent: Intent, where: Where, why: Why) -> Intent:
    """The intent as it is to be from here on."""
    return replace(intent, where=joined(intent.where, where), why=_longer(intent.why, why))


def joined(known: Where, named: Where) -> Where:
    """What is known of a target, with what was named now: a cgroup may turn out to be a unit's, or a peer's."""
    same = known.cgroup == named.cgroup and (known.moved or known.cgroup_id == named.cgroup_id)
    cgroup = known if same or not named.cgroup else named
    return replace(cgroup, unit=named.unit or known.unit, peer=named.peer or known.peer)


def _longer(known: Why, asked: Why) -> Why:
    """An isolation lasts as long as anybody said; it allows, and is as strict as, what was said last."""
    return replace(
        known,
        incident=known.incident or asked.incident,
        until=known.until if asked.until is None else _later(known.until, asked.until),
        allow=known.allow if asked.allow is None else asked.allow,
        level=asked.level or known.level,
    )


def _later(known: Until | None, asked: Until) -> Until | None:
    return asked if known is not None and asked.utc > known.utc else known


def not_taken(now: Why, asked: Why) -> tuple[str, ...]:
    """What was asked for and is not so now, a sentence each."""
    found = []
    if asked.until is not None and asked.until != now.until:
        found.append(f"it is not shortened to {rfc3339(asked.until.utc)}: it lasts until {_end(now.until)}")
    if asked.incident and asked.incident != now.incident:
        found.append(f"its incident stays {now.incident}, not {asked.incident}")
    return tuple(found)


def changes(before: Intent, after: Intent) -> tuple[str, ...]:
    """What is otherwise than it was, a sentence each."""
    was, now = before.why, after.why
    pairs = (
        ("it is known as", before.name, after.name),
        ("level", was.level, now.level),
        ("allowed", _listed(was.allow), _listed(now.allow)),
        ("until", _end(was.until), _end(now.until)),
        ("incident", was.incident or "none", now.incident or "none"),
    )
    return tuple(f"{what} {then}, was {first}" for what, first, then in pairs if then != first)


def facts_of(why: Why, changes: tuple[str, ...], not_taken: tuple[str, ...]) -> dict[str, object]:
    """For the audit trail: why it was asked for again and by whom, and what came of that."""
    facts: dict[str, object] = {"asked": why.reason, "asked_by": why.by, "changes": changes, "not_taken": not_taken}
    return {key: said for key, said in facts.items() if said or key.startswith("asked")}


def _listed(allow: tuple[Allowed, ...] | None) -> str:
    return ", ".join(map(str, allow or ())) or "nothing"


def _end(until: Until | None) -> str:
    return rfc3339(until.utc) if until else "a release"
