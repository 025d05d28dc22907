"""Bring the kernel back to what is meant: after a kill -9, a reboot, or somebody else's hands.

The journal's intents say what is meant, the kernel says what is. An isolation is never opened here: what was cut off
and is in no intent is adopted as one, and only a release ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from watchdog.actions import (
    adopt,
    allowing,
    drift,
    holding,
    isolation,
    noted,
    programs,
    shadow,
    stand_ins,
    suspects,
    whereabouts,
)
from watchdog.actions.drift import NOTHING, Kind
from watchdog.actions.holding import Result
from watchdog.actions.place import Place, look, no_news
from watchdog.clock import Moment, rfc3339
from watchdog.errors import WatchdogError
from watchdog.host import unit_filters
from watchdog.intents import Drift, Intent, State
from watchdog.kernel.cgroups import Cgroup
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
    cause: str = ""
    """What is suspected; "" where nothing is."""
    kinds: tuple[str, ...] = ()
    """Of which kinds the drift was (watchdog.actions.drift.Kind); none for what is no drift."""
    over: bool = False
    """What people were told of has ended: an episode of drift, or the isolation."""
    released: Intent | None = None
    """The isolation that ended by this."""

    @property
    def words(self) -> str:
        """For people, as one line."""
        cause = f" (suspected: {self.cause})" if self.cause else ""
        return f"{self.target}: {self.found}{cause}; {self.done}"


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

    With `patient` what failed before in the same way is not told again, and not tried again at once; of drift that
    comes again and again only what is new is told, and when it has ended.
    """
    with place.alone():
        stopped = {
            intent.id: isolation.stop_again(intent, place)
            for intent in place.intents.in_force()
            if intent.state is State.ISOLATED
        }
        repairs = [repair for intent in place.intents.shadows() if (repair := _settle_shadow(intent, place, at))]
        repairs += [
            Repair(intent.name, adopt.REASON, "adopted as an isolation; a release ends it")
            for intent in adopt.adopt(place)
        ]
        repairs += [
            repair
            for intent in place.intents.in_force()
            if (repair := _settle(intent, place, at, stopped.get(intent.id, []), patient=patient))
            and (not patient or _is_news(repair, intent, place, at))
        ]
        repairs += _ended(place, at) if patient else _let_run(place)
    for repair in repairs:
        facts = {"cause": repair.cause, "kinds": repair.kinds} if repair.kinds else {}
        kind = "drift over" if repair.over and not repair.released else "repair"
        place.journal.record(place.now(), kind, target=repair.target, found=repair.found, done=repair.done, **facts)
    return repairs


def _is_news(repair: Repair, intent: Intent, place: Place, at: Moment) -> bool:
    """Whether it is to be told, or the same has been in this episode of drift."""
    if repair.expected or not repair.kinds:
        return True
    kinds = [Kind(each) for each in repair.kinds]
    episode, is_news = drift.continued(place.intents.get(intent).drift, kinds, at, failed=repair.failed)
    place.intents.note_drift(intent, episode)
    return is_news


def _ended(place: Place, at: Moment) -> list[Repair]:
    """The episodes of drift that are over, told by whoever of the host's watchers sees it first."""
    over = [intent for intent in place.intents.drifting() if drift.is_over(intent, at)]
    for intent in over:
        place.intents.note_drift(intent, None)
    return [Repair(intent.name, *_in_words(intent.drift), over=True) for intent in over if intent.drift is not None]


def _in_words(episode: Drift) -> tuple[str, str]:
    what = ", ".join(kind for kind in episode.kinds if kind not in (Kind.FAILED, Kind.REPAIRED))
    times = "once" if episode.count == 1 else f"{episode.count} times"
    return f"it drifted {times} since {rfc3339(episode.since)}: {what}", "it is as it should be"


def _let_run(place: Place) -> list[Repair]:
    """What an isolation that no journal knows of left frozen while it worked."""
    known = {cgroup for intent in place.intents.in_force() for cgroup in look(intent.where, place.root).cgroups}
    left = [each for each in freeze.find_frozen(place.top) if each not in known and _is_left(each)]
    for cgroup in left:
        freeze.let_run(cgroup)
    return [Repair(str(cgroup.path), "left frozen, and in no intent", "it runs again") for cgroup in left]


def _is_left(cgroup: Cgroup) -> bool:
    return freeze.mark_of(cgroup) == WORKING and not freeze.is_at_work(cgroup)


def _settle(intent: Intent, place: Place, at: Moment, stopped: Sequence[str], *, patient: bool) -> Repair | None:
    try:
        return _carry_on(intent, place, at, stopped, patient=patient)
    except WatchdogError as error:
        current, trouble = place.intents.get(intent), error.one_line()
        if patient and current.trouble == trouble:
            return None
        place.intents.change(current, current.state, place.now(), trouble=trouble)
        kinds = (Kind.OTHER,) if intent.state is State.ISOLATED else ()
        return Repair(intent.name, f"it should be {_meant(intent)}", f"failed: {trouble}", failed=True, kinds=kinds)


def _settle_shadow(intent: Intent, place: Place, at: Moment) -> Repair | None:
    try:
        done = shadow.settle(intent, place, at)
    except WatchdogError as error:
        return Repair(intent.name, "its shadow should watch it", f"failed: {error.one_line()}", failed=True)
    return None if done is None else Repair(intent.name, *done, expected=True)


def _meant(intent: Intent) -> str:
    return "isolated" if intent.state in (State.ISOLATING, State.ISOLATED) else "free"


def _carry_on(intent: Intent, place: Place, at: Moment, stopped: Sequence[str], *, patient: bool) -> Repair | None:
    if stand_ins.is_gone(intent, place.root):
        return _drill_ended(intent, place)
    if intent.state is State.RELEASING:
        return _released(intent, place, "its release was cut short", "released")
    if intent.state is State.UNDOING:
        isolation.finish_undo(intent, place)
        return Repair(intent.name, f"it could not be isolated ({intent.trouble})", "what was begun is undone")
    if not intent.where.cgroup and not intent.where.unit:
        return None  # left to the handlers of an embedded monitor: nothing of ours in the kernel
    if intent.why.until is not None and intent.why.until.is_over(at):
        until = rfc3339(intent.why.until.utc)
        return _released(intent, place, f"isolated until {until}", "released: its time is over")
    if intent.state is State.ISOLATING and whereabouts.has_ended(intent.where, place.root):
        isolation.finish_undo(intent, place)
        return Repair(
            intent.name, "its isolation was cut short, and its processes have ended", "what was begun is undone"
        )
    return _restore(intent, place, at, stopped, patient=patient)


def _released(intent: Intent, place: Place, found: str, done: str) -> Repair:
    repair = Repair(intent.name, found, done, over=True, released=intent)
    isolation.finish_release(intent, place, reason=repair.words)
    return repair


def _drill_ended(intent: Intent, place: Place) -> Repair:
    """Nobody was told of the drill, and nobody is of its end."""
    repair = Repair(intent.name, "its drill was cut short, and the stand-in is gone", "released", expected=True)
    isolation.finish_release(intent, replace(place, news=no_news), reason=repair.words)
    return repair


def _restore(intent: Intent, place: Place, at: Moment, stopped: Sequence[str], *, patient: bool) -> Repair | None:
    seen = suspects.look(intent, place)
    shut_out = ""
    if intent.state is State.ISOLATED:
        shut_out = allowing.let_watchers_in(intent, place)
        isolation.rescan(intent, place)
    sight = look(intent.where, place.root)
    before = holding.judge(intent, place, sight)
    if shut_out:
        before = replace(before, gaps=(*before.gaps, shut_out))
    if intent.state is State.ISOLATED and not stopped and _is_well(before, at, patient=patient):
        noted.note(intent, place, sight.cgroups, sight.unit)
        return None
    gaps = drift.together(stopped, before.gaps)
    suspicion = drift.suspect(gaps, suspects.with_the_agent(seen, intent, place))
    after = isolation.cut(intent, place)
    if patient and after.gaps == before.gaps and not stopped and intent.trouble == "; ".join(after.gaps):
        return None  # as it was: told before
    if not gaps or intent.state is not State.ISOLATED:
        suspicion = NOTHING
    found = "; ".join(gaps) or "its isolation was cut short"
    done = f"isolated again, but {'; '.join(after.gaps)}" if after.gaps else "isolated again"
    return Repair(
        intent.name,
        found,
        done,
        failed=bool(after.gaps),
        expected=before.restarted and not stopped and not after.gaps,
        cause=suspicion.cause,
        kinds=suspicion.kinds,
    )


def _is_well(seen: Result, at: Moment, *, patient: bool) -> bool:
    """Nothing is to be done: it holds, or it only waits for its agent to start, or the same was tried just now."""
    if not seen.gaps or seen.holds_nothing:
        return seen.holds
    tried_just_now = at.utc - seen.intent.changed < PATIENCE
    return patient and (seen.holds or seen.elsewhere) and seen.intent.trouble == "; ".join(seen.gaps) and tried_just_now
