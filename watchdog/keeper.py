"""The keeper: a thread of every watcher that sees to it that what is isolated stays isolated, and no longer than meant.

All keepers of a host do the same under one lock, so that any one of them is enough.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from watchdog import clock
from watchdog.actions import holding, reconcile
from watchdog.actions.place import Place
from watchdog.actions.reconcile import Repair
from watchdog.errors import WatchdogError
from watchdog.intents import Intent
from watchdog.kernel.slots import NOTHING
from watchdog.status.document import Dropped, IsolationView

SWEEP_S = 5.0
"""Drift that no event announces is found within this time."""

log = logging.getLogger("watchdog")


class Keeper:
    """`on_repair` is told of every repair; `views` is what the last sweep saw."""

    def __init__(self, place: Place, on_repair: Callable[[Repair], None], *, sweep_s: float = SWEEP_S) -> None:
        self._place = place
        self._on_repair = on_repair
        self._sweep_s = sweep_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog-keeper", daemon=True)
        self._trouble = ""
        self.views: tuple[IsolationView, ...] = ()

    def start(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the sweep that is under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._sweep_s):
            try:
                self.sweep()
            except WatchdogError as error:
                self._say_once(error.one_line())
            else:
                self._trouble = ""

    def sweep(self) -> None:
        """Look at every isolation, repair what is not as meant, and remember what was seen."""
        if self._place.intents.in_force() or self._place.intents.shadows():
            for repair in reconcile.reconcile(self._place, clock.moment(), patient=True):
                self._on_repair(repair)
        self.views = tuple(view_of(intent, self._place) for intent in self._place.intents.in_force())

    def _say_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("cannot look after the isolations: %s", trouble)


def view_of(intent: Intent, place: Place) -> IsolationView:
    """One isolation as the kernel and the journal together show it."""
    result = holding.verify(intent, place)
    dropped = result.dropped or NOTHING
    return IsolationView(
        peer=intent.where.peer,
        unit=intent.where.unit,
        cgroup=intent.where.cgroup,
        since=intent.since,
        level=intent.why.level,
        reason=intent.why.reason,
        dropped=Dropped(dropped.ingress.packets, dropped.ingress.bytes, dropped.egress.packets, dropped.egress.bytes),
        drift="; ".join(result.gaps),
        paths=result.verdicts,
    )
