"""Tell systemd that we are ready, alive or stopping: the protocol of sd_notify(3), nothing where nobody listens."""

from __future__ import annotations

import contextlib
import os
import socket

USEC_PER_S = 1_000_000
KEEP_ALIVES_PER_PERIOD = 3
"""sd_watchdog_enabled(3) asks for one each half of the period; a third leaves room for a slow turn."""


def notify(state: str) -> None:
    """Send one state ("READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS=...") to $NOTIFY_SOCKET, where there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.sendto(state.encode(), address)


class KeepAlive:
    """Sends WATCHDOG=1 often enough when the unit has WatchdogSec=, and nothing otherwise."""

    def __init__(self) -> None:
        usec = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period_s = int(usec) / USEC_PER_S if usec.isdigit() and ours else 0.0
        self._every_s = period_s / KEEP_ALIVES_PER_PERIOD
        self._last_s = 0.0

    def turn(self, now_s: float) -> None:
        """Call this from the loop whose life is the proof."""
        if self._every_s and now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            notify("WATCHDOG=1")
