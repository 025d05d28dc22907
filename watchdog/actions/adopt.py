"""What our programs cut off and no intent explains becomes an intent: a lost journal opens nothing.

Only what is pinned below our own pins counts, and what was named: other instances of the mesh, in containers of this
host, have theirs.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path

from watchdog import clock
from watchdog.actions import programs
from watchdog.actions.place import Place
from watchdog.errors import WatchdogError
from watchdog.host import systemd, unit_filters
from watchdog.intents import Intent, State, Where, Why, With
from watchdog.kernel import cgroups, gate, libbpf, moves, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import freeze
from watchdog.kernel.layers.base import FROZEN, NETWORK
from watchdog.kernel.libbpf import BpfRefused
from watchdog.moved import Moved

REASON = "found cut off, and in no intent"
UNPINNED = "adopted"
"""The key below which pins are put of programs that had none."""


def adopt(place: Place, named: Collection[Cgroup] = ()) -> list[Intent]:
    """Make intents of what is cut off and in none; the new ones. With the lock held."""
    slot_of, units = _slots_by_id(place), _units_by_slot(place)
    adopted = []
    for cgroup, found in _strays(place).items():
        held = next((slot_of[i] for i in found if i in slot_of), None)
        if held is not None or cgroup in named:
            held = held or _unpinned(found)
            unit = units.get(held.slot, "") or unit_at(cgroup)
            adopted.append(_begin(Where(str(cgroup.path), cgroup.inode, unit), held, place))
    known = {intent.where.unit for intent in place.intents.in_force()}
    whole = {held.slot: held for held in slot_of.values()}
    return adopted + [
        _begin(Where("", 0, unit), whole.get(slot, With(slot)), place)
        for slot, unit in units.items()
        if unit not in known
    ]


def _strays(place: Place) -> dict[Cgroup, list[int]]:
    """Programs of ours by cgroup, where no intent in force has the cgroup or the programs."""
    in_force = place.intents.in_force()
    known, taken = programs.ids_of(in_force), {intent.where.cgroup for intent in in_force}
    strays: dict[Cgroup, list[int]] = {}
    for each in gate.find_attached(place.top):
        if not _is_scratch(each.cgroup) and each.program_id not in known and str(each.cgroup.path) not in taken:
            strays.setdefault(each.cgroup, []).append(each.program_id)
    return strays


def _is_scratch(cgroup: Cgroup) -> bool:
    """Whether a self-test or a bed of ours made it, which was killed."""
    parts = cgroup.relative().split("/")
    return any(part.startswith((cgroups.SELFTEST_PREFIX, cgroups.BED_PREFIX)) for part in parts)


def _slots_by_id(place: Place) -> dict[int, With]:
    """Every whole slot below the pins, of whatever version, by the ids of its programs."""
    keys = [folder.name for folder in place.pins.iterdir()] if place.pins.is_dir() else []
    try:
        found = [programs.held_by(slot, place) for key in keys for slot in slots.list_slots(place.pins, key)]
    except BpfRefused as error:
        if error.code != errno.EROFS:
            raise
        found = []  # what the journal knows is looked after all the same, and the rest stays cut off
    return {program_id: held for held in found for program_id in held.ids.values()}


def _units_by_slot(place: Place) -> dict[str, str]:
    """Units with a drop-in of ours, by the slot below our pins that it names, whether that is there or not."""
    return {
        str(filters.ingress.parent.relative_to(place.pins)): filters.unit
        for filters in unit_filters.all_installed(base=place.drop_ins)
        if filters.ingress is not None and filters.ingress.is_relative_to(place.pins)
    }


def _unpinned(found: Collection[int]) -> With:
    ids = {libbpf.prog_info_of(program_id).name: program_id for program_id in found}
    return With(f"{UNPINNED}/slot-{min(found)}", ids, clock.boot_id())


def _begin(where: Where, held: With, place: Place) -> Intent:
    peer = place.peers.get(where.unit, "") or place.peers.get(where.cgroup, "")
    origin = moves.origin_of(_cgroup(where, place)) if where.cgroup else None
    moved = Moved(str(origin.path), origin.inode, clock.boot_id()) if origin else None
    where = Where(where.cgroup, where.cgroup_id, where.unit, peer, moved)
    level = FROZEN if where.cgroup and freeze.mark_of(_cgroup(where, place)) == FROZEN else NETWORK
    return place.intents.begin(where, Why(REASON, level=level), held, place.now(), State.ISOLATED)


def unit_at(cgroup: Cgroup) -> str:
    """The unit whose cgroup this very one is; empty for none, and where systemd does not run or answer."""
    name = cgroup.path.name
    if name.rpartition(".")[2] not in systemd.SECTIONS or not systemd.SYSTEMD_RUNTIME.is_dir():
        return ""
    try:
        state = systemd.query(name)
    except WatchdogError:
        return ""
    return state.id if state.control_group == cgroup.relative() else ""


def _cgroup(where: Where, place: Place) -> Cgroup:
    return Cgroup(Path(where.cgroup), where.cgroup_id, place.root)
