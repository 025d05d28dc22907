"""What can go wrong, each kind with the exit status the command ends with.

Every error says what, where and why in its message and what to do next in its hint. Only
`__main__` prints them; a traceback is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Exit statuses of every verb but `status` (docs/operations.md)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    PARTIAL = 4
    HOST_CANNOT = 5
    NOT_ROOT = 6
    INTERRUPTED = 130
    """As a shell has it of what SIGINT ended."""


class WatchdogError(Exception):
    """An error an operator can act on.

    `message` names the thing and the reason; `hint` says what to do next and may be empty. `kind` is the same for the
    same trouble whatever pids and names are in its words; without one it is the error's class.
    """

    exit_status: ClassVar[Exit] = Exit.FAILED

    def __init__(self, message: str, *, hint: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.kind = kind or type(self).__name__

    def one_line(self) -> str:
        """The message and what to do next, as one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigurationError(WatchdogError):
    """The configuration cannot be used; `problems` lists every one found, each with its place."""

    exit_status = Exit.USAGE

    def __init__(self, message: str, *, problems: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class UsageError(WatchdogError):
    """What was asked for names something that does not exist or cannot be meant."""

    exit_status = Exit.USAGE


class Refused(WatchdogError):
    """A safety rail forbids this without --force."""

    exit_status = Exit.REFUSED


class HostCannot(WatchdogError):
    """This host lacks what is needed; `watchdog-mesh doctor` says what and the remedy."""

    exit_status = Exit.HOST_CANNOT


class NotRoot(WatchdogError):
    """Only root may do this."""

    exit_status = Exit.NOT_ROOT


class Interrupted(WatchdogError):
    """Somebody wanted no more of it (Ctrl-C)."""

    exit_status = Exit.INTERRUPTED


class KernelRefused(WatchdogError):
    """The kernel refused an operation that this host supports."""


class SystemdFailed(WatchdogError):
    """systemd did not do what was asked, or did not answer in time."""


class JournalFailed(WatchdogError):
    """The journal cannot be read or written; nothing was changed."""


class JournalCorrupt(JournalFailed):
    """The journal's file is damaged. It is kept; `reconcile --set-aside-journal` starts a new one."""
