"""Whether this process ran when it should have: stopped, starved or suspended, it cannot blame others for silence."""

from __future__ import annotations

import threading

from watchdog import clock

LONGEST_PERIOD_S = 1.0


class Metronome:
    """A thread that beats, and notes when it could not for longer than `least_stall_s`."""

    def __init__(self, least_stall_s: float) -> None:
        self._least_stall_s = least_stall_s
        self._period_s = min(LONGEST_PERIOD_S, least_stall_s / 2)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog-metronome", daemon=True)
        self._lock = threading.Lock()
        self._last_s = clock.now_s()
        self._stalled_until_s = self._stalled_s = 0.0

    def start(self) -> None:
        """Begin to beat."""
        self._last_s = clock.now_s()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stopping.set()

    def stalled_s(self, since_s: float) -> float:
        """How long the process last stood still since then, in seconds; 0 when it did not.

        Right also when nobody but the caller has run since the process was continued.
        """
        self._beat()
        with self._lock:
            return self._stalled_s if since_s <= self._stalled_until_s else 0.0

    def _run(self) -> None:
        while not self._stopping.wait(self._period_s):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            now_s = clock.now_s()
            stood_still_s = now_s - self._last_s - self._period_s
            if stood_still_s > self._least_stall_s:
                self._stalled_until_s, self._stalled_s = now_s, stood_still_s
            self._last_s = now_s
