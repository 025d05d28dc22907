"""How isolations are told: the same words and the same JSON for isolate, verify, release and status."""

from __future__ import annotations

from typing import Any

from watchdog.actions import flow_facts
from watchdog.actions.holding import Result
from watchdog.clock import rfc3339
from watchdog.intents import Allowed
from watchdog.kernel.slots import Counters, Traffic


def facts_of(result: Result) -> dict[str, Any]:
    """One isolation as JSON."""
    intent = result.intent
    return {
        "target": intent.name,
        "peer": intent.where.peer or None,
        "unit": intent.where.unit or None,
        "cgroup": intent.where.cgroup or None,
        "state": intent.state.value,
        "level": intent.why.level,
        "reason": intent.why.reason,
        "incident": intent.why.incident or None,
        "overruled": list(intent.why.overruled),
        "since": rfc3339(intent.since),
        "until": rfc3339(intent.why.until.utc) if intent.why.until else None,
        "changed": result.changed,
        "holds": result.holds,
        "gaps": list(result.gaps),
        "dropped": _both_ways(result.dropped, ("ingress", "egress")),
        "allow": [_allowed(each) for each in intent.why.allow or ()],
        "allowed": _both_ways(result.dropped, ("allowed_in", "allowed_out")),
        "flows": result.flows,
    }


def shadow_facts_of(result: Result) -> dict[str, Any]:
    """One shadow as JSON: what would be dropped. `holds` says, as everywhere, whether the target is cut off."""
    facts = facts_of(result)
    facts["would_drop"], facts["would_allow"] = facts.pop("dropped"), facts.pop("allowed")
    return facts | {"watched": not result.gaps and not result.idle}


def _both_ways(counters: Counters | None, fields: tuple[str, str]) -> dict[str, Any] | None:
    if counters is None:
        return None
    return {way: _traffic(getattr(counters, field)) for way, field in zip(("ingress", "egress"), fields, strict=True)}


def _allowed(allowed: Allowed) -> dict[str, Any]:
    return {
        "entry": allowed.entry,
        "heartbeat": allowed.inward,
        "until": rfc3339(allowed.until.utc) if allowed.until else None,
    }


def _traffic(traffic: Traffic) -> dict[str, int]:
    return {"packets": traffic.packets, "bytes": traffic.bytes}


def place_of(result: Result) -> str:
    """Where a target is, for people."""
    where = result.intent.where
    return ", ".join(part for part in (where.unit, where.cgroup) if part) or "no cgroup now"


def allowed_in_words(result: Result) -> list[str]:
    """What may pass nevertheless, for people."""
    return [f"allowed: {each}" for each in result.intent.why.allow or ()]


def flows_in_words(result: Result) -> list[str]:
    """Who it talked to, for people."""
    return flow_facts.in_words(result.flows) if result.flows else []


def shadow_in_words(result: Result) -> list[str]:
    """What a shadow has seen, for people."""
    counted = dropped_in_words(result, "would have been dropped so far")
    return [
        *(f"not watched: {gap}" for gap in result.gaps),
        counted,
        *allowed_in_words(result),
        *flows_in_words(result),
    ]


def dropped_in_words(result: Result, said: str = "dropped so far") -> str:
    """What was dropped, for people."""
    if result.dropped is None:
        return f"{said}: nothing is known"
    inward, outward = result.dropped.ingress, result.dropped.egress
    return (
        f"{said}: {outward.packets} packets ({outward.bytes} bytes) out, "
        f"{inward.packets} packets ({inward.bytes} bytes) in"
    )
