"""Our own process in an agent's cgroup, and how everybody tells it from the agent: by a mark, and by its ports.

The mark is an extended attribute of the cgroup's directory that names the process by pid and start time. It is there
from before the process comes until after it is gone, and goes with the cgroup; one that a killed watcher left names a
process that is there no more. Only CAP_SYS_ADMIN reads and writes trusted attributes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MARK = "trusted.watchdog-mesh.visitor"

PORTS = range(61087, 61087 + 64)
"""Where its tries go on loopback, always the same: however often it tries, they are the same few flows. Above what
Linux gives out by itself (ip_local_port_range: 32768 to 60999)."""

_STARTED = 19
"""Place of starttime (22) in /proc/PID/stat, counted after the command's name."""


def mark(cgroup: Path, pid: int) -> None:
    """Say that this process, which is about to come, is ours. Raises OSError."""
    os.setxattr(cgroup, MARK, f"{pid} {began(pid)}".encode())


def unmark(cgroup: Path) -> None:
    """It is gone; so may be the cgroup."""
    with suppress(OSError):
        os.removexattr(cgroup, MARK)


def pids(cgroup: Path) -> frozenset[int]:
    """Our processes in this very cgroup: at most one."""
    try:
        pid, _, started = os.getxattr(cgroup, MARK).decode().partition(" ")
        return frozenset({int(pid)}) if began(int(pid)) == started else frozenset()
    except (OSError, ValueError, IndexError):
        return frozenset()


def began(pid: int) -> str:
    """When a process was started, which tells it from others of the same pid. Raises OSError where there is none."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[_STARTED]
