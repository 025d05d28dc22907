"""Does an isolation hold? Asked of the kernel and of systemd; the journal only says what to ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.actions import allowing, drift, noted, programs, renamed, targets, whereabouts
from watchdog.actions.place import Place, Sight, look
from watchdog.errors import KernelRefused
from watchdog.host import processes, unit_filters
from watchdog.intents import Intent, Where, With
from watchdog.kernel import bpffs, cgroups, common, elsewhere, gate, hold, hooks, slots, tc_maps, visitor_traffic
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.layers import cookies, sequence
from watchdog.kernel.layers.once import one_look
from watchdog.kernel.layers.sequence import Standing
from watchdog.kernel.programs import EGRESS, GUARD_IN, GUARD_OUT, INGRESS, WHOSE, Hook
from watchdog.kernel.slots import Counters, Slot
from watchdog.kernel.sources import own_key
from watchdog.paths import catalogue, facts
from watchdog.paths.facts import Looked
from watchdog.paths.words import Coverage, Layer, Verdict

LOADED = "loaded"
BEYOND_PACKETS = sequence.LAYERS[1:]
IDLE = "nothing of it runs, and only a watcher would see its next start"


@dataclass(frozen=True, slots=True)
class Result:
    """What an isolate, verify or release found or left behind."""

    intent: Intent
    changed: bool
    holds: bool
    """Asked of the kernel after everything was done: the target is cut off (isolate), or free of us (release)."""
    elsewhere: bool = False
    """What was cut off is, and the agent seems to run where nothing holds it."""
    gaps: tuple[str, ...] = ()
    """What does not hold although the target is cut off, a sentence each."""
    dropped: Counters | None = None
    idle: bool = False
    """Nothing of the target runs, and nothing in the kernel or systemd waits for its next start."""
    flows: Mapping[str, Any] | None = None
    """Who it talked to: watchdog.actions.flow_facts."""
    restarted: bool = False
    """The only gap is what every restart of a unit leaves: systemd attaches what its drop-in names, no more."""
    standings: tuple[Standing, ...] = ()
    """How each layer stands."""
    verdicts: tuple[Verdict, ...] = ()
    """What is to be said of each path, by the layers that hold and what the agent may and has; none while idle."""
    looked: Looked | None = None
    changes: tuple[str, ...] = ()
    """What was changed of an isolation in force, a sentence each."""
    let_in: tuple[str, ...] | None = None
    """The cgroups of the watchers that may ask for its heartbeat; None where no heartbeat is allowed."""
    not_taken: tuple[str, ...] = ()
    """What was asked for when it was isolated already, and could not be, a sentence each."""

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing is there to be held, nor put back: a unit has a drop-in that can be missing."""
        return self.idle and not self.intent.where.unit

    @property
    def uncovered(self) -> tuple[str, ...]:
        """The paths that are open and apply to it, a sentence each: no layer of ours that holds would stop them."""
        return tuple(f"{each.title}: {each.why}" for each in self.verdicts if each.coverage is Coverage.NOT_COVERED)

    @property
    def is_partial(self) -> bool:
        """Whether anything that applies is not covered."""
        return bool(self.gaps or self.uncovered)

    def told(self, reason: str) -> str:
        """An isolation in the words of a notification, short enough for one: everything is in verify."""
        ways = [each.title for each in self.verdicts if each.coverage is Coverage.NOT_COVERED]
        are = "way is" if len(ways) == 1 else "ways are"
        said = [*self.gaps, *([f"{len(ways)} {are} open to it, as {ways[0]!r}"] if ways else [])]
        how = "cut off in part" if self.is_partial else "isolated in the kernel"
        return f"{how}: {reason}" + (f"; open: {'; '.join(said)} (watchdog-mesh verify says all)" if said else "")


def verify(intent: Intent, place: Place) -> Result:
    """Ask whether the isolation holds. Changes nothing."""
    return judge(intent, place, look(intent.where, place.root))


def judge(intent: Intent, place: Place, sight: Sight, trouble: str = "") -> Result:
    """What the kernel and systemd say of an intent; `trouble` is why its next start could not be secured."""
    slot = programs.recorded(intent.held_by, place)
    there = [cgroup for cgroup in sight.cgroups if cgroups.exists(cgroup)]
    at_hooks = [gap for cgroup in there if (gap := gate.gap(cgroup, slot))]
    stopped = [cgroup for cgroup in there if gate.stops(cgroup, slot)]
    target = targets.target_of(intent, slot, place, stopped, build=False)
    with one_look():
        beyond = sequence.standings(target, BEYOND_PACKETS) if stopped else []
        looked = facts.look(stopped, cookies.look(target)) if stopped else None
    standings = [Standing(sequence.PACKETS.name, gaps=tuple(at_hooks)), *beyond] if stopped else []
    later = next_start(intent, place, sight)
    ended = whereabouts.has_ended(intent.where, place.root)
    idle = ended or (not there and (bool(later) or not intent.where.unit))
    others = [whereabouts.ENDED if ended else IDLE] if idle and not later else []
    others += whereabouts.gaps(intent.where, place.root)
    away = [f"{processes.describe(each.pid)} {drift.LEFT}" for each in noted.moved_out(intent, place, there)]
    anew, unclear = whereabouts.begun_anew(intent.where, place, there)
    others += away + anew + unclear + _pins_gone(intent.held_by, place)
    if name := renamed.name_now(intent, place, sight):
        others.append(f"{intent.where.unit} {drift.RENAMED} {name} now: its next start would be open")
    if not_as_meant := allowing.gap(intent):
        others.append(not_as_meant)
    if later:
        others.append(f"{later} ({trouble})" if trouble else later)
    return Result(
        intent,
        changed=False,
        holds=stopped == there and not away and not anew,
        elsewhere=stopped == there and not away and bool(anew),
        gaps=(*at_hooks, *sequence.gaps(beyond), *others),
        dropped=dropped_of(intent, place),
        idle=idle,
        restarted=bool(at_hooks) and not others and all(_lacks_guards_only(cgroup, slot) for cgroup in there),
        standings=tuple(standings),
        verdicts=tuple(_verdicts(standings, looked)),
        looked=looked,
        let_in=allowing.let_in(intent, place),
    )


def _pins_gone(held: With, place: Place) -> list[str]:
    """Another version's layers have their programs elsewhere, and their pins are its own."""
    gone = []
    if programs.ids(held) and programs.pinned(held, place) is None:
        gone.append(f"the pins of its programs {_what_of_pins(place.pins / held.slot, place)}")
    if programs.common_ids(held) and held.slot.startswith(own_key()) and common.find(place.pins) is None:
        folder = place.pins / own_key() / common.FOLDER
        gone.append(f"the pins of the layers' programs {_what_of_pins(folder, place)}")
    return gone


def _what_of_pins(folder: Path, place: Place) -> str:
    if folder.exists() and bpffs.is_read_only(place.pins):
        return f"{drift.PINS_CLOSED}: {bpffs.read_only(place.pins)}"
    return "are gone"


def dropped_of(intent: Intent, place: Place) -> Counters | None:
    """What was dropped of it so far, also of its sockets from elsewhere, less what our own tries from inside sent;
    None where nothing is known."""
    held = programs.ids(intent.held_by)
    at_home = visitor_traffic.without(slots.counters_of_programs(held.values()), held.values())
    if at_home is None or INGRESS.name not in held:
        return at_home
    isolation = held[INGRESS.name]
    try:
        return slots.total([at_home, _dropped_elsewhere(intent, isolation, place), tc_maps.frames(isolation)])
    except KernelRefused:
        return at_home  # nobody stays cut off because of it


def _dropped_elsewhere(intent: Intent, isolation: int, place: Place) -> Counters:
    ids = programs.seeing_elsewhere(intent.held_by, place)
    counted = elsewhere.dropped(ids, isolation)
    if counted == slots.NOTHING:
        return counted
    return visitor_traffic.without_flows(counted, elsewhere.flows_of(ids, isolation).listed)


def _verdicts(standings: Sequence[Standing], looked: Looked | None) -> list[Verdict]:
    if looked is None or not looked.runs:
        return []
    return catalogue.verdicts({Layer(each.layer) for each in standings if each.holds}, looked.facts)


def _lacks_guards_only(cgroup: Cgroup, slot: Slot) -> bool:
    return set(gate.missing(cgroup, slot)) <= {GUARD_IN, GUARD_OUT}


def next_start(intent: Intent, place: Place, sight: Sight) -> str:
    """Why the unit's next start would not be as meant; empty when it would, and for what is no unit."""
    unit, held = intent.where.unit, intent.held_by
    if not unit or (without := no_drop_in(intent, place, sight)):
        return without if unit else ""
    if programs.pinned(held, place) is None:
        return f"{unit} cannot start: the pins that its drop-in names {_what_of_pins(place.pins / held.slot, place)}"
    return ""


def no_drop_in(intent: Intent, place: Place, sight: Sight) -> str:
    """Why nothing would isolate the unit's next start; empty where its drop-in is there and was read."""
    unit, held = intent.where.unit, intent.held_by
    filters = unit_filters.filters_installed(unit, base=place.drop_ins)
    pins = [place.pins / held.slot / program.name for program in (INGRESS, EGRESS)]
    if filters is None or [filters.ingress, filters.egress] != pins:
        return f"a restart of {unit} would open it: its drop-in is missing"
    state = sight.unit
    if state is not None and state.load_state == LOADED and str(pins[0]) not in state.ip_ingress_filter_path:
        return f"a restart of {unit} would open it: systemd has not read its drop-in"
    return ""


def still_over(where: Where, place: Place) -> list[str]:
    """What of ours is on a target, whatever the journal says: a sentence each."""
    left = []
    for cgroup in look(where, place.root).cgroups:
        try:
            views = gate.query(cgroup)
        except CgroupGone:
            continue
        ours = {info.id for view in views.values() for info in view.ours} | _refusing(cgroup)
        left += [f"our program {program_id} is attached to {cgroup.path}" for program_id in sorted(ours)]
    if where.unit and unit_filters.filters_installed(where.unit, base=place.drop_ins):
        left.append(f"{where.unit} has a drop-in of ours")
    return left


def is_filtered(where: Where, place: Place) -> bool:
    """Whether programs of ours filter all that a target occupies, whosever isolation it is."""
    there = look(where, place.root).cgroups
    with suppress(CgroupGone):
        return bool(there) and all(view.ours for cgroup in there for view in gate.query(cgroup).values())
    return False


def held_over(where: Where, place: Place) -> list[str]:
    """Who holds a target's packets and has not isolated it yet, or never will: a sentence each."""
    found = []
    for cgroup in look(where, place.root).cgroups:
        with suppress(OSError):  # it is gone
            for pid in hold.holders(str(cgroup.path)):
                described = processes.describe(pid)
                found.append(
                    f"its packets are held by {described}, an isolate that has not ended; see to it, or kill it"
                )
    return found


def _refusing(cgroup: Cgroup) -> set[int]:
    """Programs of the layers that work on the target's own cgroup; those that drop others' sockets there may stay."""
    names = {name for layer, sets in targets.SETS.items() if layer != "cookies" for each in sets for name in each.names}
    return {each.program_id for each in hooks.ours_at(cgroup, tuple(Hook), {*names, WHOSE.name})}


def cut_off_above(intent: Intent, place: Place) -> list[str]:
    """Isolations in force of cgroups above a target's, which cut it off too."""
    return [
        f"{cgroup.path} is still cut off by the isolation of {other.name}, above it"
        for cgroup in look(intent.where, place.root).cgroups
        for other in place.intents.in_force()
        if other.id != intent.id and any(above.contains(cgroup) for above in look(other.where, place.root).cgroups)
    ]
