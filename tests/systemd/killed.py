"""Isolations of a unit that are killed after every step. Call these inside the test bed (Testbed.call)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.kernel.dying import Count, survived
from watchdog import clock
from watchdog.actions import holding, isolation
from watchdog.actions.isolation import Step, no_step
from watchdog.actions.place import Place
from watchdog.actions.reconcile import reconcile
from watchdog.host import unit_filters
from watchdog.intents import State, Where, Why
from watchdog.journal import Journal
from watchdog.kernel import gate

PINS, RUN, STATE = "/sys/fs/bpf/watchdog-mesh", "/run/watchdog-mesh", "/var/lib/watchdog-mesh"
MOST_STEPS = 20


def place() -> Place:
    return Place(Journal.open(Path(STATE)), Path(PINS), Path(RUN))


def isolate(unit: str, step: Step = no_step) -> None:
    isolation.isolate(Where("", 0, unit=unit), Why("a test"), place(), step)


def release(unit: str, step: Step = no_step) -> None:
    here = place()
    intent = isolation.find(here, Where("", 0, unit=unit))
    if intent is not None:
        isolation.release(intent, here, step)


def as_meant(unit: str) -> str:
    """The unit's state, once kernel, systemd and journal agree and nothing is half done; else an AssertionError."""
    here = place()
    in_force = here.intents.in_force()
    assert [intent.state for intent in in_force] in ([], [State.ISOLATED]), in_force
    for intent in in_force:
        seen = holding.verify(intent, here)
        assert (seen.holds, seen.gaps) == (True, ()), seen
    drop_ins = [filters.unit for filters in unit_filters.all_installed()]
    assert drop_ins == [unit] * len(in_force), drop_ins
    attached = {str(each.cgroup.path) for each in gate.find_attached(here.top)}
    assert len(attached) == len(in_force), attached
    assert reconcile(here, clock.moment()) == []
    return in_force[0].state if in_force else "free"


def killed_after_each_step(unit: str, verb: str, afterwards: str) -> list[str]:
    """Kill `verb` after its first step, its second and so on; what came of each `afterwards`."""
    do: Callable[[str, Step], None] = isolate if verb == "isolate" else release
    reached = []
    for at in range(1, MOST_STEPS):
        if verb == "release":
            isolate(unit)
        if survived(lambda: do(unit, Count(at).here)):  # noqa: B023 -- called at once
            break
        if afterwards == "reconcile":
            reconcile(place(), clock.moment())
        else:
            do(unit, no_step)
        reached.append(as_meant(unit))
        release(unit)
        assert as_meant(unit) == "free"
    release(unit)
    return reached
