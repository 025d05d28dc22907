"""Carries out a watcher's orders on this host: restart by systemd or by command, isolation in the kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from watchdog import clock, config
from watchdog.actions import allowing, evidence, isolation, locate, shadow
from watchdog.actions.locate import Named
from watchdog.actions.place import Place, names_a_cgroup, selector_of
from watchdog.actions.restart import OVERTAKEN, RestartTarget, restart
from watchdog.config import Config
from watchdog.errors import WatchdogError
from watchdog.host import systemd
from watchdog.intents import Why
from watchdog.kernel import hold, tc
from watchdog.ladder import PeerRecord
from watchdog.mesh.coordinator import Coordinator, Order, Outcome
from watchdog.model import Action

LONGEST_JOB_S = 600.0
"""Since a restart was begun. A job that lasts longer, as of a unit that never becomes ready, holds up nobody else."""
TOO_LATE = "while it waited its time was up, or the peer was well again; nothing was done"


class Overtaken(WatchdogError):
    """An order was begun, and is not to be carried out any more."""


@dataclass(frozen=True)
class HostActions:
    """The actions of one watcher of this host."""

    settings: Config
    place: Place
    coordinator: Coordinator
    on_isolated: Callable[[], None] = lambda: None

    def restart(self, order: Order) -> Outcome:
        """Restart the peer's agent and see that it came up."""
        peer = self._peer(order)
        if peer.unit is None and peer.restart is None:
            return Outcome(failed=True, detail="the configuration names neither a unit nor a restart command for it")
        result = restart(_restart_target(peer), self.settings.restart_timeout, partial(self._stands, order))
        if result.reason == OVERTAKEN:
            return Outcome(failed=True, detail=TOO_LATE, begun=False)
        _get_ready()
        return Outcome(failed=not result.worked, detail=result.detail)

    def isolate(self, order: Order) -> Outcome:
        """Cut the peer off; the outcome says what does not hold, if anything.

        Whether it is still to be is asked again once no other isolation is under way: a minute may have passed.
        """
        self._peer(order)
        why = Why(order.reason, level="", by={"watcher": order.watcher, "token": order.token})
        try:
            found = locate.locate(Named(peer=order.peer), self.settings, self.place)
            allow = partial(allowing.configured, self.settings, order.peer, clock.moment())
            result = isolation.isolate(
                found.where,
                why,
                self.place,
                rails=partial(locate.check_rails, found, self.settings, self.place, force=False),
                default_allow=allow,
                default_level=self.settings.isolation.level,
                stands=partial(self._must_stand, order),
                at_once=found.agent is None,
            )
            shadow.end_at(found.where, self.place)
        except Overtaken as error:
            return Outcome(failed=True, detail=error.one_line(), begun=False)
        except WatchdogError as error:
            return Outcome(failed=True, detail=error.one_line(), kind=error.kind)
        self.on_isolated()
        return Outcome(failed=False, detail=result.told(order.reason))

    def evidence(self, peer: str) -> tuple[str, bool]:
        """Hard local evidence against a silent peer, as far as this host can see."""
        configured = self.settings.peer(peer)
        return evidence.against(configured, self.place.root) if configured is not None else ("", False)

    def unfinished(self, peer: str) -> str:
        """Another agent's restart that was given up while systemd goes on with it: two agents would be down at once."""
        others = {unit: name for unit, name in self.place.peers.items() if "/" not in unit and name != peer}
        try:
            records = self.coordinator.records(clock.moment()) if others else {}
            for unit, name in others.items():
                if _restarted_lately(records.get(name)):
                    state = systemd.query(unit, evidence.TIMEOUT_S)
                    if state.job:
                        return f"waiting for {name}: {state.id} is {state.in_words()}, its job {state.job} is not over"
        except WatchdogError:
            return ""  # then no order is given, or none can be carried out
        return ""

    def _stands(self, order: Order) -> bool:
        return self.coordinator.stands(order, clock.moment())

    def _must_stand(self, order: Order) -> None:
        if not self._stands(order):
            raise Overtaken(TOO_LATE)

    def _peer(self, order: Order) -> config.Peer:
        peer = self.settings.peer(order.peer)
        assert peer is not None, "orders are given for configured peers only"
        return peer


def _restarted_lately(record: PeerRecord | None) -> bool:
    """By a watcher, and it is not cut off since: what an isolated agent's unit does holds up nobody."""
    if record is None or record.last_action is not Action.RESTART or record.isolated:
        return False
    return record.begun_age_s is not None and record.begun_age_s < LONGEST_JOB_S


def _get_ready() -> None:
    """An isolation may follow, in some minutes: what it needs is imported and loaded now."""
    with suppress(WatchdogError, OSError):  # told when the watcher started
        hold.load()
        tc.load()


def _restart_target(peer: config.Peer) -> RestartTarget:
    if peer.restart is None:
        return RestartTarget(unit=peer.unit)
    found_by_process = peer.selector is not None and not names_a_cgroup(peer)
    return RestartTarget(command=peer.restart, agent=selector_of(peer) if found_by_process else None)
