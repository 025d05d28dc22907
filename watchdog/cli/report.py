"""How isolations are told: the same words and the same JSON for isolate, verify, release and status."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from watchdog.actions import flow_facts
from watchdog.actions.holding import Result
from watchdog.actions.planning import NOT_BUILT, Plan
from watchdog.clock import Moment, rfc3339
from watchdog.intents import Allowed, Inside, State, Where, Why
from watchdog.kernel.layers.base import FROZEN
from watchdog.kernel.layers.sequence import Standing
from watchdog.kernel.slots import Counters, Traffic
from watchdog.numbers import counted
from watchdog.paths import catalogue
from watchdog.paths.facts import PEERS_AT_MOST, Looked
from watchdog.paths.words import Coverage, Facts, Need, Verdict

ESCAPES = {
    Need.CGROUP_WRITE: "leave its cgroup",
    Need.SYS_ADMIN: "take programs off that hold it",
    Need.NET_ADMIN: "take filters off its links",
}


ONLY_FROZEN = "only --level frozen holds against that"

ALLOWED_SHOWN = 10
"""Entries of an allow-list that people are shown."""

PARTIAL = "partial"
"""How people and scripts are told of an isolation in force that leaves a way open."""

STOPPED, FREE = "all is stopped that is said to be covered", "nothing is stopped any more"
"""What a try from inside should find during an isolation, and after it."""


def facts_of(result: Result) -> dict[str, Any]:
    """One isolation as JSON."""
    intent = result.intent
    return {
        "target": intent.name,
        "peer": intent.where.peer or None,
        "unit": intent.where.unit or None,
        "cgroup": intent.where.cgroup or None,
        "moved": _moved(intent.where),
        "state": PARTIAL if intent.state is State.ISOLATED and result.is_partial else intent.state.value,
        "level": intent.why.level,
        "reason": intent.why.reason,
        "incident": intent.why.incident or None,
        "overruled": list(intent.why.overruled),
        "since": rfc3339(intent.since),
        "until": rfc3339(intent.why.until.utc) if intent.why.until else None,
        "changed": result.changed,
        "changes": list(result.changes),
        "not_taken": list(result.not_taken),
        "holds": result.holds,
        "partial": result.is_partial,
        "gaps": list(result.gaps),
        "layers": [_layer(each) for each in result.standings],
        "paths": [asdict(each) for each in result.verdicts],
        "agent": _agent(result.looked) if result.looked else None,
        "inside": _inside(intent.inside) if intent.inside else None,
        "dropped": _dropped(result.dropped),
        "allow": [_allowed(each) for each in intent.why.allow or ()],
        "heartbeat_from": None if result.let_in is None else list(result.let_in),
        "allowed": _both_ways(result.dropped, ("allowed_in", "allowed_out")),
        "flows": result.flows,
    }


def _inside(inside: Inside) -> dict[str, Any]:
    """What was found from inside, and when; `passed` is null where nothing could be tried."""
    return {
        "time": rfc3339(inside.utc),
        "took_s": round(inside.took_s, 3),
        "passed": inside.passed,
        "tried": inside.tried,
        "stopped": inside.stopped,
        "untried": inside.untried,
        "wrong": list(inside.wrong),
        "reason": inside.why_not or None,
    }


def inside_in_words(inside: Inside | None, right: str = STOPPED, *, is_old: bool = False) -> list[str]:
    """What was found from inside, for people, in one line; `right` is what ought to be.

    `is_old` says that it was tried before the isolation was lost: what it found is true no more.
    """
    if inside is None:
        return ["not verified from inside yet"]
    when = rfc3339(inside.utc)[11:19]
    if inside.why_not:
        return [f"NOT verified from inside ({when}): {inside.why_not}"]
    if inside.wrong:
        return [f"NOT as it should be, tried from inside ({when}): {right} but {', '.join(inside.wrong)}"]
    if is_old:
        return [f"verified from inside before it was lost ({when}), which says nothing of now: try it with --inside"]
    return [f"verified from inside ({when}): {inside.tried} tries, {inside.stopped} stopped: {right}"]


def _moved(where: Where) -> dict[str, Any] | None:
    """Who was moved into a cgroup that was made for it, and from where; null where the cgroup is the agent's own."""
    moved = where.moved
    if moved is None:
        return None
    return {
        "from": moved.cgroup,
        "processes": [was.pid for was in moved.processes],
        "unclear": [was.pid for was in moved.unclear],
    }


def moved_back_in_words(result: Result, *, any_moved: bool) -> list[str]:
    """Where its processes are again after a release, for people; `any_moved` is whether there were any left."""
    moved = result.intent.where.moved
    if moved is None or result.gaps:
        return []
    said = f"moved back to {moved.cgroup}" if any_moved else "nothing of it runs any more"
    return [f"{said}, and the cgroup that was made is gone"]


def moved_in_words(result: Result) -> list[str]:
    """Where its processes were before, for people."""
    moved = result.intent.where.moved
    if moved is None:
        return []
    return [f"moved there from {moved.cgroup}: {_processes(len(moved.processes))}; a release moves back"]


def _agent(looked: Looked) -> dict[str, Any]:
    """What was found out by looking, null for what could not be; what is not known counts as if it were so."""
    facts = looked.facts
    return {
        "runs": looked.runs,
        "may": _sorted(facts.may),
        "given": _sorted(facts.given),
        "holds": _sorted(facts.holds),
        "abroad": _sorted(facts.abroad),
        "traces": facts.traces,
        "spliced": facts.spliced,
        "own_network_namespace": facts.own_netns,
        "vsock": facts.vsock,
        "netlink": facts.netlink,
        "other_families": _sorted(facts.others),
        "unix_peers": list(looked.unix_peers),
        "unix_addresses": list(looked.unix_addresses),
    }


def _sorted(found: Collection[str] | None) -> list[str] | None:
    return None if found is None else sorted(found)


def _layer(standing: Standing) -> dict[str, Any]:
    return {
        "layer": standing.layer,
        "holds": standing.holds,
        "not_applicable": standing.not_applicable or None,
        "missing": standing.missing or None,
        "gaps": list(standing.gaps),
    }


def uncovered_in_words(result: Result) -> list[str]:
    """What is open of it, for people, and what would stop that; then how many paths that is of how many."""
    lines = [f"not covered: {each}" for each in (*result.gaps, *result.uncovered)]
    lines += [_tally(result.verdicts)] if result.verdicts else []
    looked = result.looked
    if looked is not None and result.uncovered:
        if named := [name for name in looked.unix_peers if name]:
            lines.append(f"its unix connections lead to {', '.join(named[:PEERS_AT_MOST])}")
        if named := [name for name in looked.unix_addresses if name]:
            lines.append(f"others can connect to it at {', '.join(named[:PEERS_AT_MOST])}")
        if looked.facts.others:
            lines.append(f"other socket families of this kernel: {', '.join(sorted(looked.facts.others))}")
        if looked.is_privileged and result.intent.why.level != FROZEN:
            lines.append(_escapes(looked.facts))
    return lines


def _escapes(facts: Facts) -> str:
    can = " and ".join(what for need, what in ESCAPES.items() if facts.may is None or need in facts.may)
    held = f"io_uring {catalogue.WORKS_ON}" if catalogue.outruns_freezing(facts) else ONLY_FROZEN
    return f"it can {can} (a watcher sees it within 5 s, and does not prevent it); {held}"


def paths_in_words(verdicts: Iterable[Verdict]) -> list[str]:
    """Every path and what is said of it, for people, a line each."""
    return [f"{each.coverage:14}  {each.path:5}  {each.title} ({each.why})" for each in verdicts]


def paths_in_short(verdicts: Collection[Verdict]) -> list[str]:
    """What is open, by its titles, and how many paths that is of how many."""
    open_ones = [each.title for each in verdicts if each.coverage is Coverage.NOT_COVERED]
    return [_tally(verdicts)] * bool(verdicts) + [f"not covered: {title}" for title in open_ones]


def _tally(verdicts: Collection[Verdict]) -> str:
    said = [each.coverage for each in verdicts]
    return "paths: " + ", ".join(f"{said.count(coverage)} {coverage}" for coverage in Coverage)


def plan_facts_of(plan: Plan) -> dict[str, Any]:
    """What isolate would do, as JSON."""
    where, why = plan.where, plan.why
    return {
        "target": plan.name,
        "peer": where.peer or None,
        "unit": where.unit or None,
        "level": why.level,
        "reason": why.reason,
        "overruled": list(why.overruled),
        "until": rfc3339(why.until.utc) if why.until else None,
        "allow": [_allowed(each) for each in why.allow or ()],
        "would_change": plan.changed,
        "cgroups": [str(cgroup.path) for cgroup in plan.cgroups],
        "moved": _moved(where),
        "processes": plan.processes,
        "layers": [_layer(each) for each in plan.steps],
        "drop_in": str(plan.drop_in) if plan.drop_in else None,
        "ready": plan.ready,
        "stays": list(plan.foreign),
        "paths": [asdict(each) for each in plan.verdicts],
        "agent": _agent(plan.looked) if plan.looked else None,
    }


def plan_in_words(plan: Plan, at: Moment) -> list[str]:
    """What isolate would do, for people."""
    held = ", ".join(str(cgroup.path) for cgroup in plan.cgroups) or "no cgroup now: nothing of it runs"
    held = plan.where.cgroup if plan.moves else held
    if not plan.changed:
        is_open = any(each.coverage is Coverage.NOT_COVERED for each in plan.verdicts)
        how = "cut off in part" if is_open else "isolated"
        return [f"{plan.name} is {how} already, and nothing would be changed: {held}"]
    lines = [*(f"Although {objection} (--force)" for objection in plan.why.overruled)]
    lines += [f"{plan.name} would be isolated, and nothing was done: {held}, {_processes(plan.processes)}"]
    lines += [f"  would be moved there: {each}" for each in plan.moves]
    lines += [] if plan.ready else ["  no programs wait for it: they would be built first, which takes seconds"]
    lines += [f"  {_step(each)}" for each in plan.steps]
    lines += [f"  unit: {plan.drop_in} would be written, and systemd would read it"] if plan.drop_in else []
    lines += [f"  stays: {other}" for other in plan.foreign]
    lines += [f"  {line}" for line in allowed_in_words(plan.why.allow or (), at, "would be allowed")]
    return lines + [f"  then {line}" for line in paths_in_short(plan.verdicts)]


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"


def _step(standing: Standing) -> str:
    if standing.not_applicable:
        return f"{standing.layer}: not needed: {standing.not_applicable}"
    if standing.missing == NOT_BUILT:
        return f"{standing.layer}: would be put in force, if the kernel takes its programs: {NOT_BUILT}"
    if standing.missing:
        return f"{standing.layer}: not possible: {standing.missing}"
    if standing.gaps:
        return f"{standing.layer}: would be put in force (now: {'; '.join(standing.gaps)})"
    return f"{standing.layer}: nothing to do"


def shadow_facts_of(result: Result) -> dict[str, Any]:
    """One shadow as JSON: what would be dropped. `holds` says, as everywhere, whether the target is cut off."""
    facts = facts_of(result)
    facts["would_drop"], facts["would_allow"] = facts.pop("dropped"), facts.pop("allowed")
    return facts | {"watched": not result.gaps and not result.idle}


def _dropped(counters: Counters | None) -> dict[str, Any] | None:
    if counters is None:
        return None
    frames = {"ingress": counters.frames_in.packets, "egress": counters.frames_out.packets}
    return {**(_both_ways(counters, ("ingress", "egress")) or {}), "frames": frames}


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


def allowed_in_words(allow: Sequence[Allowed], at: Moment, said: str = "allowed") -> list[str]:
    """What may pass nevertheless, and what may not any more, for people."""
    by_end: dict[bool, list[Allowed]] = {False: [], True: []}
    for each in allow:
        by_end[each.until is not None and each.until.is_over(at)].append(each)
    return _at_most(said, by_end[False]) + _at_most("expired, and allows nothing", by_end[True])


def let_in_in_words(result: Result) -> list[str]:
    """Who may ask for its heartbeat, for people; nothing where nobody was to."""
    if result.let_in is None:
        return []
    return [f"its heartbeat can be asked for from {each}" for each in result.let_in] or [
        "its heartbeat can be asked for by nobody: no watcher ran here when this was last seen to"
    ]


def _at_most(said: str, entries: Sequence[Allowed]) -> list[str]:
    more = len(entries) - ALLOWED_SHOWN
    lines = [f"{said}: {each}" for each in entries[:ALLOWED_SHOWN]]
    return [*lines, f"{said}: {more:,} more, which --json lists"] if more > 0 else lines


def until_in_words(until: datetime | None, *, overdue: bool) -> list[str]:
    """When it ends by itself, for people; nothing where it does not."""
    if until is None:
        return []
    if overdue:
        return [f"OVERDUE since {rfc3339(until)}: a watcher releases it, or: watchdog-mesh reconcile"]
    return [f"until {rfc3339(until)}: a watcher, or reconcile, releases it then"]


def ending_in_words(why: Why, at: Moment) -> list[str]:
    """The same, of an intent."""
    return until_in_words(why.until.utc, overdue=why.until.is_over(at)) if why.until else []


def flows_in_words(result: Result) -> list[str]:
    """Who it talked to, for people."""
    return flow_facts.in_words(result.flows) if result.flows else []


def shadow_in_words(result: Result, at: Moment) -> list[str]:
    """What a shadow has seen, for people."""
    counted = dropped_in_words(result, "would have been dropped so far")
    return [
        *(f"not watched: {gap}" for gap in result.gaps),
        counted,
        *ending_in_words(result.intent.why, at),
        *allowed_in_words(result.intent.why.allow or (), at),
        *flows_in_words(result),
    ]


def dropped_in_words(result: Result, said: str = "dropped so far") -> str:
    """What was dropped, for people."""
    if result.dropped is None:
        return f"{said}: nothing is known"
    inward, outward = result.dropped.ingress, result.dropped.egress
    return (
        f"{said}: {counted(outward.packets, 'packet')} ({counted(outward.bytes, 'byte')}) out, "
        f"{counted(inward.packets, 'packet')} ({counted(inward.bytes, 'byte')}) in"
        + frames_in_words(result.dropped.frames_out.packets, result.dropped.frames_in.packets)
    )


def frames_in_words(outward: int, inward: int) -> str:
    """What was dropped at links beside it, where anything was."""
    return f"; at links {counted(outward, 'frame')} out, {inward:,} in" if outward or inward else ""
