"""What is meant to be isolated, as the journal keeps it. The kernel says what is; a difference between them is drift.

An intent is written before the kernel is touched and changed after, so that a process killed at any step leaves a row
that says where things were going: `isolating` goes on to isolated, `releasing` to released.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from watchdog.clock import Moment, from_rfc3339, rfc3339
from watchdog.journal import Journal


class State(StrEnum):
    """Where an intent stands."""

    ISOLATING = "isolating"
    ISOLATED = "isolated"
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"
    """It could not be isolated, and what was begun was undone."""


IN_FORCE = (State.ISOLATING, State.ISOLATED, State.RELEASING)


@dataclass(frozen=True, slots=True)
class Where:
    """What is cut off: a cgroup now, and the unit that makes the next one."""

    cgroup: str
    """The directory's absolute path."""
    cgroup_id: int
    """The directory's inode: a cgroup made again under the same name has another."""
    unit: str = ""
    peer: str = ""
    """The configured peer; empty for a target that is none."""


@dataclass(frozen=True, slots=True)
class Until:
    """When an isolation ends by itself, by both clocks: on this boot no clock step moves it."""

    utc: datetime
    s: float
    boot: str

    def is_over(self, at: Moment) -> bool:
        """Whether that time has come; after a reboot the wall clock says so."""
        return at.s >= self.s if at.boot == self.boot else at.utc >= self.utc


@dataclass(frozen=True, slots=True)
class Why:
    """Who wanted it and why, and until when."""

    reason: str
    incident: str = ""
    level: str = "network"
    by: dict[str, Any] = field(default_factory=dict)
    until: Until | None = None
    """None: until a person releases it."""


@dataclass(frozen=True, slots=True)
class With:
    """What holds it: our programs, found again by their ids even when their pins are gone."""

    slot: str = ""
    """The slot's directory below the pins: KEY/slot-N."""
    ingress_id: int = 0
    egress_id: int = 0
    guard_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Intent:
    """One isolation, from its order to its release."""

    id: int
    state: State
    where: Where
    why: Why
    held_by: With
    since: datetime
    changed: datetime

    @property
    def name(self) -> str:
        """What an operator calls it."""
        return self.where.peer or self.where.unit or self.where.cgroup


@dataclass(frozen=True)
class _Body:
    why: Why
    held_by: With


class Intents:
    """The rows, and the audit record of every change to one."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def begin(self, where: Where, why: Why, held_by: With, at: datetime, state: State = State.ISOLATING) -> Intent:
        """Write the intent down. It is on disk when this returns."""
        body = msgspec.json.encode(_Body(why, held_by)).decode()
        with self._journal.transaction() as tx:
            cursor = tx.execute(
                "INSERT INTO isolation (peer, target, state, body, since, changed) VALUES (?, ?, ?, ?, ?, ?)",
                (where.peer or None, msgspec.json.encode(where).decode(), state, body, rfc3339(at), rfc3339(at)),
            )
            assert cursor.lastrowid is not None
            intent = Intent(cursor.lastrowid, state, where, why, held_by, at, at)
            self._audit(intent, at)
        return intent

    def change(
        self, intent: Intent, state: State, at: datetime, *, where: Where | None = None, **facts: object
    ) -> Intent:
        """Move an intent on; `facts` go to the audit trail."""
        moved = replace(intent, state=state, where=where or intent.where, changed=at)
        with self._journal.transaction() as tx:
            tx.execute(
                "UPDATE isolation SET state = ?, target = ?, changed = ? WHERE id = ?",
                (state, msgspec.json.encode(moved.where).decode(), rfc3339(at), intent.id),
            )
            if state is State.RELEASED and moved.where.peer:
                # A person let it back: what is counted against it begins anew, or its first misses would cut it off.
                tx.execute("UPDATE peer SET restart_count = 0 WHERE name = ?", (moved.where.peer,))
            if state is not intent.state or facts:
                self._audit(moved, at, **facts)
        return moved

    def hold_by(self, intent: Intent, held_by: With, at: datetime) -> Intent:
        """Note that other programs hold an intent now: those of before did not survive a reboot."""
        body = msgspec.json.encode(_Body(intent.why, held_by)).decode()
        moved = replace(intent, held_by=held_by, changed=at)
        with self._journal.transaction() as tx:
            tx.execute("UPDATE isolation SET body = ?, changed = ? WHERE id = ?", (body, rfc3339(at), intent.id))
            self._audit(moved, at)
        return moved

    def in_force(self) -> list[Intent]:
        """Every intent that is not over, oldest first."""
        rows = self._journal.read("SELECT * FROM isolation WHERE state IN (?, ?, ?) ORDER BY id", IN_FORCE)
        return [_intent(row) for row in rows]

    def last(self, most: int) -> list[Intent]:
        """The newest intents, newest first, over or not."""
        rows = self._journal.read("SELECT * FROM isolation ORDER BY id DESC LIMIT ?", (most,))
        return [_intent(row) for row in rows]

    def _audit(self, intent: Intent, at: datetime, **facts: object) -> None:
        self._journal.record(
            at,
            f"intent {intent.state}",
            intent=intent.id,
            target=intent.name,
            cgroup=intent.where.cgroup,
            unit=intent.where.unit,
            reason=intent.why.reason,
            incident=intent.why.incident,
            by=intent.why.by,
            slot=intent.held_by.slot,
            **facts,
        )


def _intent(row: sqlite3.Row) -> Intent:
    body = msgspec.json.decode(row["body"], type=_Body)
    return Intent(
        id=row["id"],
        state=State(row["state"]),
        where=msgspec.json.decode(row["target"], type=Where),
        why=body.why,
        held_by=body.held_by,
        since=from_rfc3339(row["since"]),
        changed=from_rfc3339(row["changed"]),
    )
