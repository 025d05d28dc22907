"""Isolate and release: what is meant goes to the journal, then the kernel is changed, then the kernel is asked.

Both run to the end from wherever a dead process left them, both can run twice, and neither needs a daemon. The order
of isolate is: gate (the packet hooks of the cgroup, at once), then the drop-in (every later start of the unit). Release
is the mirror image.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from watchdog.actions.place import Place, cgroups_of
from watchdog.errors import SystemdFailed, WatchdogError
from watchdog.host import systemd, unit_filters
from watchdog.intents import Intent, State, Where, Why, With
from watchdog.kernel import builder, gate, slots
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import EGRESS, GUARD_IN, GUARD_OUT, INGRESS
from watchdog.kernel.slots import Counters, Slot

SPARE_SLOTS = 1
"""Slots kept ready beyond those in use, so that an isolation never waits for a compiler."""

Step = Callable[[str], None]
"""Told the name of every step once it is done; tests stop there, the demo prints them."""


def no_step(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an isolate, verify or release found or left behind."""

    intent: Intent
    changed: bool
    holds: bool
    """Asked of the kernel after everything was done: the target is cut off (isolate), or free of us (release)."""
    gaps: tuple[str, ...] = ()
    """What does not hold although the target is cut off, a sentence each."""
    dropped: Counters | None = None


def isolate(where: Where, why: Why, place: Place, now: datetime, step: Step = no_step) -> Result:
    """Cut the target off and see that it is. The rails were asked before.

    Raises WatchdogError when it cannot be cut off; what was begun is undone then.
    """
    with place.alone():
        intent = find(place, where)
        before = _held(intent, place) if intent is not None and intent.state is State.ISOLATED else None
        if before is not None and before.holds and not before.gaps:
            return before
        if intent is None:
            slot = take_slot(place)
            intent = place.intents.begin(where, why, held_by(slot, place.pins), now)
        elif intent.state is not State.ISOLATED:
            intent = place.intents.change(intent, State.ISOLATING, now)
        step("intended")
        return _cut_or_undo(intent, place, now, step)


def _cut_or_undo(intent: Intent, place: Place, now: datetime, step: Step) -> Result:
    try:
        return cut(intent, place, now, step)
    except WatchdogError as error:
        if intent.state is State.ISOLATED:
            raise  # an isolation that held in part stays as it is: never open one because something of ours failed
        place.intents.change(intent, State.FAILED, now, error=error.one_line())
        free(intent, place)
        raise


def cut(intent: Intent, place: Place, now: datetime, step: Step = no_step) -> Result:
    """Bring the kernel and systemd to what the intent says, and the intent to `isolated`."""
    slot = slot_of(intent, place)
    _attach_where_missing(intent, slot, place)
    step("attached")
    gaps = _make_lasting(intent, slot, place)
    step("lasting")
    _attach_where_missing(intent, slot, place)  # the unit may have been restarted before the drop-in was there
    result = _judge(intent, slot, place, gaps)
    if not result.holds:
        raise SystemdFailed(f"{intent.name} is not cut off: {'; '.join(result.gaps)}", hint="watchdog-mesh doctor")
    where = _as_seen(intent.where, place)
    intent = place.intents.change(intent, State.ISOLATED, now, where=where, gaps=list(result.gaps))
    step("isolated")
    return replace(result, intent=intent, changed=True)


def release(intent: Intent, place: Place, now: datetime, step: Step = no_step) -> Result:
    """Let the target back and see that nothing of ours is left on it."""
    with place.alone():
        current = next((each for each in place.intents.in_force() if each.id == intent.id), None)
        if current is None:
            return Result(intent, changed=False, holds=True)
        return finish_release(current, place, now, step)


def finish_release(intent: Intent, place: Place, now: datetime, step: Step = no_step) -> Result:
    """The release itself, with the lock held; also what a killed one left to do."""
    dropped = slots.counters_of_programs(program_ids(intent))
    intent = place.intents.change(intent, State.RELEASING, now)
    step("intended")
    free(intent, place, step)
    left = _left_over(intent, place)
    if left:
        raise SystemdFailed(
            f"{intent.name} is not free: {'; '.join(left)}", hint="run the release again; watchdog-mesh verify says why"
        )
    packets = dropped.ingress.packets + dropped.egress.packets if dropped else None
    intent = place.intents.change(intent, State.RELEASED, now, dropped_packets=packets)
    step("released")
    return Result(intent, changed=True, holds=True, dropped=dropped)


def free(intent: Intent, place: Place, step: Step = no_step) -> None:
    """Take away what holds the target: the drop-in first, the packet hooks last."""
    if intent.where.unit:
        unit_filters.remove_filters(intent.where.unit, base=place.drop_ins)
        step("unlasting")
    for cgroup in cgroups_of(intent.where, place.root):
        gate.detach(cgroup, program_ids(intent))
        step("detached")


def verify(intent: Intent, place: Place) -> Result:
    """Ask the kernel and systemd whether the isolation holds. Changes nothing."""
    return _held(intent, place) or Result(intent, changed=False, holds=False, gaps=("its programs are gone",))


def find(place: Place, where: Where) -> Intent | None:
    """The intent in force for the same peer, unit or cgroup."""
    for intent in place.intents.in_force():
        same_peer = where.peer and intent.where.peer == where.peer
        same_unit = where.unit and intent.where.unit == where.unit
        same_cgroup = where.cgroup and intent.where.cgroup == where.cgroup
        if same_peer or same_unit or same_cgroup:
            return intent
    return None


# Slots


def take_slot(place: Place) -> Slot:
    """A ready slot that no intent in force has, zeroed; built now when none is left."""
    taken = {intent.held_by.slot for intent in place.intents.in_force()}
    ready = builder.ensure_slots(place.pins, place.build_lock, len(taken) + SPARE_SLOTS)
    free_slots = [slot for slot in ready if held_by(slot, place.pins).slot not in taken]
    if not free_slots:  # slots of another version are in use: they count in `taken` and not in `ready`
        ready = builder.ensure_slots(place.pins, place.build_lock, len(ready) + SPARE_SLOTS)
        free_slots = [slot for slot in ready if held_by(slot, place.pins).slot not in taken]
    slots.zero(free_slots[0])
    return free_slots[0]


def held_by(slot: Slot, pins: Path) -> With:
    """How the journal names a slot."""
    return With(
        slot=str(slot.path.relative_to(pins)),
        ingress_id=slot.programs[INGRESS.name],
        egress_id=slot.programs[EGRESS.name],
        guard_ids=(slot.programs[GUARD_IN.name], slot.programs[GUARD_OUT.name]),
    )


def program_ids(intent: Intent) -> tuple[int, ...]:
    """The ids of the programs that hold an intent."""
    return intent.held_by.ingress_id, intent.held_by.egress_id, *intent.held_by.guard_ids


def slot_of(intent: Intent, place: Place) -> Slot:
    """The intent's slot; pins that somebody removed are put back from the attached programs."""
    path = place.pins / intent.held_by.slot
    try:
        return slots.slot_at(path)
    except BpfRefused:
        return slots.repin(path, program_ids(intent))


# Does it hold?


def _held(intent: Intent, place: Place) -> Result | None:
    """What the kernel says of an intent; None when its slot is gone."""
    try:
        slot = slots.slot_at(place.pins / intent.held_by.slot)
    except BpfRefused:
        return None
    return _judge(intent, slot, place, ())


def _judge(intent: Intent, slot: Slot, place: Place, gaps: tuple[str, ...]) -> Result:
    found = cgroups_of(intent.where, place.root)
    open_ones = [cgroup for cgroup in found if not gate.stops(cgroup, slot)]
    lasting = _is_lasting(intent, slot, place)
    if not found and not lasting:
        gaps = (*gaps, "nothing of it runs, and nothing holds its next start")
    gaps = (*gaps, *(gap for cgroup in found if (gap := gate.gap(cgroup, slot))))
    if intent.where.unit and not lasting and not any("restart" in gap for gap in gaps):
        gaps = (*gaps, f"a restart of {intent.where.unit} would open it: its drop-in is missing")
    holds = not open_ones and (bool(found) or lasting)
    return Result(intent, changed=False, holds=holds, gaps=gaps, dropped=slots.counters(slot))


def _left_over(intent: Intent, place: Place) -> list[str]:
    left = []
    for cgroup in cgroups_of(intent.where, place.root):
        try:
            views = gate.query(cgroup)
        except CgroupGone:
            continue
        left += [
            f"program {info.id} is still attached to {cgroup.path}" for view in views.values() for info in view.ours
        ]
    if intent.where.unit and unit_filters.filters_installed(intent.where.unit, base=place.drop_ins):
        left.append(f"the drop-in of {intent.where.unit} is still there")
    return left


# The unit's next starts


def _make_lasting(intent: Intent, slot: Slot, place: Place) -> tuple[str, ...]:
    """Have systemd isolate every later start of the unit. A failure leaves a gap, not an open target."""
    unit = intent.where.unit
    if not unit:
        return ()
    try:
        unit_filters.install_filters(unit, slot.pin(INGRESS), slot.pin(EGRESS), base=place.drop_ins)
    except WatchdogError as error:
        return (f"a restart of {unit} would open it: {error.one_line()}",)
    return ()


def _is_lasting(intent: Intent, slot: Slot, place: Place) -> bool:
    if not intent.where.unit:
        return False
    filters = unit_filters.filters_installed(intent.where.unit, base=place.drop_ins)
    return filters is not None and filters.ingress == slot.pin(INGRESS) and not filters.missing_pins()


def _attach_where_missing(intent: Intent, slot: Slot, place: Place) -> None:
    """Attach to every cgroup the target has now. One that goes meanwhile is a unit's old one: the next is judged."""
    for cgroup in cgroups_of(intent.where, place.root):
        with suppress(CgroupGone):
            gate.attach(cgroup, slot)


def _as_seen(where: Where, place: Place) -> Where:
    """Note the cgroup the target has now."""
    found: list[Cgroup] = cgroups_of(where, place.root)
    return replace(where, cgroup=str(found[-1].path), cgroup_id=found[-1].inode) if found else where


def unit_of(unit: str) -> str:
    """The full id of a unit that exists: aliases are resolved, so that one unit has one name in the journal."""
    return systemd.show(unit).id
