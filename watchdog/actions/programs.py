"""The programs that hold an isolation: taken from the ready slots, found again, put back where they were pinned.

They are in the journal before they are attached anywhere. What their ids mean ends with the boot.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from pathlib import Path

from watchdog import clock
from watchdog.actions.place import Place
from watchdog.intents import Intent, With
from watchdog.kernel import bpffs, builder, gate, libbpf, slots
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import GATE
from watchdog.kernel.slots import Slot
from watchdog.kernel.sources import own_key, source_key

SPARE_SLOTS = 1
"""Slots kept ready beyond those in use, so that an isolation never waits for a compiler."""


def take(place: Place) -> Slot:
    """A ready slot that no intent in force has, zeroed; built now when none is left."""
    bpffs.prepare(place.pins)
    taken = {place.pins / intent.held_by.slot for intent in place.intents.in_force()}
    slot = next(slots.each_slot(place.pins, own_key(), taken), None) or _built(place, taken)
    slots.zero(slot)
    return slot


def _built(place: Place, taken: Collection[Path]) -> Slot:
    taken_here = [path for path in taken if path.parent.name == source_key()]
    ready = builder.ensure_slots(place.pins, place.build_lock, len(taken_here) + SPARE_SLOTS)
    return next(slot for slot in ready if slot.path not in taken)


def held_by(slot: Slot, place: Place) -> With:
    """How the journal names a slot."""
    ids = {program.name: slot.programs[program.name] for program in GATE}
    return With(_name(slot.path, place), ids, clock.boot_id())


def _name(path: Path, place: Place) -> str:
    return str(path.relative_to(place.pins))


def ids(held: With) -> dict[str, int]:
    """The program ids by name, where they mean anything on this boot."""
    return held.ids if held.boot == clock.boot_id() else {}


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
    """The slot, its pins put back where somebody removed them; None where the programs themselves are gone."""
    if held.slot and (slot := pinned(held, place)) is not None:
        return slot
    if not ids(held) or not all(map(_is_ours, ids(held).values())):
        return None
    bpffs.prepare(place.pins)  # it may have been unmounted
    try:
        return slots.repin(place.pins / held.slot, ids(held).values())
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def _is_ours(program_id: int) -> bool:
    try:
        return gate.is_ours(libbpf.prog_info_of(program_id))
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return False
        raise
