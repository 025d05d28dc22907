"""What one watcher believes, kept in the journal: it takes up where it left off, killed or rebooted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from watchdog.errors import JournalCorrupt
from watchdog.journal import Journal
from watchdog.ladder import Standing


@dataclass(frozen=True)
class Saved:
    """One row."""

    standing: Standing
    last_seen: datetime | None


class Standings:
    """The rows of the watcher `name`."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name

    def save(self, peer: str, saved: Saved) -> None:
        """Write one down, within the transaction that is open or in its own."""
        with self._journal.transaction() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO standing (watcher, peer, body) VALUES (?, ?, ?)",
                (self._name, peer, msgspec.json.encode(saved).decode()),
            )

    def load(self, peer: str) -> Saved | None:
        """What was saved last; None for a peer never saved. Raises JournalCorrupt for what nobody can read."""
        rows = self._journal.read("SELECT body FROM standing WHERE watcher = ? AND peer = ?", (self._name, peer))
        if not rows:
            return None
        try:
            return msgspec.json.decode(rows[0]["body"], type=Saved)
        except msgspec.MsgspecError as error:
            raise JournalCorrupt(
                f"the journal {self._journal.path} is damaged (what {self._name} believed of {peer}: {error})",
                hint="watchdog-mesh reconcile --set-aside-journal keeps it beside and rebuilds from the kernel",
            ) from error
