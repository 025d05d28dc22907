"""Some schedules of the simulator on every run of the tests, and proof that it finds what it looks for."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys

import pytest

from tests.simulation.__main__ import simulate_all
from tests.simulation.checks import Checks, Violation
from tests.simulation.host import NEVER, START_S, Host, SharedJournal
from tests.simulation.planted import PLANTED
from tests.simulation.process import Parts, Process
from tests.simulation.schedule import run
from watchdog.clock import Moment
from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Order
from watchdog.watcher import Watcher

SCHEDULES = 2_000
MOST_UNTIL_FOUND = 600
JOBS = 2
FAILED_ONCE = (
    4402,  # a watcher that was killed never took back a suspicion of before
    4045387,  # a late answer was counted, and the fresh one thrown away
    7015590,  # a vote of before a restart said that it was in vain
    20011095,  # a peer that was cut off since the round began was counted as one that answers
    20011290,  # a restart was forgiven on what others had said before the round's last answer
    20016181,  # two watchers that heard nobody agreed with each other
    40000348,  # the check's fault: a watcher that the journal had refused was to take back its vote in the same round
    50084814,  # the check's fault: whoever hears nobody may act when all others miss the same, and one hears it
    60039290,  # the check's fault: a peer that is cut off does not go silent; and one let back was not waited for
    70000551,  # one that was let back, and silent at once, was not counted among those that went silent
    80004954,  # the check's fault: whom a watcher knows to be cut off is nobody that it could hear
    90024340,  # the check's fault: cut off and let back within a watcher's round, it has been silent to that all along
    90038200,  # the check's fault: the word of a watcher that was killed before it could take it back still counts
    20061257,  # after a reboot a restart counted from its order, not from its later beginning
)
SEED = 7
INTERVAL_S = Policy().interval_s
LATE_S = INTERVAL_S * 0.1 + Policy().timeout_s + 0.5
"""A probe's jitter, the timeout it waits for, and what an order waits until it is begun."""


def test_nothing_happens_that_must_not() -> None:
    tallies = list(simulate_all(0, SCHEDULES, JOBS))
    assert [failed for tally in tallies for failed in tally.failed] == []
    ran = [each for tally in tallies for each in tally.ran]
    assert len(ran) == SCHEDULES
    assert sum(each.restarts for each in ran) > SCHEDULES, "schedules in which nothing happens prove nothing"
    assert sum(each.isolations for each in ran) > SCHEDULES / 2


@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_a_schedule_that_once_found_a_fault_of_ours(seed: int) -> None:
    run(seed, SharedJournal(None), Parts())


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str) -> None:
    journal = SharedJournal(None)
    seed, found = first_violation(PLANTED[name], journal)
    assert found, f"{name} was not found in {MOST_UNTIL_FOUND} schedules"
    run(seed, journal, Parts())
    with pytest.raises(Violation) as again:
        run(seed, journal, PLANTED[name])
    assert str(again.value) == found


def first_violation(parts: Parts, journal: SharedJournal) -> tuple[int, str]:
    for seed in range(MOST_UNTIL_FOUND):
        try:
            run(seed, journal, parts)
        except Violation as violation:
            return seed, str(violation)
    return 0, ""


@pytest.mark.parametrize("seed", range(12))
def test_the_mission_s_numbers_with_jitter_and_any_phase(seed: int) -> None:
    """Three watchers, each with its own phase, probes with jitter and a timeout of 5 s; shield hangs at 0 s."""
    rng = random.Random(seed)
    journal = SharedJournal(None)
    host = Host(rng, Policy(), journal, ["immune", "shield", "sidecar"])
    checks = Checks(host)
    begun: list[tuple[str, float]] = []

    def note(_: Watcher, order: Order, at: Moment) -> None:
        begun.append((order.action, host.now_s - START_S))

    checks.on_begin = note  # type: ignore[method-assign, assignment]
    for name in host.names:
        phase_s = rng.uniform(0, INTERVAL_S)
        host.later(0.0, Process(name, host, checks, Parts(), phase_s=phase_s, own_probed=True).start)
    host.run_until(START_S + 60.0)
    host.later(0.0, lambda: host.break_agent("shield", crashed=False, cures_in=NEVER))
    host.run_until(START_S + 60.0 + 600.0)
    assert [action for action, _ in begun] == ["restart", "restart", "restart", "isolate"]
    first_s = begun[0][1] - 60.0
    assert 60.0 < first_s <= 90.0 + LATE_S, "the third heartbeat that is missed"
    spacing_s = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(begun)]
    assert all(84.0 - LATE_S <= each <= 90.0 + LATE_S for each in spacing_s), spacing_s
    assert begun[3][1] - 60.0 <= 360.0 + LATE_S


def replay(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_schedule_is_the_same_whenever_it_is_replayed() -> None:
    first, second = (replay("--replay", str(SEED), hash_seed=each) for each in ("1", "2"))
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert "CALM" in first.stdout


def test_what_fails_is_told_with_its_seed_and_can_be_replayed() -> None:
    all_of_them = replay("--schedules", "20", "--jobs", "1", "--planted", "no-doubt")
    assert all_of_them.returncode == 1
    seed = all_of_them.stdout.split("seed ", 1)[1].split(":", 1)[0]
    assert f"--replay {seed} --planted no-doubt" in all_of_them.stdout
    alone = replay("--replay", seed, "--planted", "no-doubt")
    assert alone.returncode == 1
    assert "VIOLATION" in alone.stdout
