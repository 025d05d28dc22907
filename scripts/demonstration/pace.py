"""How the demo waits: for one thing, with a deadline, telling what happens meanwhile, and ending when told to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TypeVar

WHOLE_LIMIT_S = 55.0
"""The demo takes less than a minute, or says that it does not."""
STEP_S = 0.02
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Found = TypeVar("Found")


class Failed(Exception):
    """A check did not come out as it must. The next steps are tried all the same."""


class Stuck(Failed):
    """Something the rest of the story needs did not happen."""


class Interrupted(Exception):
    """Somebody wants the demo to end, by a signal or by closing its output."""

    def __init__(self, why: str, exit_status: int) -> None:
        super().__init__(why)
        self.exit_status = exit_status


class Pace:
    """`news` is called while we wait. Signals are only noted, and acted on between two steps of a wait: nothing is
    ever cut off half begun."""

    def __init__(self) -> None:
        self.news: Callable[[], None] = lambda: None
        self._deadline_s = time.monotonic() + WHOLE_LIMIT_S
        self._stopped_by: Interrupted | None = None

    def listen(self) -> None:
        """Take signals from now on, also those that came while they were blocked."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def stop(self, why: str, exit_status: int) -> None:
        """Raise Interrupted at the next step of a wait."""
        self._stopped_by = self._stopped_by or Interrupted(why, exit_status)

    def until(self, what: str, met: Callable[[], Found | None], limit_s: float) -> Found:
        """What `met` finds as soon as it is neither None nor false. Raises Stuck after `limit_s`."""
        deadline_s = min(time.monotonic() + limit_s, self._deadline_s)
        while True:
            self.news()
            self.check()
            found = met()
            if found:
                return found
            if time.monotonic() > deadline_s:
                raise Stuck(f"{what}: waited {limit_s:g} s in vain")
            time.sleep(STEP_S)

    def rest(self, span_s: float) -> None:
        """Let a time pass."""
        end_s = time.monotonic() + span_s
        self.until("time passes", lambda: time.monotonic() >= end_s, span_s + 1)

    def check(self) -> None:
        """Raises Interrupted when the demo is to end."""
        if self._stopped_by is not None:
            raise self._stopped_by

    def _on_signal(self, number: int, _: object) -> None:
        self.stop(f"by {signal.Signals(number).name}", 128 + number)  # as a shell says it
