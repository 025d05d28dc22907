"""kill -9 anywhere while an agent is moved into a cgroup of its own, or back: it ends up where it is meant to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.dying import Count, DyingJournal, Work, killed_at_return, returns_of, survived
from tests.kernel.isolation_bed import Host, moment
from tests.kernel.test_adopt import CHILD, SLEEP, Bed, place_of, repaired
from watchdog.actions import holding
from watchdog.actions.isolation import Step, no_step
from watchdog.actions.reconcile import reconcile
from watchdog.intents import State
from watchdog.kernel.programs import GATE

pytestmark = pytest.mark.kernel

PLACES = {"intended", "made", "noted", "packets", "moved", "attached", "isolated", "returned", "removed", "released"}
"""Steps that are of interest here; what is between them dies in test_isolation_killed."""
POINTS = 12
"""Places of death, spread evenly over all that there are."""

Verb = Callable[[Bed, Step], object]


class Family(Bed):
    """The bed, with two children of the agent."""

    pids: tuple[int, ...] = ()


@pytest.fixture
def bed(host: Host, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> Iterator[Family]:
    old = scratch_cgroup("shared")
    found = Family(host, old, agent(run_in_cgroup, old), agent(run_in_cgroup, old))
    found.agent.run(SLEEP)
    children = [found.agent.run(CHILD + "child") for _ in range(2)]
    found.pids = (found.agent.pid, *children)
    yield found
    (old.path / "cgroup.kill").write_text("1")


def isolate(bed: Bed, step: Step = no_step) -> object:
    return bed.adopt(step)


def release(bed: Bed, step: Step = no_step) -> object:
    return bed.release(step) if bed.host.place.intents.in_force() else None


@pytest.fixture(params=[isolate, release], ids=["isolate", "release"])
def verb(request: pytest.FixtureRequest) -> Verb:
    chosen: Verb = request.param
    return chosen


@pytest.fixture(params=["reconcile", "the same again"])
def afterwards(request: pytest.FixtureRequest, verb: Verb) -> Callable[[Bed], object]:
    if request.param == "reconcile":
        return lambda bed: reconcile(bed.host.place, moment())
    return lambda bed: verb(bed, no_step)


def as_meant(bed: Family) -> State | None:
    """All of it is in one place, nothing is half done; whether it is isolated."""
    in_force = bed.host.place.intents.in_force()
    assert [intent.state for intent in in_force] in ([], [State.ISOLATED])
    assert len(bed.host.attached()) == len(in_force) * len(GATE)
    where = Path(in_force[0].where.cgroup) if in_force else bed.old.path
    assert {place_of(pid, bed) for pid in bed.pids} == {where}
    assert place_of(bed.stranger.pid, bed) == bed.old.path
    assert bed.new() == ([where] if in_force else [])
    assert "frozen 0" in (where / "cgroup.events").read_text()
    for intent in in_force:
        seen = holding.verify(intent, bed.host.place)
        assert (seen.holds, seen.gaps) == (True, ())
    assert repaired(bed) == []
    return in_force[0].state if in_force else None


def prepare(bed: Family, verb: Verb) -> None:
    if verb is release:
        isolate(bed)
    bed.host.close()  # a connection is not taken along into a child


def clean_up(bed: Family) -> None:
    release(bed)
    assert as_meant(bed) is None


def deaths(bed: Family, verb: Verb, killed: Callable[[int], Work]) -> Iterator[int]:
    for at in range(1, 100):
        prepare(bed, verb)
        if survived(killed(at)):
            clean_up(bed)
            return
        yield at
    raise AssertionError("it never survives")


def test_killed_after_each_step(bed: Family, verb: Verb, afterwards: Callable[[Bed], object]) -> None:
    def killed(at: int) -> Work:
        count = Count(at)
        return lambda: verb(bed, lambda step: count.here() if step in PLACES else None)

    reached = []
    for _ in deaths(bed, verb, killed):
        afterwards(bed)
        reached.append(as_meant(bed))
        clean_up(bed)
    assert len(reached) >= len(bed.pids) + 3
    assert set(reached) == {State.ISOLATED if verb is isolate else None}


@pytest.mark.parametrize("before_commit", [True, False])
def test_killed_at_each_commit(bed: Family, verb: Verb, before_commit: bool) -> None:
    def killed(at: int) -> Work:
        def work() -> None:
            journal = DyingJournal.open(bed.host.state)
            assert isinstance(journal, DyingJournal)
            journal.count, journal.before_commit = Count(at), before_commit
            bed.host._journal = journal
            verb(bed, no_step)

        return work

    reached = []
    for _ in deaths(bed, verb, killed):
        reconcile(bed.host.place, moment())
        reached.append(as_meant(bed))
        clean_up(bed)
    assert len(reached) >= 2


def test_killed_at_places_spread_over_everything(bed: Family, verb: Verb) -> None:
    def work() -> None:
        verb(bed, no_step)

    isolate(bed)
    clean_up(bed)  # the first isolation of a journal looks for strays, too
    prepare(bed, verb)
    total = returns_of(work)
    clean_up(bed)
    dead = 0
    for point in range(POINTS):
        prepare(bed, verb)
        dead += not survived(killed_at_return(work, 1 + point * total // POINTS))
        reconcile(bed.host.place, moment())
        as_meant(bed)
        clean_up(bed)
    assert dead > POINTS / 2
