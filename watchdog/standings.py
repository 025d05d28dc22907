"""What one watcher believes of its peers and of itself, kept in the journal: it takes up where it left off."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import msgspec

from watchdog.journal import Journal
from watchdog.ladder import Standing
from watchdog.model import Progress
from watchdog.quorum import Doubt


@dataclass(frozen=True)
class Saved:
    """One row."""

    standing: Standing
    last_seen: datetime | None
    progress: Progress | None = None
    """What the peer said of it when it was heard last before this was saved."""


log = logging.getLogger("watchdog")

ITSELF = ""
"""Under this name a watcher keeps what it believes of itself: no peer can have it."""
Row = TypeVar("Row", Saved, Doubt)


class Standings:
    """The rows of the watcher `name`. A row that nobody can read is none: all else in the journal is worth more."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name

    def save(self, peer: str, saved: Saved | Doubt) -> None:
        """Write one down, within the transaction that is open or in its own."""
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO standing (watcher, peer, body) VALUES (?, ?, ?)",
                (self._name, peer, msgspec.json.encode(saved).decode()),
            )

    def load(self, peer: str) -> Saved | None:
        """What was saved last of a peer; None for one never saved."""
        return self._load(peer, Saved)

    def load_doubt(self) -> Doubt:
        """Whether the watcher trusted itself when it ended."""
        return self._load(ITSELF, Doubt) or Doubt()

    def _load(self, peer: str, kind: type[Row]) -> Row | None:
        rows = self._journal.read("SELECT body FROM standing WHERE watcher = ? AND peer = ?", (self._name, peer))
        if not rows:
            return None
        try:
            return msgspec.json.decode(rows[0]["body"], type=kind)
        except msgspec.MsgspecError as error:
            log.error("what %s believed of %s cannot be read, and begins anew: %s", self._name, peer or "itself", error)
            return None
