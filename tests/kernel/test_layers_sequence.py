"""The whole sequence: in force and undone as one, killed at every step, beside others, on an agent that moves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.agents import ROOT, USER, agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.inside import Inside
from tests.kernel.netns import Netns
from watchdog.errors import KernelRefused
from watchdog.kernel import elsewhere, freezer, hooks, scanning, sockets
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.layers import freeze, sequence
from watchdog.kernel.layers.base import FROZEN, NETWORK, Layer, Target
from watchdog.kernel.layers.sequence import FREEZE, LAYERS, PACKETS
from watchdog.kernel.programs import COOKIES_MAP, SETS, CgroupProgram, Hook
from watchdog.kernel.slots import Slot

pytestmark = pytest.mark.kernel

STEP_TIMEOUT_S = 60.0
CHECKOUT = Path(__file__).parents[2]

CUT_STEPS = ["stopped", *(layer.name for layer in LAYERS), "running"]
FREE_STEPS = [layer.name for layer in (*reversed([each for each in LAYERS if each is not FREEZE]), FREEZE)]

MADE_ELSEWHERE = "away = listening(INET, DGRAM)"
MADE_INSIDE = "own = socket.socket(INET, DGRAM)"
TRIES = {
    "own socket": "own.sendto(b'x', NOBODY)",
    "from elsewhere": "away.sendto(b'x', NOBODY)",
    "new socket": "socket.socket(INET, STREAM).bind(('127.0.0.1', 0))",
    "unix": "socket.socket(UNIX, DGRAM).sendto(b'x', NAME)",
}
PASS = dict.fromkeys(TRIES, "pass")
REFUSED = dict.fromkeys(TRIES, "EPERM")


@dataclass
class Bed:
    """An agent with a socket from elsewhere, and a neighbour who stays there."""

    top: Cgroup
    home: Cgroup
    elsewhere: Cgroup
    agent: Inside
    neighbour: Inside
    netns: Netns

    def snapshot(self) -> list[object]:
        places = (Cgroup(self.top.root, 1, self.top.root), self.top, self.home, self.elsewhere)
        programs = [foreign.snapshot(each.path) for each in places]
        filters = [self.netns.run("tc", kind, "show", "dev", "lo") for kind in ("qdisc", "filter")]
        return [*programs, filters, [os.listxattr(each.path) for each in places], freezer.is_told_to_freeze(self.home)]


def gaps(target: Target) -> list[str]:
    """All but that the host end cannot be cut: the neighbour lives in the same namespace."""
    return sequence.gaps([each for each in sequence.standings(target) if each.layer != "host_end"])


def cut(target: Target) -> list[str]:
    sequence.cut(target)
    return gaps(target)


def outcomes(process: Inside) -> dict[str, str]:
    return {name: process.outcome(attempt) for name, attempt in TRIES.items()}


@pytest.fixture
def make_bed(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> Callable[..., Bed]:
    """In a network namespace of its own: the links of the host's are not ours to put filters on."""
    netns = new_netns()

    def make(who: str = ROOT) -> Bed:
        top = scratch_cgroup("top")
        home, away = scratch_cgroup("home", top), scratch_cgroup("elsewhere", top)
        sink = agent(run_in_cgroup, away, netns=netns)
        sink.run("udp, unix = listening(INET, DGRAM), socket.socket(UNIX, DGRAM); unix.bind('\\0sink')")
        sink.run("import threading; hear = lambda: [unix.recv(9) for _ in iter(int, 1)]")
        sink.run("threading.Thread(target=hear, daemon=True).start()")
        names = f"NOBODY, NAME = ('127.0.0.1', {sink.run('port(udp)')}), '\\0sink'"
        inside, outside = (agent(run_in_cgroup, away, who, netns) for _ in range(2))
        for each in (inside, outside):
            each.run(f"{names}; {MADE_ELSEWHERE}; {MADE_INSIDE}")
        inside.move(home.path)
        inside.run(MADE_INSIDE)
        return Bed(top, home, away, inside, outside, netns)

    return make


@pytest.fixture
def bed(make_bed: Callable[..., Bed]) -> Bed:
    return make_bed()


def is_free(bed: Bed, before: list[object], common_set: Common) -> bool:
    return bed.snapshot() == before and elsewhere.entries(common_set.maps[COOKIES_MAP]) == []


@pytest.mark.parametrize("who", [ROOT, USER])
def test_cut_and_free_twice_each(
    make_bed: Callable[..., Bed], target_of: TargetOf, common_set: Common, who: str
) -> None:
    bed = make_bed(who)
    before, target = bed.snapshot(), target_of(bed.home)
    assert outcomes(bed.agent) == outcomes(bed.neighbour) == PASS
    for _ in range(2):
        assert cut(target) == []
        assert outcomes(bed.agent) == REFUSED
        assert outcomes(bed.neighbour) == PASS
    assert [each.layer for each in sequence.standings(target)] == [layer.name for layer in LAYERS]
    for _ in range(2):
        sequence.free(target)
        assert outcomes(bed.agent) == PASS
        assert is_free(bed, before, common_set)


def test_level_frozen_stays_frozen_and_is_cut_off_too(bed: Bed, target_of: TargetOf, common_set: Common) -> None:
    before, target = bed.snapshot(), target_of(bed.home, level=FROZEN)
    assert cut(target) == []
    assert freezer.is_frozen(bed.home)
    running = replace(target, level=NETWORK)
    assert next(each for each in sequence.standings(running) if each.layer == FREEZE.name).gaps
    assert cut(running) == []
    assert outcomes(bed.agent) == REFUSED
    assert cut(target) == []
    sequence.free(target)
    assert outcomes(bed.agent) == PASS
    assert is_free(bed, before, common_set)


def killed_at(step: str, work: str, target: Target) -> None:
    """Another process does the work, and is killed once the step is done."""
    code = f"""
        import os, signal
        from pathlib import Path
        from watchdog.kernel import cgroups, common, slots
        from watchdog.kernel.layers import sequence
        from watchdog.kernel.layers.base import Target

        def die(done):
            if done == {step!r}:
                os.kill(os.getpid(), signal.SIGKILL)

        cgroup = cgroups.resolve({str(target.cgroups[0].path)!r})
        slot = slots.slot_at(Path({str(target.slot.path)!r}))
        found = common.common_at(Path({str(target.common.path)!r}))
        sequence.{work}(Target((cgroup,), slot, found, cgroup.root, level={target.level!r}), die)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=CHECKOUT, check=False, timeout=STEP_TIMEOUT_S)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("level", [NETWORK, FROZEN])
@pytest.mark.parametrize("step", CUT_STEPS)
def test_a_cut_that_was_killed_is_finished_and_undone(
    bed: Bed, target_of: TargetOf, common_set: Common, step: str, level: str
) -> None:
    before, target = bed.snapshot(), target_of(bed.home, level=level)
    killed_at(step, "cut", target)
    if step in CUT_STEPS[: CUT_STEPS.index("running")]:
        assert freeze.mark_of(bed.home) != ""
    assert cut(target) == []
    if level == NETWORK:
        assert outcomes(bed.agent) == REFUSED
    killed_at(step, "cut", target)
    sequence.free(target)
    assert outcomes(bed.agent) == PASS
    assert is_free(bed, before, common_set)


@pytest.mark.parametrize("step", FREE_STEPS)
def test_a_release_that_was_killed_is_finished_and_taken_back(
    bed: Bed, target_of: TargetOf, common_set: Common, step: str
) -> None:
    before, target = bed.snapshot(), target_of(bed.home)
    sequence.cut(target)
    killed_at(step, "free", target)
    if step not in FREE_STEPS[FREE_STEPS.index(PACKETS.name) :]:
        assert bed.agent.outcome(TRIES["own socket"]) == "EPERM"
    assert cut(target) == []
    assert outcomes(bed.agent) == REFUSED
    killed_at(step, "free", target)
    sequence.free(target)
    assert outcomes(bed.agent) == PASS
    assert is_free(bed, before, common_set)


class Broken:
    """A layer that this host turns out not to have."""

    name = "broken"

    def __init__(self, *, gaps_too: bool) -> None:
        self._gaps_too = gaps_too

    def missing(self, common: Common) -> str:
        return ""

    def not_applicable(self, target: Target) -> str:
        return ""

    def attach(self, target: Target) -> None:
        raise KernelRefused("it cannot be had", hint="buy a better one")

    def gaps(self, target: Target) -> list[str]:
        if self._gaps_too:
            raise KernelRefused("and not be asked for")
        return []

    def detach(self, target: Target) -> None:
        raise KernelRefused("nor got rid of")


@pytest.mark.parametrize("gaps_too", [False, True])
def test_a_layer_that_fails_is_a_gap_and_opens_nothing(
    bed: Bed, target_of: TargetOf, common_set: Common, gaps_too: bool
) -> None:
    before, target = bed.snapshot(), target_of(bed.home)
    layers: tuple[Layer, ...] = (PACKETS, Broken(gaps_too=gaps_too), *LAYERS[1:])
    assert sequence.cut(target, layers=layers)["broken"] == "it cannot be had; buy a better one"
    found = sequence.standings(target, layers)[1]
    assert found.gaps == (("and not be asked for",) if gaps_too else ())
    assert gaps(target) == []
    assert outcomes(bed.agent) == REFUSED
    with pytest.raises(KernelRefused, match="nor got rid of"):
        sequence.free(target, layers=layers)
    assert outcomes(bed.agent) == PASS
    assert is_free(bed, before, common_set)


def test_packets_that_cannot_be_stopped_are_an_error_and_the_agent_runs_on(
    bed: Bed, target_of: TargetOf, common_set: Common
) -> None:
    fd = foreign.load("other_fw")
    foreign.attach(fd, bed.home.path, Hook.EGRESS, foreign.EXCLUSIVE)
    os.close(fd)
    before, target = bed.snapshot(), target_of(bed.home)
    with pytest.raises(KernelRefused, match="other_fw"):
        sequence.cut(target)
    assert outcomes(bed.agent) == PASS
    sequence.free(target)
    assert is_free(bed, before, common_set)


def test_foreign_programs_at_every_hook_stay_byte_for_byte(bed: Bed, target_of: TargetOf, common_set: Common) -> None:
    programs = [program for each in SETS for program in each.programs if isinstance(program, CgroupProgram)]
    kinds = {program.hook: program.type for program in programs}
    for place in (bed.home, bed.elsewhere):
        for hook in Hook:
            fd = foreign.load("other_tool", hook=hook, kind=kinds[hook])
            foreign.attach(fd, place.path, hook, foreign.MULTI)
            os.close(fd)
    before, target = bed.snapshot(), target_of(bed.home)
    assert cut(target) == []
    assert outcomes(bed.agent) == REFUSED
    assert outcomes(bed.neighbour) == PASS
    sequence.free(target)
    assert is_free(bed, before, common_set)


def test_an_agent_that_forks_and_exits_all_the_time(bed: Bed, target_of: TargetOf, common_set: Common) -> None:
    bed.agent.run("""
if os.fork() == 0:
    os.closerange(0, 3)  # or whoever waits for our end waits for its descendants'
    while True:
        made = [socket.socket(UNIX, DGRAM) for _ in range(20)]
        if os.fork():
            os._exit(0)
""")
    before, target = bed.snapshot(), target_of(bed.home)
    for _ in range(20):
        assert cut(target) == []
        assert outcomes(bed.agent) == REFUSED
        sequence.free(target)
    assert is_free(bed, before, common_set)


@pytest.mark.parametrize("step", ["stopped", "packets", "cookies", "unix", "freeze"])
@pytest.mark.parametrize("removed", [False, True])
def test_an_agent_that_ends_midway_and_its_cgroup_with_it(
    bed: Bed, target_of: TargetOf, common_set: Common, step: str, removed: bool
) -> None:
    target = target_of(bed.home)

    def end(done: str) -> None:
        if done == step:
            bed.agent.close()
            if removed:
                remove(bed.home.path)

    sequence.cut(target, end)
    assert gaps(target) == []
    sequence.free(target)
    assert elsewhere.entries(common_set.maps[COOKIES_MAP]) == []
    assert not removed or not bed.home.path.exists()


def remove(path: Path) -> None:
    deadline_s = time.monotonic() + 2
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)


def test_a_target_that_occupies_nothing(target_of: TargetOf) -> None:
    target = target_of()
    assert cut(target) == []
    assert sequence.rescan(target) == []
    sequence.free(target)


def test_a_target_in_two_cgroups(
    bed: Bed, target_of: TargetOf, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, common_set: Common
) -> None:
    """As a unit that is being restarted."""
    second = scratch_cgroup("second", bed.top)
    other = agent(run_in_cgroup, second, netns=bed.netns)
    other.run(bed.agent.run("'NOBODY, NAME = %r, %r' % (NOBODY, NAME)") + f"; {MADE_INSIDE}; {MADE_ELSEWHERE}")
    before, target = bed.snapshot(), target_of(bed.home, second)
    assert cut(target) == []
    assert outcomes(bed.agent) == outcomes(other) == REFUSED
    sequence.free(target)
    assert outcomes(bed.agent) == outcomes(other) == PASS
    assert is_free(bed, before, common_set)


def test_two_isolations_beside_each_other_end_each_for_itself(
    bed: Bed, target_of: TargetOf, two_slots: tuple[Slot, Slot], scratch_cgroup: MakeCgroup, common_set: Common
) -> None:
    second = scratch_cgroup("second", bed.top)
    bed.neighbour.move(second.path)
    before, first, other = bed.snapshot(), target_of(bed.home), target_of(second, of=two_slots[1])
    sequence.cut(first)
    sequence.cut(other)
    sequence.free(first)
    assert outcomes(bed.agent) == PASS
    assert outcomes(bed.neighbour)["from elsewhere"] == "EPERM"
    assert gaps(other) == []
    sequence.free(other)
    assert is_free(bed, before, common_set)


def test_a_rescan_finds_what_came_and_is_cheap_when_nothing_did(bed: Bed, target_of: TargetOf) -> None:
    target = target_of(bed.home)
    sequence.cut(target)
    assert sequence.rescan(target) == []
    known = dict(target.known)
    assert sequence.rescan(target) == []
    assert target.known == known
    assert len(hooks.placed(bed.elsewhere, list(Hook))) == 3


def test_sockets_that_were_closed_are_forgotten(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target_of: TargetOf
) -> None:
    """An agent that opens and closes sockets without end must not fill a watcher's memory."""
    target = target_of(scratch_cgroup())
    inside = run_in_cgroup(target.cgroups[0])
    known: sockets.Known = {}
    for _ in range(3):
        inside.run("kept = [socket.socket() for _ in range(50)]")
        assert len(scanning.scan(target.cgroups, known).sockets) == 50
        assert len(known) == 50
    inside.run("kept.clear()")
    assert scanning.scan(target.cgroups, known).sockets == known == {}
