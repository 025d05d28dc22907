"""Faults planted in our own code, to see that the checks find them. Each takes one rule away."""

from __future__ import annotations

from dataclasses import replace
from sqlite3 import Connection
from typing import Any

from tests.simulation.host import NEVER
from tests.simulation.process import Parts
from tests.simulation.schedule import NAMES
from watchdog.clock import Moment
from watchdog.ladder import PeerRecord, Policy
from watchdog.mesh.coordinator import Denied, Order, OrderRequest, Silence, Suspicion
from watchdog.mesh.local import LocalCoordinator
from watchdog.tick import Tick
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


class NoWindow(LocalCoordinator):
    """What was forgiven may be used again at once."""

    def restarts(self, peer: str, within_s: float, at: Moment) -> int:
        return 0


class NoContradiction(Watcher):
    """Restarts again, whoever hears the peer."""

    def __init__(self, *given: Any, **parts: Any) -> None:
        super().__init__(*given, **parts)
        self._ordering._is_contradicted = lambda *_: False  # type: ignore[method-assign]


class NoContest(Watcher):
    """What one hears is forgiven, whoever misses it."""

    def _is_contested(self, *_: object) -> bool:
        return False


class NoFreshness(LocalCoordinator):
    """An order stands on what was said when it was given."""

    def claim(self, request: OrderRequest, at: Moment) -> Order | Denied:
        return super().claim(replace(request, fresh_s=NEVER), at)


class NoAge(NoFreshness):
    """A word counts until it is taken back."""

    def suspicions(self, at: Moment, fresh_s: float) -> list[Suspicion]:
        return super().suspicions(at, NEVER)


class Blind(Watcher):
    """Does not see some of what is wrong with it."""

    blind: tuple[str, ...] = ()

    def end_round(self, at: Moment) -> list[Order]:
        assert self._tick is not None
        for name in self.blind:
            setattr(self._tick, name, type(getattr(self._tick, name))())
        return super().end_round(at)

    def _must_wait(self, tick: Any, at: Moment) -> bool:
        for name in self.blind:
            setattr(tick, name, type(getattr(tick, name))())
        return super()._must_wait(tick, at)


class NoOwnEndpoint(Blind):
    """Trusts itself without its own agent."""

    blind = ("own_endpoint",)


class NoClock(Blind):
    """Trusts itself when somebody set the clock."""

    blind = ("clock_jump_s",)


class NoLateness(Blind):
    """Trusts itself when it did not run."""

    blind = ("late_s", "stalled_s")


class NoJournalDoubt(Watcher):
    """Trusts itself as soon as the mesh's memory is back."""

    def end_round(self, at: Moment) -> list[Order]:
        before, trouble = self.doubt, self._tick is not None and bool(self._tick.trouble)
        orders = super().end_round(at)
        if trouble:
            self.doubt = before
        return orders


class NoStorm(Watcher):
    """Acts while the peers go silent one after the other."""

    def _newly_suspect(self) -> int:
        return 0


class NoLoneliness(Watcher):
    """Trusts itself when it hears nobody, and all others do."""

    def _compare(self, tick: Any, at: Moment) -> None:
        super()._compare(tick, at)
        tick.alone_against = ""


class NoAgreement(Watcher):
    """Trusts itself again after a while, whatever the others hear."""

    def _compare(self, tick: Any, at: Moment) -> None:
        super()._compare(tick, at)
        tick.agreed = bool(tick.gone)


class NoScore(Watcher):
    """As quick to judge when it is slow itself."""

    def begin_round(self, at: Moment, **seen: object) -> None:
        super().begin_round(at, **seen)  # type: ignore[arg-type]
        self.score = 0


class NoWithdrawal(Watcher):
    """In doubt its votes stand."""

    def _withdraw_votes(self) -> None:
        """Not at all."""

    def _may_vote(self, tick: Tick, at: Moment) -> bool:
        return True


class OneWord(Watcher):
    """One word isolates, where nobody else has one."""

    def __init__(self, name: str, policy: Policy, **parts: Any) -> None:
        super().__init__(name, replace(policy, single_observer=True), **parts)


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
    "no-window": Parts(coordinator=NoWindow),
    "no-contradiction": Parts(watcher=NoContradiction),
    "no-contest": Parts(watcher=NoContest),
    "no-age": Parts(coordinator=NoAge),
    "no-freshness": Parts(coordinator=NoFreshness),
    "no-own-endpoint": Parts(watcher=NoOwnEndpoint),
    "no-clock": Parts(watcher=NoClock),
    "no-lateness": Parts(watcher=NoLateness),
    "no-journal-doubt": Parts(watcher=NoJournalDoubt),
    "no-storm": Parts(watcher=NoStorm),
    "no-loneliness": Parts(watcher=NoLoneliness),
    "no-agreement": Parts(watcher=NoAgreement),
    "no-score": Parts(watcher=NoScore),
    "no-withdrawal": Parts(watcher=NoWithdrawal),
    "one-word": Parts(watcher=OneWord),
}
