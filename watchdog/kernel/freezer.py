"""Freezing a cgroup: nothing in it runs, everything in it stays as it is."""

from __future__ import annotations

import select
import time
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel.cgroups import Cgroup, CgroupGone

FREEZE_TIMEOUT_S = 2.0
"""Seen: 0.06 ms, 5 ms at worst. A process in an uninterruptible wait can take any time."""


def freeze(cgroup: Cgroup, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """Stop every process in the cgroup and below; KernelRefused where some still run at the deadline."""
    _set(cgroup, frozen=True, timeout_s=timeout_s)


def thaw(cgroup: Cgroup, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """Let the cgroup run again; KernelRefused where it stays frozen, as it does under a frozen parent."""
    _set(cgroup, frozen=False, timeout_s=timeout_s)


def is_frozen(cgroup: Cgroup) -> bool:
    """Whether everything in the cgroup stands still now, by its own or by an ancestor's freezing."""
    try:
        return parse_frozen((cgroup.path / "cgroup.events").read_text())
    except OSError as error:
        raise _translated(cgroup, error) from error


def parse_frozen(events: str) -> bool:
    """The `frozen` line of cgroup.events."""
    return dict(line.split() for line in events.splitlines()).get("frozen") == "1"


def _set(cgroup: Cgroup, *, frozen: bool, timeout_s: float) -> None:
    try:
        (cgroup.path / "cgroup.freeze").write_text("1" if frozen else "0")
        reached = _await(cgroup.path / "cgroup.events", frozen, time.monotonic() + timeout_s)
    except OSError as error:
        raise _translated(cgroup, error) from error
    if not reached:
        wanted = "frozen" if frozen else "thawed"
        raise KernelRefused(
            f"{cgroup.path} is not {wanted} after {timeout_s:g} s",
            hint="a process waits uninterruptibly (ps: state D)" if frozen else "is a parent cgroup frozen?",
        )


def _await(events: Path, frozen: bool, deadline_s: float) -> bool:
    """The kernel wakes pollers of cgroup.events at every change of it, once they have read it."""
    with events.open() as file:
        poller = select.poll()
        poller.register(file, select.POLLPRI)
        while parse_frozen(file.read()) is not frozen:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            poller.poll(left_s * 1000)
            file.seek(0)
        return True


def _translated(cgroup: Cgroup, error: OSError) -> KernelRefused:
    if isinstance(error, FileNotFoundError):
        return CgroupGone(f"the cgroup {cgroup.path} is gone")
    return KernelRefused(f"cannot freeze or thaw {cgroup.path}: {error.strerror}")
