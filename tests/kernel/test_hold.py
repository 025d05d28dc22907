"""The hold on the real kernel: packets stop at once, and pass again when it is lifted or its process is no more."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup
from tests.kernel.ends import DROP_S, PASS_S, Ends, udp_both_ways
from tests.kernel.isolation_bed import NOW, REPOSITORY, WHY, Host, ours_at, where
from watchdog import early, interrupts
from watchdog.actions import isolation
from watchdog.actions.place import note_agents
from watchdog.config import Config, parse
from watchdog.errors import Refused, WatchdogError
from watchdog.intents import Allowed, State, With
from watchdog.kernel import gate, hold, locks
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.hold import Hold
from watchdog.kernel.programs import GATE, Hook

pytestmark = pytest.mark.kernel

WAIT_S = 60.0
COMMENT = b"# what follows is yet to come\n"
HELD = ["wd_hold", "wd_hold"]
"""Inward and outward, and nothing else is attached."""
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
    exchange = udp_both_ways(ends, family)
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
            assert programs_at(agent) == HELD
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
    assert "held" not in seen, "before the rails were asked"
    assert seen["intended"] == (HELD, 0)
    assert [seen[step][0].count("wd_hold") for step in ("packets", "attached", "isolated")] == [2, 0, 0]
    assert seen["attached"][1] == len(GATE)


def test_an_agent_of_the_configuration_is_held_before_the_rails_and_free_when_they_refuse(
    host: Host, agent: Cgroup
) -> None:
    def refuse() -> list[str]:
        assert programs_at(agent) == HELD
        assert host.intents() == []
        raise Refused("no")

    with pytest.raises(Refused):
        isolation.isolate(where(agent), WHY, host.place, rails=refuse, at_once=True)
    assert programs_at(agent) == []
    assert host.intents() == []


def test_nobody_is_held_for_an_order_that_was_overtaken(host: Host, agent: Cgroup) -> None:
    seen: list[list[str]] = []

    def overtaken() -> None:
        seen.append(programs_at(agent))
        raise WatchdogError("too late")

    def never() -> list[str]:
        raise AssertionError

    with pytest.raises(WatchdogError, match="too late"):
        isolation.isolate(where(agent), WHY, host.place, rails=never, stands=overtaken, at_once=True)
    assert seen == [[]]
    assert programs_at(agent) == []


@pytest.mark.parametrize("at_once", [True, False])
def test_an_order_that_is_overtaken_while_the_rails_are_asked_cuts_off_nobody(
    host: Host, agent: Cgroup, at_once: bool
) -> None:
    """As when the watcher is stopped meanwhile: the peer is well again when it goes on."""
    asked: list[str] = []

    def stands() -> None:
        if "rails" in asked:
            raise WatchdogError("too late")
        asked.append("stands")

    def rails() -> list[str]:
        asked.append("rails")
        return []

    with pytest.raises(WatchdogError, match="too late"):
        isolation.isolate(where(agent), WHY, host.place, rails=rails, stands=stands, at_once=at_once)
    assert asked == ["stands", "rails"]
    assert programs_at(agent) == []
    assert host.intents() == []


def test_who_may_share_its_cgroup_is_not_held_before_the_rails(host: Host, agent: Cgroup) -> None:
    seen: list[list[str]] = []

    def rails() -> list[str]:
        seen.append(programs_at(agent))
        return []

    isolation.isolate(where(agent), WHY, host.place, rails=rails)
    assert seen == [[]]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_allow_list_is_never_held_over(host: Host, agent: Cgroup, at_once: bool) -> None:
    seen: list[list[str]] = []
    why = replace(WHY, allow=(Allowed("192.0.2.1/32"),))
    for each in (why, replace(why, allow=()), replace(why, allow=None)):
        isolation.isolate(where(agent), each, host.place, lambda _: seen.append(programs_at(agent)), at_once=at_once)
    assert seen
    assert not [each for each in seen if "wd_hold" in each]


def test_where_there_is_no_hold_an_isolation_begins_with_its_journal(
    host: Host, agent: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a kernel before 5.7, or a machine whose number of bpf(2) is not known."""
    monkeypatch.setattr(hold, "_NUMBER", None)
    seen: list[str] = []

    def note(_: str) -> None:
        seen.extend(programs_at(agent))

    assert isolation.isolate(where(agent), WHY, host.place, note, at_once=True).holds
    assert seen
    assert "wd_hold" not in seen


@pytest.mark.parametrize("busy_s", [0.1, 1.0])
def test_what_is_held_early_is_free_while_the_lock_is_long_in_coming(host: Host, agent: Cgroup, busy_s: float) -> None:
    """Somebody else's isolation may take a minute, and then the rails may refuse this one."""
    taken, free = threading.Event(), threading.Event()

    def other() -> None:
        with host.place.alone():
            taken.set()
            free.wait(WAIT_S)

    busy = threading.Thread(target=other)
    busy.start()
    assert taken.wait(WAIT_S)
    seen: dict[str, list[str]] = {}

    def rails() -> list[str]:
        seen["rails"] = programs_at(agent)
        return []

    with Hold() as early:
        assert early.stop(str(agent.path))
        threading.Timer(busy_s, free.set).start()
        isolation.isolate(where(agent), WHY, host.place, rails=rails, held=early)
    busy.join()
    assert seen["rails"] == (HELD if busy_s < locks.PATIENCE_S else [])


# The command


@dataclass(frozen=True)
class Waiting:
    """A command that waits for its configuration: what it does early it has done, and nothing else."""

    process: subprocess.Popen[str]
    config: TextIO
    text: str

    def go_on(self) -> int:
        """Give it its configuration; how it ended."""
        self.config.write(self.text)
        self.config.close()
        return self.process.wait(WAIT_S)


Start = Callable[..., AbstractContextManager[Waiting]]


@pytest.fixture
def start(host: Host, agent: Cgroup) -> Start:
    """Starts a command on a host where a watcher has noted its agents. The configuration is a pipe: who wants to read
    it waits for who writes."""
    return partial(_waiting, host, PEERS.format(cgroup=agent.path), note_agents)


@contextmanager
def _waiting(host: Host, text: str, note: Callable[[Config, Path, str], None], *words: str) -> Iterator[Waiting]:
    read, write = os.pipe()
    host.config = Path(f"/dev/fd/{read}")
    os.write(write, COMMENT)
    note(parse(text, host.config, host.environment), host.config, early.identity_of(str(host.config)))
    pipe = subprocess.PIPE
    with (
        suppress(BrokenPipeError),
        os.fdopen(write, "w", encoding="utf-8") as config,
        os.fdopen(read, "rb"),
        subprocess.Popen(
            [sys.executable, "-m", "watchdog", *words],
            env=host.environment,
            cwd=host.folder,
            stdout=pipe,
            stderr=pipe,
            text=True,
            pass_fds=[read],
        ) as process,
    ):
        try:
            _wait_for_a_reader(read)
            yield Waiting(process, config, text)
        finally:
            process.kill()


def _wait_for_a_reader(fd: int) -> None:
    """Until what is in the pipe has been read."""
    deadline_s = time.monotonic() + WAIT_S
    while int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder):
        assert time.monotonic() < deadline_s, "nobody reads it"
        time.sleep(0.005)


REASON = ("--reason", "x")


def test_the_command_holds_before_it_has_read_its_configuration_and_killed_leaves_nothing(
    host: Host, agent: Cgroup, start: Start
) -> None:
    with start("isolate", "shield", *REASON) as command:
        assert programs_at(agent) == HELD
        assert hold.holders(str(agent.path)) == [command.process.pid]
        command.process.send_signal(signal.SIGKILL)
        command.process.wait(WAIT_S)
        assert programs_at(agent) == []
    assert host.intents() == []


@pytest.mark.parametrize("number", interrupts.NUMBERS)
def test_an_interrupt_lets_go_and_says_what_may_be_the_case(
    host: Host, agent: Cgroup, start: Start, number: signal.Signals
) -> None:
    with start("isolate", "shield", *REASON) as command:
        assert programs_at(agent) == HELD
        command.process.send_signal(number)
        out, err = command.process.communicate(timeout=WAIT_S)
    assert programs_at(agent) == []
    assert (command.process.returncode, out) == (130, "")
    [line] = err.splitlines()
    assert line.startswith(
        "watchdog-mesh: interrupted; shield may be cut off or not; see watchdog-mesh verify shield; "
    )


def test_what_it_holds_becomes_the_isolation(host: Host, agent: Cgroup, start: Start) -> None:
    with start("isolate", "shield", *REASON) as command:
        assert programs_at(agent) == HELD
        assert command.go_on() == 0
    assert sorted(programs_at(agent)) == sorted(each.name for each in GATE)
    isolation.release(host.place.intents.in_force()[0], host.place)
    assert programs_at(agent) == []


def test_a_command_that_is_refused_lets_go(host: Host, agent: Cgroup, start: Start) -> None:
    with start("isolate", "shield", *REASON) as command:
        assert programs_at(agent) == HELD
        host.place.intents.begin(replace(where(agent), cgroup="/other", peer="other"), WHY, With(), NOW, State.ISOLATED)
        assert command.go_on() == 3, "max_isolated is reached"
    assert programs_at(agent) == []


@pytest.mark.parametrize("more", [("--dry-run",), ("--shadow",), ("--allow", "192.0.2.1"), ("--ttl", "1h")])
def test_what_does_not_simply_isolate_holds_nothing(agent: Cgroup, start: Start, more: tuple[str, ...]) -> None:
    with start("isolate", "shield", *REASON, *more):
        assert programs_at(agent) == []


def test_where_something_is_allowed_by_the_configuration_nobody_is_held(host: Host, agent: Cgroup) -> None:
    text = PEERS.format(cgroup=agent.path) + '[isolation]\nallow = ["192.0.2.1"]\n'
    with _waiting(host, text, note_agents, "isolate", "shield", *REASON):
        assert programs_at(agent) == []


def test_an_isolation_that_is_changed_goes_on_meanwhile(host: Host, agent: Cgroup, start: Start) -> None:
    before = host.isolate(agent, why=replace(WHY, allow=(Allowed("192.0.2.1/32"),)))
    with start("isolate", "shield", *REASON):
        assert "wd_hold" not in programs_at(agent)
    isolation.release(before.intent, host.place)


def test_reconcile_notes_the_agents_too(host: Host, agent: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    host.configure(PEERS.format(cgroup=agent.path))
    assert host.mesh("reconcile").status == 0
    for name, value in host.environment.items():
        monkeypatch.setenv(name, value)
    with early.hold(["isolate", "shield", *REASON]):
        assert programs_at(agent) == HELD


def test_a_hold_whose_process_does_not_end_is_named_by_verify_and_release(
    host: Host, agent: Cgroup, start: Start
) -> None:
    """As one that was stopped by Ctrl-Z, or whose disk hangs."""
    with start("isolate", "shield", *REASON) as command:
        target, pid = ("--cgroup", str(agent.path)), command.process.pid
        host.config = host.folder / "none.toml"
        verified, released = host.mesh("verify", *target), host.mesh("release", *target, *REASON)
        assert (verified.status, released.status) == (1, 1)
        assert "is not isolated" in verified.out
        for said in (verified.out, released.err):
            assert f"its packets are held by pid {pid} {sys.executable}" in said, (verified, released)
    assert host.mesh("verify", *target).out == f"{agent.path} is not isolated\n"


def programs_at(cgroup: Cgroup) -> list[str]:
    """The names of what is attached, first inward, then outward, in its order."""
    return [info.name for view in gate.query(cgroup).values() for info in view.programs]


def wait_for(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
