"""What happens while the demo waits, told as it happens: events that arrive, what watchers believe, who runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from scripts.demonstration.company import Member
from scripts.demonstration.mesh import Mesh
from scripts.demonstration.receiver import Event, Receivers
from scripts.demonstration.screen import Screen

LOOK_S = 0.1
EVERYTHING = "duty"
"""The receiver whose events are told; the other gets some of the same."""


class News:
    """Tells each thing once."""

    def __init__(self, screen: Screen, mesh: Mesh, told: Receivers, member: Member) -> None:
        self._screen, self._mesh, self._told, self._member = screen, mesh, told, member
        self._observers = [name for name in mesh.agents if name != member.name]
        self._events_told = 0
        self._looked_s = 0.0
        self.believed: dict[str, tuple[str, int]] = {}
        """Status and misses of the member, by watcher."""

    def tell(self) -> None:
        """Tell what is new."""
        if time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            for watcher in self._observers:
                self._look(watcher, self._mesh.seen_by(watcher).get(self._member.name))
        new = self._told.events[self._events_told :]
        self._events_told += len(new)
        for event in new:
            if event.receiver == EVERYTHING:
                self._tell_event(event)

    def _tell_event(self, event: Event) -> None:
        data = event.data
        word = data["state"] if data["state"] == "RESOLVED" else data["severity"]
        self._screen.say(word, f"webhook: {data['peer_name']}: {data['action']}: {data['reason']}")

    def _look(self, watcher: str, peer: Mapping[str, Any] | None) -> None:
        """The first observer's misses are told one by one, the others' when they change their mind."""
        if peer is None or peer["last_seen"] is None:
            return
        status, missed = peer["status"], peer["missed_count"]
        status_before, missed_before = self.believed.get(watcher, ("HEALTHY", 0))
        self.believed[watcher] = status, missed
        if status != status_before:
            self._screen.say(watcher, f"{self._member.name} is {status}{_misses(peer)}")
        elif watcher == self._observers[0] and status != "ISOLATED" and missed > missed_before:
            self._screen.say(watcher, f"{self._member.name} has missed {missed} in a row")


def _misses(peer: Mapping[str, Any]) -> str:
    missed = peer["missed_count"]
    return f", {missed} missed: {peer['detail']}" if missed and peer["status"] != "ISOLATED" else ""
