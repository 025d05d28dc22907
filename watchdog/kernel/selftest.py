"""Prove on a scratch cgroup that this host can isolate: attach, drop, count, detach, pass again.

Uses a cgroup and loopback sockets of its own and nothing else, and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import WatchdogError
from watchdog.kernel import cgroups, gate, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.loopback import PATIENCE_S, SILENCE_S, Loopback, Round, loopback
from watchdog.kernel.scratch import scratch_tree
from watchdog.kernel.slots import Counters, Slot

SCRATCH_PREFIX = cgroups.SELFTEST_PREFIX


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def prove(slot: Slot, parent: Path | None = None) -> list[Check]:
    """Try the slot, which must be free, on a scratch cgroup below `parent` (default: the v2 root).

    Takes less than a second. A check that fails says what to do; the steps after it are left out.
    """
    checks: list[Check] = []
    try:
        with (
            scratch_tree(parent or cgroups.find_v2_root(), SCRATCH_PREFIX) as cgroup,
            loopback(cgroup) as traffic,
            closing(_steps(cgroup, slot, traffic)) as steps,
        ):
            for check in steps:
                checks.append(check)
                if not check.ok:
                    break
    except WatchdogError as error:
        checks.append(Check("self-test", ok=False, detail=error.message, remedy=error.hint))
    return checks


def _steps(cgroup: Cgroup, slot: Slot, traffic: Loopback) -> Generator[Check, None, None]:
    before = traffic.round(PATIENCE_S)
    yield _check_all_pass("passes before", before)
    counted = slots.counters(slot)
    try:
        gate.attach(cgroup, slot)
        yield Check("attach", gate.holds(cgroup, slot), "ingress and egress, verified by a query")
        yield _check_none_pass("drops while attached", traffic.round(SILENCE_S))
        yield _check_counted(counted, slots.counters(slot), before.tried)
    finally:
        gate.detach(cgroup, slot.program_ids)
    yield Check("detach", not gate.holds(cgroup, slot), "both programs gone, verified by a query")
    yield _check_all_pass("passes again", traffic.round(PATIENCE_S))


def _check_all_pass(name: str, seen: Round) -> Check:
    lost = sorted(seen.tried - seen.passed)
    if not lost:
        return Check(name, ok=True, detail=", ".join(sorted(seen.passed)))
    return Check(name, ok=False, detail=f"did not arrive: {', '.join(lost)}", remedy="does a firewall block loopback?")


def _check_none_pass(name: str, seen: Round) -> Check:
    if not seen.passed:
        return Check(name, ok=True, detail=", ".join(sorted(seen.tried)))
    leaked = f"got through: {', '.join(sorted(seen.passed))}"
    return Check(name, ok=False, detail=leaked, remedy="this kernel does not isolate by cgroup; do not rely on it")


def _check_counted(before: Counters, after: Counters, tried: frozenset[str]) -> Check:
    """A TCP connect may repeat its packet, so more than one each is right too."""
    egress, ingress = after.egress.packets - before.egress.packets, after.ingress.packets - before.ingress.packets
    sent = sum(path.endswith("out") for path in tried)
    received = sum(path.endswith("in") for path in tried)
    ok = egress >= sent and ingress >= received
    wanted = f"want at least {sent} and {received}; is the slot's map damaged? remove its pins, it is built again"
    return Check("counts", ok, f"{egress} packets out, {ingress} in", "" if ok else wanted)
