"""The mesh on one host: bounded rounds, its cost when all is well, and watchers that share a journal."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from scripts.benchmarks.peers import Peers, running
from scripts.benchmarks.report import Report, median, met, p99, table

PEERS, HUNG = 1000, 200
QUICK_PEERS, QUICK_HUNG = 40, 8
TIMEOUT_S = 5.0
QUICK_TIMEOUT_S = 0.5
WORKERS = 128
TICK_S = 30.0
"""The interval that costs are averaged over."""
ROUNDS = 3
NEVER = 1000
"""Misses before anything would be ordered."""
WATCHERS = 3
TRANSACTIONS = 300
ONE_OF = 20
"""One after another takes a quarter of an hour: every so-manieth peer is asked, and what that took is multiplied."""
KIB_PER_MIB = 1024
PEAK = "VmHWM:"
"""getrusage() would tell the peak of whoever started us, when that is higher."""
MISSES_A_ROUND = 30
LOCK, WRITTEN, ON_DISK = "the lock", "a miss is written", "an order is on disk"
MS_PER_S = 1000.0

ROUND_GOAL_S = 10.5
CPU_GOAL_PERCENT = 3.0
MEMORY_GOAL_MIB = 60
LOCK_WAIT_GOAL_MS = 50


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    peers: int
    hung: int
    timeout_s: float
    interval_s: float
    """Of the rounds with hung peers: longer than the mesh's round and a plain one together."""
    tick_s: float
    """Of the rounds without; shorter than the product's, to get on."""
    rounds: int
    transactions: int
    one_of: int
    """Share of the peers that are asked one after another."""


FULL = Size(PEERS, HUNG, TIMEOUT_S, TICK_S, 12.0, ROUNDS, TRANSACTIONS, ONE_OF)
QUICK = Size(QUICK_PEERS, QUICK_HUNG, QUICK_TIMEOUT_S, 4.0, 2.0, 1, 20, 4)


def measure(*, quick: bool) -> Report:
    """All measurements, as a table in Markdown."""
    size = QUICK if quick else FULL
    lines = ["# Benchmark: the mesh", "", "`scripts/bench mesh`. A ratio is to the mesh in the same run.", ""]
    lines += _rounds(size)
    lines += _cost(size)
    lines += _journal(size)
    return Report("\n".join(lines))


# A round with hung peers


def _rounds(size: Size) -> list[str]:
    print(f"A round over {size.peers} peers, {size.hung} of them hung, timeout {size.timeout_s:g} s ...", flush=True)
    rounds, plain_rounds = [], []
    with running(size.peers, size.hung) as peers:
        with _watching(peers, size) as mesh_rounds:
            for _ in range(size.rounds):
                rounds.append(mesh_rounds.get())
                plain_rounds.append(_plain_round(peers, size))  # while the mesh waits for its next tick
        sequential = _sequential_round(peers, size)
    mesh, plain = median(rounds), median(plain_rounds)
    rows = [
        ("the mesh", f"{mesh:.2f}", "1"),
        (f"plain requests.get, {WORKERS} threads", f"{plain:.2f}", f"{plain / mesh:.2f}"),
        (
            f"one after another, as Gatus does (every {size.one_of}th peer, times {size.one_of})",
            f"{sequential:.0f}",
            f"{sequential / mesh:.0f}",
        ),
    ]
    head = f"## One round: {size.peers} peers, {size.hung} hung, timeout {size.timeout_s:g} s, {WORKERS} workers"
    goal = [f"Goal: at most {ROUND_GOAL_S:g} s. Longest: {max(rounds):.2f} s, {met(max(rounds) <= ROUND_GOAL_S)}.", ""]
    return [head, "", *table(("probing", "s a round", "ratio"), rows), "", *(goal if size is FULL else [])]


@contextmanager
def _watching(peers: Peers, size: Size) -> Iterator[SimpleQueue[float]]:
    """A monitor as it is used, with its journal on disk; how long each of its rounds took, in seconds."""
    from watchdog.journal import Journal
    from watchdog.ladder import Policy
    from watchdog.monitor import Monitor

    took: SimpleQueue[float] = SimpleQueue()
    due_s = time.monotonic()

    def on_round() -> None:
        nonlocal due_s
        took.put(time.monotonic() - due_s)
        due_s += size.interval_s

    with tempfile.TemporaryDirectory() as state:
        journal = Journal.open(Path(state))
        policy = Policy(interval_s=size.interval_s, timeout_s=size.timeout_s, missed_before_restart=NEVER)
        monitor = Monitor("bench", policy, journal=journal, on_round=on_round)
        for number, url in enumerate(peers.urls):
            monitor.register_peer(f"p{number}", url)
        due_s = time.monotonic()
        monitor.start()
        try:
            yield took
        finally:
            monitor.stop()
            journal.close()


def _ask(url: str, timeout_s: float) -> bool:
    import requests

    try:
        return requests.get(url, timeout=timeout_s).ok
    except requests.RequestException:
        return False


def _plain_round(peers: Peers, size: Size) -> float:
    return _in_threads(lambda url: _ask(str(url), size.timeout_s), peers.urls)


def _sequential_round(peers: Peers, size: Size) -> float:
    begun_s = time.monotonic()
    for url in peers.urls[:: size.one_of]:
        _ask(url, size.timeout_s)
    return (time.monotonic() - begun_s) * size.one_of


def _in_threads(ask: Callable[..., object], whom: Sequence[object]) -> float:
    begun_s = time.monotonic()
    with ThreadPoolExecutor(min(len(whom), WORKERS)) as pool:
        list(pool.map(ask, whom))
    return time.monotonic() - begun_s


# What it costs when all is well


def _cost(size: Size) -> list[str]:
    print(f"{size.peers} healthy peers, {size.rounds} ticks of {size.tick_s:g} s ...", flush=True)
    with running(size.peers, 0) as peers:
        mesh = _child("mesh", peers, size)
        plain = _child("plain", peers, size)
    rows = [
        ("the mesh (Monitor, journal on disk)", *_costs(mesh, mesh)),
        ("plain requests.get in a thread pool", *_costs(plain, mesh)),
    ]
    head = f"## {size.peers} healthy peers, averaged over a tick of {TICK_S:g} s"
    holds = _percent(mesh) <= CPU_GOAL_PERCENT and mesh["rss_mib"] <= MEMORY_GOAL_MIB
    goal = [f"Goal: at most {CPU_GOAL_PERCENT:g} % and {MEMORY_GOAL_MIB} MiB: {met(holds)}.", ""]
    return [head, "", *table(("probing", "% of one core", "MiB", "ratio (CPU)"), rows), "", *goal]


def _percent(one: dict[str, float]) -> float:
    return one["cpu_s_a_round"] / TICK_S * 100


def _costs(one: dict[str, float], mesh: dict[str, float]) -> tuple[str, str, str]:
    return f"{_percent(one):.2f}", f"{one['rss_mib']:.0f}", f"{one['cpu_s_a_round'] / mesh['cpu_s_a_round']:.2f}"


def _child(kind: str, peers: Peers, size: Size) -> dict[str, float]:
    """One prober in a process of its own, so that its CPU and its memory are its own."""
    order = json.dumps({"kind": kind, "urls": peers.urls, "tick_s": size.tick_s, "rounds": size.rounds})
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.mesh"], input=order, capture_output=True, text=True, check=True
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _be_child() -> None:
    order = json.load(sys.stdin)
    probe = _watch if order["kind"] == "mesh" else _ask_plainly
    cpu_s_a_round = probe(order["urls"], order["tick_s"], order["rounds"])
    print(json.dumps({"cpu_s_a_round": cpu_s_a_round, "rss_mib": _peak_mib()}))


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(PEAK)) / KIB_PER_MIB


def _watch(urls: list[str], tick_s: float, rounds: int) -> float:
    from watchdog.journal import Journal
    from watchdog.ladder import Policy
    from watchdog.monitor import Monitor

    with tempfile.TemporaryDirectory() as state:
        journal = Journal.open(Path(state))
        monitor = Monitor("bench", Policy(interval_s=tick_s, timeout_s=tick_s / 6), journal=journal)
        for number, url in enumerate(urls):
            monitor.register_peer(f"p{number}", url)
        monitor.start()
        time.sleep(tick_s * 1.5)  # the first round connects; what lasts is measured
        begun_s = time.process_time()
        time.sleep(tick_s * rounds)
        spent_s = time.process_time() - begun_s
        monitor.stop()
        journal.close()
    return spent_s / rounds


def _ask_plainly(urls: list[str], tick_s: float, rounds: int) -> float:
    import requests

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda url: requests.get(url, timeout=tick_s), urls))
        begun_s = time.process_time()
        for _ in range(rounds):
            list(pool.map(lambda url: requests.get(url, timeout=tick_s), urls))
    return (time.process_time() - begun_s) / rounds


# Watchers that share a journal


def _journal(size: Size) -> list[str]:
    print(f"{WATCHERS} watchers writing to one journal ...", flush=True)
    with tempfile.TemporaryDirectory() as state:
        alone = _waits(1, state, size.transactions)
        together = _waits(WATCHERS, state, size.transactions)
    rows = [
        (who, what, *(f"{value:.2f}" for value in (median(waits), p99(waits), max(waits))))
        for who, each in (("one watcher", alone), (f"{WATCHERS} watchers at once", together))
        for what, waits in each.items()
    ]
    longest_ms = max(together[LOCK])
    return [
        "## One journal: the lock, a miss, an order",
        "",
        f"As a watcher writes: {MISSES_A_ROUND} misses a round, then an order, which puts all of them on disk.",
        "",
        *table(("who", "until", "median ms", "p99 ms", "longest ms"), rows),
        "",
        f"Goal: no wait for the lock over {LOCK_WAIT_GOAL_MS} ms. Longest: {longest_ms:.1f} ms, "
        f"{met(longest_ms <= LOCK_WAIT_GOAL_MS)}.",
        "",
    ]


def _waits(watchers: int, state: str, transactions: int) -> dict[str, list[float]]:
    """What was waited for -> how long each time, in milliseconds."""
    with multiprocessing.get_context("spawn").Pool(watchers) as pool:
        each = pool.starmap(_write, [(state, f"w{n}", transactions) for n in range(watchers)])
    return {what: [wait for waits in each for wait in waits[what]] for what in (LOCK, WRITTEN, ON_DISK)}


def _write(state: str, watcher: str, transactions: int) -> dict[str, list[float]]:
    """About as often as thirty flapping peers make a watcher write."""
    from watchdog.clock import moment
    from watchdog.journal import Journal
    from watchdog.mesh.local import LocalCoordinator

    journal = Journal.open(Path(state))
    coordinator = LocalCoordinator(journal)
    waits: dict[str, list[float]] = {LOCK: [], WRITTEN: [], ON_DISK: []}
    for number in range(transactions):
        an_order = number % MISSES_A_ROUND == MISSES_A_ROUND - 1 or number == transactions - 1
        begun_s = time.monotonic()
        with journal.transaction(flushed=an_order):
            waits[LOCK].append((time.monotonic() - begun_s) * MS_PER_S)
            coordinator.suspect(watcher, f"p{number % MISSES_A_ROUND}", number, moment())
        waits[ON_DISK if an_order else WRITTEN].append((time.monotonic() - begun_s) * MS_PER_S)
        time.sleep(0.005)
    journal.close()
    return waits


if __name__ == "__main__":
    _be_child()
