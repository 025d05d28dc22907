"""Restarting agents by a command of their own: what worked, and every way it did not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from watchdog.actions import restart as module
from watchdog.actions.restart import RestartResult, RestartTarget, restart
from watchdog.errors import UsageError
from watchdog.host.agents import AgentSelector

DEADLINE_S = 5.0
AGENT = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
for fd in (0, 1, 2): os.close(fd)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "agent.pid"
    yield file
    stop(file)


def stop(file: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(file.read_text()), signal.SIGKILL)


def starts(file: Path, lives_s: float = 600) -> list[str]:
    return [sys.executable, "-c", AGENT, str(file), str(lives_s)]


def by(*command: str, agent: AgentSelector | None = None) -> RestartResult:
    return restart(RestartTarget(command=command, agent=agent), DEADLINE_S)


@pytest.mark.parametrize(
    ("command", "reason", "says"),
    [
        (("true",), "", "exit status 0"),
        (("sh", "-c", "echo first >&2; echo no licence >&2; exit 3"), "exit-code", "exit status 3: no licence"),
        (("sh", "-c", "kill -9 $$"), "exit-code", "killed by SIGKILL"),
        (("wd-no-such-program",), "not-found", "cannot find the program"),
        (("/etc/passwd",), "not-executable", "chmod +x"),
    ],
)
def test_what_a_command_can_do(command: tuple[str, ...], reason: str, says: str) -> None:
    result = by(*command)
    assert (result.worked, result.reason) == (not reason, reason)
    assert says in result.detail


def test_a_command_that_hangs_is_ended_at_the_deadline() -> None:
    result = restart(RestartTarget(command=["sleep", "600"]), 0.2)
    assert (result.worked, result.reason) == (False, "timeout")
    assert result.seconds < 0.2 + 1


def test_a_new_main_process_is_proof(pid_file: Path) -> None:
    agent = AgentSelector(pid_file=pid_file)
    first = by(*starts(pid_file), agent=agent)
    assert (first.worked, first.old_pid) == (True, None), first
    stop(pid_file)
    second = by(*starts(pid_file), agent=agent)
    assert second.worked
    assert first.new_pid != second.new_pid == int(pid_file.read_text())


def test_the_old_process_still_running_is_no_restart(pid_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APPEAR_LIMIT_S", 0.3)
    agent = AgentSelector(pid_file=pid_file)
    by(*starts(pid_file), agent=agent)
    result = by("true", agent=agent)
    assert (result.worked, result.reason) == (False, "not-restarted")
    assert result.old_pid == result.new_pid == int(pid_file.read_text())


@pytest.mark.parametrize("lives_s", [0.0, 0.2])
def test_an_agent_that_dies_at_once(pid_file: Path, monkeypatch: pytest.MonkeyPatch, lives_s: float) -> None:
    monkeypatch.setattr(module, "APPEAR_LIMIT_S", 1.0)
    result = by(*starts(pid_file, lives_s), agent=AgentSelector(pid_file=pid_file))
    assert (result.worked, result.reason) == (False, "not-running")
    assert "there is no process" in result.detail


@pytest.mark.parametrize(("unit", "command"), [(None, None), ("shield.service", ["true"])])
def test_either_a_unit_or_a_command(unit: str | None, command: list[str] | None) -> None:
    with pytest.raises(UsageError, match="either a unit or a command"):
        RestartTarget(unit=unit, command=command)


def test_a_host_without_systemctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = restart(RestartTarget(unit="shield"), DEADLINE_S)
    assert (result.worked, result.reason) == (False, "no-systemd")


@pytest.mark.parametrize("unit", ["../x", "--now", "a b", ""])
def test_a_unit_that_cannot_be_named(unit: str) -> None:
    result = restart(RestartTarget(unit=unit), DEADLINE_S)
    assert (result.worked, result.reason) == (False, "not-found")


def test_what_no_longer_stands_is_not_run(tmp_path: Path) -> None:
    result = restart(RestartTarget(command=["touch", str(tmp_path / "ran")]), DEADLINE_S, lambda: False)
    assert (result.worked, result.reason) == (False, "overtaken")
    assert not list(tmp_path.iterdir())
