"""`status`: what this host knows, with or without a watcher running."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from watchdog import clock
from watchdog.actions import shadow
from watchdog.actions.holding import Result
from watchdog.actions.place import Place
from watchdog.cli import report
from watchdog.cli.app import common, need_root, paths_option, place_of, usable
from watchdog.cli.output import Output, table
from watchdog.config import Config
from watchdog.errors import WatchdogError
from watchdog.intents import State
from watchdog.keeper import view_of
from watchdog.kernel.layers.base import FROZEN
from watchdog.mesh import coordinator_of
from watchdog.model import Status
from watchdog.numbers import counted
from watchdog.status import document, published
from watchdog.status.document import IsolationView
from watchdog.status.page import age
from watchdog.status.published import Published

UNKNOWN = "UNKNOWN"
NOT_VERIFIED = "; whoever answers does not say who it is"
RELEASED = "it is isolated no more, and was not asked since"
OPEN = "it is NOT cut off, though the journal has an isolation of it"
WORST_FIRST = (Status.ISOLATED.value, Status.OFFLINE.value, Status.DEGRADED.value, UNKNOWN, Status.HEALTHY.value)
EXIT_OF = {
    Status.ISOLATED.value: document.EXIT_ISOLATED,
    Status.OFFLINE.value: document.EXIT_IMPAIRED,
    Status.DEGRADED.value: document.EXIT_IMPAIRED,
    UNKNOWN: document.EXIT_UNKNOWN,
    Status.HEALTHY.value: document.EXIT_HEALTHY,
}


@click.command()
@common
@paths_option
def verb(config_path: Path | None, as_json: bool, all_paths: bool) -> int:
    """Peers, isolations, receivers and watchers of this host, as they are now.

    Isolations are asked of the kernel, peers of the watchers that are alive. Ends with 0 all healthy, 1 one is
    degraded or offline, 2 one is isolated, 3 one is unknown: no live watcher has a word on it.
    """
    output = Output(as_json=as_json)
    need_root()
    settings, _ = usable(config_path)
    with place_of(settings, to_read=True) as place:
        isolations = [view_of(intent, place) for intent in place.intents.in_force()]
        shadows = [shadow.verify(intent, place) for intent in place.intents.shadows()]
        silences = coordinator_of(place.journal).silences(clock.moment())
        backlog = _backlog(settings, place)
    watchers = published.read_all(settings.paths.run)
    peers = merge(watchers, [peer.name for peer in settings.peers], {view.peer: view.holds for view in isolations})
    facts = {
        "generated_at": clock.rfc3339(clock.utc_now()),
        "peers": peers,
        "isolations": [document.isolation_facts(view) for view in isolations],
        "shadows": [report.shadow_facts_of(result) for result in shadows],
        "silences": [document.silence_facts(silence) for silence in silences.values()],
        "watchers": [{"self": w.watcher, "alive": w.alive, "status": w.document or None} for w in watchers],
        "outbox": backlog,
    }
    output.document("host-status", 1, facts)
    if not as_json:
        _print(output, peers, isolations, shadows, facts, all_paths=all_paths)
    if any(view.holds for view in isolations):
        return document.EXIT_ISOLATED
    if isolations:
        return document.EXIT_UNKNOWN
    return next((EXIT_OF[status] for status in WORST_FIRST if any(p["status"] == status for p in peers)), 0)


def merge(watchers: list[Published], configured_peers: list[str], isolated: Mapping[str, bool]) -> list[dict[str, Any]]:
    """One row a peer: the worst that a live watcher believes; what no live watcher has a word on is unknown.

    `isolated` says of those that are meant to be isolated whether they are cut off.
    """
    names = list(dict.fromkeys([*configured_peers, *(row["name"] for w in watchers for row in _rows(w))]))
    return [_merged(name, watchers, isolated.get(name)) for name in names]


def _merged(name: str, watchers: list[Published], cut_off: bool | None) -> dict[str, Any]:
    words = {w.watcher: row for w in watchers if w.alive for row in _rows(w) if row["name"] == name}
    heard = {watcher: row for watcher, row in words.items() if not _is_unknown(row)}
    by_status = {row["status"]: row for row in heard.values()}
    worst = next((status for status in WORST_FIRST if status in by_status), UNKNOWN)
    unasked = next((row["unasked"] for row in words.values() if row.get("unasked")), "")
    nothing = {"name": name, "detail": unasked or "no live watcher has a word on it"}
    row = dict(by_status.get(worst) or nothing)
    row["status"] = Status.ISOLATED.value if cut_off else worst
    if cut_off is False:
        row["status"], row["detail"] = UNKNOWN, OPEN
    elif cut_off is None and worst == Status.ISOLATED.value:
        row["status"], row["detail"] = UNKNOWN, RELEASED
    row["seen_by"] = {watcher: row["status"] if watcher in heard else UNKNOWN for watcher, row in words.items()}
    return row


def _rows(watcher: Published) -> list[dict[str, Any]]:
    peers = watcher.document.get("peers")
    return [row for row in peers if isinstance(row, dict) and "name" in row] if isinstance(peers, list) else []


def _is_unknown(row: dict[str, Any]) -> bool:
    never = row.get("last_seen") is None and not row.get("missed_count")
    return row.get("status") == Status.HEALTHY.value and (never or bool(row.get("unasked")))


def _backlog(settings: Config, place: Place) -> dict[str, Any]:
    import socket

    from watchdog.daemon import receivers
    from watchdog.outbox import Outbox

    try:
        pending = Outbox(place.journal, receivers(settings), host=socket.gethostname()).pending(clock.utc_now())
    except WatchdogError as error:
        return {"error": error.one_line()}
    return {name: document.backlog_facts(document.Backlog(*each)) for name, each in pending.items()}


def _print(
    output: Output,
    peers: list[dict[str, Any]],
    isolations: list[IsolationView],
    shadows: list[Result],
    facts: dict[str, Any],
    *,
    all_paths: bool,
) -> None:
    if peers:
        header = ("PEER", "STATUS", "MISSED", "RESTARTS", "LAST SEEN", "SEEN BY", "DETAIL")
        table([_peer_row(row, clock.utc_now()) for row in peers], header)
    else:
        output.words("No peers are configured")
    for view in isolations:
        where = ", ".join(part for part in (view.unit, view.cgroup) if part)
        frozen = " and frozen" if view.level == FROZEN and not view.holds_nothing else ""
        whom = view.peer or view.unit or view.cgroup
        output.words(
            f"{_how(view)} {whom}{frozen} since {clock.rfc3339(view.since)}: {view.reason}",
            f"  {where}{f', moved there from {view.moved_from}' if view.moved_from else ''}",
            f"  dropped: {counted(view.dropped.egress_packets, 'packet')} out, {view.dropped.ingress_packets:,} in"
            + report.frames_in_words(view.dropped.frames_out, view.dropped.frames_in)
            + (f"; {counted(view.refused, 'call')} refused" if view.refused else ""),
        )
        output.words(*(f"  {line}" for line in report.until_in_words(view.until, overdue=view.overdue)))
        say = report.paths_in_words if all_paths else report.paths_in_short
        output.words(*(f"  {line}" for line in say(view.paths)))
        if view.drift:
            remedy = "" if view.holds_nothing else "; put it back with: watchdog-mesh reconcile"
            output.words(f"  NOT AS MEANT: {view.drift}{remedy}")
    for watched in shadows:
        output.words(f"SHADOW of {watched.intent.name}, which is NOT isolated: {watched.intent.why.reason}")
        output.words(*(f"  {line}" for line in report.shadow_in_words(watched, clock.moment())))
    for silence in facts["silences"]:
        output.words(f"SILENCED {silence['peer']} until {silence['until']}: {silence['reason']} ({silence['by']})")
    for watcher in facts["watchers"]:
        state = "runs" if watcher["alive"] else "is NOT running"
        trouble = ((watcher["status"] or {}).get("watcher") or {}).get("reason") if watcher["alive"] else ""
        output.words(f"The watcher of {watcher['self']} {state}{f': {trouble}' if trouble else ''}")
    if not facts["watchers"]:
        output.words("No watcher has run on this host since it booted")
    output.words(*(line for name, backlog in facts["outbox"].items() if (line := _of_receiver(name, backlog))))


def _how(view: IsolationView) -> str:
    if view.state != State.ISOLATED:
        return f"{view.state.upper()} (not done: if no command is at work, watchdog-mesh reconcile ends it)"
    if not view.holds:
        return "NOT CUT OFF, as it is meant to be:"
    if view.holds_nothing:
        return "HOLDS NOTHING NOW: the isolation of"
    return "CUT OFF IN PART" if view.uncovered or view.drift else "ISOLATED"


def _of_receiver(name: str, backlog: dict[str, Any] | str) -> str:
    """What there is to say of a receiver, or why nothing can be said of any; "" when it has everything."""
    if isinstance(backlog, str):
        return f"Receivers cannot be told of anything: {backlog}"
    why = backlog["last_error"]
    if backlog["gone_since"]:
        since = f"is GONE since {backlog['gone_since']} ({why}), and gets no more until"
        return f"Receiver {name} {since} its URL is changed or `watchdog-mesh notify test {name}` reaches it"
    pending = counted(backlog["pending"], "event")
    return f"Receiver {name}: {pending} pending: {why or 'not tried yet'}" if backlog["pending"] else ""


def _peer_row(row: dict[str, Any], now: datetime) -> tuple[str, ...]:
    words = row["seen_by"]
    alike = set(words.values()) == {row["status"]}
    seen_by = ", ".join(words if alike else (f"{watcher} {status}" for watcher, status in words.items()))
    last_seen = row.get("last_seen")
    return (
        row["name"],
        row["status"],
        str(row.get("missed_count", "")),
        str(row.get("restart_count", "")),
        _ago((now - clock.from_rfc3339(last_seen)).total_seconds()) if last_seen else "never",
        seen_by or "nobody",
        row.get("detail", "") + ("" if row.get("verified", True) or row["status"] != Status.HEALTHY else NOT_VERIFIED),
    )


def _ago(age_s: float) -> str:
    return f"{age(age_s)} ago" if age_s >= 1 else "now"
