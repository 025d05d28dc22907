"""A drill: the whole path of an isolation on a stand-in for an agent, always ending in its release.

The stand-in is a process that sleeps, as nobody, in a cgroup of its own. What is done to it is what is done to an
agent: journal, kernel, verdicts, a try from inside, release. Receivers are not told (`notify test` does that).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

from watchdog import clock, interrupts
from watchdog.actions import holding, inside, isolation
from watchdog.actions.holding import Result
from watchdog.actions.place import Place
from watchdog.actions.stand_ins import REASON
from watchdog.errors import Exit, HostCannot, WatchdogError
from watchdog.host.caller import who
from watchdog.intents import Inside, Intent, Until, Where, Why
from watchdog.kernel import cgroups, gate, moves
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.scratch import scratch_tree
from watchdog.paths.words import Coverage

NOBODY = 65534
"""The uid and gid of nobody on Debian and most others: what an unprivileged agent may is what is to be seen."""
STAND_IN = ("sleep", "600")
"""It ends by itself, also when the drill is killed."""
LONGEST_S = 60.0
"""A drill that is killed is released by a watcher, or `reconcile`, after this time."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done, and whether it went as it should."""

    name: str
    ok: bool
    detail: str
    took_s: float
    exit_status: Exit = Exit.OK
    """What a command that failed like this ends with."""


Outcome = tuple[bool, str]
"""Whether it went as it should, and what was seen."""


def drill(place: Place) -> list[Step]:
    """Isolate a stand-in, see that it is, release it, see that it is free. What follows a step that fails is left out,
    but never the release, also when it is interrupted.

    Raises WatchdogError where there can be no stand-in.
    """
    with _stand_in(place) as cgroup:
        try:
            return _steps(cgroup, place)
        except KeyboardInterrupt:
            interrupts.settle()
            if (intent := _intent_of(cgroup, place)) is not None:
                with suppress(WatchdogError):  # reconcile does, and whoever interrupted is told so
                    isolation.release(intent, place, reason=REASON)
            raise


def _steps(cgroup: Cgroup, place: Place) -> list[Step]:
    steps = list(_until_one_fails(_isolating(Where(str(cgroup.path), cgroup.inode), place)))
    if (intent := _intent_of(cgroup, place)) is not None:
        steps += _until_one_fails(_releasing(intent, cgroup, place))
    return steps


def _until_one_fails(todo: Iterator[tuple[str, Callable[[], Outcome]]]) -> Iterator[Step]:
    for name, act in todo:
        began_s = time.monotonic()
        try:
            ok, detail = act()
            exit_status = Exit.OK if ok else Exit.FAILED
        except WatchdogError as error:
            ok, detail, exit_status = False, error.one_line(), error.exit_status
        yield Step(name, ok, detail, time.monotonic() - began_s, exit_status)
        if not ok:
            return


def _isolating(where: Where, place: Place) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    results: list[Result] = []

    def isolate() -> Outcome:
        results.append(isolation.isolate(where, _why(), place))
        return _isolated(results[0])

    yield "isolate", isolate
    intent = results[0].intent
    yield "verify", lambda: _verified(holding.verify(intent, place))
    yield "from inside", lambda: _told(inside.look(intent, place, clock.moment()))


def _releasing(intent: Intent, cgroup: Cgroup, place: Place) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    yield "release", lambda: _released(isolation.release(intent, place, reason=REASON), cgroup)
    yield "free again", lambda: _told(inside.look_freed(intent, place, clock.moment()))


def _intent_of(cgroup: Cgroup, place: Place) -> Intent | None:
    mine = (str(cgroup.path), cgroup.inode)
    return next((each for each in place.intents.in_force() if (each.where.cgroup, each.where.cgroup_id) == mine), None)


@contextmanager
def _stand_in(place: Place) -> Iterator[Cgroup]:
    with scratch_tree(place.root, cgroups.DRILL_PREFIX) as cgroup:
        try:
            process = subprocess.Popen(
                STAND_IN,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
            )
        except OSError as error:
            raise HostCannot(f"cannot start {STAND_IN[0]} as a stand-in: {error.strerror}") from error
        try:
            moves.put(process.pid, cgroup)
            yield cgroup
        finally:
            process.kill()
            process.wait()


def _why() -> Why:
    at = clock.moment()
    until = Until(at.utc + timedelta(seconds=LONGEST_S), at.s + LONGEST_S, at.boot)
    return Why(REASON, by=asdict(who()), until=until)


def _isolated(result: Result) -> Outcome:
    covered = sum(each.coverage is Coverage.COVERED for each in result.verdicts)
    is_open = f"; not covered: {'; '.join(result.uncovered)}" if result.uncovered else ""
    return result.holds, f"{covered} paths covered{is_open}"


def _verified(result: Result) -> Outcome:
    return result.holds and not result.gaps, "; ".join(result.gaps) or "the kernel has every layer that is meant"


def _released(result: Result, cgroup: Cgroup) -> Outcome:
    left = [f"BPF program {each.program_id} is still attached" for each in gate.find_attached(cgroup)]
    wrong = [*result.gaps, *left]
    return result.holds and not wrong, "; ".join(wrong) or f"nothing of ours is left at {cgroup.path}"


def _told(found: Inside) -> Outcome:
    if found.passed:
        return True, f"{found.tried} tries, {found.stopped} stopped"
    return False, found.why_not or f"otherwise than it should be: {', '.join(found.wrong)}"
