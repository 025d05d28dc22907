"""Some schedules of the simulator on every run of the tests, and proof that it finds what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.__main__ import simulate_all
from tests.simulation.checks import Violation
from tests.simulation.host import SharedJournal
from tests.simulation.planted import PLANTED
from tests.simulation.process import Parts
from tests.simulation.schedule import run

SCHEDULES = 2_000
MOST_UNTIL_FOUND = 600
JOBS = 2
SEED = 7


def test_nothing_happens_that_must_not() -> None:
    tallies = list(simulate_all(0, SCHEDULES, JOBS))
    assert [failed for tally in tallies for failed in tally.failed] == []
    ran = [each for tally in tallies for each in tally.ran]
    assert len(ran) == SCHEDULES
    assert sum(each.restarts for each in ran) > SCHEDULES, "schedules in which nothing happens prove nothing"
    assert sum(each.isolations for each in ran) > SCHEDULES / 2


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
