"""The hold on the real kernel: packets stop at once, and pass again when it is lifted or its process is no more."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.ends import DROP_S, PASS_S, Ends, bind, received, send_udp
from tests.kernel.isolation_bed import NOW, REPOSITORY, WHY, Host, ours_at, where
from watchdog.actions import isolation
from watchdog.actions.place import note_agents
from watchdog.config import load
from watchdog.errors import Refused
from watchdog.intents import Allowed
from watchdog.kernel import gate, hold
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.hold import Hold
from watchdog.kernel.programs import GATE, Hook

pytestmark = pytest.mark.kernel

WAIT_S = 20.0
PEERS = """
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/healthz"
cgroup = "{cgroup}"
[[peer]]
name = "immune"
endpoint = "http://127.0.0.1:9/healthz"
"""


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_passes_either_way_until_it_is_lifted(ends: Ends, family: int) -> None:
    inward = bind(ends.agent, "s", family, ends.agent_address[family], "DGRAM")
    outward = bind(ends.peer, "s", family, ends.peer_address[family], "DGRAM")

    def exchange(wait_s: float) -> list[str]:
        sent = send_udp(ends.agent, family, ends.peer_address[family], outward)
        assert send_udp(ends.peer, family, ends.agent_address[family], inward) == "pass"
        return [sent, received(ends.peer, "s", wait_s), received(ends.agent, "s", wait_s)]

    with Hold() as held:
        assert exchange(PASS_S) == ["pass", "x", "x"]
        assert held.stop(str(ends.cgroup.path))
        assert held.stop(str(ends.cgroup.path)), "twice is the same as once"
        assert held.held == (str(ends.cgroup.path),)
        assert exchange(DROP_S) == ["EPERM", "TimeoutError", "TimeoutError"]
        held.lift()
        held.lift()
        assert exchange(PASS_S) == ["pass", "x", "x"]
    assert programs_at(ends.cgroup) == []


def test_it_ends_with_its_process_however_that_ends(agent: Cgroup) -> None:
    code = (
        "import sys, time; from watchdog.kernel.hold import Hold; h = Hold(); "
        f"print(h.stop({str(agent.path)!r}), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "True\n"
            assert programs_at(agent) == ["wd_hold", "wd_hold"]
        finally:
            holder.kill()
    assert programs_at(agent) == []


@pytest.mark.parametrize("hook", [Hook.INGRESS, Hook.EGRESS])
def test_beside_one_that_shares_with_nobody_it_holds_nothing_and_all_is_as_it_was(agent: Cgroup, hook: Hook) -> None:
    program = foreign.load("theirs", hook=hook)
    try:
        foreign.attach(program, agent.path, hook, foreign.EXCLUSIVE)
        with Hold() as held:
            assert not held.stop(str(agent.path))
            assert programs_at(agent) == ["theirs"]
            assert held.held == ()
    finally:
        os.close(program)


def test_beside_others_that_share_all_is_afterwards_as_it_was(agent: Cgroup) -> None:
    program = foreign.load("theirs", hook=Hook.EGRESS)
    try:
        foreign.attach(program, agent.path, Hook.EGRESS, foreign.MULTI)
        before = gate.query(agent)
        with Hold() as held:
            assert held.stop(str(agent.path))
            assert programs_at(agent) == ["wd_hold", "theirs", "wd_hold"]
        assert gate.query(agent) == before
    finally:
        os.close(program)


def test_a_cgroup_that_is_gone_is_not_held(agent: Cgroup) -> None:
    agent.path.rmdir()
    with Hold() as held:
        assert not held.stop(str(agent.path))
    with pytest.raises(OSError, match="No such file"):
        hold.carries_ours(str(agent.path))


def test_what_the_mesh_holds_already_is_known(host: Host, agent: Cgroup) -> None:
    assert not hold.carries_ours(str(agent.path))
    host.isolate(agent)
    assert hold.carries_ours(str(agent.path))


# An isolation


def test_packets_stop_before_anything_is_journaled_and_the_layers_are_judged_without_it(
    host: Host, agent: Cgroup
) -> None:
    seen: dict[str, tuple[list[str], int]] = {}

    def note(step: str) -> None:
        seen[step] = (programs_at(agent), len(ours_at(agent)))

    assert host.isolate(agent, note).holds
    held, lasting = ["wd_hold", "wd_hold"], len(GATE)
    assert seen["intended"] == (held, 0)
    assert [seen[step][0].count("wd_hold") for step in ("packets", "attached", "isolated")] == [2, 0, 0]
    assert seen["attached"][1] == lasting


def test_an_allow_list_is_never_held_over(host: Host, agent: Cgroup) -> None:
    seen: list[list[str]] = []
    why = replace(WHY, allow=(Allowed("192.0.2.1/32"),))
    host.isolate(agent, lambda step: seen.append(programs_at(agent)), why)
    host.isolate(agent, lambda step: seen.append(programs_at(agent)), replace(why, allow=()))
    assert seen
    assert not [each for each in seen if "wd_hold" in each]


def test_a_refusal_lifts_what_was_held_early(host: Host, agent: Cgroup) -> None:
    def rails() -> list[str]:
        assert programs_at(agent) == ["wd_hold", "wd_hold"]
        raise Refused("no")

    with Hold() as early:
        assert early.stop(str(agent.path))
        with pytest.raises(Refused):
            isolation.isolate(where(agent), WHY, host.place, NOW, rails=rails, held=early)
        assert programs_at(agent) == []
    assert host.intents() == []


# The command


@pytest.fixture
def noted(host: Host, agent: Cgroup) -> Host:
    """A watcher has noted its agents."""
    host.configure(PEERS.format(cgroup=agent.path))
    host.run_dir.mkdir(exist_ok=True)
    settings = load(host.config)
    note_agents(type(settings)(peers=settings.peers, paths=type(settings.paths)(run=host.run_dir)), host.config)
    return host


@contextmanager
def busy(host: Host) -> Iterator[None]:
    """Another isolation is under way."""
    with (host.run_dir / "isolation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def started(host: Host, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "watchdog", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=host.environment, cwd=host.folder, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_command_holds_before_it_has_its_turn_and_killed_it_leaves_nothing(noted: Host, agent: Cgroup) -> None:
    with busy(noted), started(noted, "isolate", "shield", "--reason", "x") as process:
        wait_for(lambda: programs_at(agent) == ["wd_hold", "wd_hold"])
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        assert programs_at(agent) == []
    assert noted.intents() == []


def test_what_it_holds_becomes_the_isolation(noted: Host, agent: Cgroup) -> None:
    with started(noted, "isolate", "shield", "--reason", "x") as process:
        with busy(noted):
            wait_for(lambda: programs_at(agent) == ["wd_hold", "wd_hold"])
        assert process.wait(WAIT_S) == 0
    assert sorted(programs_at(agent)) == sorted(each.name for each in GATE)
    assert noted.mesh("release", "shield", "--reason", "x").status == 0
    assert programs_at(agent) == []


@pytest.mark.parametrize(
    "words", [("isolate", "shield", "--reason", " "), ("isolate", "shield", "--reason", "x", "--ttl", "never")]
)
def test_a_command_that_is_refused_has_held_nothing_afterwards(
    noted: Host, agent: Cgroup, words: tuple[str, ...]
) -> None:
    assert noted.mesh(*words).status == 2
    assert programs_at(agent) == []


@pytest.mark.parametrize("more", [("--dry-run",), ("--shadow",), ("--allow", "192.0.2.1"), ("--config", "config.toml")])
def test_what_does_not_simply_isolate_holds_nothing(noted: Host, agent: Cgroup, more: tuple[str, ...]) -> None:
    with busy(noted), started(noted, "isolate", "shield", "--reason", "x", *more):
        stays_so(lambda: "wd_hold" not in programs_at(agent))


def test_where_something_is_allowed_by_the_configuration_nobody_is_held(host: Host, agent: Cgroup) -> None:
    host.configure(PEERS.format(cgroup=agent.path) + '[isolation]\nallow = ["192.0.2.1"]\n')
    assert host.mesh("reconcile").status == 0
    with busy(host), started(host, "isolate", "shield", "--reason", "x"):
        stays_so(lambda: "wd_hold" not in programs_at(agent))


def test_reconcile_notes_the_agents_too(host: Host, agent: Cgroup) -> None:
    host.configure(PEERS.format(cgroup=agent.path))
    assert host.mesh("reconcile").status == 0
    with busy(host), started(host, "isolate", "shield", "--reason", "x"):
        wait_for(lambda: programs_at(agent) == ["wd_hold", "wd_hold"])
    assert programs_at(agent) == []


def test_an_isolation_that_is_changed_goes_on_meanwhile(noted: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    inside = run_in_cgroup(agent)
    port = bind(inside, "s", 4, "127.0.0.1", "DGRAM")
    allow = ("--allow", f"127.0.0.1/32:{port}/udp")
    assert noted.mesh("isolate", "shield", "--reason", "x", *allow).status in (0, 4)
    with busy(noted), started(noted, "isolate", "shield", "--reason", "y", "--ttl", "1h"):
        stays_so(lambda: "wd_hold" not in programs_at(agent))
    assert noted.mesh("release", "shield", "--reason", "x").status == 0


def programs_at(cgroup: Cgroup) -> list[str]:
    """The names of what is attached, first inward, then outward, in its order."""
    return [info.name for view in gate.query(cgroup).values() for info in view.programs]


def wait_for(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def stays_so(what: Callable[[], bool], for_s: float = 1.0) -> None:
    """Longer than the command takes until it waits for its turn."""
    deadline_s = time.monotonic() + for_s
    while time.monotonic() < deadline_s:
        assert what()
        time.sleep(0.005)
