"""What isolate would do, found out by asking only: nothing is built, attached, written or told."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from watchdog.actions import allowing, changing, isolation, programs, targets, whereabouts
from watchdog.actions.isolation import Rails, no_rails
from watchdog.actions.place import Place, look
from watchdog.host import processes, unit_filters
from watchdog.intents import State, Where, Why
from watchdog.kernel import bpffs, cgroups, common, gate
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.common import Common
from watchdog.kernel.layers import cookies, sequence
from watchdog.kernel.layers.base import NETWORK, Target
from watchdog.kernel.layers.base import Layer as Measure
from watchdog.kernel.layers.sequence import Standing
from watchdog.kernel.programs import COMMON_SETS, GATE
from watchdog.kernel.slots import Slot
from watchdog.paths import catalogue, facts
from watchdog.paths.facts import Looked
from watchdog.paths.words import Layer, Verdict

NOT_BUILT = "they are not built yet; isolate does that first, which takes seconds"


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be, and what of it is to be done."""

    where: Where
    why: Why
    """As it would be written down, with what the safety rails have against it where that is overruled."""
    changed: bool
    """Whether anything would."""
    cgroups: tuple[Cgroup, ...]
    processes: int
    steps: tuple[Standing, ...]
    """How each layer stands now: its gaps are what would be done."""
    drop_in: Path | None
    """The unit's lasting drop-in, where it would be written."""
    ready: bool
    """Whether programs wait for it, so that no compiler is needed first."""
    verdicts: tuple[Verdict, ...] = ()
    """What would be said of each path then; none while nothing of it runs, or while nothing is built."""
    looked: Looked | None = None
    foreign: tuple[str, ...] = ()
    """Other tools' programs at the same hooks. They stay."""
    moves: tuple[str, ...] = ()
    """Processes that would be moved into a cgroup that would be made for them."""

    @property
    def name(self) -> str:
        """What an operator calls the target."""
        return self.where.peer or self.where.unit or self.where.cgroup


def plan(
    where: Where,
    why: Why,
    place: Place,
    rails: Rails = no_rails,
    default_allow: allowing.Default = allowing.nothing,
    default_level: str = NETWORK,
) -> Plan:
    """What `isolation.isolate` would do with the same arguments now. Raises what it would, Refused among it."""
    intent = isolation.find(place, where)
    if intent is not None and intent.state is State.ISOLATED:
        wanted = changing.wanted(intent, where, why)
        slot = programs.pinned(intent.held_by, place) or programs.recorded(intent.held_by, place)
        target = targets.target_of(wanted, slot, place, look(wanted.where, place.root).cgroups)
        target = replace(target, allows=bool(wanted.why.allow))
        return _planned(wanted.where, wanted.why, place, target, ready=True, changed=wanted != intent)
    allow = default_allow() if why.allow is None else why.allow
    why = replace(why, overruled=tuple(rails()), allow=allow, level=why.level or default_level)
    bpffs.check(place.pins)
    free = programs.find_free(place)
    if free is None:
        bpffs.check_writable(place.pins)
    slot = free or Slot(place.pins, {each.name: 0 for each in GATE}, {})
    here = look(where, place.root).cgroups
    built = common.find(place.pins)
    target = Target(
        here,
        slot,
        built or _not_built(place),
        place.root,
        level=why.level,
        allows=bool(why.allow),
        host_links=place.host_links,
        host_end=place.host_ends.get(where.peer, ""),
    )
    return _planned(where, why, place, target, ready=free is not None and built is not None, changed=True)


def _planned(where: Where, why: Why, place: Place, target: Target, *, ready: bool, changed: bool) -> Plan:
    steps = tuple(sequence.standings(target))
    if where.moved is not None and not target.cgroups:
        return _planned_move(where, why, target, place, ready=ready)
    looked = facts.look(target.cgroups, cookies.look(target))
    will_hold = {Layer(each.layer) for each in steps if not each.not_applicable and not each.missing}
    drop_in = unit_filters.drop_in(where.unit, place.drop_ins) if where.unit else None
    return Plan(
        where,
        why,
        changed or any(each.gaps for each in steps),
        target.cgroups,
        sum(len(cgroups.processes(cgroup)) for cgroup in target.cgroups),
        steps,
        None if drop_in is None or drop_in.exists() else drop_in,
        ready,
        tuple(catalogue.verdicts(will_hold, looked.facts)) if ready and looked.runs else (),
        looked,
        tuple(other for cgroup in target.cgroups for other in _foreign(cgroup)),
    )


def _planned_move(where: Where, why: Why, target: Target, place: Place, *, ready: bool) -> Plan:
    """What is open to it is looked up once it is there: now it shares its cgroup."""
    steps = (_step_of(layer, target) for layer in sequence.LAYERS)
    moves = tuple(processes.describe(each.pid) for each in whereabouts.family(where, place.root))
    return Plan(where, why, True, (), len(moves), tuple(steps), None, ready, moves=moves)


def _step_of(layer: Measure, target: Target) -> Standing:
    if not_applicable := layer.not_applicable(target) if layer is sequence.FREEZE else "":
        return Standing(layer.name, not_applicable=not_applicable)
    return Standing(layer.name, missing=layer.missing(target.common), gaps=("its cgroup is not made yet",))


def _foreign(cgroup: Cgroup) -> list[str]:
    with suppress(CgroupGone):
        return [f"{i.name or 'unnamed'} (id {i.id})" for view in gate.query(cgroup).values() for i in view.foreign]
    return []


def _not_built(place: Place) -> Common:
    return Common(place.pins, {}, {}, {name: NOT_BUILT for each in COMMON_SETS for name in each.names})
