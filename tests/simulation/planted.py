"""Faults planted in our own code, to see that the checks find them. Each takes one rule away."""

from __future__ import annotations

from dataclasses import replace
from sqlite3 import Connection

from tests.simulation.host import NEVER
from tests.simulation.process import Parts
from tests.simulation.schedule import NAMES
from watchdog.clock import Moment
from watchdog.ladder import PeerRecord
from watchdog.mesh.coordinator import Denied, Order, OrderRequest, Silence, Suspicion
from watchdog.mesh.local import LocalCoordinator
from watchdog.watcher import Watched, Watcher


class NoTokenCheck(LocalCoordinator):
    """An order is given whatever was ordered since it was decided."""

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        return super().claim(replace(request, known_token=self.record(request.peer, at).token), at)


class NoFence(LocalCoordinator):
    """An order is carried out however late."""

    def begin(self, order: Order, at: Moment) -> bool:
        super().begin(order, at)
        return True


class NoQuorum(LocalCoordinator):
    """One watcher's word is everybody's."""

    def suspicions(self, at: Moment, fresh_s: float) -> list[Suspicion]:
        said = super().suspicions(at, fresh_s)
        return said + [Suspicion(name, each.peer, NEVER, 0.0) for each in said for name in NAMES]

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        return super().claim(replace(request, voters=()), at)


class NoDecay(LocalCoordinator):
    """A restart is never forgiven."""

    def forgive(self, peer: str, known: PeerRecord, at: Moment) -> bool:
        return False


class NoSilence(LocalCoordinator):
    """Orders are given and carried out in a silence."""

    def silences(self, at: Moment) -> dict[str, Silence]:
        return {}


class NoTurns(LocalCoordinator):
    """Two agents of the host may be restarted at once."""

    def _denied(self, tx: Connection, request: OrderRequest, at: Moment) -> Denied | None:
        denied = super()._denied(tx, request, at)
        return None if denied is Denied.BUSY else denied


class NoDoubt(Watcher):
    """Acts on whatever it sees."""

    @property
    def _hands_bound(self) -> bool:
        return False


class NoMemory(Watcher):
    """Begins with a clean slate every time."""

    def watch(self, peer: str, endpoint: str, at: Moment) -> None:
        super().watch(peer, endpoint, at)
        self.peers[peer] = Watched(endpoint)


class NoPatience(Watcher):
    """Acts in its first round."""

    def begin_round(self, at: Moment, **seen: object) -> None:
        self.rounds = max(self.rounds, 1)
        super().begin_round(at, **seen)  # type: ignore[arg-type]


PLANTED: dict[str, Parts] = {
    "no-token-check": Parts(coordinator=NoTokenCheck),
    "no-fence": Parts(coordinator=NoFence),
    "no-quorum": Parts(coordinator=NoQuorum),
    "no-decay": Parts(coordinator=NoDecay),
    "no-silence": Parts(coordinator=NoSilence),
    "no-turns": Parts(coordinator=NoTurns),
    "no-doubt": Parts(watcher=NoDoubt),
    "no-memory": Parts(watcher=NoMemory),
    "no-patience": Parts(watcher=NoPatience),
}
