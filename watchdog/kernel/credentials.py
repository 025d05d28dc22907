"""What threads may do: who they are and the capabilities they have, as /proc/PID/task/TID/status says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IWGRP, S_IWOTH

_CHOWN, _DAC_OVERRIDE, _FOWNER, _SETUID, _SYS_PTRACE = 0, 1, 3, 7, 19
"""<uapi/linux/capability.h>"""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one thread: each has its own."""

    uids: frozenset[int]
    """Real, effective, saved, of the file system: it can be any of them at any time."""
    gids: frozenset[int]
    permitted: int
    """CapPrm, a bit mask. What is permitted can be made effective at any time."""
    bounding: int
    """CapBnd: more than that no program gives it."""
    no_new_privs: bool
    """Whether no program that it starts gives it anything (NoNewPrivileges=)."""

    @property
    def capabilities(self) -> int:
        """What it has, or takes when it likes: to root every next program is permitted all that is bounding."""
        takes = (0 in self.uids or self._has(_SETUID)) and not self.no_new_privs
        return self.permitted | (self.bounding if takes else 0)

    @property
    def given_by_programs(self) -> int:
        """What a program with privileges of its own (setuid, or with capabilities) could have here."""
        return 0 if self.no_new_privs else self.bounding

    @property
    def may_be_anybody(self) -> bool:
        """Whether it takes any uid when it likes."""
        return self._has(_SETUID)

    @property
    def may_trace_all(self) -> bool:
        """Whether it may trace whomever it sees."""
        return bool(self.capabilities >> _SYS_PTRACE & 1)

    def may_trace(self, other: Credentials) -> bool:
        """Whether it may trace a process like that, as far as Yama lets it: the same user, with no more privileges."""
        is_same_user = self.may_be_anybody or not self.uids.isdisjoint(other.uids)
        return self.may_trace_all or (is_same_user and not other.permitted & ~self.capabilities)

    def may_write(self, file: os.stat_result) -> bool:
        """Whether it may write to a file, or may see to it that it may, as the file's owner can."""
        if file.st_uid in self.uids or any(map(self._has, (_CHOWN, _DAC_OVERRIDE, _FOWNER, _SETUID))):
            return True
        return bool(file.st_mode & S_IWOTH or (file.st_gid in self.gids and file.st_mode & S_IWGRP))

    def _has(self, bit: int) -> bool:
        return bool(self.permitted >> bit & 1)


def of_threads(pid: int) -> Iterator[Credentials]:
    """Those of every thread of a process; threads that end midway are left out."""
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 -- every thread of every process
            with suppress(OSError):
                yield parse(Path(f"/proc/{pid}/task/{thread}/status").read_text(errors="replace"))


def parse(status: str) -> Credentials:
    """From the text of a status file; what it does not say is none."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)

    def numbers(*names: str, base: int = 10) -> list[int]:
        return [int(word, base) for name in names for word in fields.get(name, "").split()]

    return Credentials(
        uids=frozenset(numbers("Uid")),
        gids=frozenset(numbers("Gid", "Groups")),
        permitted=sum(numbers("CapPrm", base=16)),
        bounding=sum(numbers("CapBnd", base=16)),
        no_new_privs=numbers("NoNewPrivs") == [1],
    )
