"""Who gave a command, for the audit trail."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from watchdog.host.processes import own_terminal, printable

LOGIN_UID = Path("/proc/self/loginuid")
UNSET_UID = 2**32 - 1
"""The kernel's loginuid for what no login started (AUDIT_UID_UNSET)."""
NAME_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who runs this. The uids come from the kernel, the names from them; SUDO_USER can be set to anything."""

    user: str
    login: str | None
    """Who logged in, which sudo and su do not change; None for what a daemon started."""
    sudo_user: str | None
    terminal: str | None
    uid: int
    login_uid: int | None

    def in_words(self) -> str:
        """For people: "root (login alice, sudo alice, /dev/pts/0)"."""
        notes = [f"login {self.login}"] if self.login else []
        notes += [f"sudo {self.sudo_user}"] if self.sudo_user else []
        notes += [self.terminal] if self.terminal else []
        return f"{self.user} ({', '.join(notes)})" if notes else self.user


def in_words(by: Mapping[str, Any]) -> str:
    """The same of one that was written down; "" for what is not of a command."""
    try:
        return Caller(**{each.name: by[each.name] for each in fields(Caller)}).in_words()
    except KeyError:
        return ""


def who() -> Caller:
    """Who runs this command."""
    sudo_user = printable(os.environ.get("SUDO_USER", ""))[:NAME_SHOWN]
    uid, login_uid = os.getuid(), _login_uid()
    return Caller(
        user=_name(uid),
        login=None if login_uid is None else _name(login_uid),
        sudo_user=sudo_user or None,
        terminal=own_terminal(),
        uid=uid,
        login_uid=login_uid,
    )


def _login_uid() -> int | None:
    try:
        uid = int(LOGIN_UID.read_text())
    except (OSError, ValueError):  # a kernel without audit
        return None
    return None if uid == UNSET_UID else uid


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
