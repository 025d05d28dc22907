"""Shadows: what an isolation would drop is counted, with whom it was exchanged, and nothing is dropped.

A shadow is no isolation and is never called one: its intent has states of its own, no safety rail is asked, and no
drop-in is written, since one whose pin is missing would keep a unit from starting. After a restart of the unit a
watcher or `reconcile` attaches it again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from watchdog import clock
from watchdog.actions import allowing, changing, flow_facts, isolation, programs
from watchdog.actions.holding import Result
from watchdog.actions.place import Place, look
from watchdog.errors import KernelRefused, Refused, WatchdogError
from watchdog.intents import Intent, State, Where, Why, With
from watchdog.kernel import allow, slots
from watchdog.kernel import shadow as kernel
from watchdog.kernel.cgroups import CgroupGone
from watchdog.kernel.programs import SHADOW


def begin(where: Where, why: Why, place: Place) -> Result:
    """Watch a target. One that is watched already is changed as an isolation in force is: another allow-list, a longer
    time. Refused where it is isolated.
    """
    with place.alone():
        isolated = isolation.find(place, where)
        if isolated is not None:
            raise Refused(
                f"{isolated.name} is isolated: a shadow would drop nothing, and what is dropped is counted already",
                hint="see it with: watchdog-mesh verify",
            )
        known = find(place, where)
        intent = _begun(where, why, place) if known is None else known
        asked = changing.wanted(intent, intent.where, replace(why, level=""))  # it cuts nothing off, at no level
        changes, not_taken = changing.changes(intent, asked), changing.not_taken(asked.why, why)
        changed = known is None or asked != known
        if asked != intent or not_taken:
            facts = changing.facts_of(why, changes, not_taken)
            intent = place.intents.change(asked, State.SHADOW, place.now(), facts=facts)
        try:
            after = _attach(intent, place)
            return replace(after, changed=changed, changes=changes, not_taken=not_taken)
        except WatchdogError:
            finish_end(intent, place)
            raise


def _begun(where: Where, why: Why, place: Place) -> Intent:
    why = replace(why, allow=why.allow or ())
    return place.intents.begin(where, why, _held(place), place.now(), State.SHADOW)


def _held(place: Place) -> With:
    slot = programs.take(place, SHADOW)
    ids = {program.name: slot.programs[program.name] for program in SHADOW}
    return With(str(slot.path.relative_to(place.pins)), ids, clock.boot_id())


def _attach(intent: Intent, place: Place) -> Result:
    intent = _with_programs(intent, place)
    ids = programs.ids(intent.held_by)
    map_id = allow.place_of(ids.values())
    if map_id is not None:
        allow.install(map_id, allowing.compiled(intent, place))
    for cgroup in look(intent.where, place.root).cgroups:
        with suppress(CgroupGone):
            kernel.attach(cgroup, ids)
    return verify(intent, place)


def _with_programs(intent: Intent, place: Place) -> Intent:
    """They are pinned, or attached somewhere, or gone as after a reboot."""
    ids = programs.ids(intent.held_by)
    if ids and all(programs.is_loaded(program_id, kernel.is_ours) for program_id in ids.values()):
        return intent
    return place.intents.change(intent, intent.state, place.now(), held_by=_held(place))


def end(intent: Intent, place: Place) -> Result:
    """Stop watching, and keep what was seen."""
    with place.alone():
        current = place.intents.get(intent)
        if current.state not in (State.SHADOW, State.ENDING):
            return Result(current, changed=False, holds=False)
        return finish_end(current, place)


def finish_end(intent: Intent, place: Place) -> Result:
    """The end itself, with the lock held; also what a killed one left to do."""
    seen = verify(intent, place, with_flows=True)
    intent = place.intents.change(intent, State.ENDING, place.now())
    mine = programs.ids_of([intent])
    for attachment in [each for each in kernel.find_attached(place.top) if each.program_id in mine]:
        kernel.detach(attachment.cgroup, [attachment.program_id])
    facts = {"flows": seen.flows} if seen.flows else {}
    intent = place.intents.change(intent, State.ENDED, place.now(), facts=facts)
    return replace(seen, intent=intent, changed=True, gaps=())


def end_at(where: Where, place: Place) -> Result | None:
    """End the shadow of a target that is isolated now."""
    intent = find(place, where)
    return None if intent is None else end(intent, place)


def verify(intent: Intent, place: Place, *, with_flows: bool = False) -> Result:
    """What the shadow has seen, and where it ought to be and is not. It never holds anything."""
    ids = programs.ids(intent.held_by)
    found = look(intent.where, place.root).cgroups
    gaps = tuple(f"{cgroup.path} is not watched" for cgroup in found if not kernel.is_attached(cgroup, ids))
    dropped = slots.counters_of_programs(ids.values())
    flows = flow_facts.of(intent, place, dropped, clock.moment()) if with_flows else None
    return Result(
        intent,
        changed=False,
        holds=False,
        gaps=gaps,
        dropped=dropped,
        flows=flows,
        idle=not found,
        let_in=allowing.let_in(intent, place),
    )


def find(place: Place, where: Where) -> Intent | None:
    """The shadow of the same unit, cgroup or peer."""
    for intent in place.intents.shadows():
        pairs = ((where.unit, intent.where.unit), (where.cgroup, intent.where.cgroup), (where.peer, intent.where.peer))
        if any(one and one == other for one, other in pairs):
            return intent
    return None


def settle(intent: Intent, place: Place, at: clock.Moment) -> tuple[str, str] | None:
    """Carry one shadow on: what was found and what became of it; None where nothing was to be done."""
    if intent.state is State.ENDING:
        finish_end(intent, place)
        return "the end of its shadow was cut short", "ended"
    if intent.why.until is not None and intent.why.until.is_over(at):
        finish_end(intent, place)
        return f"watched until {clock.rfc3339(intent.why.until.utc)}", "ended: its time is over"
    if not (gaps := verify(intent, place).gaps):
        allowing.let_watchers_in(intent, place)
        return None
    after = _attach(intent, place)
    if after.gaps:
        raise KernelRefused(f"its shadow is not in place: {'; '.join(after.gaps)}")
    return "; ".join(gaps), "watched again"
