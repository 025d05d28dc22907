"""Who an isolated target talked to, as the journal keeps it, as JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from watchdog.actions import programs
from watchdog.clock import Moment, rfc3339
from watchdog.errors import KernelRefused
from watchdog.intents import Intent
from watchdog.kernel import flows
from watchdog.kernel.flows import Flow, Flows
from watchdog.kernel.programs import Hook
from watchdog.kernel.slots import Counters

KEPT = 50
"""Flows that the journal keeps of an isolation, the busiest ones."""

SHOWN = 10
"""Flows that people are shown."""

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
WAYS = {Hook.EGRESS: "out", Hook.INGRESS: "in"}


def of(intent: Intent, dropped: Counters | None, at: Moment) -> dict[str, Any] | None:
    """What is known of an isolation's flows; None where nothing is, or where they cannot be read."""
    try:
        found = flows.read_of_programs(programs.ids(intent.held_by).values())
    except KernelRefused:
        return None  # nobody stays cut off because of it
    return None if found is None else facts_of(found, dropped, at)


def facts_of(found: Flows, dropped: Counters | None, at: Moment, most: int = KEPT) -> dict[str, Any]:
    """The busiest flows, and how much is known of the others."""
    packets = dropped.ingress.packets + dropped.egress.packets if dropped else found.packets
    return {
        "seen": found.seen,
        "known": len(found.listed),
        "packets_of_unknown": max(0, packets - found.packets),
        "top": [_facts(flow, at) for flow in found.listed[:most]],
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
    }


def _when(s: float, at: Moment) -> str:
    """A time of CLOCK_BOOTTIME on the wall clock of now."""
    return rfc3339(at.utc - timedelta(seconds=at.s - s))


def in_words(facts: Mapping[str, Any], most: int = SHOWN) -> list[str]:
    """The busiest flows, a line each, and how many more there are."""
    top = facts["top"][:most]
    lines = [_line(flow) for flow in top]
    more = facts["seen"] - len(top)
    return [*lines, f"and {more} flows more"] if more > 0 else lines


def _line(flow: Mapping[str, Any]) -> str:
    port = f" port {flow['port']}" if flow["port"] else ""
    arrow = f"{flow['source']} -> {flow['destination']}{port}" if flow["destination"] else "not IP"
    times = f"{flow['first'][11:19]} to {flow['last'][11:19]}"
    at_least = "" if flow["whole"] else "at least "
    return f"{flow['direction']:<3} {flow['protocol']:<5} {arrow}: {at_least}{flow['packets']} packets, {times}"
