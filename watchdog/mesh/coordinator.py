"""What N watchers need to act as one, whatever holds it: the host's journal, or a store shared by many hosts.

Every method is one compare-and-swap or one read, and none needs more than that: a backend on a key-value store
with transactions can offer all of them. A backend that cannot answer raises WatchdogError: the watcher then goes on
probing and alerting, and orders nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from watchdog.clock import Moment
from watchdog.ladder import PeerRecord
from watchdog.model import Action, Severity


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One watcher's word that a peer is gone."""

    watcher: str
    peer: str
    missed_count: int
    age_s: float


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What a watcher wants to be ordered, and what it knew when it decided so."""

    peer: str
    action: Action
    watcher: str
    reason: str
    known_token: int
    """The peer's newest order as the watcher knew it: when there is a newer one, it decided too late."""
    lease_s: float
    """How long the order may take. After that it counts as failed and its holder must not act on it."""
    voters: tuple[str, ...] = ()
    """Watchers whose suspicion this order rests on: each must still be there."""


@dataclass(frozen=True, slots=True)
class Order:
    """A decision to act on one peer. Its token is larger than that of any order before it."""

    token: int
    peer: str
    episode: int
    action: Action
    watcher: str
    reason: str
    expires_s: float
    boot: str


class Denied(Enum):
    """Why an order was not given."""

    LATE = "another order was given first"
    BUSY = "another agent of this host is being restarted"
    SILENCED = "the peer is silenced"
    VOTE_WITHDRAWN = "a vote it rested on was withdrawn"


@dataclass(frozen=True, slots=True)
class Silence:
    """Until when nothing acts on a peer, and why."""

    peer: str
    until: datetime
    reason: str
    by: str


class Coordinator(Protocol):
    """Observations, orders, restart counts and silences of one mesh."""

    def record(self, peer: str, at: Moment) -> PeerRecord:
        """What the mesh knows of `peer`; a peer never heard of has an empty record."""

    def records(self, at: Moment) -> dict[str, PeerRecord]:
        """The records of every peer the mesh has ever acted on; all others are empty."""

    def suspect(self, watcher: str, peer: str, missed_count: int, at: Moment) -> None:
        """Say that `watcher` finds `peer` missing; repeated at every miss."""

    def trust(self, watcher: str, peer: str) -> None:
        """Take `watcher`'s suspicion of `peer` back; without effect when there is none."""

    def suspicions(self, at: Moment, fresh_s: float) -> list[Suspicion]:
        """Every suspicion not older than `fresh_s`."""

    def open_episode(self, peer: str, at: Moment) -> int | None:
        """Begin a peer's trouble; its number, or None when it has begun already."""

    def close_episode(self, peer: str, at: Moment, fresh_s: float) -> tuple[int, Severity] | None:
        """End a peer's trouble when no watcher freshly suspects it: the episode and its loudest severity.

        None when it has ended already, is isolated, or somebody still suspects the peer.
        """

    def raise_severity(self, peer: str, severity: Severity) -> None:
        """Remember the loudest severity of the peer's open episode."""

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        """Give the order to exactly one watcher. A restart counts from here on, whatever becomes of it."""

    def begin(self, order: Order, at: Moment) -> bool:
        """Ask once more right before acting: False when the order is overtaken, over or expired."""

    def finish(self, order: Order, at: Moment, *, failed: bool, outcome: str) -> None:
        """Say how the order ended."""

    def forgive(self, peer: str, known: PeerRecord, at: Moment) -> bool:
        """Take one restart off the count; False when the record is no longer the one known."""

    def silence(self, silence: Silence, at: Moment) -> None:
        """Let nothing act on a peer for a time; a longer or shorter one replaces it."""

    def unsilence(self, peer: str) -> bool:
        """End a silence; False when there was none."""

    def silences(self, at: Moment) -> dict[str, Silence]:
        """The silences in force, by peer."""
