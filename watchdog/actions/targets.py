"""From an intent to what the kernel's layers work on."""

from __future__ import annotations

from collections.abc import Iterable

from watchdog import clock
from watchdog.actions import noted
from watchdog.actions.place import Place
from watchdog.errors import WatchdogError
from watchdog.intents import Intent, With
from watchdog.kernel import bpffs, builder, common
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import CALLS, COMMON_SETS, COOKIES, DEVICES, OPTIONS, OWNERS, UNIX
from watchdog.kernel.slots import Slot
from watchdog.kernel.sockets import Known
from watchdog.kernel.sources import own_key, source_key

SETS = {
    "cookies": (COOKIES, OWNERS),
    "calls": (CALLS,),
    "unix": (UNIX,),
    "options": (OPTIONS,),
    "devices": (DEVICES,),
}
"""By layer, the programs that are found again by the ids in the journal; the others know by their maps."""


NOT_THERE = "its programs are not built, or their pins are gone"


def target_of(intent: Intent, slot: Slot, place: Place, cgroups: Iterable[Cgroup], *, build: bool = True) -> Target:
    """What the layers work on: these cgroups, with the slot and the common programs of this version.

    Those are built where they are not, and nothing is built, pinned or mounted without `build`.
    """
    return Target(
        tuple(cgroups),
        slot,
        _unpinned(intent, place) or (common_programs(place) if build else _found(place)),
        place.root,
        level=intent.why.level,
        host_links=place.host_links,
        host_end=place.host_ends.get(intent.where.peer, ""),
        held={layer: frozenset(_ids(intent.held_by, layer)) for layer in SETS},
        known=_known(intent, place),
        covered=noted.covered_of(intent, place),
    )


def _found(place: Place) -> Common:
    return common.find(place.pins) or none_of_them(place, NOT_THERE)


def _unpinned(intent: Intent, place: Place) -> Common | None:
    """Those of this version by the ids in the journal, where their pins are there and cannot be opened."""
    held = intent.held_by
    if common.find(place.pins) is not None or not bpffs.is_read_only(place.pins):
        return None
    if not held.common or held.boot != clock.boot_id() or not held.slot.startswith(own_key()):
        return None
    try:
        return common.of_ids(place.pins / own_key() / common.FOLDER, held.common)
    except BpfRefused:
        return None


def common_programs(place: Place) -> Common:
    """Those of this version, built now where they are not; none, with the reason, where that is not possible."""
    if (found := common.find(place.pins)) is not None:
        return found
    try:
        builder.ensure_slots(place.pins, place.build_lock, 0)
        reason = "its pins are gone"
    except WatchdogError as error:
        reason = error.one_line()
    built = common.find(place.pins) or common.find(place.pins, source_key())  # an upgrade builds under its own
    return built or none_of_them(place, reason)


def none_of_them(place: Place, reason: str) -> Common:
    """No common programs, and why."""
    names = [name for each in COMMON_SETS for name in each.names]
    return Common(place.pins, {}, {}, dict.fromkeys(names, reason))


def recorded_ids(place: Place) -> dict[str, int]:
    """What the journal keeps of the common programs: their ids by name; nothing where they are not built yet."""
    found = common.find(place.pins)
    return dict(found.programs) if found is not None else {}


def _ids(held: With, layer: str) -> Iterable[int]:
    names = {name for each in SETS[layer] for name in each.names}
    known = held.common if held.boot == clock.boot_id() else {}
    return (program_id for name, program_id in known.items() if name in names)


def _known(intent: Intent, place: Place) -> Known:
    """What this process knows of the isolation's sockets; nothing, once another isolation has begun or ended: whose
    a socket is was asked while that one's programs answered too."""
    round_of = frozenset(each.id for each in place.intents.in_force())
    for stale in [key for key in list(place.known) if key[1] != round_of]:
        place.known.pop(stale, None)  # another thread of this watcher may be here, too
    return place.known.setdefault((intent.id, round_of), {})
