"""The Coordinator of one host: rows in its journal, one transaction a decision."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from watchdog.clock import Moment, from_rfc3339, rfc3339
from watchdog.journal import Journal
from watchdog.ladder import PeerRecord
from watchdog.mesh.coordinator import Denied, Order, OrderRequest, Silence, Suspicion
from watchdog.model import Action, Severity

ISOLATED_STATES = ("isolated", "releasing")
"""States of an isolation in which the peer's traffic is cut: from the first proof to the end of the release."""
EVER_HEARD_OF = "SELECT name FROM peer UNION SELECT peer FROM isolation WHERE peer IS NOT NULL"


class LocalCoordinator:
    """Every watcher and command of a host shares its journal, and SQLite's write lock decides who is first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def record(self, peer: str, at: Moment) -> PeerRecord:
        with self._journal.transaction() as tx:
            return _record(tx, peer, at)

    def records(self, at: Moment) -> dict[str, PeerRecord]:
        with self._journal.transaction() as tx:
            return {row["name"]: _record(tx, row["name"], at) for row in tx.execute(EVER_HEARD_OF).fetchall()}

    def suspect(self, watcher: str, peer: str, missed_count: int, at: Moment) -> None:
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO observation (watcher, peer, missed_count, seen_s, boot) VALUES (?, ?, ?, ?, ?)",
                (watcher, peer, missed_count, at.s, at.boot),
            )

    def trust(self, watcher: str, peer: str) -> None:
        with self._journal.transaction() as tx:
            tx.execute("DELETE FROM observation WHERE watcher = ? AND peer = ?", (watcher, peer))

    def suspicions(self, at: Moment, fresh_s: float) -> list[Suspicion]:
        rows = self._journal.read("SELECT * FROM observation WHERE boot = ?", (at.boot,))
        found = [Suspicion(r["watcher"], r["peer"], r["missed_count"], at.s - r["seen_s"]) for r in rows]
        return [suspicion for suspicion in found if suspicion.age_s <= fresh_s]

    def open_episode(self, peer: str, at: Moment) -> int | None:
        with self._journal.transaction() as tx:
            tx.execute("INSERT OR IGNORE INTO peer (name) VALUES (?)", (peer,))
            opened = tx.execute(
                "UPDATE peer SET episode = episode + 1, episode_open = 1, episode_since = ?, severity = ? "
                "WHERE name = ? AND NOT episode_open RETURNING episode",
                (rfc3339(at.utc), Severity.MEDIUM, peer),
            ).fetchone()
            return int(opened["episode"]) if opened else None

    def close_episode(self, peer: str, at: Moment, fresh_s: float) -> tuple[int, Severity] | None:
        with self._journal.transaction() as tx:
            if _isolated_since(tx, peer) or any(s.peer == peer for s in self.suspicions(at, fresh_s)):
                return None
            closed = tx.execute(
                "UPDATE peer SET episode_open = 0 WHERE name = ? AND episode_open RETURNING episode, severity", (peer,)
            ).fetchone()
            return (int(closed["episode"]), Severity(closed["severity"])) if closed else None

    def raise_severity(self, peer: str, severity: Severity) -> None:
        with self._journal.transaction() as tx:
            row = tx.execute("SELECT severity FROM peer WHERE name = ?", (peer,)).fetchone()
            if row and Severity(row["severity"]).rank < severity.rank:
                tx.execute("UPDATE peer SET severity = ? WHERE name = ?", (severity, peer))

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        with self._journal.transaction() as tx:
            record = _record(tx, request.peer, at)
            denied = self._denied(tx, request, record, at)
            if denied:
                return denied
            self.open_episode(request.peer, at)
            episode = _record(tx, request.peer, at).episode
            cursor = tx.execute(
                "INSERT INTO orders (peer, episode, action, watcher, reason, at, ordered_s, expires_s, boot, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'open')",
                (
                    request.peer,
                    episode,
                    request.action,
                    request.watcher,
                    request.reason,
                    rfc3339(at.utc),
                    at.s,
                    at.s + request.lease_s,
                    at.boot,
                ),
            )
            if request.action is Action.RESTART:
                tx.execute(
                    "UPDATE peer SET restart_count = restart_count + 1, last_restart = ? WHERE name = ?",
                    (rfc3339(at.utc), request.peer),
                )
            assert cursor.lastrowid is not None
            return Order(
                token=cursor.lastrowid,
                peer=request.peer,
                episode=episode,
                action=request.action,
                watcher=request.watcher,
                reason=request.reason,
                expires_s=at.s + request.lease_s,
                boot=at.boot,
            )

    def _denied(self, tx: sqlite3.Connection, request: OrderRequest, record: PeerRecord, at: Moment) -> Denied | None:
        if record.token != request.known_token or record.order_open or record.isolated:
            return Denied.LATE
        if request.peer in self.silences(at):
            return Denied.SILENCED
        if request.action is Action.RESTART and _open_orders(tx, Action.RESTART, at):
            return Denied.BUSY
        suspecting = {row["watcher"] for row in _suspecting(tx, request.peer, at)}
        return Denied.VOTE_WITHDRAWN if set(request.voters) - suspecting else None

    def begin(self, order: Order, at: Moment) -> bool:
        row = self._journal.read("SELECT max(token) AS newest FROM orders WHERE peer = ?", (order.peer,))[0]
        mine = self._journal.read("SELECT state FROM orders WHERE token = ?", (order.token,))
        alive = bool(mine) and mine[0]["state"] == "open" and order.boot == at.boot and at.s < order.expires_s
        return alive and row["newest"] == order.token

    def finish(self, order: Order, at: Moment, *, failed: bool, outcome: str) -> None:
        with self._journal.transaction() as tx:
            tx.execute(
                "UPDATE orders SET state = ?, outcome = ?, ended = ? WHERE token = ? AND state = 'open'",
                ("failed" if failed else "done", outcome, rfc3339(at.utc), order.token),
            )

    def forgive(self, peer: str, known: PeerRecord, at: Moment) -> bool:
        with self._journal.transaction() as tx:
            if _record(tx, peer, at) != known or not known.restart_count:
                return False
            tx.execute(
                "UPDATE peer SET restart_count = restart_count - 1, forgiven_s = ?, forgiven_boot = ? WHERE name = ?",
                (at.s, at.boot, peer),
            )
            return True

    def silence(self, silence: Silence, at: Moment) -> None:
        until_s = at.s + (silence.until - at.utc).total_seconds()
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO silence (peer, until, until_s, boot, reason, by) VALUES (?, ?, ?, ?, ?, ?)",
                (silence.peer, rfc3339(silence.until), until_s, at.boot, silence.reason, silence.by),
            )

    def unsilence(self, peer: str) -> bool:
        with self._journal.transaction() as tx:
            return tx.execute("DELETE FROM silence WHERE peer = ?", (peer,)).rowcount > 0

    def silences(self, at: Moment) -> dict[str, Silence]:
        in_force = {}
        for row in self._journal.read("SELECT * FROM silence"):
            until = from_rfc3339(row["until"])
            if row["boot"] == at.boot:
                until = at.utc + timedelta(seconds=row["until_s"] - at.s)
            if until > at.utc:
                in_force[row["peer"]] = Silence(row["peer"], until, row["reason"], row["by"])
        return in_force


def _record(tx: sqlite3.Connection, peer: str, at: Moment) -> PeerRecord:
    row = tx.execute("SELECT * FROM peer WHERE name = ?", (peer,)).fetchone()
    order = tx.execute("SELECT * FROM orders WHERE peer = ? ORDER BY token DESC LIMIT 1", (peer,)).fetchone()
    return PeerRecord(
        token=order["token"] if order else 0,
        last_action=Action(order["action"]) if order else None,
        last_failed=bool(order) and not _is_open(order, at) and order["state"] != "done",
        ordered_s=order["ordered_s"] if order and order["boot"] == at.boot else None,
        order_open=bool(order) and _is_open(order, at),
        episode=row["episode"] if row else 0,
        episode_open=bool(row) and bool(row["episode_open"]),
        restart_count=row["restart_count"] if row else 0,
        forgiven_s=row["forgiven_s"] if row and row["forgiven_boot"] == at.boot else None,
        last_restart=from_rfc3339(row["last_restart"]) if row and row["last_restart"] else None,
        isolated_since=_isolated_since(tx, peer),
    )


def _is_open(order: sqlite3.Row, at: Moment) -> bool:
    return bool(order["state"] == "open" and order["boot"] == at.boot and at.s < order["expires_s"])


def _open_orders(tx: sqlite3.Connection, action: Action, at: Moment) -> list[sqlite3.Row]:
    rows = tx.execute("SELECT * FROM orders WHERE action = ? AND state = 'open'", (action,))
    return [row for row in rows if _is_open(row, at)]


def _suspecting(tx: sqlite3.Connection, peer: str, at: Moment) -> list[sqlite3.Row]:
    return tx.execute("SELECT * FROM observation WHERE peer = ? AND boot = ?", (peer, at.boot)).fetchall()


def _isolated_since(tx: sqlite3.Connection, peer: str) -> datetime | None:
    row = tx.execute(
        "SELECT since FROM isolation WHERE peer = ? AND state IN (?, ?) LIMIT 1", (peer, *ISOLATED_STATES)
    ).fetchone()
    return from_rfc3339(row["since"]) if row else None
