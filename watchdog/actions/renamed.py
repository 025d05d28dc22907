"""A unit that goes by another name since it was isolated: its next start would be another unit's, and open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from watchdog.actions import noted
from watchdog.actions.place import Place, Sight, look
from watchdog.host import unit_files, unit_filters
from watchdog.intents import Intent, State

TRANSIENT = Path("/run/systemd/transient")


def name_now(intent: Intent, place: Place, sight: Sight) -> str:
    """The unit's name now; "" where it is the same, or cannot be told.

    An alias leads to the name that systemd uses. A unit file that is gone is looked for by its inode, then by its
    contents; one that may be several is none.
    """
    unit, state = intent.where.unit, sight.unit
    if not unit or state is None or intent.state is not State.ISOLATED:
        return ""
    if state.id and state.id != unit:
        return state.id
    seen = noted.read(intent, place)
    if seen is None or seen.unit_file is None or Path(seen.unit_file.path).is_relative_to(TRANSIENT):
        return ""
    names = unit_files.renamed_to(seen.unit_file)
    return names[0] if len(names) == 1 else ""


def follow(intent: Intent, place: Place) -> Intent:
    """The intent under the unit's name of now, and no drop-in left for the old one: nothing would remove it. With the
    lock held."""
    old = intent.where.unit
    if not old or intent.state is not State.ISOLATED:
        return intent
    name = name_now(intent, place, look(intent.where, place.root))
    if not name:
        return intent
    unit_filters.remove_filters(old, base=place.drop_ins)
    where = replace(intent.where, unit=name)
    return place.intents.change(intent, intent.state, place.now(), where=where, facts={"renamed_from": old})
