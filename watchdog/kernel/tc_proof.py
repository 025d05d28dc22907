"""Prove that filters can be had on this host: on a namespace made for it, which is gone at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL, get_errno
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused, WatchdogError
from watchdog.kernel import tc_links
from watchdog.kernel.netns import CLONE_NEWNET, Netns
from watchdog.kernel.tc_plan import Filter

_OWN_THREADS = Path("/proc/thread-self/ns/net")


def why_not(filters: list[Filter]) -> str:
    """Why these filters cannot be put on a link of this host, in one line; "" where they can."""
    try:
        with scratch() as place:
            tc_links.cover(place, filters).raise_refusals()
            return "; ".join(tc_links.gaps(place, filters, ()))
    except WatchdogError as error:
        return error.one_line()


@contextmanager
def scratch() -> Iterator[Netns]:
    """A new namespace with nothing but its loopback. It has no process, and goes with the descriptor that holds it."""
    made: list[int | WatchdogError] = []
    thread = threading.Thread(target=lambda: made.append(_made()), name="watchdog-scratch")
    thread.start()
    thread.join()
    [fd] = made
    if isinstance(fd, WatchdogError):
        raise fd
    try:
        yield Netns(os.fstat(fd).st_ino, Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def _made() -> int | WatchdogError:
    """In a thread of its own, which ends in there."""
    if CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return HostCannot(f"cannot make a network namespace: {os.strerror(get_errno())}", hint="this needs root")
    try:
        return os.open(_OWN_THREADS, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return KernelRefused(f"cannot hold a network namespace: {error.strerror}")
