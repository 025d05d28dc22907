"""The programs that hold an isolation: taken from the ready slots, found again, put back where they were pinned.

They are in the journal before they are attached anywhere. What their ids mean ends with the boot.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from watchdog import clock
from watchdog.actions import targets
from watchdog.actions.place import Place
from watchdog.intents import Intent, With
from watchdog.kernel import bpffs, builder, common, gate, hooks, slots
from watchdog.kernel.libbpf import BpfRefused, ProgramInfo
from watchdog.kernel.programs import COOKIES, GATE, Program
from watchdog.kernel.slots import Slot
from watchdog.kernel.sources import own_key

SPARE_SLOTS = 1
"""Slots kept ready beyond those in use, so that an isolation never waits for a compiler."""


def _has(slot: Slot, wanted: Sequence[Program]) -> bool:
    return all(program.name in slot.programs for program in wanted)


def take(place: Place, wanted: Sequence[Program] = GATE) -> Slot:
    """A ready slot with these programs that no intent and no shadow has, zeroed; built now when none is left."""
    bpffs.prepare(place.pins)
    slot = find_free(place, wanted) or _built(place, wanted)
    slots.zero(slot)
    return slot


def find_free(place: Place, wanted: Sequence[Program] = GATE) -> Slot | None:
    """The slot that would be taken; None where one would have to be built first."""
    free = slots.each_slot(place.pins, own_key(), _taken(place))
    return next((slot for slot in free if _has(slot, wanted)), None)


def _taken(place: Place) -> set[Path]:
    return {place.pins / intent.held_by.slot for intent in [*place.intents.in_force(), *place.intents.shadows()]}


def _built(place: Place, wanted: Sequence[Program]) -> Slot:
    taken = _taken(place)
    unusable = [slot.path for slot in slots.list_slots(place.pins) if slot.path in taken or not _has(slot, wanted)]
    ready = builder.ensure_slots(place.pins, place.build_lock, len(unusable) + SPARE_SLOTS)
    return next(slot for slot in ready if slot.path not in unusable)


def held_by(slot: Slot, place: Place) -> With:
    """How the journal names a slot."""
    ids = {program.name: slot.programs[program.name] for program in GATE}
    return With(_name(slot.path, place), ids, clock.boot_id(), targets.recorded_ids(place))


def _name(path: Path, place: Place) -> str:
    return str(path.relative_to(place.pins))


def ids(held: With) -> dict[str, int]:
    """The program ids by name, where they mean anything on this boot."""
    return held.ids if held.boot == clock.boot_id() else {}


def common_ids(held: With) -> dict[str, int]:
    """The ids of the programs that all isolations share, as they were when this one began."""
    return held.common if held.boot == clock.boot_id() else {}


def seeing_elsewhere(held: With, place: Place) -> set[int]:
    """The programs that drop sockets from elsewhere: as they were when it began, and as they are now."""
    found = common.find(place.pins)
    known = (common_ids(held), found.programs if found else {})
    return {each[name] for each in known for name in COOKIES.names if name in each}


def ids_of(intents: Iterable[Intent]) -> set[int]:
    """The ids of everything that holds these intents."""
    return {program_id for intent in intents for program_id in ids(intent.held_by).values()}


def recorded(held: With, place: Place) -> Slot:
    """The slot as the journal knows it, pinned or not: enough to ask a cgroup's hooks for it."""
    return Slot(place.pins / held.slot, {program.name: ids(held).get(program.name, 0) for program in GATE}, {})


def pinned(held: With, place: Place) -> Slot | None:
    """The slot as it is pinned; None where a pin is gone, or is another program's now."""
    try:
        slot = slots.slot_at(place.pins / held.slot)
    except BpfRefused:
        return None
    return slot if held_by(slot, place) == held else None


def restored(held: With, place: Place) -> Slot | None:
    """The slot, its pins put back where somebody removed them; None where the programs themselves are gone.

    By the programs' ids alone, where nothing can be pinned.
    """
    if held.slot and (slot := pinned(held, place)) is not None:
        return slot
    if not ids(held) or not all(map(is_loaded, ids(held).values())):
        return None
    if bpffs.is_read_only(place.pins):
        return slots.of_ids(place.pins / held.slot, ids(held))
    bpffs.prepare(place.pins)  # it may have been unmounted
    try:
        return slots.repin(place.pins / held.slot, ids(held).values())
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def is_loaded(program_id: int, is_ours: Callable[[ProgramInfo], bool] = gate.is_ours) -> bool:
    """Whether a program of ours is there under this id."""
    info = hooks.info_or_none(program_id)
    return info is not None and is_ours(info)
