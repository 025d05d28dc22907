"""Restarting a unit, and proving that what runs afterwards is new and stays up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import SystemdFailed
from watchdog.host import systemd
from watchdog.host.command import CommandTimeout, Completed
from watchdog.host.systemd import UnitState

SETTLE_S = 0.5
"""A unit must stay up this long: for Type=simple, systemctl succeeds before the program is even executed."""
SETTLE_STEP_S = 0.05
START_LIMIT_HIT = "start-limit-hit"
"""Reasons beside these are systemd's own words for a unit's Result: exit-code, signal, timeout, resources..."""
NOT_ANSWERING = "systemctl-timeout"
MASKED = "masked"
NOT_NEW = "not-restarted"
DIED = "died-again"
REFUSED = "systemctl-failed"
OVERTAKEN = "overtaken"


@dataclass(frozen=True, slots=True)
class RestartOutcome:
    """What came of restarting one unit."""

    worked: bool
    reason: str
    """"" when it worked; else one word: systemd's Result, or one of this module's."""
    detail: str
    """One sentence for people."""
    before: UnitState
    after: UnitState | None
    """None when systemd stopped answering."""
    seconds: float
    reset: bool = False
    """The unit stood failed, so its failure and its start limit were reset first."""


@dataclass(frozen=True, slots=True)
class _Try:
    """The facts of one `systemctl restart` that ended."""

    before: UnitState
    done: Completed
    first: UnitState
    """As soon as systemctl had ended."""
    last: UnitState
    """After settling."""


def restart(
    unit: str, deadline_s: float, *, settle_s: float = SETTLE_S, stands: Callable[[], bool] = lambda: True
) -> RestartOutcome:
    """Restart a unit and verify it: active, Result success, a new invocation and main process, still there after
    `settle_s`. Blocks up to `deadline_s` (and a second) plus `settle_s`: call it from a worker thread.

    `stands` is asked right before each thing that changes something: systemd may have taken its time to answer.
    A unit that does not exist raises UsageError, a host without systemd HostCannot; everything else a unit
    can do is an outcome.
    """
    started_s = time.monotonic()
    before = systemd.show(unit)

    def outcome(reason: str, detail: str, after: UnitState | None, *, reset: bool = False) -> RestartOutcome:
        seconds = time.monotonic() - started_s
        return RestartOutcome(not reason, reason, detail, before, after, seconds, reset)

    if before.load_state == MASKED:
        return outcome(MASKED, f"{before.id} is masked; allow it again: systemctl unmask {before.id}", before)
    reset = before.active_state == "failed" and stands() and _reset_failed(before.id)
    if not stands():
        return outcome(OVERTAKEN, f"{before.id} was not restarted", before, reset=reset)
    try:
        done = systemd.systemctl(["restart", "--", before.id], deadline_s)
    except SystemdFailed as error:
        if not isinstance(error.__cause__, CommandTimeout):
            raise
        return outcome(NOT_ANSWERING, *_unfinished(before.id, deadline_s), reset=reset)
    first = systemd.query(before.id)
    last = _settled(first, settle_s) if done.status == 0 else first
    reason, detail = judge(_Try(before, done, first, last))
    return outcome(reason, detail, last, reset=reset)


def _reset_failed(unit: str) -> bool:
    """Clear a unit's failure, and with it the count of starts that its start limit refuses more of.

    A unit that died before it hit the limit keeps Result=exit-code (seen in systemd 252), so that the limit
    cannot be told from the state: every failed unit is reset.
    """
    return systemd.systemctl(["reset-failed", "--", unit], systemd.QUERY_TIMEOUT_S).status == 0


def _unfinished(unit: str, deadline_s: float) -> tuple[str, UnitState | None]:
    """What to say of a restart that did not end in time: the job usually goes on without systemctl."""
    said = f"systemctl restart {unit} did not end within {deadline_s:g} s"
    try:
        state = systemd.query(unit)
    except SystemdFailed:
        return f"{said}, and systemd does not answer any more", None
    if state.job:
        return f"{said}; its job {state.job} is still running, the unit is {state.in_words()}", state
    return f"{said}; the unit is {state.in_words()}", state


def _settled(first: UnitState, settle_s: float, sleep: Callable[[float], None] = time.sleep) -> UnitState:
    """The unit's state after `settle_s`, or as soon as it is no longer what it was."""
    end_s = time.monotonic() + settle_s
    last = first
    while _same_run(first, last) and time.monotonic() < end_s:
        sleep(SETTLE_STEP_S)
        last = systemd.query(first.id)
    return last


def _same_run(first: UnitState, last: UnitState) -> bool:
    return (
        last.active_state == "active" and last.invocation_id == first.invocation_id and last.main_pid == first.main_pid
    )


def judge(tried: _Try) -> tuple[str, str]:
    """Why a restart did not work, as a word and a sentence; ("", sentence) when it did."""
    unit, last = tried.last.id, tried.last
    if tried.done.status != 0:
        return _refusal(tried)
    if _ran_to_its_end(last):
        return "", f"{unit} ran to its end, as a oneshot unit does"
    if not _same_run(tried.first, last) or last.result != "success":
        reason = last.result if last.result not in ("", "success") else DIED
        return reason, f"{unit} started and did not stay up: {last.in_words()}{_missing_filters(last)}"
    if last.invocation_id == tried.before.invocation_id:
        return NOT_NEW, f"{unit} still is what ran before: {last.in_words()}"
    if last.main_pid and last.main_pid == tried.before.main_pid:
        return NOT_NEW, f"{unit} still has its old main process {last.main_pid}"
    return "", f"{unit} is active" + (f", main process {last.main_pid}" if last.main_pid else "")


def _ran_to_its_end(last: UnitState) -> bool:
    return last.type == "oneshot" and last.active_state == "inactive" and last.result == "success"


def _refusal(tried: _Try) -> tuple[str, str]:
    """systemctl said no: find the reason behind its words, which name an older failure at the start limit."""
    before, last = tried.before, tried.last
    said = next((line for line in tried.done.stderr.splitlines() if line.strip()), tried.done.ending())
    if last.load_state not in ("loaded", ""):
        return last.load_state, f"{last.id} is {last.load_state}: {said}"
    never_started = last.active_state == "failed" and last.invocation_id == before.invocation_id
    if last.result == START_LIMIT_HIT or (never_started and "dependency" not in said):
        return START_LIMIT_HIT, f"{last.id} was started too often: systemd refuses until it is reset"
    if last.result not in ("", "success"):
        return last.result, f"{said}{_missing_filters(last)}"
    return REFUSED, said


def _missing_filters(state: UnitState) -> str:
    """A filter path whose pin is missing keeps a unit from starting; systemd says only "resources"."""
    paths = (*state.ip_ingress_filter_path, *state.ip_egress_filter_path)
    missing = [path for path in paths if not Path(path).exists()]
    return f" (its packet filter is missing: {', '.join(missing)})" if missing else ""
