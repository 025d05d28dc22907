"""Verification from inside: a process of ours in the isolated cgroup tries to get out, and to be reached.

Looking changes nothing. What gets through although it is said to be covered is closed: all layers are put in force
again, and where that does not help, the target is frozen. Nothing is ever opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from watchdog import allowlist
from watchdog.actions import holding, isolation, programs, targets
from watchdog.actions.place import Place, glance
from watchdog.actions.reconcile import Repair
from watchdog.clock import Moment
from watchdog.errors import WatchdogError
from watchdog.intents import Allowed, Inside, Intent, State
from watchdog.kernel import cgroups, freezer
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import sequence
from watchdog.kernel.layers.base import FROZEN
from watchdog.kernel.layers.sequence import Standing
from watchdog.kernel.locks import LockBusy, locked
from watchdog.kernel.visitor_traffic import LOOPBACK
from watchdog.paths import catalogue, probe
from watchdog.paths.probe import Finding, Outcome
from watchdog.paths.words import Coverage, Facts, Holding, Layer

EVERY_S = 60.0
DEADLINE_S = 3.0
"""For one look; then what does not answer is killed, which may take a moment more. Seen: 0.4 s for all of it."""

FROZEN_NOW = "it is frozen: nothing in it runs"

BLIND = frozenset({Layer.HOST_END, Layer.FREEZE})
"""Layers that stop nothing of what is tried: loopback passes no veth, and nothing tries in a frozen cgroup."""

OF_OURS = Facts(holds=frozenset(Holding) - {Holding.RING}, spliced=False)
"""What is true of who tries: it has no io_uring, and its sockets are nobody else's affair. For the rest, the worst."""

OVER_IP = frozenset({"E2c", "E3f"})

FAMILY_OF = {"E4a": 4, "E4c": 4, "E15d": 4, "E4d": 6}
"""Paths without a label that are tried over one version of IP."""


def is_due(intent: Intent, at: Moment) -> bool:
    """Whether a watcher should look again."""
    if intent.state is not State.ISOLATED or not (intent.where.cgroup or intent.where.unit):
        return False
    age_s = at.age_s(intent.inside.s, intent.inside.boot) if intent.inside else None
    return age_s is None or age_s >= EVERY_S


def look(intent: Intent, place: Place, at: Moment, here: Sequence[Cgroup] | None = None) -> Inside:
    """Try everything that can be tried from inside, once, and compare it with what is meant to be covered.

    Takes `DEADLINE_S` at most. That nothing could be tried is an answer, with its reason. `here` is where it is known
    to be; it is found out where it is not given.
    """

    def wrong(found: Sequence[Finding], here: Sequence[Cgroup], at_home: bool) -> list[Finding]:
        target = targets.target_of(intent, programs.recorded(intent.held_by, place), place, here)
        allow = [each for each in intent.why.allow or () if each.until is None or not each.until.is_over(at)]
        return open_of(found, meant(sequence.standings(target), at_home=at_home), allow)

    return _look(glance(intent.where, place.root) if here is None else here, place, at, wrong)


def look_freed(intent: Intent, place: Place, at: Moment) -> Inside:
    """The same after a release: everything should get through."""
    here = glance(intent.where, place.root)
    return _look(here, place, at, lambda found, *_: [each for each in found if each.outcome is Outcome.STOPPED])


Wrong = Callable[[Sequence[Finding], Sequence[Cgroup], bool], Sequence[Finding]]
"""Which findings are otherwise than they should be, in these cgroups, tried where the agent is or not."""


def _look(here: Sequence[Cgroup], place: Place, at: Moment, wrong: Wrong) -> Inside:
    if not here:
        return untried(at, "nothing of it runs: it has no cgroup now")
    began_s = time.monotonic()
    try:
        found, at_home = _findings(here[-1], place)
        return _told(at, found, wrong(found, here, at_home), time.monotonic() - began_s)
    except WatchdogError as error:
        return untried(at, error.one_line())


def untried(at: Moment, why_not: str) -> Inside:
    """Nothing is known from inside, and why."""
    return Inside(at.utc, at.s, at.boot, tried=0, stopped=0, untried=0, why_not=why_not)


def _findings(cgroup: Cgroup, place: Place) -> tuple[list[Finding], bool]:
    """One at a time on a host. Where the agent is, or where we are if there is no loopback to try it over; whether it
    was where the agent is."""
    until_s = time.monotonic() + DEADLINE_S
    with locked(_lock(place), DEADLINE_S):
        netns = _netns(cgroup)
        found = probe.probe_from_inside(cgroup, netns=netns, deadline_s=_left_s(until_s))
        if netns is None or _is_telling(found):
            return found, True
        return probe.probe_from_inside(cgroup, deadline_s=_left_s(until_s)), False


def _left_s(until_s: float) -> float:
    return max(0.0, until_s - time.monotonic())


def _is_telling(found: Iterable[Finding]) -> bool:
    """Whether a try over IP came to a result: without one nothing is verified."""
    return any(each.path in OVER_IP and each.outcome is not Outcome.UNTRIED for each in found)


def _lock(place: Place) -> Path:
    return place.run / "inside.lock"


def _netns(cgroup: Cgroup) -> Path | None:
    """Where the agent is, unless that is where we are: filters on links are there."""
    own = Path("/proc/self/ns/net").stat().st_ino
    for pid in sorted(cgroups.processes(cgroup) - {cgroups.OTHER_NAMESPACE}):
        space = Path(f"/proc/{pid}/ns/net")
        with suppress(OSError):
            return None if space.stat().st_ino == own else space
    return None


def meant(standings: Iterable[Standing], *, at_home: bool = True) -> frozenset[Layer]:
    """The layers that ought to stop what is tried, whether they do or not.

    Filters on links are in the agent's network namespaces only, and may be left out on some of them: they count where
    they hold, and where it was tried among them.
    """
    applying = [each for each in standings if not each.missing and not each.not_applicable]
    lacking = {each.layer for each in applying if each.layer == Layer.TC and (each.gaps or not at_home)}
    return frozenset(Layer(each.layer) for each in applying if each.layer not in lacking) - BLIND


def open_of(found: Iterable[Finding], layers: Collection[Layer], allow: Iterable[Allowed]) -> list[Finding]:
    """What got through and ought not to: it is covered by these layers, and no allow-list lets it pass."""
    entries = [allowlist.parse(each.entry) for each in allow]
    # Of entries with a port ours is none.
    reached = {
        f for f, a in LOOPBACK.items() if any(each.port is None and ip_address(a) in each.network for each in entries)
    }
    return [
        each
        for each in found
        if each.outcome is Outcome.GOT_THROUGH
        and catalogue.verdict(catalogue.find(each.path), layers, OF_OURS).coverage is Coverage.COVERED
        and _family(each) not in reached
    ]


def _family(finding: Finding) -> int | None:
    """4 or 6 of a try over IP."""
    return next((family for family in LOOPBACK if finding.label == f"IPv{family}"), FAMILY_OF.get(finding.path))


def _told(at: Moment, found: Sequence[Finding], wrong: Iterable[Finding], took_s: float) -> Inside:
    said = [each.outcome for each in found]
    why_not = "" if _is_telling(found) else next(each.detail for each in found if each.path in OVER_IP)
    return Inside(
        at.utc,
        at.s,
        at.boot,
        tried=len(said) - said.count(Outcome.UNTRIED),
        stopped=said.count(Outcome.STOPPED),
        untried=said.count(Outcome.UNTRIED),
        wrong=tuple(each.title for each in wrong),
        why_not=why_not,
        took_s=took_s,
    )


# What is found open is closed


def verify(
    intent: Intent, place: Place, at: Moment, here: Sequence[Cgroup] | None = None
) -> tuple[Intent, Repair | None]:
    """Look, close what is found open, and write down what was seen; what was done about it, where that is news."""
    found = look(intent, place, at, here)
    if not found.wrong:
        return place.intents.note_inside(intent, found), None
    current, trouble = _put_back(intent, place)
    if current.state is not State.ISOLATED:
        return current, None  # released meanwhile
    after = look(current, place, at)
    done = "isolated again, and it is stopped now"
    if after.wrong:
        current, after, done = _freeze(current, place, after)
    elif after.why_not:
        done = f"isolated again; whether that stops it could not be tried: {after.why_not}"
    current = place.intents.note_inside(current, after)
    if after.wrong and intent.inside is not None and intent.inside.wrong == after.wrong:
        return current, None  # told before
    done = f"{trouble}; {done}" if trouble else done
    repair = Repair(
        intent.name, f"from inside it got through: {', '.join(found.wrong)}", done, failed=bool(after.wrong)
    )
    place.journal.record(
        place.now(),
        "open from inside",
        target=repair.target,
        found=repair.found,
        done=done,
        paths=list(found.wrong),
        level=current.why.level,
    )
    return current, repair


def _put_back(intent: Intent, place: Place) -> tuple[Intent, str]:
    """Every layer again; why not, where that is not possible."""
    with place.alone():
        current = place.intents.get(intent)
        if current.state is not State.ISOLATED:
            return current, ""
        try:
            return isolation.cut(current, place).intent, ""
        except WatchdogError as error:
            return current, error.one_line()


def _freeze(intent: Intent, place: Place, found: Inside) -> tuple[Intent, Inside, str]:
    """The next layer: nothing of it runs any more. What is open then, and what was done."""
    with place.alone():
        current = place.intents.get(intent)
        if current.state is not State.ISOLATED:
            return current, replace(found, wrong=()), "released meanwhile"
        facts = {"escalated_from": current.why.level, "open": list(found.wrong)}
        why = replace(current.why, level=FROZEN)
        current = place.intents.change(current, State.ISOLATED, place.now(), why=why, facts=facts)
        with suppress(WatchdogError):
            current = isolation.cut(current, place).intent
        if all(map(_is_frozen, glance(current.where, place.root))):
            closed = replace(found, wrong=(), why_not=FROZEN_NOW)
            return current, closed, "all layers were put in force again, and it was open still; it is frozen now"
    return current, found, "all layers were put in force again, and it is open still; it could not be frozen"


def _is_frozen(cgroup: Cgroup) -> bool:
    with suppress(WatchdogError):
        return freezer.is_frozen(cgroup)
    return not cgroups.exists(cgroup)


def verify_if_due(intent: Intent, place: Place, at: Moment) -> Repair | None:
    """What every watcher of a host asks again and again: one of them looks, and the others see that it has."""
    if not is_due(intent, at):
        return None
    try:
        with locked(place.run / "inside-watch.lock", 0.0):
            with place.alone():  # and so not while a keeper is at work on it
                current = place.intents.get(intent)
                here = glance(current.where, place.root)
                # A unit that was just restarted has not all of it yet: the keeper's, which is nobody's doing.
                if not is_due(current, at) or holding.verify(current, place).restarted:
                    return None
            return verify(current, place, at, here)[1]
    except LockBusy:
        return None
