"""The Coordinator of one host: rows in its journal, one transaction a decision."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType

from watchdog.clock import Moment, from_rfc3339, rfc3339
from watchdog.journal import Journal
from watchdog.ladder import OrderState, PeerRecord
from watchdog.mesh.coordinator import NOTHING_KNOWN, Closed, Denied, Member, Order, OrderRequest, Silence, Suspicion
from watchdog.model import Action, Severity

RECORDS = """
    SELECT named.name, episode.episode, episode_open, restart_count, last_restart,
           isolated_since, token, action, state, orders.episode AS order_episode, ordered_s, begun_s, expires_s, boot,
           CASE action WHEN 'isolate' THEN (
               SELECT count(*) FROM orders AS tried
               WHERE tried.peer = named.name AND tried.action = 'isolate' AND tried.state IN ('begun', 'failed')
               AND tried.episode = orders.episode AND tried.token > (SELECT max(released_token) FROM peer)
           ) ELSE 0 END AS isolations_tried
    FROM ({names}) AS named
    LEFT JOIN peer AS episode ON episode.name = named.name
    LEFT JOIN orders ON token = (SELECT max(token) FROM orders WHERE peer = named.name)
"""
ONE = RECORDS.format(names="SELECT ? AS name")
EVERY = RECORDS.format(names="SELECT name FROM peer")
RESTARTS = """
    SELECT count(*) AS restarts FROM orders
    WHERE peer = ? AND action = 'restart' AND begun_s IS NOT NULL
    AND (
        boot = ? AND begun_s > ?
        OR boot != ? AND julianday(at) + (begun_s - ordered_s) / 86400 BETWEEN julianday(?) AND julianday(?)
    )
    AND token > (SELECT released_token FROM peer WHERE name = orders.peer)
"""
OPEN, BEGUN = "open", "begun"
"""States of an order that is under way; the others are those of OrderState."""
CLOCKS_DIFFER = timedelta(seconds=1)
"""Two readings of two clocks are never exactly as far apart: less than this is no step."""
WORDS_KEPT = 64
"""What that many watchers said last, as it was understood; of a thousand peers it is 16 KiB each."""
UNDER_WAY = "SELECT * FROM orders WHERE state IN ('open', 'begun')"


class LocalCoordinator:
    """Every watcher and command of a host shares its journal, and SQLite's write lock decides who is first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def attend(self, watcher: str, self_doubt: str, at: Moment, misses: Mapping[str, int] = NOTHING_KNOWN) -> None:
        with self._journal.transaction(flushed=False) as tx:  # after a loss of power it means nothing
            tx.execute(
                "INSERT OR REPLACE INTO watcher (name, self_doubt, seen_s, boot, misses) VALUES (?, ?, ?, ?, ?)",
                (watcher, self_doubt, at.s, at.boot, json.dumps(dict(misses))),
            )

    def members(self, at: Moment, fresh_s: float) -> list[Member]:
        rows = self._journal.read(
            "SELECT * FROM watcher WHERE boot = ? AND seen_s >= ? ORDER BY name", (at.boot, at.s - fresh_s)
        )
        return [Member(r["name"], r["self_doubt"], at.s - r["seen_s"], _misses_in(r["misses"])) for r in rows]

    def record(self, peer: str, at: Moment) -> PeerRecord:
        return _record(self._journal.read(ONE, (peer,))[0], at)

    def records(self, at: Moment) -> dict[str, PeerRecord]:
        return {row["name"]: _record(row, at) for row in self._journal.read(EVERY)}

    def version(self) -> int:
        return self._journal.data_version()

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
        rows = self._journal.read("SELECT * FROM observation WHERE boot = ? AND seen_s >= ?", (at.boot, at.s - fresh_s))
        return [Suspicion(r["watcher"], r["peer"], r["missed_count"], at.s - r["seen_s"]) for r in rows]

    def open_episode(self, peer: str, at: Moment) -> int | None:
        with self._journal.transaction() as tx:
            tx.execute("INSERT OR IGNORE INTO peer (name) VALUES (?)", (peer,))
            opened = tx.execute(
                "UPDATE peer SET episode = episode + 1, episode_open = 1, episode_since = ?, severity = NULL "
                "WHERE name = ? AND NOT episode_open RETURNING episode",
                (rfc3339(at.utc), peer),
            ).fetchone()
            return int(opened["episode"]) if opened else None

    def close_episode(self, peer: str, at: Moment, fresh_s: float) -> Closed | None:
        with self._journal.transaction() as tx:
            if self.record(peer, at).isolated or any(s.peer == peer for s in self.suspicions(at, fresh_s)):
                return None
            closed = tx.execute(
                "UPDATE peer SET episode_open = 0 WHERE name = ? AND episode_open RETURNING episode, severity", (peer,)
            ).fetchone()
            if closed is None:
                return None
            return Closed(int(closed["episode"]), Severity(closed["severity"]) if closed["severity"] else None)

    def told(self, peer: str, severity: Severity) -> None:
        with self._journal.transaction() as tx:
            row = tx.execute("SELECT severity FROM peer WHERE name = ? AND episode_open", (peer,)).fetchone()
            if row and (row["severity"] is None or Severity(row["severity"]).rank < severity.rank):
                tx.execute("UPDATE peer SET severity = ? WHERE name = ?", (severity, peer))

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        with self._journal.transaction() as tx:
            denied = self._denied(tx, request, at)
            if denied:
                return denied
            self.open_episode(request.peer, at)
            order = Order(
                token=0,
                peer=request.peer,
                episode=self.record(request.peer, at).episode,
                action=request.action,
                watcher=request.watcher,
                reason=request.reason,
                voters=request.voters,
                fresh_s=request.fresh_s,
                host=request.host,
            )
            return replace(order, token=_write(tx, order, request, at))

    def _denied(self, tx: sqlite3.Connection, request: OrderRequest, at: Moment) -> Denied | None:
        record = self.record(request.peer, at)
        if record.token != request.known_token or record.order_open or record.isolated:
            return Denied.LATE
        if request.peer in self.silences(at):
            return Denied.SILENCED
        if request.action is Action.RESTART and _is_under_way(tx, Action.RESTART, request.host, at):
            return Denied.BUSY
        return None if _still_vote(tx, request, at) else Denied.VOTE_WITHDRAWN

    def orders_for(self, host: str, at: Moment) -> list[Order]:
        # By +token: by token SQLite would read all orders that there ever were.
        rows = self._journal.read(f"{UNDER_WAY} AND host = ? ORDER BY +token", (host,))
        return [_order(row) for row in rows if row["state"] == OPEN and _state_of(row, at) is OrderState.OPEN]

    def begin(self, order: Order, at: Moment) -> bool:
        with self._journal.transaction() as tx:
            if not self._is_wanted(tx, order, at):
                return False
            begun = tx.execute(
                "UPDATE orders SET state = ?, begun_s = ? WHERE token = ? AND peer = ? AND watcher = ? AND state = ? "
                "AND token = (SELECT max(token) FROM orders WHERE peer = ?)",
                (BEGUN, at.s, order.token, order.peer, order.watcher, OPEN, order.peer),
            ).rowcount
            if begun and order.action is Action.RESTART:
                tx.execute(
                    "UPDATE peer SET restart_count = restart_count + 1, last_restart = ? WHERE name = ?",
                    (rfc3339(at.utc), order.peer),
                )
            return begun > 0

    def stands(self, order: Order, at: Moment) -> bool:
        with self._journal.snapshot() as tx:
            newest = tx.execute(
                "SELECT token, watcher, state FROM orders WHERE peer = ? ORDER BY token DESC LIMIT 1", (order.peer,)
            ).fetchone()
            begun = newest is not None and tuple(newest) == (order.token, order.watcher, BEGUN)
            return begun and self._is_wanted(tx, order, at)

    def _is_wanted(self, tx: sqlite3.Connection, order: Order, at: Moment) -> bool:
        """The lease runs, the trouble is the same, nobody isolated, released or silenced the peer, the votes stand."""
        row = tx.execute("SELECT state, expires_s, boot FROM orders WHERE token = ?", (order.token,)).fetchone()
        if row is None or _state_of(row, at) is not OrderState.OPEN or _released_since(tx, order):
            return False
        record = self.record(order.peer, at)
        if record.isolated or not record.episode_open or record.episode != order.episode:
            return False
        return order.peer not in self.silences(at) and _still_vote(tx, order, at)

    def finish(self, token: int, at: Moment, *, failed: bool, outcome: str) -> bool:
        ended = OrderState.FAILED if failed else OrderState.DONE
        with self._journal.transaction() as tx:
            tx.execute(
                "UPDATE orders SET state = CASE state WHEN ? THEN ? ELSE ? END, outcome = ?, ended = ? "
                "WHERE token = ? AND state IN (?, ?)",
                (OPEN, OrderState.VOID, ended, outcome, rfc3339(at.utc), token, OPEN, BEGUN),
            )
            row = tx.execute("SELECT state, outcome FROM orders WHERE token = ?", (token,)).fetchone()
            return row is not None and row["state"] in (ended, OrderState.VOID) and row["outcome"] == outcome

    def isolated(self, peer: str, since: datetime) -> None:
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT INTO peer (name, isolated_since) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET isolated_since = excluded.isolated_since",
                (peer, rfc3339(since)),
            )

    def released(self, peer: str) -> None:
        with self._journal.transaction() as tx:
            tx.execute(
                "UPDATE peer SET isolated_since = NULL, restart_count = 0, "
                "released_token = coalesce((SELECT max(token) FROM orders), 0) WHERE name = ?",
                (peer,),
            )

    def restarts(self, peer: str, within_s: float, at: Moment) -> int:
        # Of one on another boot only the wall clock says how long ago it was ordered. When it was begun is known from
        # its round's beginning, which is not later: so it counts too long rather than too short, by seconds.
        within = timedelta(seconds=within_s)
        bounds = (at.boot, at.s - within_s, at.boot, rfc3339(at.utc - within), rfc3339(at.utc + within))
        return int(self._journal.read(RESTARTS, (peer, *bounds))[0]["restarts"])

    def forgive(self, peer: str, known: PeerRecord, at: Moment) -> bool:
        with self._journal.transaction() as tx:
            if self.record(peer, at) != known or not known.restart_count:
                return False
            tx.execute("UPDATE peer SET restart_count = restart_count - 1 WHERE name = ?", (peer,))
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
                by_our_clock = at.utc + timedelta(seconds=row["until_s"] - at.s)
                until = by_our_clock if abs(by_our_clock - until) > CLOCKS_DIFFER else until
            if until > at.utc:
                in_force[row["peer"]] = Silence(row["peer"], until, row["reason"], row["by"])
        return in_force


def _record(row: sqlite3.Row, at: Moment) -> PeerRecord:
    ordered = row["token"] is not None
    return PeerRecord(
        token=row["token"] or 0,
        last_action=Action(row["action"]) if ordered else None,
        order=_state_of(row, at) if ordered else None,
        order_episode=row["order_episode"] or 0,
        ordered_age_s=at.age_s(row["ordered_s"], row["boot"]) if ordered else None,
        begun_age_s=at.age_s(row["begun_s"], row["boot"]) if row["begun_s"] is not None else None,
        episode=row["episode"] or 0,
        episode_open=bool(row["episode_open"]),
        restart_count=row["restart_count"] or 0,
        last_restart=from_rfc3339(row["last_restart"]) if row["last_restart"] else None,
        isolated_since=from_rfc3339(row["isolated_since"]) if row["isolated_since"] else None,
        isolations_tried=row["isolations_tried"],
    )


def _state_of(order: sqlite3.Row, at: Moment) -> OrderState:
    if order["state"] not in (OPEN, BEGUN):
        return OrderState(order["state"])
    if order["boot"] == at.boot and at.s < order["expires_s"]:
        return OrderState.OPEN
    return OrderState.VOID if order["state"] == OPEN else OrderState.LAPSED


def _still_vote(tx: sqlite3.Connection, on: OrderRequest | Order, at: Moment) -> bool:
    """All whose word it rests on have said it lately, none has taken it back, and no reboot has."""
    rows = tx.execute(
        "SELECT watcher FROM observation WHERE peer = ? AND boot = ? AND missed_count > 0 AND seen_s >= ?",
        (on.peer, at.boot, at.s - on.fresh_s),
    )
    return set(on.voters) <= {row["watcher"] for row in rows}


@lru_cache(maxsize=WORDS_KEPT)
def _misses_in(text: str) -> Mapping[str, int]:
    """While all are well a watcher says the same every round, of every peer."""
    return MappingProxyType(json.loads(text))


def _released_since(tx: sqlite3.Connection, order: Order) -> bool:
    """Somebody let the peer back since: what the order rests on is counted anew."""
    row = tx.execute("SELECT released_token FROM peer WHERE name = ?", (order.peer,)).fetchone()
    return row is not None and row["released_token"] >= order.token


def _is_under_way(tx: sqlite3.Connection, action: Action, host: str, at: Moment) -> bool:
    rows = tx.execute(f"{UNDER_WAY} AND action = ? AND host = ?", (action, host))
    return any(_state_of(row, at) is OrderState.OPEN for row in rows)


def _order(row: sqlite3.Row) -> Order:
    return Order(
        token=row["token"],
        peer=row["peer"],
        episode=row["episode"],
        action=Action(row["action"]),
        watcher=row["watcher"],
        reason=row["reason"],
        voters=tuple(json.loads(row["voters"])),
        fresh_s=row["fresh_s"],
        host=row["host"],
    )


def _write(tx: sqlite3.Connection, order: Order, request: OrderRequest, at: Moment) -> int:
    """Write a new order down; its token."""
    cursor = tx.execute(
        "INSERT INTO orders "
        "(peer, episode, action, watcher, reason, voters, fresh_s, host, at, ordered_s, expires_s, boot, state) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            order.peer,
            order.episode,
            order.action,
            order.watcher,
            order.reason,
            json.dumps(order.voters),
            order.fresh_s,
            order.host,
            rfc3339(at.utc),
            request.round_s,
            at.s + request.lease_s,
            at.boot,
            OPEN,
        ),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid
