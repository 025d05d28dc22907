"""What N watchers need to act as one, whatever holds it: the host's journal, or a store shared by many hosts.

Every method is one compare-and-swap or one read, and none needs more than that: a backend on a key-value store
with transactions can offer all of them. A backend that cannot answer raises WatchdogError: the watcher then goes on
probing, doubts itself and orders nothing. tests/unit/test_coordinator.py is what every backend must pass.

What goes in is by the asker's own clock; what comes out are ages, which the backend works out: nobody needs to know by
whose clock a thing was written down. A reboot ends what its host said and did before: suspicions, members and orders
under way are no more, and how old an order is is not known.

Each call is whole by itself, and that is all that a caller may rely on: it may hold where what the caller writes down
with it does not. So people are told of an order after the claim, under a key with the order's token in it: its holder
may tell of it again, and does when it cannot know that it has. `local` keeps the mesh in the journal, and a call is
part of the journal's transaction that is open: there it is both or neither.

An order's life: `claim` gives it to one watcher, `begin` lets that one act on it, `finish` says how it ended. One that
is not finished within its lease is over all the same: void when it was never begun, lapsed when it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from watchdog.clock import Moment
from watchdog.ladder import PeerRecord
from watchdog.model import Action, Severity

THIS_HOST = ""
"""The host of a mesh that has only one."""
NOTHING_KNOWN: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One watcher's word that a peer is gone."""

    watcher: str
    peer: str
    missed_count: int
    """Misses in a row; 0 for a suspicion that is no vote: somebody else answers, or the watcher is in a storm."""
    age_s: float


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What a watcher wants to be ordered, and what it knew when it decided so."""

    peer: str
    action: Action
    watcher: str
    reason: str
    known_token: int
    """The peer's newest order as the watcher knew it: when there is another one, it decided too late."""
    round_s: float
    """When the round began in which it was decided, by the clock of the Moment it is asked at: what the spacing of the
    next order is counted from."""
    lease_s: float
    """How long the order may take. After that it is over and its holder must not act on it."""
    voters: tuple[str, ...] = ()
    """Watchers whose suspicion this order rests on: each must still be there."""
    fresh_s: float = 0.0
    """How old a voter's word may be, when the order is given and when it is begun."""
    host: str = THIS_HOST
    """Where the peer's agent runs, and the order is carried out."""


@dataclass(frozen=True, slots=True)
class Order:
    """A decision to act on one peer. Its token is larger than that of any order before it."""

    token: int
    peer: str
    episode: int
    action: Action
    watcher: str
    reason: str
    voters: tuple[str, ...] = ()
    fresh_s: float = 0.0
    host: str = THIS_HOST


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an order ended, in a sentence for people."""

    failed: bool
    detail: str
    begun: bool = True
    """False: the order was overtaken or came too late, and nothing was done."""
    kind: str = ""
    """Of a failure: which it is, without what differs from one try to the next; people are told once of each."""


class Denied(Enum):
    """Why an order was not given."""

    LATE = "another order was given first"
    BUSY = "another agent of that host is being restarted"
    SILENCED = "the peer is silenced"
    VOTE_WITHDRAWN = "a vote it rested on was withdrawn, or is too old"


@dataclass(frozen=True, slots=True)
class Silence:
    """Until when nothing acts on a peer, and why."""

    peer: str
    until: datetime
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class Member:
    """One watcher of the mesh, as it last said itself."""

    watcher: str
    self_doubt: str
    """Why it acts on nobody and has no vote; empty while it trusts itself."""
    age_s: float
    misses: Mapping[str, int] = field(default_factory=dict)
    """How often in a row it missed each, its own agent too; 0 for whom it heard last. It knows nothing of others:
    it cannot ask them, or does not watch them. Also one that doubts itself says so; it is no vote."""

    @property
    def missing(self) -> set[str]:
        """Whom it did not hear last."""
        return {peer for peer, count in self.misses.items() if count}

    @property
    def heard(self) -> set[str]:
        """Whom it heard last."""
        return {peer for peer, count in self.misses.items() if not count}


class Closed(NamedTuple):
    """An episode that ended, and the loudest severity that people were told of it; None when they were told nothing."""

    episode: int
    told: Severity | None


class Coordinator(Protocol):
    """Members, observations, orders, restart counts and silences of one mesh."""

    def attend(self, watcher: str, self_doubt: str, at: Moment, misses: Mapping[str, int] = NOTHING_KNOWN) -> None:
        """Say that `watcher` watches, whether it trusts itself, and whom it hears and misses; repeated every round."""

    def members(self, at: Moment, fresh_s: float) -> list[Member]:
        """Every watcher heard of within `fresh_s`, by name.

        Who has a vote is configured: a watcher that is gone lowers no majority.
        """

    def record(self, peer: str, at: Moment) -> PeerRecord:
        """What the mesh knows of `peer`; a peer never heard of has an empty record."""

    def records(self, at: Moment) -> dict[str, PeerRecord]:
        """The records of every peer the mesh has ever acted on; all others are empty."""

    def version(self) -> int:
        """A number that changes whenever another watcher or a command has changed a record: cheap to poll."""

    def suspect(self, watcher: str, peer: str, missed_count: int, at: Moment) -> None:
        """Say that `watcher` finds `peer` missing; repeated at every miss."""

    def trust(self, watcher: str, peer: str) -> None:
        """Take `watcher`'s suspicion of `peer` back; without effect when there is none."""

    def suspicions(self, at: Moment, fresh_s: float) -> list[Suspicion]:
        """Every suspicion not older than `fresh_s`."""

    def open_episode(self, peer: str, at: Moment) -> int | None:
        """Begin a peer's trouble; its number, or None when it has begun already."""

    def close_episode(self, peer: str, at: Moment, fresh_s: float) -> Closed | None:
        """End a peer's trouble when no watcher freshly suspects it.

        None when it has ended already, is isolated, or somebody still suspects the peer.
        """

    def told(self, peer: str, severity: Severity) -> None:
        """Remember the loudest severity that people were told of the peer's open episode."""

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        """Give the order to exactly one watcher."""

    def orders_for(self, host: str, at: Moment) -> list[Order]:
        """The orders for agents of `host` that may still be begun and that nobody has, oldest first.

        Whoever carries out orders on a host looks here for those that watchers of other hosts were given.
        """

    def begin(self, order: Order, at: Moment) -> bool:
        """Ask once more right before acting: a holder that was stopped may be late, and the peer be well again.

        False when the order is overtaken, over, begun before or expired, or when since it was given the peer recovered,
        was silenced, isolated or released, or a voter took its word back or has not repeated it within the order's
        `fresh_s`. A restart counts from here on, whatever becomes of it.
        """

    def stands(self, order: Order, at: Moment) -> bool:
        """Ask again, of an order that was begun, when its holder had to wait since: what `begin` asks, to the same end.

        False also when the order has ended or lapsed meanwhile.
        """

    def finish(self, token: int, at: Moment, *, failed: bool, outcome: str) -> bool:
        """Say how an order ended; one never begun ends void. False, and nothing changes, when it has ended otherwise.

        True when the same was said before: who says it again could not write down that it had.
        """

    def isolated(self, peer: str, since: datetime) -> None:
        """Say that the peer's traffic is cut. Its host says so when it has done it, and may say it again.

        What a host did is true whether the mesh hears of it or not: a backend on a store that is out of reach keeps
        this, and a release, and says it when it can.
        """

    def released(self, peer: str) -> None:
        """Say that the peer was let back: what is counted against it begins anew, or its first misses would cut it off.

        May be said again, and of a peer that was never isolated.
        """

    def restarts(self, peer: str, within_s: float, at: Moment) -> int:
        """Restarts of the peer begun in the last `within_s`, forgiven or not, since it was last released.

        It grows only by an order with a newer token: what was read before a `claim` that succeeds is still so.
        """

    def forgive(self, peer: str, known: PeerRecord, at: Moment) -> bool:
        """Take one restart off the count; False when the record is no longer the one known."""

    def silence(self, silence: Silence, at: Moment) -> None:
        """Let nothing act on a peer for a time; a longer or shorter one replaces it."""

    def unsilence(self, peer: str) -> bool:
        """End a silence; False when there was none."""

    def silences(self, at: Moment) -> dict[str, Silence]:
        """The silences in force, by peer. On the boot they were made on no clock step moves their end."""
