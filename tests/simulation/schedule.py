"""One schedule, from its seed: a mesh, a time of faults, then calm with one dead agent or none."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation import faults
from tests.simulation.checks import Checks
from tests.simulation.faults import Mesh
from tests.simulation.host import NEVER, START_S, Host, SharedJournal
from tests.simulation.process import RESTART_TIMEOUT_S, SLOWEST_RESTART_S, Parts, Process
from watchdog.ladder import Policy
from watchdog.ordering import ISOLATION_LEASE_S
from watchdog.quorum import CLEAN_TICKS_WANTED, MOST_SCORE, SETTLED_TICKS_WANTED, STORM_TICKS
from watchdog.watcher import LEASE_MARGIN_S

NAMES = ("immune", "shield", "sidecar", "scribe", "scout")
MESH_SIZES = (2, 3, 3, 3, 3, 4, 5)
HOW_MANY_BREAK_TWO = 0.3
HOW_MANY_END_IN_DEATH = 0.5
HOW_MANY_END_WITH_TWO = 0.5
"""Of those with three agents and more that do not end in death: two that were not restarted lately hang together, and a
restart cures each."""
NEARLY_TOGETHER_S = 3.0
SETTLE_TICKS = 4
"""Ticks after the last thing that had to happen, in which nothing else may."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What one schedule did."""

    seed: int
    events: int
    restarts: int
    isolations: int
    simulated_s: float


def run(seed: int, journal: SharedJournal, parts: Parts, trace: Callable[[str], None] | None = None) -> Ran:
    """Run the schedule of that seed; raises Violation when something happens that must not."""
    journal.empty()
    rng = random.Random(seed)
    mesh = make(rng, journal, parts)
    host, checks = mesh.host, mesh.checks
    host.trace = trace
    chaos_s = rng.uniform(4, 24) * host.policy.interval_s
    for process in mesh.processes.values():
        host.later(0.0, process.start)
    faults.draw(mesh, chaos_s)
    more = random.Random(f"more {seed}")  # of its own: what else is drawn stays what it was
    if more.random() < HOW_MANY_BREAK_TWO:
        mesh.later(more.uniform(0, chaos_s), lambda: faults.break_two(mesh, more))
    host.run_until(START_S + chaos_s + rng.uniform(0, 6) * host.policy.interval_s)
    _calm(mesh)
    if len(host.names) > 2 and not host.isolated and more.random() < HOW_MANY_END_WITH_TWO:
        _hang_two(mesh, more)
    return Ran(seed, host.happened, checks.restarts, checks.isolations, host.now_s - START_S)


def make(rng: random.Random, journal: SharedJournal, parts: Parts) -> Mesh:
    """A mesh of some size, with some policy."""
    interval_s = rng.choice((30.0, 30.0, 10.0, 300.0))
    policy = Policy(
        interval_s=interval_s,
        timeout_s=min(5.0, interval_s / 3),
        missed_before_restart=rng.choice((2, 3, 3)),
        restarts_before_isolation=rng.choice((1, 2, 3, 3)),
        forgive_after_s=interval_s * rng.choice((3, 5, 10)),
    )
    names = list(NAMES[: rng.choice(MESH_SIZES)])
    host = Host(rng, policy, journal, names)
    host.restarts_hang = rng.choice((0.0, 0.0, 0.3))
    host.isolations_fail = rng.choice((0.0, 0.0, 0.5))
    checks = Checks(host)
    own_probed = rng.random() < 0.5
    spread_s = rng.choice((interval_s, NEARLY_TOGETHER_S))
    processes = {
        name: Process(name, host, checks, parts, phase_s=rng.uniform(0, spread_s), own_probed=own_probed)
        for name in names
    }
    return Mesh(host, checks, processes)


def _calm(mesh: Mesh) -> None:
    host, checks = mesh.host, mesh.checks
    interval_s = host.policy.interval_s
    faults.end_all(mesh)
    host.run_until(host.now_s + SETTLE_TICKS * interval_s + RESTART_TIMEOUT_S)
    faults.release(mesh)  # what was ordered before may be carried out after
    last_s = host.now_s + recovery_s(host.policy)
    while host.now_s < last_s and checks.not_yet_well(mesh.watchers):
        host.run_until(host.now_s + interval_s)
    checks.on_calm(mesh.watchers)
    if host.rng.random() < HOW_MANY_END_IN_DEATH:
        _die(mesh)


def _die(mesh: Mesh) -> None:
    host, checks = mesh.host, mesh.checks
    victim = host.rng.choice(host.names)
    host.say(f"FAULT    {victim} dies for good")
    crashed = len(host.names) == 2 or host.rng.random() < 0.5  # of two agents the other's word alone is not enough
    host.break_agent(victim, crashed=crashed, cures_in=NEVER)
    most_s = bound_s(host.policy)
    if checks.recent_restarts(victim, host.at()):
        most_s += host.policy.budget_window_s
    host.run_until(host.now_s + most_s, lambda: host.is_isolated(victim))
    checks.must(host.is_isolated(victim), f"{victim} is dead and not isolated after {most_s:.0f} s")
    host.run_until(host.now_s + SETTLE_TICKS * host.policy.interval_s)
    checks.on_isolated(victim, mesh.watchers)


def _hang_two(mesh: Mesh, rng: random.Random) -> None:
    host, checks = mesh.host, mesh.checks
    restarted = {row["name"] for row in host.journal.read("SELECT name FROM peer WHERE restart_count > 0")}
    fresh = [name for name in host.names if name not in restarted and not checks.recent_restarts(name, host.at())]
    if len(fresh) < 2:
        return
    hung = rng.sample(fresh, 2)
    gap_s = rng.uniform(0, 1.5) * host.policy.interval_s
    most_s = gap_s + two_bound_s(host.policy)
    for name, after_s in zip(hung, (0.0, gap_s), strict=True):
        host.say(f"FAULT    {name} hangs in {after_s:.0f} s, until it is restarted")
        host.later(after_s, lambda name=name: host.break_agent(name, crashed=False, cures_in=1))  # type: ignore[misc]
    host.run_until(host.now_s + gap_s)
    host.run_until(host.now_s + most_s, lambda: all(host.is_up(name) for name in hung))
    checks.must(all(host.is_up(name) for name in hung), f"{hung} hang together and are not restarted in {most_s:.0f} s")


def two_bound_s(policy: Policy) -> float:
    """How long it may take until both are restarted: doubt and storm settle, then misses and a restart for each."""
    ticks = STORM_TICKS + 2 * SETTLED_TICKS_WANTED + 2 * (policy.missed_before_restart + 1)
    return ticks * policy.interval_s + 2 * SLOWEST_RESTART_S


def recovery_s(policy: Policy) -> float:
    """How long a mesh may take to be well again: doubt and the health score end, leases and orders run out."""
    ticks = CLEAN_TICKS_WANTED + MOST_SCORE + SETTLE_TICKS
    return ticks * policy.interval_s + RESTART_TIMEOUT_S + LEASE_MARGIN_S + ISOLATION_LEASE_S


def bound_s(policy: Policy) -> float:
    """How long a healthy mesh may take to isolate a dead agent: its misses, a tick for every rung, one to begin."""
    rungs = policy.restarts_before_isolation + 1
    ticks = rungs * (policy.missed_before_restart + 1) + 1
    return ticks * policy.interval_s + rungs * SLOWEST_RESTART_S
