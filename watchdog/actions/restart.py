"""Restart an agent, by its unit or by a command of its own, and see that a new process runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from watchdog.errors import HostCannot, SystemdFailed, UsageError, WatchdogError
from watchdog.host import agents, command, unit_restart
from watchdog.host.agents import AgentSelector
from watchdog.host.processes import Process

APPEAR_LIMIT_S = 5.0
"""How long an agent may take to be found after its restart command has ended."""
APPEAR_STEP_S = 0.05
SETTLE_S = unit_restart.SETTLE_S
"""A new process must live this long."""
NOT_FOUND = "not-found"
OVERTAKEN = unit_restart.OVERTAKEN
TIMEOUT = "timeout"
REASONS: dict[type[WatchdogError], str] = {
    command.CommandNotFound: NOT_FOUND,
    command.CommandNotExecutable: "not-executable",
    command.CommandTimeout: TIMEOUT,
    UsageError: NOT_FOUND,
    HostCannot: "no-systemd",
    SystemdFailed: "systemd-failed",
}


@dataclass(frozen=True, slots=True)
class RestartTarget:
    """What to restart: a unit, or an agent that has a restart command. Exactly one, UsageError otherwise."""

    unit: str | None = None
    command: Sequence[str] | None = None
    agent: AgentSelector | None = None
    """How to find the agent that `command` restarts; without it only the exit status is checked."""

    def __post_init__(self) -> None:
        if (self.unit is None) == (self.command is None):
            raise UsageError("a restart needs either a unit or a command", hint="set unit or restart for the peer")


@dataclass(frozen=True, slots=True)
class RestartResult:
    """How a restart ended. One that failed at once is a failed restart like any other."""

    worked: bool
    reason: str
    """"" when it worked; else one word: start-limit-hit, timeout, exit-code, not-found, masked, ..."""
    detail: str
    """One sentence for people."""
    old_pid: int | None
    new_pid: int | None
    seconds: float


def restart(target: RestartTarget, deadline_s: float, stands: Callable[[], bool] = lambda: True) -> RestartResult:
    """Carry out one restart within `deadline_s` and a few seconds more. Blocks: call it from a worker thread.

    `stands` says, right before anything is done, whether it still is to be done; the reason is OVERTAKEN when not.
    Whatever the unit, the command or systemd can do is a result; only a bug of ours raises.
    """
    started_s = time.monotonic()
    try:
        return _restart(target, deadline_s, stands, started_s)
    except WatchdogError as error:
        reason = next((word for kind, word in REASONS.items() if isinstance(error, kind)), "failed")
        return RestartResult(False, reason, error.one_line(), None, None, time.monotonic() - started_s)


def _restart(target: RestartTarget, deadline_s: float, stands: Callable[[], bool], started_s: float) -> RestartResult:
    if target.unit is not None:
        return _of_unit(target.unit, deadline_s, stands)
    before = _found(target.agent)
    if not stands():
        return RestartResult(False, OVERTAKEN, "nothing was run", None, None, time.monotonic() - started_s)
    done = command.run(list(target.command or ()), deadline_s)
    reason, detail, after = _judge_command(target, before, done)
    old, new = (found[0].pid if found else None for found in (before, after))
    return RestartResult(not reason, reason, detail, old, new, time.monotonic() - started_s)


def _of_unit(unit: str, deadline_s: float, stands: Callable[[], bool]) -> RestartResult:
    outcome = unit_restart.restart(unit, deadline_s, stands=stands)
    old = outcome.before.main_pid or None
    new = outcome.after.main_pid or None if outcome.after else None
    reason = TIMEOUT if outcome.reason == unit_restart.NOT_ANSWERING else outcome.reason
    return RestartResult(outcome.worked, reason, outcome.detail, old, new, outcome.seconds)


def _judge_command(
    target: RestartTarget, before: list[Process], done: command.Completed
) -> tuple[str, str, list[Process]]:
    """Reason, sentence, and the agent's processes afterwards."""
    program = (target.command or [""])[0]
    if done.status != 0:
        said = done.last_error_line()
        return "exit-code", f"{program} ended with {done.ending()}" + (f": {said}" if said else ""), []
    if target.agent is None:
        return "", f"{program} ended with {done.ending()}", []
    after = _appeared(target.agent, before)
    if not after:
        return "not-running", f"{program} ended well, but {_why_not_found(target.agent)}", []
    if agents.same(before, after):
        return unit_restart.NOT_NEW, f"{program} ended well, and process {after[0].pid} still is the old one", after
    return "", f"new main process {after[0].pid}", after


def _appeared(agent: AgentSelector, before: list[Process]) -> list[Process]:
    """The agent as soon as it is new and has lived for SETTLE_S; what there is at the end otherwise."""
    end_s = time.monotonic() + APPEAR_LIMIT_S
    found, since_s = _found(agent), time.monotonic()
    while time.monotonic() < end_s:
        is_new = bool(found) and not agents.same(before, found)
        if is_new and time.monotonic() - since_s >= SETTLE_S:
            break
        time.sleep(APPEAR_STEP_S)
        again = _found(agent)
        if not agents.same(found, again):
            found, since_s = again, time.monotonic()
    return found


def _found(agent: AgentSelector | None) -> list[Process]:
    """Nothing where the agent cannot be told: none runs, or several that are not one tree."""
    try:
        return agents.find(agent) if agent is not None else []
    except UsageError:
        return []


def _why_not_found(agent: AgentSelector) -> str:
    try:
        agents.find(agent)
    except UsageError as error:
        return error.message
    return f"the process found by {agent} came too late"
