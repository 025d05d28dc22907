"""Freezing a cgroup: nothing in it runs, everything in it stays as it is."""

from __future__ import annotations

import errno
import select
import time
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel.cgroups import Cgroup, CgroupGone

FREEZE_FILE, EVENTS_FILE = "cgroup.freeze", "cgroup.events"

FREEZE_TIMEOUT_S = 2.0
"""Seen: 0.06 ms, 5 ms at worst. A process in an uninterruptible wait can take any time."""


def freeze(cgroup: Cgroup, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """Stop every process in the cgroup and below; KernelRefused where some still run at the deadline."""
    begin(cgroup)
    await_frozen(cgroup, timeout_s)


def thaw(cgroup: Cgroup, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """Let the cgroup run again; KernelRefused where it stays frozen, as it does under a frozen parent."""
    end(cgroup)
    if not _reached(cgroup, frozen=False, timeout_s=timeout_s):
        raise KernelRefused(f"{cgroup.path} is not thawed after {timeout_s:g} s", hint="is a parent cgroup frozen?")


def begin(cgroup: Cgroup) -> None:
    """Tell the cgroup to freeze, and do not wait for it."""
    _tell(cgroup, "1")


def end(cgroup: Cgroup) -> None:
    """Tell the cgroup to run, and do not wait for it."""
    _tell(cgroup, "0")


def await_frozen(cgroup: Cgroup, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """Wait for a freezing that was begun; KernelRefused where something still runs at the deadline."""
    if not _reached(cgroup, frozen=True, timeout_s=timeout_s):
        raise KernelRefused(
            f"{cgroup.path} is not frozen after {timeout_s:g} s", hint="a process waits uninterruptibly (ps: state D)"
        )


def is_told_to_freeze(cgroup: Cgroup) -> bool:
    """Whether somebody told this very cgroup, not an ancestor, to freeze."""
    return _read(cgroup, FREEZE_FILE).strip() == "1"


def is_frozen(cgroup: Cgroup) -> bool:
    """Whether everything in the cgroup stands still now, by its own or by an ancestor's freezing."""
    return parse_frozen(_read(cgroup, EVENTS_FILE))


def parse_frozen(events: str) -> bool:
    """The `frozen` line of cgroup.events."""
    return dict(line.split() for line in events.splitlines()).get("frozen") == "1"


def _tell(cgroup: Cgroup, value: str) -> None:
    try:
        (cgroup.path / FREEZE_FILE).write_text(value)
    except OSError as error:
        raise _translated(cgroup, error) from error


def _read(cgroup: Cgroup, name: str) -> str:
    try:
        return (cgroup.path / name).read_text()
    except OSError as error:
        raise _translated(cgroup, error) from error


def _reached(cgroup: Cgroup, *, frozen: bool, timeout_s: float) -> bool:
    try:
        return _await(cgroup.path / EVENTS_FILE, frozen, time.monotonic() + timeout_s)
    except OSError as error:
        raise _translated(cgroup, error) from error


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
    if error.errno in {errno.ENOENT, errno.ENODEV}:
        return CgroupGone(f"the cgroup {cgroup.path} is gone")
    return KernelRefused(f"cannot freeze or thaw {cgroup.path}: {error.strerror}")
