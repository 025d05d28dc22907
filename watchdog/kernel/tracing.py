"""Whether processes may trace others, and so take what those have open, unasked: ptrace(2), pidfd_getfd(2)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from watchdog.kernel import credentials
from watchdog.kernel.credentials import Credentials

SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
SAME_USER, WHO_ASKED, NOBODY = 0, 1, 3
"""Yama's: 1 is children alone, and who has asked to be traced (PR_SET_PTRACER); 2 is who may trace everybody."""


def may_trace_others(threads: Collection[Credentials], own: Collection[int], scope: int | None = None) -> bool | None:
    """Whether any of these threads may trace a process that is none of its own.

    None where it hangs on who has asked to be traced: no kernel shows that.
    """
    threads = frozenset(threads)
    scope = _scope() if scope is None else scope
    if scope >= NOBODY:
        return False
    if any(each.may_trace_all for each in threads):
        return True
    if scope > WHO_ASKED or not any(each.may_trace(other) for other in _others(threads, own) for each in threads):
        return False
    return True if scope == SAME_USER else None


def _scope() -> int:
    with suppress(OSError, ValueError):  # a kernel without Yama
        return int(SCOPE.read_text())
    return SAME_USER


def _others(threads: Collection[Credentials], own: Collection[int]) -> Iterator[Credentials]:
    """Of processes of the same users that are not closed to them (PR_SET_DUMPABLE)."""
    uids = {uid for each in threads for uid in each.uids}
    anybody = any(each.may_be_anybody for each in threads)
    for name in os.listdir("/proc"):  # noqa: PTH208 -- every process
        if name.isdigit() and int(name) not in own:
            with suppress(OSError):  # it is gone
                user = os.stat(f"/proc/{name}").st_uid  # noqa: PTH116 -- every process
                if (anybody or user in uids) and os.stat(f"/proc/{name}/fd").st_uid == user:  # noqa: PTH116
                    yield from credentials.of_threads(int(name))
