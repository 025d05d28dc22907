"""The keeper: a thread of every watcher that sees to it that what is isolated stays isolated, and no longer than meant.

All keepers of a host do the same under one lock, so that any one of them is enough. The kernel's news wake them before
their time; what they then do is the same sweep.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from watchdog import clock
from watchdog.actions import flow_facts, holding, reconcile
from watchdog.actions.drift import Kind
from watchdog.actions.place import Place
from watchdog.actions.reconcile import Repair
from watchdog.errors import WatchdogError
from watchdog.intents import Intent
from watchdog.kernel import builder
from watchdog.kernel.slots import NOTHING
from watchdog.status.document import Dropped, IsolationView
from watchdog.wakes import Wakes

SWEEP_S = 4.0
"""From the beginning of a sweep to that of the next: drift that no news announces is found within five seconds as long
as a sweep takes a second at most."""
LEAST_PAUSE_S = 0.05
PAUSE_SHARE = 3.0
"""After a sweep the kernel's news are let be for this many times as long as it took: whoever makes them without end has
us sweep a quarter of the time, and no more."""

LONGEST_WORK_S = 120.0
"""A sweep waits a minute for the lock, and may have programs to build; beyond that something hangs."""

LOST_PINS: set[str] = {Kind.PINS, Kind.BPFFS}

log = logging.getLogger("watchdog")


class Keeper:
    """`on_repair` is told of every repair that is news; `views` is what the last sweep saw. `ready_slots` program sets
    are built again where somebody removed them with the pins: the next isolation is not to wait for a compiler.
    `prepare` is called before every sweep of its thread."""

    def __init__(
        self,
        place: Place,
        on_repair: Callable[[Repair], None],
        *,
        sweep_s: float = SWEEP_S,
        ready_slots: int = 0,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._place = place
        self._prepare = prepare
        self._ready_slots = ready_slots
        self._on_repair = on_repair
        self._sweep_s = sweep_s
        self._stopping = threading.Event()
        self._trouble = ""
        self._working_since_s: float | None = None
        self._thread: threading.Thread | None = None
        self.views: tuple[IsolationView, ...] = ()

    def start(self) -> None:
        """Begin to sweep."""
        self._wakes = Wakes(self._place)
        self._thread = threading.Thread(target=self._run, name="watchdog-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the sweep that is under way."""
        self._stopping.set()
        self._wakes.interrupt()
        assert self._thread is not None, "stop follows start"
        self._thread.join()
        self._wakes.close()

    @property
    def is_dead(self) -> bool:
        """Whether the thread ended though nobody stopped it: a mistake of ours."""
        return self._thread is not None and not self._thread.is_alive() and not self._stopping.is_set()

    @property
    def stuck_s(self) -> float:
        """For how long it has been at one sweep, when that is longer than any takes; else 0."""
        return stuck_s(self._working_since_s, clock.now_s())

    def _run(self) -> None:
        self._try(self._follow)
        due_s = clock.now_s() + self._sweep_s
        while not self._stopping.is_set():
            self._wakes.wait(due_s - clock.now_s())
            if self._stopping.is_set():
                return
            began_s = clock.now_s()
            self._try(self._sweep_and_follow)
            listen_s, due_s = following(began_s, clock.now_s(), self._sweep_s)
            self._stopping.wait(listen_s - clock.now_s())

    def _try(self, work: Callable[[], None]) -> None:
        self._working_since_s = clock.now_s()
        try:
            work()
        except WatchdogError as error:
            self._say_once(error.one_line())
        except Exception:  # a mistake of ours does not end the looking
            log.exception("looking after the isolations failed")
        else:
            self._trouble = ""
        finally:
            self._working_since_s = None

    def _sweep_and_follow(self) -> None:
        self._prepare()
        self.sweep()
        self._follow()

    def _follow(self) -> None:
        self._wakes.follow(self._place.intents.in_force())

    def sweep(self) -> None:
        """Look at every isolation, repair what is not as meant, and remember what was seen."""
        intents, repairs = self._place.intents, list[Repair]()
        if intents.in_force() or intents.shadows() or intents.drifting():
            repairs = reconcile.reconcile(self._place, clock.moment(), patient=True)
            for repair in repairs:
                self._on_repair(repair)
        self.views = tuple(view_of(intent, self._place) for intent in intents.in_force())
        if self._ready_slots and any(LOST_PINS & set(repair.kinds) for repair in repairs):
            builder.ensure_slots(self._place.pins, self._place.build_lock, self._ready_slots)

    def _say_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log.error("cannot look after the isolations: %s", trouble)


def stuck_s(working_since_s: float | None, now_s: float) -> float:
    """For how long a thread has been at one piece of work, when that is longer than any takes; else 0."""
    took_s = 0.0 if working_since_s is None else now_s - working_since_s
    return took_s if took_s > LONGEST_WORK_S else 0.0


def following(began_s: float, ended_s: float, sweep_s: float = SWEEP_S) -> tuple[float, float]:
    """When the kernel's news may begin the next sweep, and when it begins without any.

    The second is counted from the beginning of the last one, so that what was looked at early is looked at again in
    time. One that takes long is followed by a rest as long as it took: commands wait for the same lock.
    """
    took_s = ended_s - began_s
    due_s = max(began_s + sweep_s, ended_s + took_s)
    return min(due_s, ended_s + max(LEAST_PAUSE_S, PAUSE_SHARE * took_s)), due_s


def view_of(intent: Intent, place: Place) -> IsolationView:
    """One isolation as the kernel and the journal together show it."""
    result = holding.verify(intent, place)
    dropped, until = result.dropped or NOTHING, intent.why.until
    return IsolationView(
        peer=intent.where.peer,
        unit=intent.where.unit,
        cgroup=intent.where.cgroup,
        since=intent.since,
        level=intent.why.level,
        reason=intent.why.reason,
        dropped=Dropped(
            dropped.ingress.packets,
            dropped.ingress.bytes,
            dropped.egress.packets,
            dropped.egress.bytes,
            dropped.frames_in.packets,
            dropped.frames_out.packets,
        ),
        drift="; ".join(result.gaps),
        paths=result.verdicts,
        moved_from=intent.where.moved.cgroup if intent.where.moved else "",
        until=until.utc if until else None,
        overdue=until is not None and until.is_over(clock.moment()),
        holds=result.holds,
        holds_nothing=result.holds_nothing,
        state=intent.state.value,
        refused=flow_facts.refused(intent),
    )
