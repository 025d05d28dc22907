"""Bring the kernel back to what is meant: after a kill -9, a reboot, or somebody else's hands.

The journal's intents say what is meant, the kernel says what is. An isolation is never opened here: what was cut off
and is in no intent is adopted as one, and only an operator's release ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from watchdog.actions import isolation
from watchdog.actions.place import Place
from watchdog.errors import WatchdogError
from watchdog.host import unit_filters
from watchdog.host.unit_filters import InstalledFilters
from watchdog.intents import Intent, State, Where, Why, With
from watchdog.kernel import gate, libbpf, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import EGRESS, GUARD_IN, GUARD_OUT, INGRESS


@dataclass(frozen=True, slots=True)
class Repair:
    """One difference between what was meant and what was, and what became of it."""

    target: str
    found: str
    done: str
    failed: bool = False


def reconcile(place: Place, now: datetime) -> list[Repair]:
    """Carry every intent to its end and adopt what no intent explains; what was different, one entry each."""
    with place.alone():
        repairs = [repair for intent in place.intents.in_force() if (repair := _settle(intent, place, now))]
        repairs += _adopt_strays(place, now)
    for repair in repairs:
        place.journal.record(now, "repair", target=repair.target, found=repair.found, done=repair.done)
    return repairs


def _settle(intent: Intent, place: Place, now: datetime) -> Repair | None:
    try:
        if intent.state is State.RELEASING:
            isolation.finish_release(intent, place, now)
            return Repair(intent.name, "its release was cut short", "released")
        return _restore(intent, place, now)
    except WatchdogError as error:
        return Repair(intent.name, f"it should be {_meant(intent)}", f"failed: {error.one_line()}", failed=True)


def _meant(intent: Intent) -> str:
    return "released" if intent.state is State.RELEASING else "isolated"


def _restore(intent: Intent, place: Place, now: datetime) -> Repair | None:
    if not intent.where.cgroup and not intent.where.unit:
        return None  # left to the handlers of an embedded monitor: nothing of ours in the kernel
    before = isolation.verify(intent, place)
    if intent.state is State.ISOLATED and before.holds and not before.gaps:
        return None
    if not _programs_are_there(intent, place):
        intent = place.intents.hold_by(intent, isolation.held_by(isolation.take_slot(place), place.pins), now)
    after = isolation.cut(intent, place, now)
    found = "; ".join(before.gaps) or "its isolation was cut short"
    if after.gaps:
        return Repair(intent.name, found, f"isolated again, but {'; '.join(after.gaps)}", failed=True)
    return Repair(intent.name, found, "isolated again")


def _programs_are_there(intent: Intent, place: Place) -> bool:
    """By their pins, or by their ids while something still holds them; neither after a reboot."""
    try:
        return intent.held_by == isolation.held_by(isolation.slot_of(intent, place), place.pins)
    except WatchdogError:
        return False


def _adopt_strays(place: Place, now: datetime) -> list[Repair]:
    """What is cut off by programs of ours and in no intent: a journal was lost. It stays cut off, and is an intent."""
    known = {program for intent in place.intents.in_force() for program in isolation.program_ids(intent)}
    strays: dict[Cgroup, list[int]] = {}
    for found in gate.find_attached(_root(place)):
        if found.program_id not in known:
            strays.setdefault(found.cgroup, []).append(found.program_id)
    units = {filters.ingress: filters for filters in unit_filters.all_installed(base=place.drop_ins)}
    adopted = [_adopt(cgroup, programs, units, place, now) for cgroup, programs in strays.items()]
    return [*adopted, *_adopt_drop_ins(place, now)]


def _adopt(
    cgroup: Cgroup, programs: Sequence[int], units: dict[Path | None, InstalledFilters], place: Place, now: datetime
) -> Repair:
    held_by = _held_by(programs, place)
    filters = units.get(place.pins / held_by.slot / INGRESS.name)
    where = Where(cgroup=str(cgroup.path), cgroup_id=cgroup.inode, unit=filters.unit if filters else "")
    place.intents.begin(where, Why("found cut off in the kernel without an intent"), held_by, now, State.ISOLATED)
    return Repair(where.unit or where.cgroup, "cut off, and in no intent", "adopted as an isolation; release ends it")


def _held_by(programs: Sequence[int], place: Place) -> With:
    """The slot that attached programs belong to: all of it where it is pinned, else what is attached."""
    slot = _slot_of_program(programs[0], place)
    try:
        return isolation.held_by(slots.slot_at(place.pins / slot), place.pins)
    except WatchdogError:
        ids = {libbpf.prog_info_of(program).name: program for program in programs}
        guards = tuple(ids[guard.name] for guard in (GUARD_IN, GUARD_OUT) if guard.name in ids)
        return With(slot, ids.get(INGRESS.name, 0), ids.get(EGRESS.name, 0), guards)


def _slot_of_program(program_id: int, place: Place) -> str:
    for path in sorted(place.pins.glob("*/slot-*")):
        if program_id in slots.pinned_programs(path):
            return str(path.relative_to(place.pins))
    return f"adopted/slot-{program_id}"


def _adopt_drop_ins(place: Place, now: datetime) -> list[Repair]:
    """A unit that is not running and comes back isolated, in no intent."""
    known = {intent.where.unit for intent in place.intents.in_force()}
    repairs = []
    for filters in unit_filters.all_installed(base=place.drop_ins):
        if filters.unit in known or filters.ingress is None or not filters.ingress.is_relative_to(place.pins):
            continue
        slot = slots.slot_at(filters.ingress.parent) if not filters.missing_pins() else None
        if slot is None:
            # Its programs are gone and the unit cannot start: closed. A new slot makes it startable and isolated.
            slot = isolation.take_slot(place)
        held_by = isolation.held_by(slot, place.pins)
        where = Where(cgroup="", cgroup_id=0, unit=filters.unit)
        intent = place.intents.begin(where, Why("found a drop-in without an intent"), held_by, now, State.ISOLATED)
        isolation.cut(intent, place, now)
        repairs.append(Repair(filters.unit, "a drop-in of ours, and in no intent", "adopted as an isolation"))
    return repairs


def _root(place: Place) -> Cgroup:
    return Cgroup(place.root, place.root.stat().st_ino, place.root)
