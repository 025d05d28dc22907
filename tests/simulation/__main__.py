"""Run many schedules, or replay one. Ends with 0 when nothing that must not happen did, with 1 otherwise."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.simulation.checks import Violation
from tests.simulation.host import SharedJournal
from tests.simulation.planted import PLANTED
from tests.simulation.process import Parts
from tests.simulation.schedule import Ran, run

BATCH = 250


@dataclass(frozen=True, slots=True)
class Tally:
    """What some schedules did, and those that failed: the seed, and why."""

    ran: tuple[Ran, ...]
    failed: tuple[tuple[int, str], ...]


def simulate(seeds: range, planted: str = "") -> Tally:
    """Run the schedules of those seeds, all of them."""
    journal, parts = SharedJournal(None), PLANTED[planted] if planted else Parts()
    ran, failed = [], []
    for seed in seeds:
        try:
            ran.append(run(seed, journal, parts))
        except Violation as violation:
            failed.append((seed, str(violation)))
        except Exception as error:  # noqa: BLE001 - a bug that a schedule finds is told with its seed, like a violation
            failed.append((seed, f"{type(error).__name__}: {error}"))
    return Tally(tuple(ran), tuple(failed))


def simulate_all(first: int, count: int, jobs: int, planted: str = "") -> Iterator[Tally]:
    """The same on several processors, batch by batch."""
    batches = [range(at, min(at + BATCH, first + count)) for at in range(first, first + count, BATCH)]
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(simulate, batches, [planted] * len(batches))


def replay(seed: int, planted: str) -> int:
    """Run one schedule and say all that happens."""
    try:
        ran = run(seed, SharedJournal(None), PLANTED[planted] if planted else Parts(), print)
    except Violation as violation:
        print(f"VIOLATION {violation}")
        return 1
    print(f"nothing that must not happen did: {ran}")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first one's seed; the others follow it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="J", help="processes (default: all)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this one only, and say all that happens")
    parser.add_argument("--planted", default="", choices=sorted(PLANTED), metavar="FAULT", help=", ".join(PLANTED))
    given = parser.parse_args()
    if given.replay is not None:
        return replay(given.replay, given.planted)
    planted = f" --planted {given.planted}" if given.planted else ""
    began_s = time.monotonic()
    ran: list[Ran] = []
    failed: list[tuple[int, str]] = []
    for tally in simulate_all(given.seed, given.schedules, given.jobs, given.planted):
        ran += tally.ran
        failed += tally.failed
        for seed, why in tally.failed:
            print(f"seed {seed}: {why}\n  scripts/simulate --replay {seed}{planted}", flush=True)
        if sys.stderr.isatty():
            print(f"\r{len(ran) + len(failed)} of {given.schedules}, {len(failed)} failed", end="", file=sys.stderr)
    took_s = time.monotonic() - began_s
    print(
        f"{given.schedules} schedules in {took_s:.0f} s ({given.schedules / took_s:.0f}/s): {len(failed)} failed; "
        f"{sum(r.restarts for r in ran)} restarts, {sum(r.isolations for r in ran)} isolations, "
        f"{sum(r.simulated_s for r in ran) / 86400:.0f} days simulated"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
