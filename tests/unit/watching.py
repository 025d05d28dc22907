"""Watchers of one host on a clock turned by hand: rounds, their orders carried out as told, and what people heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import ClassVar

from tests.unit.memory_mesh import MemoryCoordinator, Store
from tests.unit.meshes import START
from watchdog.clock import Moment
from watchdog.database import Connection
from watchdog.errors import JournalFailed
from watchdog.intents import Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.ladder import Policy
from watchdog.mesh.coordinator import THIS_HOST, Coordinator, Order
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action, Escalation, Heartbeat
from watchdog.watcher import Watcher

POLICY = Policy()
INTERVAL_S = POLICY.interval_s
UP = Heartbeat("", healthy=True, detail="HTTP 200", response_time_ms=2.0)
DOWN = Heartbeat("", healthy=False, detail="no answer within 5 s")
FAILED = Heartbeat("", healthy=False, detail="refused", evidence="shield.service is failed", unit_down=True)
SQUATTED = Heartbeat("", healthy=False, detail="port 9103 is pid 7's", impostor=True)


class FragileJournal(Journal):
    """A journal that can be made to refuse, as a locked or full one does."""

    refusing = False
    asked = 0
    flushed = 0
    disk_full = False

    def _connection(self) -> Connection:
        self.asked += 1
        if self.refusing:
            raise JournalFailed("the journal: database is locked")
        return super()._connection()

    def flush(self) -> None:
        self.flushed += 1
        if self.disk_full:
            raise JournalFailed("cannot put the journal on disk: no space left on device")


@dataclass
class Bench:
    """`watchers` of one mesh; `now_s` is turned by hand."""

    peers: tuple[str, ...] = ("shield", "sidecar")
    names: tuple[str, ...] = ("immune",)
    policy: Policy = POLICY
    now_s: float = 1000.0
    boot: str = "boot"
    wall_step_s: float = 0.0
    helps: bool = False
    voters: tuple[str, ...] = ()
    """Who has a vote on everybody; everybody, when it is nobody."""
    told: list[Escalation] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    begun: list[Order] = field(default_factory=list)
    watchers: dict[str, Watcher] = field(default_factory=dict)
    mesh_is_the_journal: ClassVar[bool] = True
    """False: it is a store elsewhere, which no transaction of the journal's undoes."""

    def __post_init__(self) -> None:
        self.journal = FragileJournal(None)
        self.store = Store()
        self.connected: list[MemoryCoordinator] = []
        self.mesh = self.connect()
        self.intents = Intents(self.journal, self.mesh)
        for name in self.names:
            self.start(name)

    def connect(self) -> Coordinator:
        """One more watcher's Coordinator."""
        if self.mesh_is_the_journal:
            return LocalCoordinator(self.journal)
        self.connected.append(MemoryCoordinator(self.store, THIS_HOST))
        return self.connected[-1]

    def reach_mesh(self, *, reached: bool) -> None:
        """Whether a mesh that is elsewhere answers."""
        for coordinator in self.connected:
            coordinator.reached = reached

    def at(self) -> Moment:
        since_s = self.now_s - 1000.0 + self.wall_step_s
        return Moment(self.now_s, START + timedelta(seconds=since_s), self.boot)

    def start(self, name: str = "immune") -> Watcher:
        """A new process of that watcher, on the journal of the old one."""
        watcher = Watcher(
            name,
            self.policy,
            coordinator=self.connect(),
            journal=self.journal,
            publish=self._publish,
            voters_on=lambda peer: set(self.voters or (*self.peers, *self.names)) - {peer},
            restart_timeout_s=60.0,
        )
        for peer in self.peers:
            if peer != name:
                watcher.watch(peer, f"http://{peer}/", self.at())
        self.watchers[name] = watcher
        return watcher

    @property
    def watcher(self) -> Watcher:
        return self.watchers[self.names[0]]

    def _publish(self, escalation: Escalation, key: str, at: Moment) -> bool:
        if key in self.keys:
            return False
        self.journal.after_commit(lambda: self._tell(escalation, key))
        return True

    def _tell(self, escalation: Escalation, key: str) -> None:
        self.keys.append(key)
        self.told.append(escalation)

    def round(
        self,
        beats: Mapping[str, Heartbeat] | None = None,
        name: str = "immune",
        *,
        passes_s: float = INTERVAL_S,
        carry_out: bool = True,
        own: Heartbeat | None = None,
        late_s: float = 0.0,
        clock_jump_s: float = 0.0,
        suspended_s: float = 0.0,
    ) -> list[Order]:
        """One round: `beats` by peer, the others answer. The orders it gave, carried out unless told not to."""
        watcher = self.watchers[name]
        watcher.begin_round(
            self.at(),
            late_s=late_s,
            clock_jump_s=clock_jump_s,
            suspended_s=suspended_s,
            own_endpoint_probed=own is not None,
        )
        orders: list[Order] = []
        for peer in watcher.peers:
            beat = replace((beats or {}).get(peer, UP), peer=peer)
            orders += watcher.hear(peer, beat, self.at())
        if own is not None:
            watcher.hear_own(replace(own, peer=name))
        orders += watcher.end_round(self.at())
        if carry_out:
            for order in orders:
                self.carry_out(order)
        self.now_s += passes_s
        return orders

    def rounds(self, count: int, beats: Mapping[str, Heartbeat] | None = None, name: str = "immune") -> list[Order]:
        """Several alike; every order they gave."""
        return [order for _ in range(count) for order in self.round(beats, name)]

    def carry_out(self, order: Order, *, failed: bool = False, outcome: str = "failed", kind: str = "") -> None:
        """As a host would: begin, act, settle."""
        watcher = self.watchers[order.watcher]
        if not watcher.may_begin(order, self.at()):
            watcher.drop(order, "overtaken", self.at())
            return
        self.begun.append(order)
        if order.action is Action.ISOLATE and not failed:
            self.isolate(order.peer)
        watcher.settle(order, self.at(), failed=failed, outcome=outcome if failed else "done", kind=kind)

    def isolate(self, peer: str) -> None:
        where = Where(cgroup="/cg", cgroup_id=1, peer=peer)
        self.intents.begin(where, Why("test"), With(), self.at().utc, State.ISOLATED)

    def release(self, peer: str) -> None:
        for intent in self.intents.in_force():
            if intent.where.peer == peer:
                self.intents.change(intent, State.RELEASED, self.at().utc)

    def heard(self, peer: str = "shield") -> list[tuple[str, str, str]]:
        """What people were told of a peer: action, severity, state."""
        return [(e.action.value, e.severity.value, e.state.value) for e in self.told if e.peer_name == peer]

    def doubts(self, name: str = "immune") -> bool:
        """Whether that watcher does."""
        return self.watchers[name].doubt.doubting

    def votes(self) -> list[int]:
        """How many misses each suspicion of a peer stands for; 0 is no vote."""
        return [s.missed_count for s in self.mesh.suspicions(self.at(), 1e9) if s.peer in self.peers]

    def trail(self, kind: str) -> list[dict[str, object]]:
        return [entry for entry in self.journal.trail() if entry["kind"] == kind]
