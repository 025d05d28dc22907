"""Whether there is memory left in a cgroup for one small process more."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from watchdog.kernel.cgroups import Cgroup

_RECLAIMABLE = "inactive_file"
"""Of memory.stat: what the kernel takes back first."""


def shortage(cgroup: Cgroup, needed_bytes: int) -> str:
    """Why a process that needs so much should not be put there: its limit, or one above it, is near; "" where not.

    Where memory is not controlled by cgroup v2 nothing is known, and nothing is said.
    """
    for path in (cgroup.path, *cgroup.path.parents):
        if path == cgroup.root:
            break
        left_bytes = _left_bytes(path)
        if left_bytes is not None and left_bytes < needed_bytes:
            return f"only {max(0, left_bytes)} bytes of memory are left in {path}: the agent may need them"
    return ""


def _left_bytes(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        limit = (path / "memory.max").read_text().strip()
        if limit != "max":
            fields = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
            return int(limit) - int((path / "memory.current").read_text()) + int(fields.get(_RECLAIMABLE, 0))
    return None
