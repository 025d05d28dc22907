"""What became of a fault on the mission's bed: who was seen how, who doubted itself, what was done, what was told."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from tests.systemd.mission_bed import AGENTS, RUN, Mission, wait_for, watcher

T = TypeVar("T")

NO_QUORUM_YET = "watchers vote for it"
WORSE = ("HEALTHY", "DEGRADED", "OFFLINE", "ISOLATED")
LATE = " s late"
"""A busy machine: no part of any fault, and never harmful."""
SAID_ELSEWHERE = (LATE, "its loop has stood still", "in a storm", "stopping")
OWN_ENDPOINT = "own endpoint"
PEERS_GONE = "peers gone"
STORM = "*"
DOUBTS = {
    "own agent does not answer": OWN_ENDPOINT,
    "went silent": PEERS_GONE,
    "peers answers": PEERS_GONE,
    "disk is full": "disk full",
    "is locked": "journal locked",
}
"""Words of a reason, and how the table calls it. What else is said of one of these beside it is left out."""
TRANSITION = "SELECT max(token) AS token FROM orders"
LAST_EVENT = "SELECT max(seq) AS seq FROM event"
OPEN = """
    SELECT 'episode of ' || name AS what FROM peer WHERE episode_open
    UNION ALL SELECT 'delivery ' || event_seq FROM delivery WHERE state = 'pending'
    UNION ALL SELECT 'isolation of ' || peer FROM isolation WHERE state NOT IN ('released', 'failed')
"""


class Seen:
    """Everything since it was made.

    `fleeting` are watchers that may or may not have looked into the moment of a restart or of a hold-up: a passing
    DEGRADED of theirs, their doubt for their own endpoint and what was told of it are left out.
    """

    def __init__(self, mission: Mission, fleeting: Collection[str] = ()) -> None:
        self._fleeting = fleeting
        self.mission = mission
        self._since_s = time.time()
        self._first_token = mission.rows(TRANSITION)[0]["token"] or 0
        self._first_event = mission.rows(LAST_EVENT)[0]["seq"] or 0
        self._first_hook = len(mission.hooks())
        self._first_start = {name: len(mission.starts(name)) for name in AGENTS}
        self._runs = self._invocations()
        self._worst: dict[str, dict[str, str]] = {name: {} for name in AGENTS}
        self._reasons: dict[str, set[str]] = {name: set() for name in AGENTS}

    def until(self, what: Callable[[], T], why: str) -> T:
        """Wait, and note meanwhile what the watchers publish."""

        def looked() -> T:
            self._look()
            return what()

        try:
            return wait_for(looked, why)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self}\n{self.log()}") from None

    def _look(self) -> None:
        for who in AGENTS:
            document = self.document(who)
            if reason := document.get("watcher", {}).get("reason", ""):
                self._reasons[who].add(reason)
            for row in document.get("peers", ()):
                worst = self._worst[row["name"]]
                if WORSE.index(row["status"]) > WORSE.index(worst.get(who, WORSE[0])):
                    worst[who] = row["status"]

    def document(self, who: str) -> dict[str, Any]:
        """What a watcher published last."""
        path = self.mission.bed.root / RUN.lstrip("/") / f"watcher-{who}.json"
        document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return document

    def log(self) -> str:
        """What the watchers have said since."""
        since = f"--since=@{self._since_s:.0f}"
        return self.mission.bed.run(["journalctl", "--no-pager", since, "-u", "watchdog-mesh@*"]).stdout

    # One column each

    @property
    def saw(self) -> str:
        """Agents that were not healthy, at their worst, and to whom."""
        said = []
        for name, worst in self._worst.items():
            by = {who: status for who, status in worst.items() if who not in self._fleeting or status != "DEGRADED"}
            said += [f"{name} {max(by.values(), key=WORSE.index)} by {_listed(by)}"] if by else []
        return "; ".join(said)

    @property
    def doubted(self) -> str:
        """Watchers that said something was wrong with themselves, and what."""
        found = {name: _in_short(reasons) for name, reasons in self._reasons.items()}
        for name in self._fleeting:
            found[name].discard(OWN_ENDPOINT)
        if all(OWN_ENDPOINT in whats for whats in found.values()):
            for whats in found.values():  # who was halfway through its round did not see them go in one tick
                whats.discard(PEERS_GONE)
        return "; ".join(f"{name}: {_listed(whats)}" for name, whats in found.items() if whats)

    @property
    def done(self) -> str:
        """What the mesh ordered, how often, and starts of agents that nobody ordered."""
        found = self.orders()
        said = [
            _times(f"{peer} {action}" + (f" ({state})" if state != "done" else ""), n)
            for (peer, action, state), n in sorted(found.items())
        ]
        for name, before in self._first_start.items():
            ordered = sum(n for (peer, action, _), n in found.items() if (peer, action) == (name, "restart"))
            by_others = len(self.mission.starts(name)) - before - ordered
            said += [_times(f"{name} started by systemd", by_others)] if by_others else []
        return "; ".join(said)

    @property
    def told(self) -> str:
        """What the architect was told, of whom, in order."""
        by_subject: dict[str, list[str]] = {}
        for event in self.events():
            by_subject.setdefault(event["peer_name"], []).append(_in_words(event))
        return "; ".join(
            f"{subject}: {', '.join(_times(what, n) for what, n in Counter(whats).items())}"
            for subject, whats in sorted(by_subject.items())
        )

    @property
    def begun_anew(self) -> tuple[str, ...]:
        """Watchers that ended, whatever ended them."""
        runs = self._invocations()
        return tuple(name for name in AGENTS if runs[name] != self._runs[name])

    # What they are made of

    def _invocations(self) -> dict[str, str]:
        """Each watcher's run, by systemd's id of it."""
        shown = self.mission.bed.systemctl("show", "--value", "-p", "InvocationID", *map(watcher, AGENTS))
        return dict(zip(AGENTS, shown.stdout.split(), strict=True))

    def orders(self) -> Counter[tuple[str, str, str]]:
        """Peer, action and state of every order."""
        sql = "SELECT peer, action, state FROM orders WHERE token > ?"
        return Counter(tuple(row.values()) for row in self.mission.rows(sql, self._first_token))

    def events(self) -> list[dict[str, Any]]:
        """What was delivered, but for what depends on the moment, or on a busy machine."""
        fleeting = {f"{name} (watcher)" for name in self._fleeting}
        events = [hook["body"]["data"] for hook in self.mission.hooks()[self._first_hook :]]
        return _without_aftershocks([e for e in events if e["peer_name"] not in fleeting])

    def warned(self, peer: str, what: str) -> bool:
        """Whether that was published of a peer, delivered or not."""
        sql = "SELECT count(*) AS n FROM event WHERE seq > ? AND key LIKE ?"
        return bool(self.mission.rows(sql, self._first_event, f"{peer}/%/{what}")[0]["n"])

    def was_told(self, subject: str, severity: str, action: str, state: str = "FIRING") -> bool:
        """Whether the architect has that event."""
        wanted = (subject, severity, action, state)
        return any((e["peer_name"], e["severity"], e["action"], e["state"]) == wanted for e in self.events())

    def is_over(self) -> bool:
        """Everybody is healthy to everybody and trusts itself, nothing is owed and nothing held against anybody."""
        for who in AGENTS:
            document = self.document(who)
            if document.get("watcher", {}).get("reason", "unknown"):
                return False
            if {row["status"] for row in document["peers"]} != {"HEALTHY"}:
                return False
        return not self.mission.rows(OPEN)

    def __str__(self) -> str:
        return f"saw: {self.saw}\ndoubted: {self.doubted} {self._reasons}\ndone: {self.done}\ntold: {self.told}"


def _in_short(reasons: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for reason in reasons:
        known = {short for words, short in DOUBTS.items() if words in reason}
        found |= known or ({reason} if not any(words in reason for words in SAID_ELSEWHERE) else set())
    return found


def _without_aftershocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the doubts of watchers that a busy machine kept waiting, and without what only surrounds a trouble.

    That is an episode of misses alone, by a probe that was asked just before a restart or a release, and the word that
    there is no quorum yet, by the faster of two watchers. In a storm no single miss is told, but one may have been
    told just before, by a watcher that was halfway through its round.
    """
    in_a_storm = any(e["peer_name"] == STORM for e in events)
    late = {(e["peer_name"], e["episode"]) for e in events if LATE in e["reason"]}
    serious = {e["peer_name"] for e in events if e["severity"] != "MEDIUM"}
    grave = {(e["peer_name"], e["episode"]) for e in events if e["severity"] != "MEDIUM"}
    isolated = {e["peer_name"] for e in events if e["action"] == "isolate"}

    def counts(event: dict[str, Any]) -> bool:
        peer, episode = event["peer_name"], (event["peer_name"], event["episode"])
        aftershock = peer in serious and episode not in grave
        too_fast = peer in isolated and NO_QUORUM_YET in event["reason"]
        first_miss = in_a_storm and peer in AGENTS and event["severity"] == "MEDIUM"
        return episode not in late and not aftershock and not too_fast and not first_miss

    return [event for event in events if counts(event)]


def _in_words(event: dict[str, Any]) -> str:
    if event["state"] == "FIRING":
        return f"{event['severity']} {event['action']}"
    return f"{event['severity']} RESOLVED" + ("" if event["action"] == "alert" else f" ({event['action']})")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _times(what: str, n: int) -> str:
    return what if n == 1 else f"{what} x{n}"
