"""A mesh in memory: a store with a clock of its own, asked by hosts that have each their own clock and boot.

It is nothing like the journal, and models what a store on the network does: it knows how old a thing is by its own
clock, and which boot each of its hosts is on. With it the suite shows that the interface asks for no more than that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from watchdog.clock import Moment
from watchdog.errors import WatchdogError
from watchdog.ladder import OrderState, PeerRecord
from watchdog.mesh.coordinator import NOTHING_KNOWN, Closed, Denied, Member, Order, OrderRequest, Silence, Suspicion
from watchdog.model import Action, Severity

EPOCH = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Said(NamedTuple):
    """Who said something, on which boot, and when by the store's clock."""

    host: str
    boot: str
    s: float


@dataclass
class Peer:
    """What is kept of one peer."""

    episode: int = 0
    episode_open: bool = False
    told: Severity | None = None
    restart_count: int = 0
    last_restart: datetime | None = None
    isolated_since: datetime | None = None
    released_token: int = 0
    """The newest order of all when it was let back."""


@dataclass
class Given:
    """What is kept of one order. `boot` is its host's, as far as the store knew it."""

    order: Order
    ordered_s: float
    expires_s: float
    boot: str | None
    begun_s: float | None = None
    ended: OrderState | None = None
    said: tuple[bool, str] | None = None


@dataclass
class Store:
    """`clocks` says what to add to the seconds of a boot; one never heard of is placed by its wall clock."""

    clocks: dict[str, float] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    orders: list[Given] = field(default_factory=list)
    suspicions: dict[tuple[str, str], tuple[Said, int]] = field(default_factory=dict)
    members: dict[str, tuple[Said, str, dict[str, int]]] = field(default_factory=dict)
    silences: dict[str, tuple[float, Silence]] = field(default_factory=dict)
    revision: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def said(self, host: str, at: Moment) -> Said:
        """The host says something now."""
        self.boots[host] = at.boot
        wall_s = (at.utc - EPOCH).total_seconds()
        return Said(host, at.boot, at.s + self.clocks.setdefault(at.boot, wall_s - at.s))

    def counts(self, said: Said) -> bool:
        """Its host has not been booted again since."""
        return self.boots[said.host] == said.boot

    def newest(self, peer: str) -> Given | None:
        """The peer's newest order."""
        return next((each for each in reversed(self.orders) if each.order.peer == peer), None)

    def knows_age(self, given: Given) -> bool:
        """The host that it is for has not been booted again since."""
        return given.boot is None or self.boots.get(given.order.host) == given.boot

    def state(self, given: Given, now_s: float) -> OrderState:
        """What became of an order."""
        if given.ended is not None:
            return given.ended
        if self.knows_age(given) and now_s < given.expires_s:
            return OrderState.OPEN
        return OrderState.VOID if given.begun_s is None else OrderState.LAPSED

    def record(self, name: str, now_s: float) -> PeerRecord:
        """What is known of one peer."""
        peer, given = self.peers.get(name, Peer()), self.newest(name)
        record = PeerRecord(
            episode=peer.episode,
            episode_open=peer.episode_open,
            restart_count=peer.restart_count,
            last_restart=peer.last_restart,
            isolated_since=peer.isolated_since,
        )
        if given is None:
            return record
        known, begun_s = self.knows_age(given), given.begun_s
        return replace(
            record,
            token=given.order.token,
            last_action=given.order.action,
            order=self.state(given, now_s),
            order_episode=given.order.episode,
            isolations_tried=self.tried(given) if given.order.action is Action.ISOLATE else 0,
            ordered_age_s=now_s - given.ordered_s if known else None,
            begun_age_s=now_s - begun_s if known and begun_s is not None else None,
        )

    def tried(self, newest: Given) -> int:
        """Isolations of that episode that were begun and are not done, since anybody was let back."""
        since = max(peer.released_token for peer in self.peers.values())
        kind = (newest.order.peer, Action.ISOLATE, newest.order.episode)
        return sum(
            (each.order.peer, each.order.action, each.order.episode) == kind
            and each.order.token > since
            and each.begun_s is not None
            and each.ended is not OrderState.DONE
            for each in self.orders
        )

    def votes(self, on: OrderRequest | Order, now_s: float) -> bool:
        """All of its voters still suspect the peer, and have said so lately."""
        since_s = now_s - on.fresh_s
        said = (self.suspicions.get((watcher, on.peer)) for watcher in on.voters)
        return all(each and each[1] > 0 and self.counts(each[0]) and each[0].s >= since_s for each in said)

    def wanted(self, order: Order, now_s: float) -> bool:
        """The order may still be carried out."""
        record = self.record(order.peer, now_s)
        same = record.token == order.token and self.orders[order.token - 1].order == order
        trouble = record.episode_open and record.episode == order.episode
        released = self.peers.get(order.peer, Peer()).released_token >= order.token
        free = not (record.isolated or released or self.is_silenced(order.peer, now_s))
        return same and record.order_open and trouble and free and self.votes(order, now_s)

    def is_silenced(self, peer: str, now_s: float) -> bool:
        """A silence is in force."""
        return peer in self.silences and now_s < self.silences[peer][0]


class MemoryCoordinator:
    """A watcher of `host`. Not `reached`, nothing answers it; what its host did is kept until something does."""

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        self._kept: list[Callable[[], None]] = []
        self.reached = True

    @contextmanager
    def _asked(self, *, changed: bool = False) -> Iterator[Store]:
        if not self.reached:
            raise WatchdogError("the store does not answer")
        with self._store.lock:
            kept, self._kept = self._kept, []
            for say in kept:
                say()
            self._store.revision += changed
            yield self._store

    def attend(self, watcher: str, self_doubt: str, at: Moment, misses: Mapping[str, int] = NOTHING_KNOWN) -> None:
        with self._asked(changed=True) as store:
            store.members[watcher] = (store.said(self._host, at), self_doubt, dict(misses))

    def members(self, at: Moment, fresh_s: float) -> list[Member]:
        with self._asked() as store:
            now_s = store.said(self._host, at).s
            return [
                Member(name, doubt, now_s - said.s, misses)
                for name, (said, doubt, misses) in sorted(store.members.items())
                if store.counts(said) and now_s - said.s <= fresh_s
            ]

    def record(self, peer: str, at: Moment) -> PeerRecord:
        with self._asked() as store:
            return store.record(peer, store.said(self._host, at).s)

    def records(self, at: Moment) -> dict[str, PeerRecord]:
        with self._asked() as store:
            now_s = store.said(self._host, at).s
            return {name: store.record(name, now_s) for name in store.peers}

    def version(self) -> int:
        with self._asked() as store:
            return store.revision

    def suspect(self, watcher: str, peer: str, missed_count: int, at: Moment) -> None:
        with self._asked(changed=True) as store:
            store.suspicions[watcher, peer] = (store.said(self._host, at), missed_count)

    def trust(self, watcher: str, peer: str) -> None:
        with self._asked(changed=True) as store:
            store.suspicions.pop((watcher, peer), None)

    def suspicions(self, at: Moment, fresh_s: float) -> list[Suspicion]:
        with self._asked() as store:
            now_s = store.said(self._host, at).s
            return [
                Suspicion(watcher, peer, missed_count, now_s - said.s)
                for (watcher, peer), (said, missed_count) in store.suspicions.items()
                if store.counts(said) and now_s - said.s <= fresh_s
            ]

    def open_episode(self, peer: str, at: Moment) -> int | None:
        with self._asked(changed=True) as store:
            kept = store.peers.setdefault(peer, Peer())
            if kept.episode_open:
                return None
            kept.episode, kept.episode_open, kept.told = kept.episode + 1, True, None
            return kept.episode

    def close_episode(self, peer: str, at: Moment, fresh_s: float) -> Closed | None:
        with self._asked(changed=True) as store:
            kept = store.peers.get(peer, Peer())
            suspected = any(each.peer == peer for each in self.suspicions(at, fresh_s))
            if not kept.episode_open or kept.isolated_since or suspected:
                return None
            kept.episode_open = False
            return Closed(kept.episode, kept.told)

    def told(self, peer: str, severity: Severity) -> None:
        with self._asked(changed=True) as store:
            kept = store.peers.get(peer, Peer())
            if kept.episode_open and (kept.told is None or kept.told.rank < severity.rank):
                kept.told = severity

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        with self._asked(changed=True) as store:
            now_s = store.said(self._host, at).s
            if denied := self._denied(store, request, now_s):
                return denied
            self.open_episode(request.peer, at)
            order = Order(
                token=len(store.orders) + 1,
                peer=request.peer,
                episode=store.peers[request.peer].episode,
                action=request.action,
                watcher=request.watcher,
                reason=request.reason,
                voters=request.voters,
                fresh_s=request.fresh_s,
                host=request.host,
            )
            ordered_s = now_s - (at.s - request.round_s)
            store.orders.append(Given(order, ordered_s, now_s + request.lease_s, store.boots.get(request.host)))
            return order

    @staticmethod
    def _denied(store: Store, request: OrderRequest, now_s: float) -> Denied | None:
        record = store.record(request.peer, now_s)
        if record.token != request.known_token or record.order_open or record.isolated:
            return Denied.LATE
        if store.is_silenced(request.peer, now_s):
            return Denied.SILENCED
        busy = any(
            each.order.action is Action.RESTART and each.order.host == request.host
            for each in store.orders
            if store.state(each, now_s) is OrderState.OPEN
        )
        if request.action is Action.RESTART and busy:
            return Denied.BUSY
        return None if store.votes(request, now_s) else Denied.VOTE_WITHDRAWN

    def orders_for(self, host: str, at: Moment) -> list[Order]:
        with self._asked() as store:
            now_s = store.said(self._host, at).s
            waiting = [each for each in store.orders if each.begun_s is None and each.order.host == host]
            return [each.order for each in waiting if store.state(each, now_s) is OrderState.OPEN]

    def begin(self, order: Order, at: Moment) -> bool:
        with self._asked(changed=True) as store:
            now_s = store.said(self._host, at).s
            if not store.wanted(order, now_s) or store.orders[order.token - 1].begun_s is not None:
                return False
            given, peer = store.orders[order.token - 1], store.peers[order.peer]
            given.begun_s, given.boot = now_s, store.boots.get(order.host)
            if order.action is Action.RESTART:
                peer.restart_count, peer.last_restart = peer.restart_count + 1, at.utc
            return True

    def stands(self, order: Order, at: Moment) -> bool:
        with self._asked() as store:
            now_s = store.said(self._host, at).s
            return store.wanted(order, now_s) and store.orders[order.token - 1].begun_s is not None

    def finish(self, token: int, at: Moment, *, failed: bool, outcome: str) -> bool:
        with self._asked(changed=True) as store:
            if token > len(store.orders):
                return False
            given, said = store.orders[token - 1], (failed, outcome)
            if given.said is None:
                ended = OrderState.FAILED if failed else OrderState.DONE
                given.said, given.ended = said, OrderState.VOID if given.begun_s is None else ended
            return given.said == said

    def isolated(self, peer: str, since: datetime) -> None:
        def say() -> None:
            self._store.peers.setdefault(peer, Peer()).isolated_since = since

        self._say(say)

    def released(self, peer: str) -> None:
        def say() -> None:
            kept = self._store.peers.setdefault(peer, Peer())
            kept.isolated_since, kept.restart_count, kept.released_token = None, 0, len(self._store.orders)

        self._say(say)

    def _say(self, say: Callable[[], None]) -> None:
        self._kept.append(say)
        if self.reached:
            with self._asked(changed=True):
                pass

    def restarts(self, peer: str, within_s: float, at: Moment) -> int:
        with self._asked() as store:
            now_s, since = store.said(self._host, at).s, store.peers.get(peer, Peer()).released_token
            restarted = [
                each
                for each in store.orders
                if each.order.peer == peer and each.order.action is Action.RESTART and each.order.token > since
            ]
            return sum(each.begun_s is not None and abs(now_s - each.begun_s) < within_s for each in restarted)

    def forgive(self, peer: str, known: PeerRecord, at: Moment) -> bool:
        with self._asked(changed=True) as store:
            if self.record(peer, at) != known or not known.restart_count:
                return False
            store.peers[peer].restart_count -= 1
            return True

    def silence(self, silence: Silence, at: Moment) -> None:
        with self._asked(changed=True) as store:
            until_s = store.said(self._host, at).s + (silence.until - at.utc).total_seconds()
            store.silences[silence.peer] = (until_s, silence)

    def unsilence(self, peer: str) -> bool:
        with self._asked(changed=True) as store:
            return store.silences.pop(peer, None) is not None

    def silences(self, at: Moment) -> dict[str, Silence]:
        with self._asked() as store:
            now_s = store.said(self._host, at).s
            return {
                peer: replace(silence, until=at.utc + timedelta(seconds=until_s - now_s))
                for peer, (until_s, silence) in store.silences.items()
                if now_s < until_s
            }
