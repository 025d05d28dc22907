"""Bring the kernel back to what is meant: after a kill -9, a reboot, or somebody else's hands.

The journal's intents say what is meant, the kernel says what is. An isolation is never opened here: what was cut off
and is in no intent is adopted as one, and only a release ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from watchdog.actions import adopt, holding, isolation, programs, shadow
from watchdog.actions.holding import Result
from watchdog.actions.place import Place, look
from watchdog.clock import Moment, rfc3339
from watchdog.errors import WatchdogError
from watchdog.host import unit_filters
from watchdog.intents import Intent, State
from watchdog.kernel.layers import freeze
from watchdog.kernel.layers.freeze import WORKING
from watchdog.kernel.programs import EGRESS, INGRESS

PATIENCE = timedelta(seconds=60)
"""What could not be put right, and leaves nobody open, is tried again after this long: a reload is not free."""

NO_SLOT = "none"
"""A folder that is no slot: what a drop-in names where the journal has no slot yet."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One difference between what was meant and what was, and what became of it."""

    target: str
    found: str
    done: str
    failed: bool = False
    expected: bool = False
    """Nobody's doing: every restart of an isolated unit leaves it."""


def bar(place: Place) -> None:
    """At boot, before anything may fail or take long: no unit that is meant to be isolated starts until it is.

    Its programs ended with the last boot; a drop-in that names them keeps it from starting, and `reconcile` puts
    another in its place. Should that fail, the unit stays down: closed, not open.
    """
    with place.alone():
        gone = [
            intent
            for intent in place.intents.in_force()
            if intent.where.unit and _meant(intent) == "isolated" and programs.pinned(intent.held_by, place) is None
        ]
        pins = {intent.where.unit: place.pins / (intent.held_by.slot or NO_SLOT) for intent in gone}
        unit_filters.bar(
            {unit: (pin / INGRESS.name, pin / EGRESS.name) for unit, pin in pins.items()}, base=place.drop_ins
        )


def reconcile(place: Place, at: Moment, *, patient: bool = False) -> list[Repair]:
    """Carry every intent to its end and adopt what no intent explains; what was different, one entry each.

    With `patient` what failed before in the same way is not told again, and not tried again at once.
    """
    with place.alone():
        repairs = [repair for intent in place.intents.shadows() if (repair := _settle_shadow(intent, place, at))]
        repairs += [
            Repair(intent.name, adopt.REASON, "adopted as an isolation; a release ends it")
            for intent in adopt.adopt(place, at.utc)
        ]
        repairs += [
            repair for intent in place.intents.in_force() if (repair := _settle(intent, place, at, patient=patient))
        ]
        repairs += [] if patient else _let_run(place)
    for repair in repairs:
        place.journal.record(at.utc, "repair", target=repair.target, found=repair.found, done=repair.done)
    return repairs


def _let_run(place: Place) -> list[Repair]:
    """What an isolation that no journal knows of left frozen while it worked."""
    known = {cgroup for intent in place.intents.in_force() for cgroup in look(intent.where, place.root).cgroups}
    left = [each for each in freeze.find_frozen(place.top) if each not in known and freeze.mark_of(each) == WORKING]
    for cgroup in left:
        freeze.let_run(cgroup)
    return [Repair(str(cgroup.path), "left frozen, and in no intent", "it runs again") for cgroup in left]


def _settle(intent: Intent, place: Place, at: Moment, *, patient: bool) -> Repair | None:
    try:
        return _carry_on(intent, place, at, patient=patient)
    except WatchdogError as error:
        current, trouble = place.intents.get(intent), error.one_line()
        if patient and current.trouble == trouble:
            return None
        place.intents.change(current, current.state, at.utc, trouble=trouble)
        return Repair(intent.name, f"it should be {_meant(intent)}", f"failed: {trouble}", failed=True)


def _settle_shadow(intent: Intent, place: Place, at: Moment) -> Repair | None:
    try:
        done = shadow.settle(intent, place, at)
    except WatchdogError as error:
        return Repair(intent.name, "its shadow should watch it", f"failed: {error.one_line()}", failed=True)
    return None if done is None else Repair(intent.name, *done, expected=True)


def _meant(intent: Intent) -> str:
    return "isolated" if intent.state in (State.ISOLATING, State.ISOLATED) else "free"


def _carry_on(intent: Intent, place: Place, at: Moment, *, patient: bool) -> Repair | None:
    if intent.state is State.RELEASING:
        isolation.finish_release(intent, place, at.utc)
        return Repair(intent.name, "its release was cut short", "released")
    if intent.state is State.UNDOING:
        isolation.finish_undo(intent, place, at.utc)
        return Repair(intent.name, f"it could not be isolated ({intent.trouble})", "what was begun is undone")
    if not intent.where.cgroup and not intent.where.unit:
        return None  # left to the handlers of an embedded monitor: nothing of ours in the kernel
    if intent.why.until is not None and intent.why.until.is_over(at):
        isolation.finish_release(intent, place, at.utc)
        until = rfc3339(intent.why.until.utc)
        return Repair(intent.name, f"isolated until {until}", "released: its time is over")
    return _restore(intent, place, at, patient=patient)


def _restore(intent: Intent, place: Place, at: Moment, *, patient: bool) -> Repair | None:
    if intent.state is State.ISOLATED:
        isolation.rescan(intent, place)
    before = holding.verify(intent, place)
    if intent.state is State.ISOLATED and _is_well(before, at, patient=patient):
        return None
    after = isolation.cut(intent, place, at.utc)
    if patient and after.gaps == before.gaps and intent.trouble == "; ".join(after.gaps):
        return None  # as it was: told before
    found = "; ".join(before.gaps) or "its isolation was cut short"
    if after.gaps:
        return Repair(intent.name, found, f"isolated again, but {'; '.join(after.gaps)}", failed=True)
    return Repair(intent.name, found, "isolated again", expected=before.restarted)


def _is_well(seen: Result, at: Moment, *, patient: bool) -> bool:
    """Nothing is to be done: it holds, or it only waits for its agent to start, or the same was tried just now."""
    if not seen.gaps or (seen.idle and not seen.intent.where.unit):
        return seen.holds
    tried_just_now = at.utc - seen.intent.changed < PATIENCE
    return patient and seen.holds and seen.intent.trouble == "; ".join(seen.gaps) and tried_just_now
