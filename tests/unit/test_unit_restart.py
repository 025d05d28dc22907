"""Whether a restart that systemctl calls a success was one."""

from __future__ import annotations

import pytest

from watchdog.host.command import Completed
from watchdog.host.systemd import UnitState, parse_state
from watchdog.host.unit_restart import _Try, judge

WELL = Completed(0, "", "", 0.1)


def state(invocation: str, main_pid: int, active: str = "active", result: str = "success") -> UnitState:
    return parse_state(
        f"Id=shield.service\nActiveState={active}\nSubState=x\nResult={result}\nInvocationID={invocation}\n"
        f"MainPID={main_pid}\n"
    )


@pytest.mark.parametrize(
    ("before", "first", "last", "reason"),
    [
        (state("a", 1), state("b", 2), state("b", 2), ""),
        (state("a", 0, "inactive"), state("b", 2), state("b", 2), ""),
        (state("a", 1), state("a", 1), state("a", 1), "not-restarted"),
        (state("a", 0), state("a", 0), state("a", 0), "not-restarted"),
        (state("a", 1), state("b", 1), state("b", 1), "not-restarted"),
        (state("a", 0), state("b", 0), state("b", 0), ""),
        (state("a", 1), state("b", 2), state("c", 3), "died-again"),
        (state("a", 1), state("b", 2), state("b", 3), "died-again"),
        (state("a", 1), state("b", 2), state("b", 0, "failed", "signal"), "signal"),
    ],
)
def test_a_restart_is_one_when_what_runs_is_new_and_stays(
    before: UnitState, first: UnitState, last: UnitState, reason: str
) -> None:
    assert judge(_Try(before, WELL, first, last))[0] == reason
