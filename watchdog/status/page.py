"""The status as a page for people: read at 3 am, worst first, in words and colour, without scripts.

Nothing on it can be clicked or sent. Whatever a peer may have written (its answers end up in details and reasons)
is escaped, and characters that would not print are shown as escapes, so that none can reorder the text around it.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html import escape

from watchdog.clock import rfc3339
from watchdog.intents import State
from watchdog.mesh.coordinator import Silence
from watchdog.mesh.overview import Overview
from watchdog.model import PeerStatus, Stats, Status
from watchdog.numbers import counted
from watchdog.status.document import Backlog, Dropped, IsolationView, MeshView, WatcherHealth, is_unknown
from watchdog.status.style import CSS

REFRESH_S = 5
TEXT_CHARS_MAX = 400
UNKNOWN = "NOT KNOWN"
WORST_FIRST = (Status.ISOLATED.value, Status.OFFLINE.value, Status.DEGRADED.value, UNKNOWN, Status.HEALTHY.value)
UNITS_S = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
BYTES_STEP = 1024

_CSS_HASH = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode("ascii")
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(view: MeshView) -> str:
    """The whole page."""
    body = (
        _header(view),
        _verdict(view),
        _isolations(view.isolations, view.generated_at),
        _peers(view.peers, view.mesh, view.generated_at),
        _silences(view.mesh.silences),
        _outbox(view.outbox),
        _footer(view.stats, view.health, view.generated_at),
    )
    return _page(f"{_headline(view)} - {view.self_name}", "".join(body))


def render_unavailable(reason: str) -> str:
    """The page when there is nothing to show; it goes on asking."""
    return _page(
        "NO STATUS",
        '<header><h1>Watchdog Mesh</h1></header><p class="verdict OFFLINE"><b>NO STATUS</b> '
        f"The watcher cannot say how the mesh is: {_text(reason)}</p>",
    )


def age(seconds: float) -> str:
    """An age in its two largest units: "3 min 20 s"; "now" under a second, also when clocks disagree."""
    left = int(seconds)
    for place, (size, unit) in enumerate(UNITS_S):
        if left >= size:
            many, rest = divmod(left, size)
            next_size, next_unit = UNITS_S[place + 1] if place + 1 < len(UNITS_S) else (1, "")
            few = rest // next_size if next_unit else 0
            return f"{many} {unit} {few} {next_unit}" if few else f"{many} {unit}"
    return "now"


def size(count_bytes: int) -> str:
    """Bytes in the largest unit that leaves at least one."""
    amount = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < BYTES_STEP:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= BYTES_STEP
    return f"{amount:.1f} TiB"


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_text(title)}</title><style>{CSS}</style></head>\n<body>{body}</body></html>\n"
    )


def _header(view: MeshView) -> str:
    return (
        f"<header><h1>Watchdog Mesh</h1><p>seen by <b>{_text(view.self_name)}</b> at "
        f"{_clock(view.generated_at)}</p></header>"
    )


def _verdict(view: MeshView) -> str:
    counts = _counts(view)
    worst = next((word for word in WORST_FIRST if counts[word]), UNKNOWN)
    lines = f'<p class="verdict {_css_class(worst)}"><b>{_headline(view)}</b></p>'
    if not view.health.ok:
        lines += (
            '<p class="verdict OFFLINE"><b>THIS WATCHER IS NOT WELL</b> '
            f"{_text(view.health.reason)}. What is shown below may be old.</p>"
        )
    if view.health.self_doubt:
        lines += (
            '<p class="verdict DEGRADED"><b>SELF-DOUBT</b> This watcher acts on nobody: '
            f"{_text(view.health.self_doubt)}.</p>"
        )
    if view.health.storm:
        lines += f'<p class="verdict DEGRADED"><b>STORM</b> Nobody is isolated: {_text(view.health.storm)}.</p>'
    return lines


def _counts(view: MeshView) -> Counter[str]:
    """How many of each: peers, and what else of this host is isolated, as the watcher's own agent."""
    peers = {peer.name for peer in view.peers}
    others = sum(isolation.peer not in peers for isolation in view.isolations)
    return Counter(map(_word, view.peers)) + Counter({Status.ISOLATED.value: others})


def _headline(view: MeshView) -> str:
    counts = _counts(view)
    if not counts:
        return "NO PEERS"
    if set(counts) == {Status.HEALTHY.value}:
        return f"ALL {counts.total()} HEALTHY" if view.health.ok else f"{counts.total()} HEALTHY WHEN LAST SEEN"
    return ", ".join(f"{counts[word]} {word}" for word in WORST_FIRST if counts[word])


def _peers(peers: Iterable[PeerStatus], mesh: Overview, now: datetime) -> str:
    worst_first = sorted(peers, key=lambda peer: (WORST_FIRST.index(_word(peer)), peer.name))
    rows = "".join(_peer(peer, mesh, now) for peer in worst_first)
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("Peer", "Status", "Last heard", "Misses", "Restarts", "Answer")
    )
    return f"<h2>Peers</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _peer(peer: PeerStatus, mesh: Overview, now: datetime) -> str:
    word, votes = _word(peer), mesh.votes.get(peer.name)
    restarted = f"<small>last {_ago(peer.last_restart, now)}</small>" if peer.last_restart else ""
    voted = f"<small>{len(votes.cast)} of {votes.wanted} votes to isolate it</small>" if votes else ""
    silenced = "<small>silenced</small>" if peer.name in mesh.silences else ""
    took = f"<small>in {peer.response_time_ms:.1f} ms</small>" if peer.response_time_ms is not None else ""
    heard = peer.response_time_ms is not None
    unverified = (
        "<small>not verified: the answer does not prove whose it is</small>" if heard and not peer.verified else ""
    )
    return (
        f'<tr class="{_css_class(word)}">'
        f'<th scope="row">{_text(peer.name)}<small>{_text(peer.endpoint)}</small></th>'
        f'<td><span class="word">{word}</span>{silenced}</td>'
        f'<td data-label="Last heard">{_ago(peer.last_seen, now)}</td>'
        f'<td data-label="Misses">{peer.missed_count}{voted}</td>'
        f'<td data-label="Restarts">{peer.restart_count}{restarted}</td>'
        f'<td data-label="Answer">{_text(peer.detail)}{took}{unverified}</td></tr>'
    )


def _silences(silences: Mapping[str, Silence]) -> str:
    lines = "".join(
        f"<li><b>{_text(peer)}</b> until {_clock(silence.until)}: {_text(silence.reason)} ({_text(silence.by)})</li>"
        for peer, silence in sorted(silences.items())
    )
    return f"<h2>Silenced: probed, and nothing acts on it</h2><ul>{lines}</ul>" if lines else ""


def _isolations(isolations: Iterable[IsolationView], now: datetime) -> str:
    cards = "".join(_isolation(isolation, now) for isolation in isolations)
    return f"<h2>Isolated</h2>{cards}" if cards else ""


def _isolation(isolation: IsolationView, now: datetime) -> str:
    drift = f'<p class="drift"><b>{_drift(isolation)}</b> {_text(isolation.drift)}</p>' if isolation.drift else ""
    facts = {
        "Reason": _text(isolation.reason),
        "Since": f"{_clock(isolation.since)} ({_ago(isolation.since, now)})",
        **({"Until": f"{_clock(isolation.until)}{', OVERDUE' * isolation.overdue}"} if isolation.until else {}),
        "Level": _text(isolation.level),
        "Dropped": _dropped(isolation.dropped),
        "Unit": _text(isolation.unit or "none"),
        "Cgroup": _text(isolation.cgroup),
        "Not covered": "; ".join(_text(path.title) for path in isolation.uncovered) or "nothing that applies",
    }
    lines = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    name = _text(isolation.peer or isolation.unit or isolation.cgroup)
    return f'<section class="ISOLATED"><h3>{name}</h3>{drift}<dl>{lines}</dl></section>'


def _drift(isolation: IsolationView) -> str:
    if isolation.state != State.ISOLATED:
        return f"{isolation.state.upper()}, and not done:"
    return "DRIFT: not all of it is in force:" if isolation.holds else "DRIFT: it is NOT CUT OFF:"


def _dropped(dropped: Dropped) -> str:
    frames = dropped.frames_in + dropped.frames_out
    return (
        f"to it {counted(dropped.ingress_packets, 'packet')}, {size(dropped.ingress_bytes)}; "
        f"from it {counted(dropped.egress_packets, 'packet')}, {size(dropped.egress_bytes)}"
        + (f"; at links {counted(frames, 'frame')}" if frames else "")
    )


def _outbox(outbox: Mapping[str, Backlog]) -> str:
    owed = {name: backlog for name, backlog in sorted(outbox.items()) if backlog.pending or backlog.gone_since}
    waiting = "".join(_backlog(name, backlog) for name, backlog in owed.items())
    return f"<h2>Notifications not delivered</h2><ul>{waiting}</ul>" if waiting else ""


def _backlog(receiver: str, backlog: Backlog) -> str:
    oldest = f", the oldest for {age(backlog.oldest_age_s)}" if backlog.oldest_age_s is not None else ""
    error = f": {_text(backlog.last_error)}" if backlog.last_error else ""
    if backlog.gone_since:
        return f"<li><b>{_text(receiver)}</b> gone since {_clock(backlog.gone_since)}, and gets no more{error}</li>"
    return f"<li><b>{_text(receiver)}</b> {backlog.pending} waiting{oldest}{error}</li>"


def _footer(stats: Stats, health: WatcherHealth, now: datetime) -> str:
    return (
        f"<footer>{counted(stats.total_checks, 'probe')}, {stats.total_misses:,} missed, "
        f"{counted(stats.total_restarts, 'restart')}, {counted(stats.total_isolations, 'isolation')} of "
        f"{counted(stats.peer_count, 'peer')}. "
        f"This watcher started {_ago(health.started_at, now)}. The page asks again every {REFRESH_S} s.</footer>"
    )


def _word(peer: PeerStatus) -> str:
    return UNKNOWN if is_unknown(peer) else peer.status.value


def _css_class(word: str) -> str:
    return "UNKNOWN" if word == UNKNOWN else word


def _ago(then: datetime | None, now: datetime) -> str:
    if then is None:
        return "never"
    words = age((now - then).total_seconds())
    said = words if words == "now" else f"{words} ago"
    return f'<time datetime="{rfc3339(then)}" title="{rfc3339(then)}">{said}</time>'


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(words: str) -> str:
    """Words from anywhere as harmless HTML."""
    short = words if len(words) <= TEXT_CHARS_MAX else words[:TEXT_CHARS_MAX] + "..."
    return escape("".join(char if char.isprintable() else _visible(char) for char in short))


def _visible(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
