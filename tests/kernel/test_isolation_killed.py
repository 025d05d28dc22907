"""kill -9 anywhere in an isolation or a release: what is meant comes about afterwards, and nothing is left behind."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.dying import Count, DyingJournal, Work, killed_at_return, returns_of, survived
from tests.kernel.isolation_bed import NOW, WHY, Host, moment, where
from watchdog.actions import holding, isolation
from watchdog.actions.isolation import Step, no_step
from watchdog.actions.place import Place
from watchdog.actions.reconcile import reconcile
from watchdog.intents import State
from watchdog.kernel import freezer
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import GATE
from watchdog.model import EventState

pytestmark = pytest.mark.kernel

POINTS = 40
"""Places of death, spread evenly over all that there are."""
RUNS = 20
SLOWEST_S = 0.7
"""A command has told people by then; it is killed at times spread over it."""

SOMEBODY = '[[peer]]\nname = "somebody"\nendpoint = "http://127.0.0.1:9/"\n'

FREEZE = """
import sys
from pathlib import Path
from watchdog.kernel import cgroups
from watchdog.kernel.layers import freeze
freeze.stop(cgroups.resolve(Path(sys.argv[1]), cgroups.find_v2_root()), freeze.WORKING)
print(flush=True)
sys.stdin.read()
"""

Verb = Callable[[Host, Cgroup, Step], object]


def isolate(host: Host, cgroup: Cgroup, step: Step = no_step) -> object:
    return host.isolate(cgroup, step)


def release(host: Host, cgroup: Cgroup, step: Step = no_step) -> object:
    intent = isolation.find(host.place, where(cgroup))
    return isolation.release(intent, host.place, step) if intent else None


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.fixture(params=[isolate, release], ids=["isolate", "release"])
def verb(request: pytest.FixtureRequest) -> Verb:
    chosen: Verb = request.param
    return chosen


@pytest.fixture(params=["reconcile", "the same again"])
def afterwards(request: pytest.FixtureRequest, verb: Verb) -> Callable[[Host, Cgroup], object]:
    if request.param == "reconcile":
        return lambda host, _: reconcile(host.place, moment())
    return lambda host, cgroup: verb(host, cgroup, no_step)


def prepare(host: Host, cgroup: Cgroup, verb: Verb) -> None:
    if verb is release:
        host.isolate(cgroup)
    host.close()  # a connection is not taken along into a child


def as_meant(host: Host, cgroup: Cgroup) -> State | None:
    """The kernel is as the journal means it, nothing is half done, and people were told; whether it is isolated."""
    in_force, told = host.place.intents.in_force(), host.told()
    for intent in host.intents():
        state = EventState.RESOLVED if intent.state is State.RELEASED else EventState.FIRING
        assert intent.state is State.FAILED or told.count(intent.event_key(state)) == 1, (intent, told)
    assert [intent.state for intent in in_force] in ([], [State.ISOLATED])
    assert len(host.attached()) == len(in_force) * len(GATE)
    for intent in in_force:
        seen = holding.verify(intent, host.place)
        assert (seen.holds, seen.gaps) == (True, ())
    assert reconcile(host.place, moment()) == []
    return in_force[0].state if in_force else None


def clean_up(host: Host, cgroup: Cgroup) -> None:
    release(host, cgroup)
    assert as_meant(host, cgroup) is None


def deaths(host: Host, cgroup: Cgroup, verb: Verb, killed: Callable[[int], Work]) -> Iterator[int]:
    """Dies at the first place, the second and so on, until the work survives."""
    for at in range(1, 100):
        prepare(host, cgroup, verb)
        if survived(killed(at)):
            clean_up(host, cgroup)
            return
        yield at
    raise AssertionError("it never survives")


def test_killed_after_each_step(
    host: Host, agent: Cgroup, verb: Verb, afterwards: Callable[[Host, Cgroup], object]
) -> None:
    reached = []
    for at in deaths(host, agent, verb, lambda n: lambda: verb(host, agent, Count(n).here)):
        afterwards(host, agent)
        reached.append(as_meant(host, agent))
        clean_up(host, agent)
        assert at == len(reached)
    # The intent is written before the first step, so that every death after it ends where the command was going.
    wanted = State.ISOLATED if verb is isolate else None
    assert len(reached) >= 3
    assert set(reached) == {wanted}


@pytest.mark.parametrize("before_commit", [True, False])
def test_killed_at_each_commit(
    host: Host, agent: Cgroup, verb: Verb, afterwards: Callable[[Host, Cgroup], object], before_commit: bool
) -> None:
    def killed(at: int) -> Work:
        def work() -> None:
            journal = DyingJournal.open(host.state)
            assert isinstance(journal, DyingJournal)
            journal.count, journal.before_commit = Count(at), before_commit
            host._journal = journal
            verb(host, agent, no_step)

        return work

    reached = []
    for _ in deaths(host, agent, verb, killed):
        afterwards(host, agent)
        reached.append(as_meant(host, agent))
        clean_up(host, agent)
    assert len(reached) >= 2


def test_killed_at_forty_places_spread_over_everything(
    host: Host, agent: Cgroup, verb: Verb, afterwards: Callable[[Host, Cgroup], object]
) -> None:
    def work() -> None:
        verb(host, agent, no_step)

    host.isolate(agent)
    clean_up(host, agent)  # the first isolation of a journal looks for strays, too
    prepare(host, agent, verb)
    total = returns_of(work)
    clean_up(host, agent)
    assert total > POINTS
    deaths = 0
    for point in range(POINTS):
        prepare(host, agent, verb)
        deaths += not survived(killed_at_return(work, 1 + point * total // POINTS))
        afterwards(host, agent)
        as_meant(host, agent)
        clean_up(host, agent)
    assert deaths > POINTS / 2  # how much there is to do varies with the host's other cgroups


@pytest.mark.parametrize("last", ["reconcile", "isolate", "release"])
def test_killed_while_undoing_what_failed(host: Host, agent: Cgroup, last: str) -> None:
    """An isolation that cannot be completed is taken back, also when that was cut short."""
    intent = host.isolate(agent).intent
    host.place.intents.change(intent, State.UNDOING, NOW, trouble="it did not hold")
    if last == "isolate":
        assert host.isolate(agent).holds
        assert as_meant(host, agent) is State.ISOLATED
    elif last == "release":
        release(host, agent)
        assert as_meant(host, agent) is None
    else:
        (repair,) = reconcile(host.place, moment())
        assert repair.done == "what was begun is undone"
        assert host.states() == [State.FAILED]
        assert as_meant(host, agent) is None


def test_commands_killed_from_outside_at_any_time(host: Host, agent: Cgroup) -> None:
    host.configure(SOMEBODY + host.receiver())
    seed = random.randrange(2**32)
    times = random.Random(seed)
    command = [sys.executable, "-m", "watchdog", "%", "--cgroup", str(agent.path), "--reason", "drill"]
    for run in range(RUNS):
        word = ("isolate", "release")[run % 2]
        with subprocess.Popen(
            [part if part != "%" else word for part in command],
            env=host.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep((run + times.random()) * SLOWEST_S / RUNS)
            process.send_signal(signal.SIGKILL)
        reconcile(host.place, moment())
        assert as_meant(host, agent) in (None, State.ISOLATED), f"seed {seed}, run {run}"
        host.close()
    clean_up(host, agent)


def test_commands_at_the_same_time_agree(host: Host, agent: Cgroup) -> None:
    host.configure(SOMEBODY + host.receiver())
    words = ("isolate", "release", "isolate", "release", "isolate")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "watchdog", word, "--cgroup", str(agent.path), "--reason", "at once"],
            env=host.environment,
            stdout=subprocess.DEVNULL,
        )
        for word in words
    ]
    assert [process.wait(60) for process in started] == [0] * len(words)
    as_meant(host, agent)
    assert host.states().count(State.RELEASED) + len(host.place.intents.in_force()) == len(host.states())
    clean_up(host, agent)


def test_two_isolations_at_once_keep_the_budget(host: Host, scratch_cgroup: MakeCgroup) -> None:
    agents = [scratch_cgroup(f"agent{n}") for n in range(3)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "watchdog", "isolate", "--cgroup", str(each.path), "--reason", "at once"],
            env=host.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in agents
    ]
    assert sorted(process.wait(60) for process in started) == [0, 3, 3]
    assert len(host.place.intents.in_force()) == 1
    assert len(host.attached()) == len(GATE)


def test_what_another_mesh_has_frozen_while_it_works_is_left_to_it(host: Host, scratch_cgroup: MakeCgroup) -> None:
    """Its lock is not ours: only a process that is dead has left it so."""
    others = scratch_cgroup("others")
    with subprocess.Popen(
        [sys.executable, "-c", FREEZE, str(others.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=host.environment,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert reconcile(host.place, moment()) == []
        assert freezer.is_told_to_freeze(others)
        process.kill()
    (repair,) = reconcile(host.place, moment())
    assert (repair.target, repair.found) == (str(others.path), "left frozen, and in no intent")
    assert not freezer.is_told_to_freeze(others)


def test_a_lock_of_a_dead_process_is_free(host: Host, agent: Cgroup) -> None:
    def die_with_the_lock() -> None:
        with Place(host.place.journal, host.pins, host.run_dir).alone():
            Count(1).here()

    host.close()
    assert not survived(die_with_the_lock)
    assert isolation.isolate(where(agent), WHY, host.place).holds
