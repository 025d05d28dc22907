"""The clocks that beliefs and records rest on; who only waits for a moment reads the monotonic clock himself.

Durations and ages: CLOCK_BOOTTIME, in seconds. Every process of a host shares it, no clock step moves it and it
counts a suspend. It begins anew with every boot, so what is kept over a reboot is kept with the boot's id.
What people read: the wall clock, in UTC.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def now_s() -> float:
    """Seconds since boot, suspends included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


@cache
def boot_id() -> str:
    """This boot's id, as the kernel gives it. No process outlives its boot."""
    return BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant as both clocks saw it, on one boot: what is passed on when something happens."""

    s: float
    utc: datetime
    boot: str

    def age_s(self, then_s: float, then_boot: str) -> float | None:
        """Seconds since `then_s`, or None when that was another boot."""
        return self.s - then_s if then_boot == self.boot else None


def moment() -> Moment:
    """Now."""
    return Moment(now_s(), utc_now(), boot_id())


def rfc3339(at: datetime) -> str:
    """RFC 3339 in UTC with microseconds, as everything we write: it sorts as text."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_rfc3339(text: str) -> datetime:
    """The inverse of `rfc3339`."""
    return datetime.fromisoformat(text)
