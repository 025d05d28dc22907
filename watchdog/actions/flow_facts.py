"""Who an isolated target talked to, as the journal keeps it, as JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from watchdog.actions import programs
from watchdog.actions.place import Place
from watchdog.clock import Moment, rfc3339
from watchdog.errors import KernelRefused
from watchdog.intents import Intent, Where
from watchdog.kernel import cgroups, elsewhere, flows, tried, visitor_traffic
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.flows import Flow, Flows
from watchdog.kernel.programs import INGRESS, Hook
from watchdog.kernel.slots import Counters
from watchdog.kernel.tried import Tried
from watchdog.numbers import counted

KEPT = 50
"""Flows that the journal keeps of an isolation, the busiest ones."""

SHOWN = 10
"""Flows that people are shown."""

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
WAYS = {Hook.EGRESS: "out", Hook.INGRESS: "in"}


def of(intent: Intent, place: Place, dropped: Counters | None, at: Moment) -> dict[str, Any] | None:
    """What is known of an isolation's flows, our own tries left out; None where nothing is, or where they cannot be
    read."""
    try:
        held = programs.ids(intent.held_by)
        found = flows.read_of_programs(held.values())
        if found is not None and INGRESS.name in held:  # a shadow has no sockets from elsewhere
            found += elsewhere.flows_of(programs.seeing_elsewhere(intent.held_by, place), held[INGRESS.name])
        calls = _refused(intent)
    except KernelRefused:
        return None  # nobody stays cut off because of it
    if found is None:
        return None
    own = [flow for flow in found.listed if visitor_traffic.is_flow(flow)]
    listed = tuple(flow for flow in found.listed if flow not in own)
    agents = replace(found, listed=listed, seen=max(0, found.seen - len(own)))
    return facts_of(agents, dropped, at, refused=calls)


def refused(intent: Intent) -> int:
    """How many calls of it were refused, our own tries left out; 0 where that cannot be read."""
    try:
        return sum(each.times for each in _refused(intent))
    except KernelRefused:
        return 0


def _refused(intent: Intent) -> list[Tried]:
    found = tried.read(programs.common_ids(intent.held_by).values(), _cgroup_ids(intent.where))
    return [each for each in found if not visitor_traffic.is_tried(each)]


def forget(intent: Intent) -> None:
    """What is remembered by its cgroup, and not by its slot, is not to be told of the next isolation."""
    with suppress(KernelRefused):  # nobody stays cut off because of it
        tried.forget(programs.common_ids(intent.held_by).values(), _cgroup_ids(intent.where))


def _cgroup_ids(where: Where) -> set[int]:
    """The cgroup it is in, with those below it where it is there still."""
    cgroup = Cgroup(Path(where.cgroup), where.cgroup_id, Path("/"))
    below = {each.inode for each in cgroups.tree(cgroup)} if where.cgroup and cgroups.exists(cgroup) else set()
    return {where.cgroup_id, *below}


def facts_of(
    found: Flows, dropped: Counters | None, at: Moment, most: int = KEPT, refused: Sequence[Tried] = ()
) -> dict[str, Any]:
    """The busiest flows, calls refused before there was a packet among them; how much is known of the rest."""
    packets = dropped.ingress.packets + dropped.egress.packets if dropped else found.packets
    listed = [*(_facts(flow, at) for flow in found.listed), *(_refused_facts(each, at) for each in refused)]
    listed.sort(key=lambda flow: (flow["packets"], flow["last"]), reverse=True)
    return {
        "seen": found.seen + len(refused),
        "known": len(listed),
        "packets_of_unknown": max(0, packets - found.packets),
        "packets_lost": found.lost,
        "first_packets_lost": found.events_lost,
        "top": listed[:most],
    }


def _facts(flow: Flow, at: Moment) -> dict[str, Any]:
    return {
        "direction": WAYS[flow.direction],
        "protocol": PROTOCOLS.get(flow.protocol, str(flow.protocol)),
        "source": flow.source,
        "source_port": flow.source_port,
        "destination": flow.destination,
        "port": flow.port,
        "packets": flow.packets,
        "bytes": flow.bytes,
        "first": _when(flow.first_s, at),
        "last": _when(flow.last_s, at),
        "whole": flow.is_whole,
        "refused": None,
    }


def _refused_facts(each: Tried, at: Moment) -> dict[str, Any]:
    """A packet for each call: what would have been sent at once. It has no source yet, and no size."""
    return {
        "direction": WAYS[Hook.EGRESS],
        "protocol": PROTOCOLS.get(each.protocol, str(each.protocol)),
        "source": "",
        "source_port": 0,
        "destination": each.address,
        "port": each.port,
        "packets": each.times,
        "bytes": 0,
        "first": _when(each.first_s, at),
        "last": _when(each.last_s, at),
        "whole": True,
        "refused": {"pid": each.pid, "command": each.command},
    }


def _when(s: float, at: Moment) -> str:
    """A time of CLOCK_BOOTTIME on the wall clock of now."""
    return rfc3339(at.utc - timedelta(seconds=at.s - s))


def in_words(facts: Mapping[str, Any], most: int = SHOWN) -> list[str]:
    """The busiest flows, a line each, how many more there are, and what the kernel could not keep of them."""
    top = facts["top"][:most]
    lines = [_line(flow) for flow in top]
    more = facts["seen"] - len(top)
    lines += [f"and {counted(more, 'flow')} more"] if more > 0 else []
    lines += [f"{counted(lost, 'packet')} in no flow: no memory was left" for lost in _lost(facts, "packets_lost")]
    return lines + [
        f"{counted(lost, 'flow')} of those began when there was no room for their first packets"
        for lost in _lost(facts, "first_packets_lost")
    ]


def _lost(facts: Mapping[str, Any], what: str) -> list[int]:
    """The number, where there is one that is not 0: records of earlier versions have none."""
    return [facts[what]] if facts.get(what) else []


def _line(flow: Mapping[str, Any]) -> str:
    port = f" port {flow['port']}" if flow["port"] else ""
    arrow = f"{flow['source']} -> {flow['destination']}{port}".lstrip() if flow["destination"] else "not IP"
    times = f"{flow['first'][11:19]} to {flow['last'][11:19]}"
    if by := flow["refused"]:
        count = f"{counted(flow['packets'], 'call')} refused, {times}, last of process {by['pid']} ({by['command']})"
    else:
        count = f"{'' if flow['whole'] else 'at least '}{counted(flow['packets'], 'packet')}, {times}"
    return f"{flow['direction']:<3} {flow['protocol']:<5} {arrow}: {count}"
