"""The loop: the one thread that owns the watcher and reads the clocks.

Probes and actions run on threads of their own and post what they found to the loop's inbox, so that no hung peer and no
hung restart delays another. A round ends when every answer is in, or when the next one is due.
"""

from __future__ import annotations

import heapq
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from watchdog import clock
from watchdog.clock import Moment
from watchdog.errors import WatchdogError
from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Order, Outcome
from watchdog.metronome import Metronome
from watchdog.model import Heartbeat
from watchdog.watcher import Watcher

if TYPE_CHECKING:
    from watchdog.probe import Target

MOST_PROBES_AT_ONCE = 128
MOST_ACTIONS_AT_ONCE = 4
JITTER_SHARE = 0.01
"""Probes of a round begin within this share of the interval, so that peers are not all asked at one instant. A round
with 200 hung peers of 1,000 takes about a third of it longer: two waves of hung probes fill all workers."""
LONGEST_WAIT_S = 1.0
"""The loop turns at least this often, so that a loop that stands still is seen to."""
NO_THREAD = "this host gives no thread; raise TasksMax= of the watcher's unit, or see what else runs here"
ENDLESS_INTERVALS = 2
"""A probe has its deadline, and what this host says of a miss its own: together less than this."""
STALL_SHARE = 0.5
"""Share of the probes' timeout for which this process may stand still before silence proves nothing."""

log = logging.getLogger("watchdog")

Message = Callable[[Moment], None]


class Probe(Protocol):
    """One GET to one heartbeat."""

    def probe(self, target: Target) -> Heartbeat: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Hands:
    """What the loop has others do, on threads of their own."""

    prober: Probe
    look: Callable[[str, Heartbeat], Heartbeat]
    """Add to a miss what this host itself says of the peer."""
    carry_out: Callable[[Order], Outcome]
    show: Callable[[str], None]
    """Called on the loop's thread when what is believed of a peer may have changed."""
    on_turn: Callable[[], None]
    on_round: Callable[[], None]


class Loop:
    """`targets` may grow while it runs: what a round probes is what the watcher watches."""

    def __init__(self, watcher: Watcher, targets: Mapping[str, Target], own: Target | None, hands: Hands) -> None:
        self._watcher = watcher
        self._policy: Policy = watcher.policy
        self._targets = targets
        self._own = own
        self._hands = hands
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._again: list[Message] = []
        self._in_flight: dict[str, float] = {}
        """When each probe that has not ended was begun; the own endpoint's key is empty."""
        self._stopping = threading.Event()
        self._probes = ThreadPoolExecutor(MOST_PROBES_AT_ONCE, thread_name_prefix="watchdog-probe")
        self._work = ThreadPoolExecutor(MOST_ACTIONS_AT_ONCE, thread_name_prefix="watchdog-action")
        self._thread = threading.Thread(target=self._run, name="watchdog-monitor", daemon=True)
        self._refused = ""
        self._metronome = Metronome(STALL_SHARE * self._policy.timeout_s)
        self.turned_s = clock.now_s()
        self.trouble = ""

    def start(self) -> None:
        """Begin with a round at once."""
        self._metronome.start()
        self._thread.start()

    def stop(self, patience_s: float) -> None:
        """Begin nothing more, and wait that long for what was begun."""
        self._stopping.set()
        self._inbox.put(None)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(patience_s)

    @property
    def stopping(self) -> bool:
        """It was told to stop."""
        return self._stopping.is_set()

    def post(self, message: Message) -> None:
        """Have the loop's thread do something; what the journal refuses is tried again every round."""
        self._inbox.put(message)

    # Rounds

    def _run(self) -> None:
        due, before = clock.moment(), None
        while not self.stopping:
            before = self._round(due, before)
            due = replace(due, s=next_tick_s(due.s, clock.now_s(), self._policy.interval_s))
            while not self.stopping and (wait_s := due.s - clock.now_s()) > 0:
                self._turn(wait_s)
        self._end()

    def _end(self) -> None:
        """Wait for what was begun, and settle it: the next watcher should not have to wait for a lease."""
        self._metronome.stop()
        self._watcher.break_off()
        self._probes.shutdown(cancel_futures=True)
        self._work.shutdown()
        while not self._inbox.empty():
            if (message := self._inbox.get()) is not None:
                self._attempt(message)

    def _round(self, due: Moment, before: tuple[Moment, float] | None) -> tuple[Moment, float]:
        """Probe every peer once; what both clocks said at its beginning is the next round's `before`."""
        at, monotonic_s = clock.moment(), time.monotonic()
        clock_jump_s, suspended_s = jumps(*before, at, monotonic_s) if before else (0.0, 0.0)
        self._refused = ""
        self._watcher.begin_round(
            at,
            late_s=max(0.0, at.s - due.s) if before else 0.0,
            clock_jump_s=clock_jump_s,
            suspended_s=suspended_s,
            own_endpoint_probed=self._own is not None and ("" not in self._in_flight or bool(self._endless(""))),
        )
        again, self._again = self._again, []
        for message in again:
            self._attempt(message)
        self._probe_all(clock.now_s())  # a locked journal may have been waited for, and nobody goes unheard for that
        if not self.stopping:
            self._carry_out(self._watcher.end_round(clock.moment()))
        self._tell_trouble()  # first, so that what is published of this round says so
        self._attempt(lambda _: self._hands.on_round(), once=True)
        self._tell_trouble()
        return at, monotonic_s

    def _probe_all(self, begun_s: float) -> None:
        jitter_s, last_s = self._jitter_s, begun_s + self._policy.interval_s
        pending = [(begun_s + random.uniform(0, jitter_s), name) for name in self._watcher.peers]  # noqa: S311
        heapq.heapify(pending)
        if self._own is not None:
            self._submit("", self._own)
        while not self.stopping and (pending or not self._watcher.round_is_complete):
            now_s = clock.now_s()
            if now_s >= last_s:
                break  # what is not in by now is no word on anybody
            while pending and pending[0][0] <= now_s:
                name = heapq.heappop(pending)[1]
                if self._watcher.waits_for(name):
                    before = self._watcher.peers[name].progress
                    self._submit(name, replace(self._targets[name], before=before) if before else self._targets[name])
            self._turn(min(last_s, pending[0][0] if pending else last_s) - now_s)
        for name in () if self.stopping else [each for each in self._in_flight if each and self._endless(each)]:
            self._watcher.skip(name, unasked=self._endless(name))
            self._hands.show(name)

    def _endless(self, key: str) -> str:
        """Why nothing is known, where the probe is of a round before the last: what asks may hang as what it asks."""
        took_s = clock.now_s() - self._in_flight.get(key, math.inf)
        return (
            f"a probe has not ended for {took_s:.0f} s" if took_s > ENDLESS_INTERVALS * self._policy.interval_s else ""
        )

    def _submit(self, key: str, target: Target) -> None:
        """One probe a peer at a time; the own endpoint's key is empty."""
        if not key and (endless := self._endless(key)):
            self._watcher.hear_own(Heartbeat(target.name, healthy=False, detail=endless))
        if key not in self._in_flight:
            self._in_flight[key] = clock.now_s()
            if not is_begun(self._probes, self._ask, key, target):
                self._take(key, target, None, clock.now_s(), f"cannot probe {target.name or 'its agent'}: {NO_THREAD}")

    @property
    def _jitter_s(self) -> float:
        spare_s = self._policy.interval_s - self._policy.timeout_s
        return max(0.0, min(self._policy.interval_s * JITTER_SHARE, spare_s / 2))

    def _turn(self, wait_s: float) -> None:
        """Do one thing that has come in, or wait for it."""
        wait_s = max(0.0, min(wait_s, LONGEST_WAIT_S))
        self.turned_s = clock.now_s()
        self._hands.on_turn()
        try:
            message = self._inbox.get(timeout=wait_s)
        except queue.Empty:
            message = None
        if message is not None:
            self._attempt(message)

    def _attempt(self, message: Message, *, once: bool = False) -> None:
        try:
            message(clock.moment())
        except WatchdogError as error:
            self._refused = error.one_line()
            if not once:
                self._again.append(message)

    def _tell_trouble(self) -> None:
        """The journal may be full or locked: say so once, and once when it works again."""
        trouble = self._watcher.trouble or self._refused
        if trouble and trouble != self.trouble:
            log.error("%s", trouble)
        elif self.trouble and not trouble:
            log.warning("the watcher works again as it should")
        self.trouble = trouble

    # On the loop's thread, for what came in

    def _hear(self, peer: str, beat: Heartbeat, asked_s: float) -> None:
        stalled_s = 0.0 if beat.healthy else self._metronome.stalled_s(asked_s)
        if stalled_s:  # the answer may have come in time, and this process was not there to take it
            self._watcher.skip(peer, stalled_s)
            return
        self._carry_out(self._watcher.hear(peer, beat, clock.moment()))
        self._hands.show(peer)

    def _carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            if not is_begun(self._work, self._do, order):
                late = Outcome(failed=True, detail=f"nothing was done: {NO_THREAD}", begun=False)
                self._attempt(partial(self._settle, order, late))
                self._refused = f"cannot {order.action} {order.peer}: {NO_THREAD}"

    def _take(self, key: str, target: Target, beat: Heartbeat | None, asked_s: float, refused: str) -> None:
        """What became of a probe: without a heartbeat the peer could not be asked, and `refused` says why."""
        self._in_flight.pop(key, None)
        self._refused = refused or self._refused
        if not key:
            self._watcher.hear_own(beat or Heartbeat(target.name, healthy=False, detail=refused))
        elif beat is None:
            self._watcher.skip(key, unasked=refused)
            self._hands.show(key)
        else:
            self._hear(key, beat, asked_s)

    def _settle(self, order: Order, outcome: Outcome, at: Moment) -> None:
        if outcome.begun:
            self._watcher.settle(order, at, failed=outcome.failed, outcome=outcome.detail, kind=outcome.kind)
        else:
            self._watcher.drop(order, outcome.detail, at)
        self._hands.show(order.peer)
        self._attempt(lambda _: self._hands.on_round(), once=True)

    # On other threads

    def _ask(self, key: str, target: Target) -> None:
        """Probe one peer; whatever becomes of it, the loop hears of it."""
        asked_s = clock.now_s()
        refused = ""
        beat: Heartbeat | None = None
        try:
            beat = self._hands.prober.probe(target)
            if key and not beat.healthy:
                beat = self._hands.look(key, beat)
        except WatchdogError as error:
            refused = error.one_line()
        except Exception:  # a prober may be anybody's code, and one that fails must not end the round for ever
            log.exception("probing %s failed", target.name)
            refused = f"cannot probe {target.name}: a bug, see the log"
        self._inbox.put(lambda _: self._take(key, target, beat, asked_s, refused))

    def _do(self, order: Order) -> None:
        """Carry out one order, and tell the loop how it ended."""
        try:
            late = Outcome(failed=True, detail="this watcher is stopping", begun=False)
            outcome = late if self.stopping else self._hands.carry_out(order)
        except WatchdogError as error:
            outcome = Outcome(failed=True, detail=error.one_line(), kind=error.kind)
        except Exception as error:  # actions may be anybody's code, and an order must end
            log.exception("carrying out %s of %s failed", order.action, order.peer)
            kind = type(error).__name__
            outcome = Outcome(failed=True, detail=f"{kind}: {error}", kind=kind)
        self._inbox.put(lambda at: self._settle(order, outcome, at))


def is_begun(threads: ThreadPoolExecutor, work: Callable[..., None], *arguments: object) -> bool:
    """Have one of the threads do it. False where the host gives none: then nobody does it later either."""
    taken = threading.Lock()

    def work_once() -> None:
        if taken.acquire(blocking=False):
            work(*arguments)

    try:
        threads.submit(work_once)
    except RuntimeError:  # it is in the line all the same, and a thread that is busy now may come to it
        return not taken.acquire(blocking=False)
    return True


def next_tick_s(due_s: float, now_s: float, interval_s: float) -> float:
    """When the next round begins: on the grid of the first one; ticks that were slept through are not made up for."""
    missed = max(0, int((now_s - due_s) // interval_s))
    return due_s + (missed + 1) * interval_s


def jumps(before: Moment, before_s: float, at: Moment, at_s: float) -> tuple[float, float]:
    """By how much the wall clock was set between two readings, and how long the machine slept, in seconds.

    Each reading is a Moment, whose clock goes on while the machine sleeps, and CLOCK_MONOTONIC, which does not.
    """
    passed_s = at.s - before.s
    return (at.utc - before.utc).total_seconds() - passed_s, passed_s - (at_s - before_s)
