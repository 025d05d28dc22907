"""The inspector: a thread of every watcher that has what is isolated verified from inside, one watcher at a time."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from watchdog import clock
from watchdog.actions import inside
from watchdog.actions.place import Place
from watchdog.actions.reconcile import Repair
from watchdog.errors import WatchdogError
from watchdog.intents import Intent

TURN_S = 5.0
"""How often it asks whether anything is due: an isolation by another hand is looked at within this time, one by its own
watcher at once."""

NOT_OURS = "nothing of ours is left on it; see who else stops it, as with nft list ruleset and bpftool cgroup show"

log = logging.getLogger("watchdog")


class Inspector:
    """`on_repair` is told of everything that was found open, and what was done about it."""

    def __init__(self, place: Place, on_repair: Callable[[Repair], None], *, turn_s: float = TURN_S) -> None:
        self._place = place
        self._on_repair = on_repair
        self._turn_s = turn_s
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog-inspector", daemon=True)
        self._trouble = ""
        self._freed: queue.SimpleQueue[Intent] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the look that is under way."""
        self._stopping.set()
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Look now."""
        self._woken.set()

    @property
    def is_dead(self) -> bool:
        """Whether the thread ended though nobody stopped it: a mistake of ours."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stopping.is_set()

    def _run(self) -> None:
        while True:
            self._woken.wait(self._turn_s)
            self._woken.clear()
            if self._stopping.is_set():
                return
            try:
                self.turn()
            except WatchdogError as error:
                self._say_once(error.one_line())
            except Exception:  # a mistake of ours does not end the looking
                log.exception("trying the isolations from inside failed")
            else:
                self._trouble = ""

    def note_freed(self, intent: Intent) -> None:
        """An isolation has ended by itself: nobody typed a release who would be told what is stopped still."""
        self._freed.put(intent)

    def turn(self) -> None:
        """Look at every isolation that is due, and at those that have ended."""
        while not self._freed.empty():
            intent = self._freed.get()
            found = inside.look_freed(intent, self._place, clock.moment())
            if found.wrong:
                still = f"released, and tried from inside these are stopped still: {', '.join(found.wrong)}"
                self._on_repair(Repair(intent.name, still, NOT_OURS, failed=True))
        for intent in self._place.intents.in_force():
            if repair := inside.verify_if_due(intent, self._place, clock.moment()):
                self._on_repair(repair)

    def _say_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("cannot verify the isolations from inside: %s", trouble)
