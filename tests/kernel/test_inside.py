"""Verification from inside, on real cgroups: it finds an opening that is there, closes it, and opens nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside, remove_cgroup
from tests.kernel.isolation_bed import WHY, Host, moment, ours_at
from tests.kernel.netns import Netns, VethPair
from watchdog import clock
from watchdog.actions import flow_facts, holding, inside, isolation, programs
from watchdog.actions.reconcile import reconcile
from watchdog.inspector import Inspector
from watchdog.intents import Allowed, State
from watchdog.kernel import cgroups, freezer, gate, slots, visitor
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.base import FROZEN
from watchdog.kernel.programs import GUARD_IN, GUARD_OUT
from watchdog.kernel.slots import Counters, Traffic
from watchdog.paths import catalogue, facts, probe
from watchdog.paths.words import Need

pytestmark = pytest.mark.kernel

LIMIT_S = 5.0
UID = 61001
TCP_V4 = "new TCP connection over loopback (IPv4)"


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


def opened(cgroup: Cgroup) -> None:
    """Detach everything of ours from its packet hooks: what somebody with bpf() can do."""
    for view in gate.query(cgroup).values():
        gate.detach(cgroup, {info.id for info in view.ours})


DETACH = """
import sys
from watchdog.kernel import cgroups, gate
from watchdog.errors import WatchdogError

cgroup = cgroups.resolve(sys.argv[1])
print("on", flush=True)
while True:
    try:
        for view in gate.query(cgroup).values():
            gate.detach(cgroup, {info.id for info in view.ours})
    except WatchdogError:
        pass
"""


@contextmanager
def detached_for_ever(cgroup: Cgroup) -> Iterator[None]:
    """Somebody takes our programs off as fast as we put them there."""
    with subprocess.Popen([sys.executable, "-c", DETACH, str(cgroup.path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
            yield
        finally:
            process.kill()


def stays_nothing(cgroup: Cgroup) -> None:
    assert (cgroup.path / "cgroup.procs").read_text() == ""
    assert visitor.pids(cgroup.path) == frozenset()
    assert not [name for name in os.listxattr(cgroup.path) if name == visitor.MARK]


def test_what_is_isolated_is_found_so(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    before_s = time.monotonic()
    intent, repair = inside.verify(intent, host.place, moment())
    assert time.monotonic() - before_s < LIMIT_S
    assert repair is None
    assert intent.inside is not None
    assert (intent.inside.passed, intent.inside.wrong) == (True, ())
    assert intent.inside.stopped >= 12
    assert host.place.intents.get(intent).inside == intent.inside
    stays_nothing(agent)


@pytest.mark.parametrize("taken", [0, len(visitor.PORTS) // 2])
def test_its_tries_are_nobodys_drops_and_flows(
    host: Host, agent: Cgroup, request: pytest.FixtureRequest, taken: int
) -> None:
    """Also where somebody else has the ports of half of them."""
    for port, family, kind in product(visitor.PORTS[:taken], (AF_INET, AF_INET6), (SOCK_STREAM, SOCK_DGRAM)):
        holder = socket.socket(family, kind)
        request.addfinalizer(holder.close)
        with suppress(OSError):  # then it is taken as well
            holder.bind(("127.0.0.1" if family == AF_INET else "::1", port))
    intent = host.isolate(agent).intent
    for _ in range(3):
        inside.look(intent, host.place, moment())
    nothing = Traffic(0, 0)
    seen = holding.verify(intent, host.place)
    assert seen.dropped == Counters(nothing, nothing)
    told = flow_facts.of(intent, host.place, seen.dropped, clock.moment())
    assert told is not None
    assert (told["top"], told["seen"]) == ([], 0)


def test_nobody_takes_it_for_the_agent(host: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    """Who looks while it is there sees the agent alone: no stranger, no privilege that the agent does not have."""
    process = run_in_cgroup(agent)
    process.run(f"os.setgroups([]); os.setresgid({UID}, {UID}, {UID}); os.setresuid({UID}, {UID}, {UID})")
    intent = host.isolate(agent).intent
    with probe.inside(agent):
        listed = {int(pid) for pid in (agent.path / "cgroup.procs").read_text().split()}
        assert len(listed) == 2
        assert cgroups.processes(agent) == {process.pid}
        looked = holding.verify(intent, host.place).looked
    assert looked is not None
    assert looked.facts.may is not None
    assert not looked.facts.may & {Need.NET_RAW, Need.SYS_ADMIN}
    assert cgroups.processes(agent) == {process.pid}
    assert facts.Looked(looked.facts, runs=True).is_privileged is False


def test_an_opening_is_found_and_closed(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    opened(agent)
    intent, repair = inside.verify(intent, host.place, moment())
    assert repair is not None
    assert "new raw socket: ICMP" in repair.found
    assert (repair.done, repair.failed) == ("isolated again, and it is stopped now", False)
    assert intent.inside is not None
    assert intent.inside.passed
    assert holding.verify(intent, host.place).holds
    [told] = [each for each in host.place.journal.trail() if each["kind"] == "open from inside"]
    assert "new raw socket: ICMP" in str(told["paths"])
    assert intent.why.level == "network"


def test_what_stays_open_is_frozen_and_told_once(host: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    process = run_in_cgroup(agent)
    intent = host.isolate(agent).intent
    with detached_for_ever(agent):
        intent, repair = inside.verify(intent, host.place, moment())
    assert repair is not None
    assert repair.done.endswith("it is frozen now")
    assert (intent.why.level, freezer.is_frozen(agent)) == (FROZEN, True)
    assert cgroups.processes(agent) == {process.pid}
    escalated = [each for each in host.place.journal.trail() if each.get("escalated_from")]
    assert [each["escalated_from"] for each in escalated] == ["network"]
    again, repair = inside.verify(intent, host.place, moment())
    assert repair is None
    assert again.inside is not None
    assert (again.inside.passed, again.inside.why_not) == (None, "its cgroup is frozen: nothing in it runs")
    isolation.release(again, host.place)
    assert process.run("1 + 1") == 2


def test_after_a_release_everything_passes(host: Host, agent: Cgroup) -> None:
    intent = isolation.release(host.isolate(agent).intent, host.place).intent
    found = inside.look_freed(intent, host.place, moment())
    assert (found.passed, found.stopped) == (True, 0)
    assert ours_at(agent) == []


def test_what_is_stopped_after_a_release_is_named(host: Host, scratch_cgroup: MakeCgroup) -> None:
    above = scratch_cgroup("above")
    below = scratch_cgroup("below", above)
    host.isolate(above)
    intent = isolation.release(host.isolate(below).intent, host.place).intent
    found = inside.look_freed(intent, host.place, moment())
    assert found.passed is False
    assert TCP_V4 in found.wrong


def test_a_frozen_agent_stays_frozen(host: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    process = run_in_cgroup(agent)
    intent = host.isolate(agent, why=replace(WHY, level=FROZEN)).intent
    before_s = time.monotonic()
    found = inside.look(intent, host.place, moment())
    assert time.monotonic() - before_s < LIMIT_S
    assert (found.passed, found.why_not) == (None, "its cgroup is frozen: nothing in it runs")
    assert freezer.is_frozen(agent)
    assert cgroups.processes(agent) == {process.pid}


def test_frozen_midway_it_does_not_hang(host: Host, agent: Cgroup) -> None:
    host.isolate(agent)
    before_s = time.monotonic()
    with probe.inside(agent, until_s=before_s + 1) as ready:
        freezer.freeze(agent)
        found = ready.attempt()
    assert time.monotonic() - before_s < LIMIT_S
    assert {each.outcome for each in found} == {probe.Outcome.UNTRIED}
    assert freezer.is_frozen(agent)
    stays_nothing(agent)


def test_stopped_by_the_agent_it_is_killed_in_time(host: Host, agent: Cgroup) -> None:
    """What a root agent can do to a process in its own cgroup."""
    intent = host.isolate(agent).intent
    seen: list[int] = []

    def stop_it() -> None:
        while not seen:
            seen.extend(visitor.pids(agent.path))
        os.kill(seen[0], signal.SIGSTOP)

    hostile = threading.Thread(target=stop_it)
    hostile.start()
    before_s = time.monotonic()
    found = inside.look(intent, host.place, moment())
    assert time.monotonic() - before_s < LIMIT_S
    hostile.join()
    assert found.passed is None
    assert found.wrong == ()
    stays_nothing(agent)


def test_an_agent_without_loopback_is_tried_where_there_is_one(
    host: Host, agent: Cgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    netns = new_netns()
    netns.ip("link", "set", "lo", "down")
    run_in_cgroup(agent, netns)
    intent = host.isolate(agent).intent
    found = inside.look(intent, host.place, moment())
    assert (found.passed, found.why_not, found.wrong) == (True, "", ())


def test_the_filters_on_its_own_links_are_tried_there(
    host: Host, agent: Cgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    netns = new_netns()
    run_in_cgroup(agent, netns)
    intent = host.isolate(agent).intent
    found = {each.path: each.outcome for each in probe.probe_from_inside(agent, netns=netns.path)}
    assert found["E5a"] is probe.Outcome.STOPPED
    assert inside.look(intent, host.place, moment()).passed


def test_no_process_can_be_started(host: Host, agent: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with no pids left: what cannot be started is said, and the isolation is as it was."""
    intent = host.isolate(agent).intent
    monkeypatch.setattr(sys, "executable", "/nonexistent/python3")
    intent, repair = inside.verify(intent, host.place, moment())
    assert repair is None
    assert intent.inside is not None
    assert (intent.inside.passed, intent.inside.why_not) == (
        None,
        "no process can be started: No such file or directory",
    )
    assert holding.verify(intent, host.place).holds


def test_nothing_that_runs_is_no_opening(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    agent.path.rmdir()
    assert inside.look(intent, host.place, moment()).why_not == "nothing of it runs: it has no cgroup now"


def test_loopback_in_the_allow_list_is_no_opening(host: Host, agent: Cgroup) -> None:
    allow = (Allowed("127.0.0.0/8"), Allowed("127.0.0.0/8:*/icmp"), Allowed("[::1/128]:9/tcp"))
    intent = host.isolate(agent, why=replace(WHY, allow=allow)).intent
    found = inside.look(intent, host.place, moment())
    assert (found.passed, found.wrong) == (True, ())


def test_one_watcher_looks_and_the_others_see_that_it_has(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    repairs: list[object] = []
    watchers = [Inspector(host.place, repairs.append, turn_s=0.01) for _ in range(3)]
    for each in watchers:
        each.start()
    deadline_s = time.monotonic() + LIMIT_S
    while host.place.intents.get(intent).inside is None and time.monotonic() < deadline_s:
        time.sleep(0.02)
    first = host.place.intents.get(intent).inside
    time.sleep(0.2)
    for each in watchers:
        each.stop()
    assert first is not None
    assert first == host.place.intents.get(intent).inside
    assert repairs == []
    opened(agent)
    due = replace(first, s=first.s - inside.EVERY_S)
    host.place.intents.note_inside(intent, due)
    found = inside.verify_if_due(host.place.intents.get(intent), host.place, clock.moment())
    assert found is not None
    assert host.place.intents.get(intent).state is State.ISOLATED


LISTEN = "p = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); p.setblocking(False)"
HEARD = """
frames = []
try:
    while True: frames.append(p.recv(65536))
except BlockingIOError:
    pass
[each.hex() for each in frames if each[12:14] != bytes.fromhex("86dd") or each[20] not in (0, 58)]
"""
"""All but what IPv6 says by itself of links and groups (ICMPv6, some of it behind a hop-by-hop header)."""


def test_nothing_of_a_look_leaves_the_host(
    host: Host, agent: Cgroup, run_in_cgroup: RunInside, scratch_cgroup: MakeCgroup, veth: VethPair
) -> None:
    """Not even where nothing is stopped any more."""
    run_in_cgroup(agent, veth.near).run("None")
    outside = run_in_cgroup(scratch_cgroup("outside"), veth.far)
    intent = host.isolate(agent).intent
    outside.run(LISTEN)
    assert inside.look(intent, host.place, moment()).passed
    opened(agent)
    found = inside.look(intent, host.place, moment())
    assert (found.passed, bool(found.wrong)) == (False, True), found
    time.sleep(0.2)
    assert outside.run(HEARD) == []


def test_who_has_just_isolated_has_it_looked_at_at_once(host: Host, agent: Cgroup) -> None:
    inspector = Inspector(host.place, lambda _: None, turn_s=10 * LIMIT_S)
    inspector.start()
    try:
        intent = host.isolate(agent).intent
        inspector.wake()
        deadline_s = time.monotonic() + LIMIT_S
        while host.place.intents.get(intent).inside is None and time.monotonic() < deadline_s:
            time.sleep(0.02)
    finally:
        inspector.stop()
    assert host.place.intents.get(intent).inside is not None


def test_what_a_restart_leaves_is_the_keepers(host: Host, agent: Cgroup) -> None:
    """systemd attaches what the drop-in names, and no more: nobody's doing, and no opening that is told."""
    intent = host.isolate(agent).intent
    slot = programs.recorded(intent.held_by, host.place)
    gate.detach(agent, {slot.programs[each.name] for each in (GUARD_IN, GUARD_OUT)})
    assert inside.verify_if_due(intent, host.place, clock.moment()) is None
    assert host.place.intents.get(intent).inside is None
    [repair] = reconcile(host.place, clock.moment(), patient=True)
    assert repair.expected
    assert inside.verify_if_due(intent, host.place, clock.moment()) is None
    seen = host.place.intents.get(intent).inside
    assert seen is not None
    assert seen.passed


KILLED = """
import sys, time
from watchdog.kernel import cgroups
from watchdog.paths import probe

with probe.inside(cgroups.resolve(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_a_watcher_that_is_killed_leaves_nobody_inside(
    agent: Cgroup, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(agent.path)], stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == b"inside\n"
        watcher.kill()
    eventually(lambda: (agent.path / "cgroup.procs").read_text() == "")
    assert cgroups.processes(agent) == set()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    def wait(holds: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    return wait


def test_verify_tries_it_and_says_what_is_open_until_it_is_not(host: Host, agent: Cgroup) -> None:
    target = ("--cgroup", str(agent.path))
    assert host.mesh("isolate", *target, "--reason", "it lies").status == 0
    opened(agent)
    before = host.mesh("verify", *target)
    assert "DOES NOT HOLD" in before.out
    assert "verified from inside before it was lost" in before.out
    assert "all is stopped" not in before.out
    seen = host.mesh("verify", *target, "--inside", "--json")
    assert seen.status == 1
    assert "new raw socket: ICMP" in " ".join(seen.document["inside"]["wrong"])
    assert "tried from inside, it got through: " in " ".join(seen.document["gaps"])
    host.mesh("reconcile")
    again = host.mesh("verify", *target, "--json")
    assert (again.status, again.document["inside"]["passed"]) == (0, True)


# doctor --coverage


def test_the_coverage_of_this_host_is_what_is_said(host: Host) -> None:
    told = host.mesh("doctor", "--coverage", "--json")
    assert (told.status, told.err) == (0, "")
    document = told.document
    assert (document["schema"], document["agrees"]) == ("watchdog-mesh/doctor-coverage/1", True)
    rows = document["rows"]
    assert len(rows) == 2 * len(catalogue.CATALOGUE)
    assert {row["disagreement"] for row in rows} == {None}
    [tcp] = [row for row in rows if (row["path"], row["who"]) == ("E2a", "user")]
    assert (tcp["before"], tcp["during"], tcp["after"], tcp["coverage"]) == ("ok", "EPERM", "ok", "covered")
    assert host.attached() == []


def test_a_bed_that_was_killed_is_nobodys_isolation(host: Host, v2_root: Path) -> None:
    top = v2_root / f"{cgroups.BED_PREFIX}{2**22 + 1}-0"
    (top / "agent").mkdir(parents=True)
    try:
        slot = slots.list_slots(host.pins)[0]
        gate.attach(cgroups.resolve(top / "agent"), slot)
        assert reconcile(host.place, moment()) == []
        assert host.states() == []
    finally:
        remove_cgroup(top)
