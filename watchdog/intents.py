"""What is meant to be isolated, as the journal keeps it. The kernel says what is; a difference between them is drift.

An intent is written before the kernel is touched and changed after, so that a process killed at any step leaves a row
that says where things were going: `isolating` goes on to isolated, `releasing` to released, `undoing` to failed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec

from watchdog.clock import Moment, from_rfc3339, rfc3339
from watchdog.errors import JournalCorrupt
from watchdog.journal import Journal
from watchdog.mesh import coordinator_of
from watchdog.mesh.coordinator import Coordinator
from watchdog.model import EventState
from watchdog.moved import Moved

NO_FACTS: Mapping[str, object] = MappingProxyType({})


class State(StrEnum):
    """Where an intent stands."""

    ISOLATING = "isolating"
    ISOLATED = "isolated"
    RELEASING = "releasing"
    RELEASED = "released"
    UNDOING = "undoing"
    """It could not be isolated, and what was begun is being undone."""
    FAILED = "failed"
    """It could not be isolated, and nothing of it is left."""
    SHADOW = "shadow"
    """It is watched and not isolated: what would be dropped is counted (watchdog/actions/shadow.py)."""
    ENDING = "ending"
    """Its shadow is being taken away."""
    ENDED = "ended"
    """Its shadow is gone."""


IN_FORCE = (State.ISOLATING, State.ISOLATED, State.RELEASING, State.UNDOING)
CUT = (State.ISOLATED, State.RELEASING)
"""The target's traffic is cut: from the first proof to the end of the release."""
SHADOWS = (State.SHADOW, State.ENDING)


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
    moved: Moved | None = None
    """Where its processes were before this cgroup was made for them; None where it was theirs."""


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
class Allowed:
    """One entry of an allow-list."""

    entry: str
    """As watchdog.allowlist writes it."""
    until: Until | None = None
    """None: as long as the isolation."""
    inward: bool = False
    """Whether connections begin outside, at a port of the agent's own: a watcher's way to its heartbeat."""
    far: bool = False
    """Whether that way leads through another network namespace, of which no socket is seen."""

    def __str__(self) -> str:
        """For people and the audit trail."""
        way = "heartbeat from " if self.inward else ""
        return f"{way}{self.entry}{f' until {rfc3339(self.until.utc)}' if self.until else ''}"


@dataclass(frozen=True, slots=True)
class Why:
    """Who wanted it and why, and until when."""

    reason: str
    incident: str = ""
    level: str = "network"
    """ "" where nobody said, before it is written down."""
    by: dict[str, Any] = field(default_factory=dict)
    until: Until | None = None
    """None: until a person releases it."""
    overruled: tuple[str, ...] = ()
    """What the safety rails had against it, where it was forced."""
    allow: tuple[Allowed, ...] | None = None
    """What may pass nevertheless; None where nobody said, which of an isolation in force means nothing."""


@dataclass(frozen=True, slots=True)
class With:
    """What holds it: our programs, found again by their ids even when their pins are gone."""

    slot: str = ""
    """The slot's directory below the pins: KEY/slot-N; empty where nothing of ours holds it."""
    ids: dict[str, int] = field(default_factory=dict)
    """Program ids by name, of what is attached to the agent's cgroup."""
    boot: str = ""
    """The boot these ids are of; on another one they are anybody's."""
    common: dict[str, int] = field(default_factory=dict, compare=False)
    """Program ids by name, of the layers that all isolations share."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One episode of drift, as all watchers of the host know it: told once for each of its kinds, and when it ends."""

    since: datetime
    last_s: float
    """CLOCK_BOOTTIME of the last one, on this boot."""
    boot: str
    count: int
    kinds: tuple[str, ...]
    failing: bool = False
    """Whether the last repair failed."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a process of ours in the target's cgroup found when it last tried (watchdog/actions/inside.py)."""

    utc: datetime
    s: float
    """CLOCK_BOOTTIME, on this boot."""
    boot: str
    tried: int
    """Tries that came to a result."""
    stopped: int
    untried: int
    """What this host or this watcher lacks, or what did not work outside either."""
    wrong: tuple[str, ...] = ()
    """By their titles: what got through and ought to be stopped; after a release, what is stopped still."""
    why_not: str = ""
    """Why nothing could be tried."""
    took_s: float = 0.0

    @property
    def passed(self) -> bool | None:
        """Whether all was as it should be; None where nothing could be tried."""
        return None if self.why_not else not self.wrong


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
    trouble: str = ""
    """What could not be put right when it was last tried, so that it is told once."""
    drift: Drift | None = field(default=None, compare=False)
    """The episode that is under way; its ends are in the audit trail, not every repair."""
    inside: Inside | None = field(default=None, compare=False)
    """How it was when it was last verified from inside."""

    @property
    def by_a_watcher(self) -> bool:
        """Whether it was ordered, not asked for by hand: then the order's watcher tells people of it."""
        return "watcher" in self.why.by

    @property
    def name(self) -> str:
        """What an operator calls it."""
        return self.where.peer or self.where.unit or self.where.cgroup

    def event_key(self, state: EventState, what: str = "") -> str:
        """Under which people are told of it, by whomever: once of its beginning, once of its end. `what` tells apart
        what is told of it in between."""
        return f"intent/{self.id}/{state}{what and '/'}{what}"


@dataclass(frozen=True)
class _Body:
    why: Why
    held_by: With
    trouble: str = ""
    drift: Drift | None = None
    inside: Inside | None = None


class Intents:
    """The rows, the audit record of every change to one, and what the mesh is told of it."""

    def __init__(self, journal: Journal, mesh: Coordinator | None = None) -> None:
        self._journal = journal
        self._mesh = mesh or coordinator_of(journal)

    def begin(self, where: Where, why: Why, held_by: With, at: datetime, state: State = State.ISOLATING) -> Intent:
        """Write the intent down.

        One to isolate is not waited for to be on disk: a kill leaves it, and a loss of power takes along all that is
        attached by it. `flush` follows the cut.
        """
        begun = Intent(0, state, where, why, held_by, at, at)
        with self._journal.transaction(flushed=state is not State.ISOLATING) as tx:
            cursor = tx.execute(
                "INSERT INTO isolation (peer, target, state, body, since, changed) VALUES (?, ?, ?, ?, ?, ?)",
                (where.peer or None, _encoded(where), state, _body(begun), rfc3339(at), rfc3339(at)),
            )
            assert cursor.lastrowid is not None
            intent = replace(begun, id=cursor.lastrowid)
            self._tell(tx, where.peer, let_back=False)
            self._audit(intent, at)
        return intent

    def change(
        self,
        intent: Intent,
        state: State,
        at: datetime,
        *,
        facts: Mapping[str, object] = NO_FACTS,
        also: Callable[[], None] = lambda: None,
        **moved: Any,
    ) -> Intent:
        """Move an intent on; `moved` are other fields of it that change too, `facts` go to the audit trail.

        `also` is called in the same transaction: what it does is done exactly when this is.
        """
        after = replace(intent, state=state, changed=at, **moved)
        with self._journal.transaction() as tx:
            before = tx.execute("SELECT peer, state FROM isolation WHERE id = ?", (after.id,)).fetchone()
            tx.execute(
                "UPDATE isolation SET peer = ?, state = ?, target = ?, body = ?, changed = ? WHERE id = ?",
                (after.where.peer or None, after.state, _encoded(after.where), _body(after), rfc3339(at), after.id),
            )
            was_cut = before["state"] in CUT
            self._tell(tx, after.where.peer, let_back=was_cut or after.state is State.RELEASED)
            if before["peer"] != after.where.peer:
                self._tell(tx, before["peer"], let_back=was_cut)
            if facts or replace(after, changed=intent.changed) != intent:
                self._audit(after, at, facts)
            also()
        return after

    def _tell(self, tx: sqlite3.Connection, peer: str | None, *, let_back: bool) -> None:
        """Tell the mesh what this host did to a configured peer."""
        if not peer:
            return
        cut = tx.execute(
            "SELECT since FROM isolation WHERE peer = ? AND state IN (?, ?) ORDER BY id DESC LIMIT 1", (peer, *CUT)
        ).fetchone()
        if cut:
            self._mesh.isolated(peer, from_rfc3339(cut["since"]))
        elif let_back:
            self._mesh.released(peer)

    def get(self, intent: Intent) -> Intent:
        """The intent as it is now."""
        return _intent(self._journal.read("SELECT * FROM isolation WHERE id = ?", (intent.id,))[0])

    def in_force(self) -> list[Intent]:
        """Every intent that is not over, oldest first."""
        rows = self._journal.read("SELECT * FROM isolation WHERE state IN (?, ?, ?, ?) ORDER BY id", IN_FORCE)
        return [_intent(row) for row in rows]

    def drifting(self) -> list[Intent]:
        """Every intent with an episode of drift that nobody has ended yet, over or not."""
        rows = self._journal.read("SELECT * FROM isolation WHERE body LIKE ? ORDER BY id", ('%"drift":{%',))
        return [intent for row in rows if (intent := _intent(row)).drift is not None]

    def note_drift(self, intent: Intent, drift: Drift | None) -> None:
        """Keep, or forget, an episode; whatever else became of the intent meanwhile stays."""
        with self._journal.transaction() as tx:
            current = replace(self.get(intent), drift=drift)
            tx.execute("UPDATE isolation SET body = ? WHERE id = ?", (_body(current), current.id))

    def note_inside(self, intent: Intent, inside: Inside) -> Intent:
        """Keep how it was found from inside; whatever else became of the intent meanwhile stays."""
        with self._journal.transaction(flushed=False) as tx:
            current = replace(self.get(intent), inside=inside)
            tx.execute("UPDATE isolation SET body = ? WHERE id = ?", (_body(current), current.id))
        return current

    def shadows(self) -> list[Intent]:
        """What is watched and not isolated, oldest first."""
        rows = self._journal.read("SELECT * FROM isolation WHERE state IN (?, ?) ORDER BY id", SHADOWS)
        return [_intent(row) for row in rows]

    def last(self, most: int) -> list[Intent]:
        """The newest intents, newest first, over or not."""
        rows = self._journal.read("SELECT * FROM isolation ORDER BY id DESC LIMIT ?", (most,))
        return [_intent(row) for row in rows]

    def _audit(self, intent: Intent, at: datetime, facts: Mapping[str, object] = NO_FACTS) -> None:
        more: dict[str, object] = {"trouble": intent.trouble} if intent.trouble else {}
        if intent.where.moved is not None:
            more["moved_from"] = intent.where.moved.cgroup
            more["moved_processes"] = [was.pid for was in intent.where.moved.processes]
        if intent.why.allow is not None:
            more["allow"] = [str(each) for each in intent.why.allow]
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
            overruled=list(intent.why.overruled),
            slot=intent.held_by.slot,
            **{**more, **facts},
        )


def _encoded(where: Where) -> str:
    return msgspec.json.encode(where).decode()


def _body(intent: Intent) -> str:
    return msgspec.json.encode(_Body(intent.why, intent.held_by, intent.trouble, intent.drift, intent.inside)).decode()


def _intent(row: sqlite3.Row) -> Intent:
    try:
        body = msgspec.json.decode(row["body"], type=_Body)
        return Intent(
            id=row["id"],
            state=State(row["state"]),
            where=msgspec.json.decode(row["target"], type=Where),
            why=body.why,
            held_by=body.held_by,
            since=from_rfc3339(row["since"]),
            changed=from_rfc3339(row["changed"]),
            trouble=body.trouble,
            drift=body.drift,
            inside=body.inside,
        )
    except (ValueError, TypeError) as error:  # msgspec's errors are ValueErrors
        raise JournalCorrupt(
            f"the journal's isolation {row['id']} cannot be read ({error}); it was left as it is",
            hint="watchdog-mesh reconcile --set-aside-journal keeps the journal beside and rebuilds from the kernel",
        ) from error
