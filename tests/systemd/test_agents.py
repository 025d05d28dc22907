"""Agents that are units: found, restarted and told from squatters on a real systemd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.testbed import Testbed
from watchdog.actions import evidence
from watchdog.actions.ownership import Ownerships
from watchdog.actions.restart import RestartTarget, restart
from watchdog.config import Peer, parse
from watchdog.errors import UsageError
from watchdog.host.agents import AgentSelector, find
from watchdog.host.ports import Owner, owner_in_cgroup
from watchdog.probe import Ownership, OwnerVerdict, Target

pytestmark = pytest.mark.systemd

UNIT = "wd-agent.service"
CGROUP = f"/system.slice/{UNIT}"
PORT = 9103
SERVER = f"/usr/bin/python3 -m http.server --bind 127.0.0.1 {PORT}"
DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def _unit(testbed: Testbed) -> Iterator[None]:
    testbed.unit(UNIT, f"[Service]\nExecStart={SERVER}\n")
    yield
    testbed.remove_unit(UNIT)


def start(bed: Testbed) -> None:
    bed.systemctl("start", UNIT)
    wait_for_port(bed)


def wait_for_port(bed: Testbed) -> None:
    connect = f"until (exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null; do sleep 0.02; done"
    bed.run(["bash", "-c", connect])


def test_a_unit_is_found_with_its_main_process_first(testbed: Testbed) -> None:
    start(testbed)
    found = testbed.call(find, AgentSelector(unit="wd-agent"))
    assert str(found[0].pid) == testbed.show(UNIT, "MainPID")
    assert testbed.call(find, AgentSelector(port=PORT)) == found
    assert testbed.call(find, AgentSelector(cgroup=CGROUP)) == found


def test_a_unit_that_is_not_running(testbed: Testbed) -> None:
    with pytest.raises(UsageError, match="has no processes: it is inactive"):
        testbed.call(find, AgentSelector(unit=UNIT))
    with pytest.raises(UsageError, match="no unit"):
        testbed.call(find, AgentSelector(unit="wd-none"))


def test_the_port_is_answered_from_the_unit_or_by_a_squatter(testbed: Testbed) -> None:
    start(testbed)
    assert testbed.call(owner_in_cgroup, PORT, "127.0.0.1", CGROUP).owner is Owner.INSIDE
    testbed.systemctl("stop", UNIT)
    with testbed.popen(SERVER.split(), stdout=-3, stderr=-3) as squatter:
        try:
            wait_for_port(testbed)
            check = testbed.call(owner_in_cgroup, PORT, "127.0.0.1", CGROUP)
            assert check.owner is Owner.OUTSIDE
            assert "http.server" in check.detail
        finally:
            testbed.kill(squatter)


def whose_answer(unit: str = UNIT, address: str | None = None) -> OwnerVerdict | None:
    """As a watcher of that unit asks after a heartbeat."""
    endpoint = f"http://localhost:{PORT}/"
    text = f'[[peer]]\nname = "agent"\nendpoint = "{endpoint}"\nunit = "{unit}"\n'
    return Ownerships(parse(text, Path("config.toml"), {})).check(Target("agent", endpoint), address)


def test_whoever_answers_for_a_unit_that_is_dead_is_a_squatter(testbed: Testbed) -> None:
    start(testbed)
    alive = testbed.call(whose_answer)
    assert alive is not None
    assert alive.ownership is Ownership.INSIDE
    testbed.systemctl("stop", UNIT)
    assert testbed.call(whose_answer) is None, "nobody answers"
    with testbed.popen(SERVER.split(), stdout=-3, stderr=-3) as squatter:
        try:
            wait_for_port(testbed)
            found = testbed.call(whose_answer)
            assert found is not None
            assert found.ownership is Ownership.OUTSIDE
            assert "http.server" in found.detail
            assert found.detail.endswith(f"{UNIT} has no process")
            assert testbed.call(whose_answer, "wd-none.service") is None, "a unit that never was is a slip"
            elsewhere = testbed.call(whose_answer, address="::1")
            assert elsewhere is None, "what was heard came from where nobody listens now"
        finally:
            testbed.kill(squatter)


def test_systemd_that_waits_with_the_socket_of_a_unit_is_no_squatter(testbed: Testbed) -> None:
    testbed.unit("wd-agent.socket", f"[Socket]\nListenStream=127.0.0.1:{PORT}\n")
    try:
        testbed.systemctl("start", "wd-agent.socket")
        assert testbed.call(whose_answer) is None
    finally:
        testbed.remove_unit("wd-agent.socket")


def test_a_socket_that_systemd_passed_on_is_inside(testbed: Testbed) -> None:
    accepts = "import socket, time; s = socket.socket(fileno=3); time.sleep(600)"
    testbed.write("/run/wd-accepts.py", accepts.replace("; ", "\n"))
    testbed.unit(UNIT, "[Service]\nExecStart=/usr/bin/python3 /run/wd-accepts.py\n")
    testbed.unit("wd-agent.socket", f"[Socket]\nListenStream=127.0.0.1:{PORT}\n")
    try:
        testbed.systemctl("start", "wd-agent.socket")
        before = testbed.call(owner_in_cgroup, PORT, "127.0.0.1", CGROUP)
        assert before.owner is Owner.OUTSIDE  # nobody but systemd has it yet
        testbed.systemctl("start", UNIT)
        assert testbed.call(owner_in_cgroup, PORT, "127.0.0.1", CGROUP).owner is Owner.INSIDE
    finally:
        testbed.remove_unit("wd-agent.socket")


def test_another_network_namespace_is_unknown(testbed: Testbed) -> None:
    testbed.unit(UNIT, f"[Service]\nPrivateNetwork=yes\nExecStart={SERVER}\n")
    testbed.systemctl("start", UNIT)
    check = testbed.call(owner_in_cgroup, PORT, "127.0.0.1", CGROUP)
    assert check.owner is Owner.UNKNOWN
    assert "nothing in this network namespace listens" in check.detail


def test_the_action_says_old_and_new(testbed: Testbed) -> None:
    start(testbed)
    old = int(testbed.show(UNIT, "MainPID"))
    result = testbed.call(restart, RestartTarget(unit=UNIT), DEADLINE_S)
    assert (result.worked, result.reason, result.old_pid) == (True, "", old)
    assert result.new_pid == int(testbed.show(UNIT, "MainPID"))


@pytest.mark.parametrize(
    ("unit", "text", "reason"),
    [
        ("wd-none.service", None, "not-found"),
        (UNIT, "[Service]\nExecStart=/bin/false\n", "exit-code"),
        (UNIT, "[Service]\nType=notify\nExecStart=/bin/sleep 600\nTimeoutStartSec=60\n", "timeout"),
    ],
)
def test_the_action_turns_every_failure_into_a_result(
    testbed: Testbed, unit: str, text: str | None, reason: str
) -> None:
    if text is not None:
        testbed.unit(unit, text)
    result = testbed.call(restart, RestartTarget(unit=unit), 0.5)
    assert (result.worked, result.reason) == (False, reason)
    assert unit in result.detail


def evidence_against_it() -> tuple[str, bool]:
    """As a watcher of this host finds it; runs inside."""
    return evidence.against(Peer(name="agent", endpoint=f"http://127.0.0.1:{PORT}/", unit=UNIT), Path("/sys/fs/cgroup"))


@pytest.mark.parametrize(
    ("settings", "said", "is_down"),
    [
        (f"ExecStart={SERVER}", "", False),
        ("Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'sleep 600 &'", "", False),
        ("Type=forking\nGuessMainPID=no\nExecStart=/bin/sh -c 'sleep 600 &'", "", False),
        ("RemainAfterExit=yes\nExecStart=/bin/true", "is active (exited), result success, and has no process", False),
        ("ExecStart=/bin/sh -c 'exit 3'", "is failed (failed), result exit-code", True),
    ],
)
def test_what_a_unit_says_against_a_silent_agent(testbed: Testbed, settings: str, said: str, is_down: bool) -> None:
    testbed.unit(UNIT, f"[Service]\n{settings}\n")
    testbed.systemctl("start", UNIT)
    testbed.run(["sleep", "0.3"])
    assert testbed.call(evidence_against_it) == (f"{UNIT} {said}" if said else "", is_down)


def test_a_unit_that_is_being_stopped_slowly_says_nothing(testbed: Testbed) -> None:
    testbed.unit(UNIT, "[Service]\nExecStart=/bin/sleep 600\nExecStop=/bin/sleep 600\n")
    testbed.systemctl("start", UNIT)
    testbed.systemctl("stop", "--no-block", UNIT)
    assert testbed.show(UNIT, "ActiveState") == "deactivating"
    assert testbed.call(evidence_against_it) == ("", False)
