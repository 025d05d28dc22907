"""Other processes' descriptors, taken through pidfds: pidfd_getfd(2), kcmp(2), both without a wrapper in Python.

A descriptor taken so is the same open socket: what is asked of it or set on it, is asked of or set on the other's.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

_PIDFD_GETFD = 438
"""The same number on every architecture that is younger than Linux 5.0's common numbering, alpha left out."""

_KCMP = {"x86_64": 312, "aarch64": 272, "ppc64le": 354, "s390x": 343, "riscv64": 272}
_KCMP_FILES = 2

_PIDFD_THREAD = os.O_EXCL
"""Linux 6.9: a pidfd of one thread, whose descriptors may be its own."""


@cache
def _syscall() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def kept(pid: int, thread: int) -> int:
    """A pidfd of a process, or of one of its threads where that has descriptors of its own; for a child of ours that
    ends soon (watchdog.aside): it stays open.

    ProcessLookupError where it is gone; OSError with EINVAL where this kernel has no pidfds of threads.
    """
    return os.pidfd_open(pid) if thread == pid else os.pidfd_open(thread, _PIDFD_THREAD)


def take(pidfd: int, fd: int) -> int:
    """A descriptor of ours for what another process has open as `fd`. OSError: EBADF closed, ESRCH gone, EPERM not
    for us to look at (a security module, or CAP_SYS_PTRACE is missing)."""
    taken: int = _syscall().syscall(_PIDFD_GETFD, pidfd, fd, 0)
    if taken < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return taken


def tables(pid: int, unseen: list[str]) -> Iterator[int]:
    """The process, and those of its threads that have descriptors of their own; `unseen` is told of those that may."""
    yield pid
    with suppress(OSError):
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):  # noqa: PTH208 -- every descriptor of every process
            shares = thread == pid or shares_descriptors(pid, thread)
            if shares is None:
                unseen.append(f"thread {thread} of process {pid} may have descriptors of its own")
            elif not shares:
                yield thread


def shares_descriptors(pid: int, thread: int) -> bool | None:
    """Whether a thread uses its process's descriptors, as nearly all do; None where this kernel does not tell."""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return None
    order = _syscall().syscall(number, pid, thread, _KCMP_FILES, 0, 0)
    if order >= 0:
        return bool(order == 0)
    return True if ctypes.get_errno() == errno.ESRCH else None  # gone meanwhile: nothing to look at
