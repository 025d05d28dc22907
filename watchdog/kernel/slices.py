"""Where systemd puts the cgroup of a unit. Imports next to nothing: see watchdog/early.py."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE = ".slice"


def in_slices(folder: str, name: str) -> Iterator[str]:
    """Where a cgroup of that name may be: below slices and nothing else."""
    yield f"{folder}/{name}"
    for below in sorted(os.listdir(folder)):
        if below.endswith(SLICE):
            try:
                yield from in_slices(f"{folder}/{below}", name)
            except OSError:
                continue  # it went while we looked
