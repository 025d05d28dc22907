"""Handlers of escalations: each has a line and a thread of its own, so that one that hangs holds up no other."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from watchdog.model import Escalation

Handler = Callable[[Escalation], None]

log = logging.getLogger("watchdog")


class Handlers:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []

    def add(self, handler: Handler) -> None:
        """Have `handler` called with everything handed out from here on."""
        self._lines.append(_Line(handler))

    def hand_out(self, escalation: Escalation) -> None:
        """Give it to every handler; returns at once."""
        for line in list(self._lines):
            line.put(escalation)

    def close(self, patience_s: float) -> None:
        """Let the handlers take what is in their lines, but wait no longer than that for all of them."""
        deadline_s = time.monotonic() + patience_s
        for line in self._lines:
            line.put(None)
        for line in self._lines:
            line.join(max(0.0, deadline_s - time.monotonic()))


class _Line:
    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._waiting: queue.SimpleQueue[Escalation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, escalation: Escalation | None) -> None:
        self._waiting.put(escalation)
        with self._lock:
            if escalation is not None and self._thread is None:
                self._thread = self._begun()

    def _begun(self) -> threading.Thread | None:
        """Its thread, or None where the host gives none: what waits is handed out with the next escalation."""
        thread = threading.Thread(target=self._run, name="watchdog-handler", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.error("a handler of escalations has to wait: %s", error)
            return None
        return thread

    def join(self, timeout_s: float) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (escalation := self._waiting.get()) is not None:
            try:
                self._handler(escalation)
            except Exception:  # a handler is anybody's code
                log.exception("a handler of escalations failed")
