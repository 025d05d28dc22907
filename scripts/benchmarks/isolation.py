"""How fast an isolation is and what it costs others, beside systemd's IPAddressDeny and an nftables cgroup rule.

Everything is measured inside a systemd of its own (tests/systemd/testbed.py), by scripts/benchmarks/bed.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from scripts.benchmarks.bed import BESIDE_CUT, BESIDE_FREE, QUIET, TRIED_CUT, TRIED_FREE, VERIFY_S
from scripts.benchmarks.flood import SOCKETS
from scripts.benchmarks.plot import dots
from scripts.benchmarks.report import Report, median, met, middle_half, p95, table
from scripts.benchmarks.ways import MESH, NFT, SYSTEMD, UNIT

FIGURE = "bench-isolation.svg"
COLD_RATIO_GOAL = 3.0
FIRST_DROP_GOAL_MS = 1.0
ALL_LAYERS_GOAL_MS = 50.0
OVERHEAD_GOAL_PERCENT = 3.0
FLOOD_GOAL = 500_000
"""Drops a second at which the sender is to gain nothing, and the host to stay usable."""
BED_LIMIT_S = 1800.0
UNIT_TEXT = "[Service]\nExecStart=/bin/sleep infinity\n"
IN_DAEMON = "in the daemon"
GIB = 2**30


def measure(*, quick: bool) -> Report:
    """Run everything in the test bed; the tables and the figure."""
    from tests.systemd.testbed import Testbed, missing

    if lacks := missing():
        sys.exit(f"bench: the systemd test bed needs {lacks}")
    print("In a systemd of its own; this takes a second, or some minutes without --quick ...", flush=True)
    with Testbed() as bed:
        bed.unit(UNIT, UNIT_TEXT)
        bed.systemctl("start", UNIT)
        words = [*bed.python, "-m", "scripts.benchmarks.bed", *(["--quick"] if quick else [])]
        said = bed.run(words, BED_LIMIT_S, env={"PYTHONDONTWRITEBYTECODE": ""}).stdout
    return report_of(json.loads(said))


def report_of(measured: dict[str, Any]) -> Report:
    """The tables, with each goal beside what was measured."""
    cold = {name: times["dropped"] for name, times in measured["cold"].items()}
    warm = measured["warm"]
    lines = [
        "# Benchmark: an isolation",
        "",
        "`scripts/bench isolation`. Cold is a new process with its files in the page cache. A packet is sent about",
        "every 0.1 ms on a socket of the unit; the times end at the first one that the kernel drops.",
        "",
        f"![Every run]({FIGURE})",
        "",
        *_cold(measured["cold"]),
        *_warm(warm, measured["steps"]),
        *_others(measured["streams"]),
        *_flood(measured["flood"]),
        *_attached(measured),
    ]
    rows = {**cold, IN_DAEMON: warm["dropped"]}
    return Report("\n".join(lines), {FIGURE: dots("To the first dropped packet", rows, "ms")})


def _cold(cold: dict[str, dict[str, list[float]]]) -> list[str]:
    base = median(cold[SYSTEMD]["dropped"])
    rows = [
        (
            name,
            f"{median(times['dropped']):.1f}",
            f"{p95(times['dropped']):.1f}",
            f"{median(times['dropped']) / base:.2f}",
            f"{median(times['done']):.0f}",
        )
        for name, times in cold.items()
    ]
    ratio = median(cold[MESH]["dropped"]) / base
    nft = [] if NFT in cold else ["", "nft is not installed here, or does not take the rule: not measured."]
    return [
        f"## From typing the command to the first dropped packet ({len(cold[MESH]['dropped'])} runs each, interleaved)",
        "",
        *table(("command", "median ms", "p95 ms", f"ratio to {SYSTEMD}", "until it ends, ms"), rows),
        *nft,
        "",
        f"Goal: at most {COLD_RATIO_GOAL:g} times {SYSTEMD}. Measured: {ratio:.2f}, {met(ratio <= COLD_RATIO_GOAL)}.",
        "",
    ]


def _warm(warm: dict[str, list[float]], steps: dict[str, list[float]]) -> list[str]:
    told = ", ".join(f"{step} {median(times):.1f}" for step, times in steps.items())
    goals = (
        ("to the first dropped packet", warm["dropped"], FIRST_DROP_GOAL_MS),
        ("to all layers in place", warm["done"], ALL_LAYERS_GOAL_MS),
    )
    rows = [
        (what, f"{median(times):.2f}", f"{p95(times):.2f}", f"{goal:g}", met(median(times) <= goal))
        for what, times, goal in goals
    ]
    return [
        f"## In the daemon, programs pinned: from the decision ({len(warm['dropped'])} runs)",
        "",
        *table(("until", "median ms", "p95 ms", "goal, ms", ""), rows),
        "",
        f"Steps, median ms from the decision: {told}.",
        "",
    ]


def _others(streams: dict[str, dict[str, list[tuple[float, float, float]]]]) -> list[str]:
    rows = []
    for path, by_way in streams.items():
        every = [slices for repetitions in by_way.values() for slices in repetitions]
        rows.append((path, "nobody is isolated", f"{median([before for before, _, _ in every]) / GIB:.2f}", "", "", ""))
        for name, repetitions in by_way.items():
            lost = [100 * (1 - 2 * during / (before + after)) for before, during, after in repetitions]
            verdict = met(median(lost) < OVERHEAD_GOAL_PERCENT) if name == MESH else ""
            rate = f"{median([during for _, during, _ in repetitions]) / GIB:.2f}"
            rows.append((path, name, rate, f"{median(lost):+.1f}", middle_half(lost), verdict))
        drift = [100 * (1 - after / before) for before, _, after in every]
        after = f"{median([after for _, _, after in every]) / GIB:.2f}"
        rows.append((path, "nobody is isolated, again", after, f"{median(drift):+.1f}", middle_half(drift), ""))
    count = len(next(iter(next(iter(streams.values())).values())))
    heads = ("path", "while", "GiB/s", "lost, %", "half of them", f"goal: < {OVERHEAD_GOAL_PERCENT:g}")
    return [
        "## What others can send while one unit is isolated",
        "",
        *table(heads, rows),
        "",
        f"Medians of {count} repetitions of each, in turns: a slice before, one while it is isolated, compared with",
        "the mean of its neighbours, and one after. What that has lost to the first is the noise of this machine.",
        "",
    ]


def _flood(flood: dict[str, list[float]]) -> list[str]:
    tried = {QUIET: None, BESIDE_FREE: flood[TRIED_FREE], BESIDE_CUT: flood[TRIED_CUT]}
    rows = [
        (
            name,
            f"{median(rates):,.0f}" if rates else "",
            f"{median(flood[name]) / GIB:.2f}",
            f"{median(flood[name]) / median(flood[BESIDE_FREE]):.2f}",
        )
        for name, rates in tried.items()
    ]
    dropped = median(flood[TRIED_CUT])
    return [
        "## An agent that floods",
        "",
        *table(("while", "packets tried a second", "a neighbour sends, GiB/s", "ratio to a free flood"), rows),
        "",
        f"Goal: {FLOOD_GOAL:,} drops a second. Measured: {dropped:,.0f}, {met(dropped >= FLOOD_GOAL)}.",
        f"Median of {len(flood[QUIET])} repetitions, {SOCKETS} flows. The last line's packets are all dropped and",
        f"counted, and `verify` took {median(flood[VERIFY_S]):.2f} s meanwhile. What it costs the host is bounded:",
        "the flows and the ring of first packets have a fixed size, and what does not fit is counted.",
        "",
    ]


def _attached(measured: dict[str, Any]) -> list[str]:
    found = [*measured["attached_before"], *measured["attached_after"]]
    assert not found, f"nobody is isolated, and yet there is: {found}"
    return ["Asked of every hook of every cgroup: nothing of ours is attached to anyone while nobody is isolated.", ""]
