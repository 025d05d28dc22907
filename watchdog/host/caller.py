"""Who gave a command, for the audit trail."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from watchdog.host.processes import printable

LOGIN_UID = Path("/proc/self/loginuid")
UNSET_UID = 2**32 - 1
"""The kernel's loginuid for what no login started (AUDIT_UID_UNSET)."""
NAME_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who runs this process. Only `user` and `login` come from the kernel; SUDO_USER can be set to anything."""

    user: str
    login: str | None
    """Who logged in, which sudo and su do not change; None for what a daemon started."""
    sudo_user: str | None
    terminal: str | None

    def in_words(self) -> str:
        """For people: "root (login alice, sudo alice, /dev/pts/0)"."""
        notes = [f"login {self.login}"] if self.login else []
        notes += [f"sudo {self.sudo_user}"] if self.sudo_user else []
        notes += [self.terminal] if self.terminal else []
        return f"{self.user} ({', '.join(notes)})" if notes else self.user


def who() -> Caller:
    """Who runs this command."""
    import psutil  # 10 ms

    sudo_user = printable(os.environ.get("SUDO_USER", ""))[:NAME_SHOWN]
    return Caller(_name(os.getuid()), _login(), sudo_user or None, psutil.Process().terminal())


def _login() -> str | None:
    try:
        uid = int(LOGIN_UID.read_text())
    except (OSError, ValueError):  # a kernel without audit
        return None
    return None if uid == UNSET_UID else _name(uid)


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
