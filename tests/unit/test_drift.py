"""What is suspected of a drift, and when an episode of it is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.actions.drift import QUIET_S, Kind, Seen, continued, is_over, suspect, together
from watchdog.clock import Moment
from watchdog.intents import Drift, Intent, State, Where, Why, With

UTC_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AT = Moment(1000.0, UTC_NOW, "this boot")
CGROUP, UNIT = "/sys/fs/cgroup/agent", "shield.service"
OPEN = f"{CGROUP} is not filtered"
LINK = "tc: va in network namespace 4026 (/proc/7/ns/net): "
DROP_IN = f"/run/systemd/system/{UNIT}.d/50-watchdog-mesh.conf"


@pytest.mark.parametrize(
    ("gap", "seen", "kind", "cause"),
    [
        (OPEN, Seen(), Kind.PROGRAMS, "another process detached them"),
        (f"calls: {CGROUP} has none of it", Seen(), Kind.PROGRAMS, "another process detached them"),
        (f"options: wd_x is not attached to {CGROUP}", Seen(), Kind.PROGRAMS, "another process detached them"),
        (f"{CGROUP} is filtered, but wd_egress are not attached", Seen(), Kind.PROGRAMS, "another process"),
        (OPEN, Seen(capable="pid 7 (agent)"), Kind.PROGRAMS, "pid 7 (agent) is of the agent, and could have done it"),
        (OPEN, Seen(unit=UNIT, drop_in=DROP_IN), Kind.PROGRAMS, "systemd detached them at a daemon-reload"),
        (OPEN, Seen(is_new_cgroup=True), Kind.CGROUP, "the cgroup was removed and made anew"),
        (OPEN, Seen(UNIT, is_new_cgroup=True), Kind.CGROUP, f"a start or restart of {UNIT} made a new cgroup"),
        (f"{LINK}no filter of ours", Seen(), Kind.FILTERS, "deleted or overrode the filter"),
        (f"{LINK}no filter of ours any more", Seen(), Kind.FILTERS, "deleted or overrode the filter"),
        (f"{LINK}no clsact any more, nor a filter of ours", Seen(), Kind.FILTERS, "deleted the clsact qdisc"),
        (f"{LINK}the link is new: no filter of ours", Seen(), Kind.LINKS, "after the isolation"),
        ("pid 9 sh (cgroup /b) left its cgroup", Seen(), Kind.PROCESSES, "wrote it to a cgroup.procs"),
        ("pid 9 sh (cgroup /b) left its cgroup", Seen(mover="pid 9 sh"), Kind.PROCESSES, "pid 9 sh is of the agent"),
        ("pid 9 sh (cgroup /run-1.scope) left its cgroup", Seen(), Kind.PROCESSES, "systemd-run --scope"),
        ("the pins of its programs are gone", Seen(), Kind.PINS, "removed files below"),
        ("the pins of its programs are gone", Seen(bpffs="/pins"), Kind.BPFFS, "unmounted the bpffs at /pins"),
        (f"a restart of {UNIT} would open it: its drop-in is missing", Seen(), Kind.DROP_IN, "removed or rewrote"),
        (f"a restart of {UNIT} would open it: systemd has not read its drop-in", Seen(), Kind.DROP_IN, "by hand"),
        (f"{UNIT} is named b.service now: its next start would be open", Seen(), Kind.UNIT, "renamed the unit file"),
        (f"freeze: {CGROUP} is not frozen", Seen(), Kind.FREEZER, "wrote 0 to cgroup.freeze"),
        ("something else", Seen(), Kind.OTHER, ""),
    ],
)
def test_what_is_suspected(gap: str, seen: Seen, kind: Kind, cause: str) -> None:
    found = suspect([gap], seen)
    assert found.kinds == (kind,)
    assert cause in found.cause


def test_a_process_cannot_choose_what_is_suspected_of_it() -> None:
    """Its command line is in the sentence."""
    assert suspect([f"pid 9 {OPEN} pins (cgroup /b) left its cgroup"], Seen()).kinds == (Kind.PROCESSES,)


def test_each_cause_is_said_once() -> None:
    found = suspect([OPEN, f"calls: {CGROUP} has none of it", "the pins of its programs are gone"], Seen())
    assert found.kinds == (Kind.PROGRAMS, Kind.PINS)
    assert found.cause == "another process detached them; somebody removed files below the pin directory"


def test_what_a_new_cgroup_lacks_besides_is_not_listed() -> None:
    others = [f"calls: {CGROUP} has none of it", "the pins of its programs are gone"]
    assert together([OPEN], others) == (OPEN, others[1])
    assert together([], others) == tuple(others)


# Episodes


def later(seconds: float) -> Moment:
    return replace(AT, s=AT.s + seconds)


def test_an_episode_is_told_once_for_each_kind() -> None:
    first, told = continued(None, [Kind.PINS], AT, failed=False)
    assert (told, first.count, first.since) == (True, 1, AT.utc)
    second, told = continued(first, [Kind.PINS], later(5), failed=False)
    assert (told, second.count, second.since) == (False, 2, AT.utc)
    third, told = continued(second, [Kind.PROGRAMS], later(10), failed=False)
    assert (told, third.count, third.kinds) == (True, 3, (Kind.PINS, Kind.PROGRAMS))


def test_a_failed_repair_is_told_once_and_so_is_the_one_that_succeeds() -> None:
    drift, tellings = None, []
    for n, failed in enumerate([True, True, False, True, False]):
        drift, told = continued(drift, [Kind.OTHER], later(n), failed=failed)
        tellings.append(told)
    assert tellings == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("seconds", "boot", "is_new"),
    [(QUIET_S - 1, "this boot", False), (QUIET_S, "this boot", True), (1, "next", True)],
)
def test_what_is_quiet_for_long_is_another_episode(seconds: float, boot: str, is_new: bool) -> None:
    first, _ = continued(None, [Kind.PINS], AT, failed=False)
    second, told = continued(first, [Kind.PINS], replace(later(seconds), boot=boot), failed=False)
    assert (told, second.count == 1) == (is_new, is_new)


@pytest.mark.parametrize(
    ("seconds", "state", "failing", "trouble", "over"),
    [
        (QUIET_S - 1, State.ISOLATED, False, "", False),
        (QUIET_S, State.ISOLATED, False, "", True),
        (QUIET_S, State.ISOLATED, False, "a gap that cannot be closed", True),
        (QUIET_S, State.ISOLATED, True, "it fails", False),
        (QUIET_S, State.ISOLATED, True, "", True),
        (1, State.RELEASED, False, "", True),
        (1, State.RELEASED, True, "it failed", True),
    ],
)
def test_when_an_episode_is_over(seconds: float, state: State, failing: bool, trouble: str, over: bool) -> None:
    drift = Drift(AT.utc, AT.s, AT.boot, 1, (Kind.PINS,), failing)
    intent = Intent(1, state, Where("", 0), Why("a test"), With(), AT.utc, AT.utc, trouble, drift)
    assert is_over(intent, later(seconds)) is over
    assert not is_over(replace(intent, drift=None), later(seconds))


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.booleans(), st.floats(0.1, QUIET_S - 1))))
def test_no_storm_of_alarms(drifts: list[tuple[Kind, bool, float]]) -> None:
    """However often and whatever drifts within one episode: one telling a kind at most, and two for the repairs."""
    drift, tellings, now = None, 0, AT
    for kind, failed, pause_s in drifts:
        now = replace(now, s=now.s + pause_s)
        drift, told = continued(drift, [kind], now, failed=failed)
        tellings += told
    assert tellings <= len(Kind)
    assert drift is None or drift.count == len(drifts)
