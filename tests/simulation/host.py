"""The truth of one schedule: agents that are up or not, links that carry or not, one host's clocks and its journal."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from watchdog.clock import Moment
from watchdog.database import Connection
from watchdog.errors import JournalFailed
from watchdog.intents import Intent, Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.ladder import Policy
from watchdog.model import Heartbeat
from watchdog.outbox import Outbox

START_S = 1_000.0
START_UTC = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NEVER = 1_000_000
KEEPER_S = 5.0
"""How soon a keeper carries on what a killed watcher left half done."""
TABLES = (
    *("audit", "standing", "peer", "observation", "orders", "silence", "isolation", "event", "watcher"),
    "sqlite_sequence",
)


class Killed(BaseException):
    """kill -9: nothing of the watcher's own runs after it."""


class SharedJournal(Journal):
    """The one journal of all schedules: emptied, not made again. It refuses and kills as it is told."""

    refusing = has_refused = False
    kill_in: int | None = None
    """Uses until the watcher that uses it is killed; None: it is not."""

    def _connection(self) -> Connection:
        if self.refusing:
            self.has_refused = True
            raise JournalFailed("the journal: database is locked")
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                self.kill_in = None
                raise Killed
        return super()._connection()

    def empty(self) -> None:
        """As new."""
        self.refusing, self.kill_in = False, None
        with self.transaction() as tx:
            for table in TABLES:
                tx.execute(f"DELETE FROM {table}")


@dataclass
class Agent:
    """One SOC agent."""

    name: str
    down: bool = False
    unit_down: bool = False
    """systemd sees it: it crashed. A hung agent is down and its unit is not."""
    cures_in: int = 1
    """Restarts until one helps."""
    impostor: bool = False
    booting_until_s: float = 0.0


@dataclass
class Host:
    """Time is `now_s`, which only grows; what watchers see of it are the boot's clock and the wall clock."""

    rng: random.Random
    policy: Policy
    journal: SharedJournal
    names: list[str]
    now_s: float = START_S
    boots: int = 0
    booted_s: float = 0.0
    wall_offset_s: float = 0.0
    agents: dict[str, Agent] = field(default_factory=dict)
    cut: dict[tuple[str, str], int] = field(default_factory=dict)
    """(watcher, agent) -> how many faults cut this link now."""
    loss: dict[str, float] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """Watcher -> how many faults keep it from the journal now."""
    silences: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """Peer -> the boot it was silenced on, until when, and how far off the wall clock was then."""
    isolated: set[str] = field(default_factory=set)
    being_isolated: set[str] = field(default_factory=set)
    """Peers that a living process is isolating, and holds the lock for."""
    restarts_hang: float = 0.0
    isolations_fail: float = 0.0
    trace: Callable[[str], None] | None = None
    happened: int = 0
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.agents = {name: Agent(name) for name in self.names}
        self.intents = Intents(self.journal)
        self.outbox = Outbox(self.journal, (), host="host")

    # Time

    def at(self) -> Moment:
        """Now, as the watchers' clocks show it."""
        since = timedelta(seconds=self.now_s - START_S + self.wall_offset_s)
        return Moment(self.now_s - self.booted_s, START_UTC + since, f"boot-{self.boots}")

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), call))

    def run_until(self, end_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen that is due by then."""
        while self._queue and self._queue[0][0] <= end_s and not stop():
            self.now_s, _, call = heapq.heappop(self._queue)
            self.happened += 1
            call()
        if not stop():
            self.now_s = max(self.now_s, end_s)

    def say(self, text: str) -> None:
        """For a replay."""
        if self.trace is not None:
            self.trace(f"{self.now_s - START_S:8.1f}  {text}")

    def is_silenced(self, name: str) -> bool:
        """By the boot's clock; after a reboot by the wall clock, which is all that is left."""
        if name not in self.silences:
            return False
        boot, until_s, offset_s = self.silences[name]
        return self.now_s < until_s + (0.0 if boot == self.boots else offset_s - self.wall_offset_s)

    # Heartbeats

    def is_up(self, name: str) -> bool:
        """It would answer, if it could be reached."""
        agent = self.agents[name]
        return not agent.down and self.now_s >= agent.booting_until_s and not self.is_isolated(name)

    def is_isolated(self, name: str) -> bool:
        """The kernel drops its packets."""
        return name in self.isolated

    def probe(self, watcher: str, name: str) -> tuple[Heartbeat, float]:
        """One GET, and how long it takes in seconds."""
        agent = self.agents[name]
        if agent.impostor and not self.cut.get((watcher, name)):
            return Heartbeat(name, healthy=False, detail="port 9103 is another's", impostor=True), 0.01
        lost = self.cut.get((watcher, name), 0) > 0 or self.rng.random() < self.loss.get(watcher, 0.0)
        if self.is_up(name) and not lost:
            return Heartbeat(name, healthy=True, detail="HTTP 200", response_time_ms=2.0), 0.01
        refused = agent.unit_down and not lost
        detail = "connection refused" if refused else "no answer"
        evidence = f"unit {name}.service is failed" if agent.unit_down else ""
        beat = Heartbeat(name, healthy=False, detail=detail, evidence=evidence, unit_down=agent.unit_down)
        return beat, 0.01 if refused else self.policy.timeout_s

    # What is done to agents

    def restart(self, name: str) -> bool:
        """systemctl restart; whether it came up."""
        agent = self.agents[name]
        agent.cures_in -= 1
        agent.booting_until_s = self.now_s + self.rng.uniform(0.1, 10.0)
        if agent.down and agent.cures_in <= 0:
            agent.down = agent.unit_down = False
        self.say(f"         {name} is restarted and {'stays down' if agent.down else 'comes up'}")
        return not agent.unit_down

    def break_agent(self, name: str, *, crashed: bool, cures_in: int) -> None:
        """It crashes or hangs."""
        self.agents[name].down, self.agents[name].unit_down = True, crashed
        self.agents[name].cures_in = cures_in

    def heal_agent(self, name: str) -> None:
        """It is well again by itself."""
        self.agents[name] = Agent(name, booting_until_s=self.agents[name].booting_until_s)

    # Isolations

    def intent(self, name: str) -> Intent | None:
        """Its isolation, when there is one."""
        return next((each for each in self.intents.in_force() if each.where.peer == name), None)

    def begin_isolation(self, name: str, reason: str) -> None:
        """As the kernel half does: the intent first."""
        where = Where(cgroup=f"/cg/{name}", cgroup_id=1, peer=name)
        self.intents.begin(where, Why(reason), With(), self.at().utc)

    def cut_off(self, name: str) -> None:
        """Then the kernel, then the intent again."""
        self.isolated.add(name)
        self.say(f"         {name} is cut off")
        intent = self.intent(name)
        if intent is not None:
            self.intents.change(intent, State.ISOLATED, self.at().utc)

    def let_back(self, name: str) -> None:
        """An operator's release."""
        intent = self.intent(name)
        if intent is not None:
            intent = self.intents.change(intent, State.RELEASING, self.at().utc)
            self.isolated.discard(name)
            self.intents.change(intent, State.RELEASED, self.at().utc)

    def carry_on(self) -> None:
        """The keepers' sweep: an isolation that was begun is brought to its end, when nobody is at it."""
        if all(self.refused.get(name) for name in self.names):
            self.later(KEEPER_S, self.carry_on)
            return
        for intent in self.intents.in_force():
            if intent.state is State.ISOLATING and intent.where.peer not in self.being_isolated:
                self.cut_off(intent.where.peer)
