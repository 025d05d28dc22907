"""Drift, a row for each kind, made for real: `verify` says so at once, the keeper repairs it and tells it once."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import WHY, Host, moment, ours_at
from tests.kernel.netns import VethPair
from tests.kernel.tc.bed import add_links, tc
from watchdog import clock
from watchdog.actions import drift, holding, isolation, noted
from watchdog.actions.drift import Kind
from watchdog.actions.reconcile import Repair, reconcile
from watchdog.clock import rfc3339
from watchdog.intents import Intent
from watchdog.keeper import Keeper
from watchdog.kernel import bpffs, cgroups, freezer, gate, hooks
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import FOLDER as COMMON
from watchdog.kernel.programs import CALLS, GATE, Hook

pytestmark = pytest.mark.kernel

OK, FAILED, PARTIAL = 0, 1, 4
WAIT_S = 120.0
"""For what takes milliseconds, and seconds where programs are compiled; a machine may be busy."""
HOSTILE_S = 2.0
NEVER_S, OFTEN_S = 600.0, 0.3
"""A sweep that is not to happen: what repairs then was woken by the kernel's news; and one where there is no news."""
SLOW_S = 0.4
"""How long a sweep takes that is slow."""


@dataclass
class Bed:
    """An isolated agent with a network namespace of its own, which it may send frames into."""

    host: Host
    cgroup: Cgroup
    elsewhere: Cgroup
    process: Inside
    veth: VethPair
    intent: Intent

    @property
    def slot(self) -> Path:
        return self.host.pins / self.intent.held_by.slot

    def gaps(self) -> tuple[str, ...]:
        (intent,) = self.host.place.intents.in_force()
        seen = holding.verify(intent, self.host.place)
        return seen.gaps

    def holds(self) -> bool:
        (intent,) = self.host.place.intents.in_force()
        seen = holding.verify(intent, self.host.place)
        return seen.holds and not seen.gaps

    def episode(self) -> tuple[int, tuple[str, ...]]:
        (intent,) = self.host.place.intents.in_force()
        assert intent.drift is not None
        return intent.drift.count, intent.drift.kinds


@pytest.fixture
def bed(host: Host, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, veth: VethPair) -> Bed:
    cgroup, elsewhere = scratch_cgroup("agent"), scratch_cgroup("elsewhere")
    process = agent(run_in_cgroup, cgroup, netns=veth.near)
    (cgroup.path / "cgroup.procs").write_text(str(veth.near.pid))  # who keeps the namespace is the agent's
    intent = host.isolate(cgroup).intent
    made = Bed(host, cgroup, elsewhere, process, veth, intent)
    assert made.holds(), made.gaps()
    return made


# What others do


def detach_packets(bed: Bed) -> None:
    gate.detach(bed.cgroup, [bed.intent.held_by.ids[name] for name in ("wd_egress", "wd_guard_out")])


def detach_calls(bed: Bed) -> None:
    assert hooks.detach_ours(bed.cgroup, tuple(Hook), CALLS.names)


def delete_filter(bed: Bed) -> None:
    tc(bed.veth.near, "filter del dev va egress")


def delete_clsact(bed: Bed) -> None:
    tc(bed.veth.near, "qdisc del dev va clsact")


def delete_host_end(bed: Bed) -> None:
    tc(bed.veth.far, "filter del dev vb ingress")


def add_link(bed: Bed) -> None:
    add_links(bed.veth.near, ["ve", "vf"] if "vc" in bed.veth.near.ip("link") else ["vc", "vd"])


def make_anew(bed: Bed) -> None:
    """What a manager that is not systemd does at a restart: the processes wait elsewhere, as new ones would."""
    noted.forget(bed.intent, bed.host.place)
    for pid in (bed.process.pid, bed.veth.near.pid):
        (bed.elsewhere.path / "cgroup.procs").write_text(str(pid))
    bed.cgroup.path.rmdir()
    bed.cgroup.path.mkdir()
    for pid in (bed.process.pid, bed.veth.near.pid):
        (bed.cgroup.path / "cgroup.procs").write_text(str(pid))


def move_out(bed: Bed) -> None:
    bed.process.move(bed.elsewhere.path)


def move_all_out(bed: Bed) -> None:
    for pid in (bed.process.pid, bed.veth.near.pid):
        (bed.elsewhere.path / "cgroup.procs").write_text(str(pid))
    bed.cgroup.path.rmdir()


def remove_pins(bed: Bed) -> None:
    shutil.rmtree(bed.slot)


def remove_common_pins(bed: Bed) -> None:
    shutil.rmtree(bed.slot.parent / COMMON)


def unmount(bed: Bed) -> None:
    bpffs.unmount(bed.host.pins)


@dataclass(frozen=True)
class Row:
    """One kind of drift."""

    make: Callable[[Bed], None]
    status: int
    said: str
    kind: Kind
    cause: str
    is_news: bool = True
    """Whether the kernel tells of it."""


ROWS = [
    Row(detach_packets, FAILED, "is not filtered", Kind.PROGRAMS, "another process detached them", is_news=False),
    Row(detach_calls, PARTIAL, "calls: ", Kind.PROGRAMS, "is of the agent, and could have done it", is_news=False),
    Row(delete_filter, PARTIAL, "no filter of ours any more", Kind.FILTERS, "deleted or overrode the filter"),
    Row(delete_clsact, PARTIAL, "no clsact any more", Kind.FILTERS, "deleted the clsact qdisc, and every filter"),
    Row(delete_host_end, PARTIAL, "host_end: vb in ", Kind.FILTERS, "deleted or overrode the filter", is_news=False),
    Row(add_link, PARTIAL, "the link is new", Kind.LINKS, "made, or moved here, after the isolation"),
    Row(make_anew, FAILED, "is not filtered", Kind.CGROUP, "the cgroup was removed and made anew"),
    Row(move_out, FAILED, "left its cgroup", Kind.PROCESSES, "is of the agent, and could have done it", is_news=False),
    Row(move_all_out, FAILED, "left its cgroup", Kind.PROCESSES, "wrote it to a cgroup.procs"),
    Row(remove_pins, PARTIAL, "the pins of its programs are gone", Kind.PINS, "somebody removed files below"),
    Row(remove_common_pins, PARTIAL, "the pins of the layers' programs", Kind.PINS, "somebody removed files below"),
    Row(unmount, PARTIAL, "the pins of its programs are gone", Kind.BPFFS, "somebody unmounted the bpffs at"),
]


@contextmanager
def keeping(host: Host, sweep_s: float) -> Iterator[list[Repair]]:
    """A keeper at work; what it tells."""
    told: list[Repair] = []
    keeper = Keeper(host.place, told.append, sweep_s=sweep_s)
    keeper.start()
    try:
        yield told
    finally:
        keeper.stop()


def await_that(what: Callable[[], object], limit_s: float = WAIT_S) -> None:
    deadline_s = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.0005)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.make.__name__)
def test_every_kind_is_found_at_once_repaired_and_told_once(bed: Bed, row: Row) -> None:
    row.make(bed)
    seen = bed.host.mesh("verify", "--cgroup", bed.cgroup.path, "--json")
    assert (seen.status, row.said in "; ".join(seen.document["gaps"])) == (row.status, True), seen.out
    with keeping(bed.host, NEVER_S if row.is_news else OFTEN_S) as told:
        await_that(lambda: told)
        assert (told[0].target, told[0].done, told[0].failed) == (str(bed.cgroup.path), "isolated again", False)
        assert row.said in told[0].found
        assert row.cause in told[0].cause
        assert row.kind in told[0].kinds
        await_that(bed.holds)
        row.make(bed)
        await_that(lambda: bed.episode()[0] == 2 and bed.holds())
    assert len(told) == 1
    assert [each["kind"] for each in bed.host.place.journal.trail() if each["kind"] == "repair"] == ["repair"]
    seen = bed.host.mesh("verify", "--cgroup", bed.cgroup.path, "--json")
    assert (seen.document["holds"], seen.document["gaps"]) == (True, [])


def test_a_cgroup_made_anew_is_closed_at_once(host: Host, scratch_cgroup: MakeCgroup) -> None:
    """No sweep comes: the kernel's news of the directory are all there is."""
    cgroup = scratch_cgroup("agent")
    host.isolate(cgroup)
    with keeping(host, NEVER_S):
        for _ in range(3):
            cgroup.path.rmdir()
            cgroup.path.mkdir()
            await_that(lambda: len(ours_at(cgroups.resolve(cgroup.path))) == len(GATE))


def test_a_process_that_was_begun_outside_is_the_agents(bed: Bed) -> None:
    """It leaves between two sweeps: nobody noted it, but its parent is the agent."""
    child = bed.process.run(
        f"""
child = os.fork()
if not child:
    open('{bed.elsewhere.path}/cgroup.procs', 'w').write(str(os.getpid()))
    os.closerange(0, 3)
    time.sleep(60)
    os._exit(0)
time.sleep(0.1)
child
"""
    )
    assert f"pid {child} " in "".join(bed.gaps())
    Keeper(bed.host.place, print).sweep()
    assert child in cgroups.processes(bed.cgroup)
    assert bed.holds()


def test_what_was_elsewhere_before_stays_there(bed: Bed, run_in_cgroup: RunInside) -> None:
    other = run_in_cgroup(bed.elsewhere)
    Keeper(bed.host.place, print).sweep()
    assert other.pid in cgroups.processes(bed.elsewhere)
    assert bed.holds()


def test_an_agent_that_somebody_thawed_stands_still_again(
    host: Host, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    cgroup = scratch_cgroup("agent")
    run_in_cgroup(cgroup)
    host.isolate(cgroup, why=replace(WHY, level="frozen"))
    frozen = cgroup.path / "cgroup.events"
    with keeping(host, NEVER_S) as told:
        freezer.end(cgroup)
        await_that(lambda: told and "frozen 1" in frozen.read_text())
    assert told[0].kinds == (Kind.FREEZER,)


# Told


def test_an_episode_is_told_when_it_is_over(bed: Bed) -> None:
    at, told = moment(clock.utc_now()), list[Repair]()
    for n in range(3):
        detach_calls(bed)
        told += reconcile(bed.host.place, replace(at, s=at.s + n), patient=True)
    assert [repair.over for repair in told] == [False]
    assert reconcile(bed.host.place, replace(at, s=at.s + drift.QUIET_S), patient=True) == []
    (over,) = reconcile(bed.host.place, replace(at, s=at.s + 2 + drift.QUIET_S), patient=True)
    assert (over.over, over.done) == (True, "it is as it should be")
    assert over.found == f"it drifted 3 times since {rfc3339(at.utc)}: programs detached"
    assert bed.host.place.journal.trail(newest=1)[0]["kind"] == "drift over"
    assert reconcile(bed.host.place, replace(at, s=at.s + 9 + drift.QUIET_S), patient=True) == []


def test_a_release_ends_the_episode(bed: Bed) -> None:
    detach_calls(bed)
    told: list[Repair] = []
    keepers = [Keeper(bed.host.place, told.append) for _ in range(2)]
    keepers[0].sweep()
    isolation.release(bed.host.place.intents.in_force()[0], bed.host.place)
    for keeper in keepers:
        keeper.sweep()
    assert [repair.over for repair in told] == [False, True]


class Timed(Keeper):
    """Measures its sweeps."""

    def sweep(self) -> None:
        began_s = time.monotonic()
        super().sweep()
        self.busy_s = [*getattr(self, "busy_s", []), time.monotonic() - began_s]


def test_drift_without_end_has_the_keeper_rest_most_of_the_time(bed: Bed) -> None:
    told: list[Repair] = []
    keeper = Timed(bed.host.place, told.append, sweep_s=NEVER_S)
    keeper.start()
    try:
        began_s = time.monotonic()
        while time.monotonic() - began_s < HOSTILE_S:
            with suppress(subprocess.CalledProcessError):  # it is not back yet
                delete_filter(bed)
    finally:
        keeper.stop()
    passed_s = time.monotonic() - began_s
    assert 1 <= len(told) <= len(Kind), told
    assert sum(keeper.busy_s[:-1]) < passed_s / 2


class Slow(Keeper):
    """Takes its time, and notes when it begins."""

    def sweep(self) -> None:
        self.begun_s = [*getattr(self, "begun_s", []), time.monotonic()]
        time.sleep(SLOW_S)


def test_a_slow_sweep_does_not_put_off_the_next(host: Host) -> None:
    keeper = Slow(host.place, lambda _: None, sweep_s=2 * SLOW_S)
    keeper.start()
    time.sleep(8 * SLOW_S)
    keeper.stop()
    between_s = [after - before for before, after in pairwise(keeper.begun_s)]
    assert len(between_s) >= 2
    assert max(between_s) < 3 * SLOW_S


FORKS = """
def forks(until_s):
    while time.monotonic() < until_s:
        if os.fork():
            os.wait()
        else:
            time.sleep(0.001)
            os._exit(0)
"""


def test_children_that_are_made_meanwhile_have_not_left(bed: Bed) -> None:
    """Between the look at who is inside and the look at their children."""
    bed.process.run(FORKS)
    bed.process.tell(f"forks(time.monotonic() + {HOSTILE_S})")
    end_s = time.monotonic() + HOSTILE_S
    while time.monotonic() < end_s:
        assert noted.moved_out(bed.intent, bed.host.place, [bed.cgroup]) == []
    bed.process.hear()
