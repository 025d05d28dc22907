"""The outbox: what receivers are owed, written down before anybody is told, and settled one delivery at a time.

An event is published in the transaction that makes it true, so neither is there without the other. One key is one
event, however many watchers saw it. Each receiver has a line of its own: strictly in order of publishing, the first
waits for its next try and the others wait behind it. Whenever any of them is due by its own schedule, the first is
tried: so a new event is a new chance for all before it, and waits out no long step of an older one. Who delivers is
decided in watchdog/sender.py.

A delivery is pending until it is delivered, expired (three days of tries) or refused (the receiver answered 410).
Every end is in the audit trail.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from watchdog import webhook
from watchdog.clock import Moment, from_rfc3339, rfc3339
from watchdog.journal import Journal
from watchdog.model import Escalation
from watchdog.webhook import Answer, Delivered, Receiver

PENDING, DELIVERED, EXPIRED, REFUSED = "pending", "delivered", "expired", "refused"


class Backlog(NamedTuple):
    """What one receiver has not taken yet. `gone_since` is set when it answered 410 and gets nothing any more."""

    pending: int
    oldest_age_s: float | None
    last_error: str = ""
    gone_since: datetime | None = None


class Waiting(NamedTuple):
    """One place in a receiver's line. `attempts` is how far along the schedule it is."""

    seq: int
    attempts: int
    next_at: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """What is posted: its `id` and `body` are the same for every receiver and try."""

    seq: int
    id: str
    at: datetime
    body: bytes


class Outbox:
    """The journal's events and deliveries, for the configured receivers. `host` is this host's name in every event."""

    def __init__(self, journal: Journal, receivers: Sequence[Receiver], *, host: str) -> None:
        self.receivers = {receiver.name: receiver for receiver in receivers}
        self.host = host
        self._journal = journal

    def publish(self, escalation: Escalation, key: str, at: Moment, *, incident: str = "") -> bool:
        """Owe the event to every receiver that wants its severity; False, and nothing is done, when `key` is known.

        Part of the transaction that is open. An event nobody wants is kept all the same: it is what `key` is known by.
        """
        now = rfc3339(at.utc)
        body = webhook.event_body(escalation, self.host, incident)
        with self._journal.transaction() as tx:
            made = tx.execute(
                "INSERT INTO event (id, key, at, severity, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (webhook.new_id(), key, now, escalation.severity.value, body.decode()),
            )
            if made.rowcount == 0:
                return False
            for receiver in self.receivers.values():
                if receiver.wants(escalation.severity):
                    self._owe(tx, receiver, made.lastrowid, now)
        return True

    def _owe(self, tx: sqlite3.Connection, receiver: Receiver, seq: int | None, now: str) -> None:
        gone = self._gone(receiver)
        state, why, settled = (REFUSED, gone["why"], now) if gone else (PENDING, "", None)
        tx.execute(
            "INSERT INTO delivery (receiver, event_seq, state, next_at, last_error, settled_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (receiver.name, seq, state, now, why, settled),
        )

    def pending(self, now: datetime) -> dict[str, Backlog]:
        """What every receiver has not taken yet; also one that is owed something and is configured no longer."""
        rows = self._journal.read(
            "SELECT receiver, count(*) AS pending, min(event_seq) AS first, min(at) AS oldest"
            " FROM delivery JOIN event ON seq = event_seq WHERE state = 'pending' GROUP BY receiver"
        )
        found = {name: self._empty(receiver) for name, receiver in self.receivers.items()}
        for row in rows:
            age_s = max(0.0, (now - from_rfc3339(row["oldest"])).total_seconds())
            found[row["receiver"]] = Backlog(row["pending"], age_s, self._last_error(row["receiver"], row["first"]))
        return found

    def _empty(self, receiver: Receiver) -> Backlog:
        gone = self._gone(receiver)
        return Backlog(0, None, gone["why"], from_rfc3339(gone["at"])) if gone else Backlog(0, None)

    def _last_error(self, receiver: str, seq: int) -> str:
        rows = self._journal.read(
            "SELECT last_error FROM delivery WHERE receiver = ? AND event_seq = ?", (receiver, seq)
        )
        return str(rows[0]["last_error"]) if rows else ""

    def prune(self, before: datetime) -> int:
        """Forget events of before then that nobody is owed any more, and their keys; how many. Pending ones stay."""
        settled = (
            "SELECT seq FROM event WHERE at < ? AND NOT EXISTS"
            " (SELECT 1 FROM delivery WHERE event_seq = seq AND state = 'pending')"
        )
        with self._journal.transaction() as tx:
            old = [(row["seq"],) for row in tx.execute(settled, (rfc3339(before),))]
            tx.executemany("DELETE FROM delivery WHERE event_seq = ?", old)
            tx.executemany("DELETE FROM event WHERE seq = ?", old)
        return len(old)

    def send_test(self, receiver: Receiver, at: Moment, *, timeout_s: float | None = None) -> Answer:
        """Post something that is plainly a test, and no event. A receiver that takes it is not gone any more."""
        body = webhook.example_body(self.host, at.utc)
        answer = webhook.post(receiver, webhook.new_id("test"), at.utc, body, timeout_s=timeout_s)
        if isinstance(answer, Delivered) and self._gone(receiver):
            with self._journal.transaction() as tx:
                tx.execute("DELETE FROM gone WHERE receiver = ?", (receiver.name,))
                self._journal.record(at.utc, "receiver_back", receiver=receiver.name)
        return answer

    # What follows is for whoever holds the receiver's lock (watchdog/sender.py).

    def head(self, receiver: str) -> Event | None:
        """The first event in the receiver's line."""
        rows = self._journal.read(
            "SELECT seq, id, at, body FROM delivery JOIN event ON seq = event_seq"
            " WHERE receiver = ? AND state = 'pending' ORDER BY event_seq LIMIT 1",
            (receiver,),
        )
        return next((Event(r["seq"], r["id"], from_rfc3339(r["at"]), r["body"].encode()) for r in rows), None)

    def line(self, receiver: str, *, first: int | None = None) -> list[Waiting]:
        """What the receiver is owed, in order; all of it, or as many as `first` says."""
        rows = self._journal.read(
            "SELECT event_seq, attempts, next_at, at FROM delivery JOIN event ON seq = event_seq"
            " WHERE receiver = ? AND state = 'pending' ORDER BY event_seq LIMIT ?",
            (receiver, -1 if first is None else first),
        )
        return [Waiting(r["event_seq"], r["attempts"], r["next_at"], from_rfc3339(r["at"])) for r in rows]

    def count(self, receiver: str, state: str, first_seq: int) -> int:
        """How many deliveries from event `first_seq` on are in that state."""
        rows = self._journal.read(
            "SELECT count(*) FROM delivery WHERE receiver = ? AND state = ? AND event_seq >= ?",
            (receiver, state, first_seq),
        )
        return int(rows[0][0])

    def failed_since(self, receiver: str, brought_at: datetime) -> str | None:
        """Why the head failed after the line was brought forward; empty when nothing is owed, None while it waits."""
        line = self.line(receiver, first=1)
        return self.last_error(receiver) if not line or line[0].next_at > rfc3339(brought_at) else None

    def last_error(self, receiver: str) -> str:
        """Why the head failed when it was last tried; empty when it was not, or nothing is owed."""
        line = self.line(receiver, first=1)
        return self._last_error(receiver, line[0].seq) if line else ""

    def bring_forward(self, receiver: str, now: datetime) -> None:
        """Make the line due now. A try that fails then takes the place of the one it came before."""
        with self._journal.transaction() as tx:
            tx.execute(
                "UPDATE delivery SET next_at = ?1, attempts = max(attempts - (next_at > ?1), 0)"
                " WHERE receiver = ?2 AND state = 'pending'",
                (rfc3339(now), receiver),
            )

    def settle(self, receiver: str, event: Event, state: str, why: str, now: datetime) -> None:
        """End one delivery: delivered or expired."""
        with self._journal.transaction() as tx:
            settled = tx.execute(
                "UPDATE delivery SET state = ?, last_error = ?, settled_at = ?, attempts = attempts + 1"
                " WHERE receiver = ? AND event_seq = ? AND state = 'pending'",
                (state, why, rfc3339(now), receiver, event.seq),
            ).rowcount
            if settled:
                self._journal.record(now, f"event_{state}", receiver=receiver, event=event.id, why=why)

    def postpone(self, receiver: str, head_seq: int, why: str, later: Iterable[tuple[int, int, datetime]]) -> None:
        """Write down a failed try of the head and the new places, each of (seq, attempts, next try)."""
        with self._journal.transaction() as tx:
            tx.executemany(
                "UPDATE delivery SET attempts = ?, next_at = ?"
                " WHERE receiver = ? AND event_seq = ? AND state = 'pending'",
                [(attempts, rfc3339(next_at), receiver, seq) for seq, attempts, next_at in later],
            )
            tx.execute(
                "UPDATE delivery SET last_error = ? WHERE receiver = ? AND event_seq = ?", (why, receiver, head_seq)
            )

    def refuse_all(self, receiver: Receiver, why: str, now: datetime) -> int:
        """End every delivery to a receiver that is gone, now and from now on; how many were pending."""
        with self._journal.transaction() as tx:
            refused = tx.execute(
                "UPDATE delivery SET state = 'refused', last_error = ?, settled_at = ?"
                " WHERE receiver = ? AND state = 'pending'",
                (why, rfc3339(now), receiver.name),
            ).rowcount
            tx.execute(
                "INSERT OR REPLACE INTO gone (receiver, url_hash, at, why) VALUES (?, ?, ?, ?)",
                (receiver.name, _url_hash(receiver), rfc3339(now), why),
            )
            self._journal.record(now, "receiver_gone", receiver=receiver.name, refused=refused, why=why)
        return refused

    def _gone(self, receiver: Receiver) -> sqlite3.Row | None:
        rows = self._journal.read(
            "SELECT at, why FROM gone WHERE receiver = ? AND url_hash = ?", (receiver.name, _url_hash(receiver))
        )
        return rows[0] if rows else None


def _url_hash(receiver: Receiver) -> str:
    return hashlib.sha256(receiver.url.encode()).hexdigest()
