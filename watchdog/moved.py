"""What the journal knows of processes that were moved into a cgroup of their own (watchdog/actions/moving.py)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from watchdog.host.processes import Process


@dataclass(frozen=True, slots=True)
class Was:
    """One process, and the cgroup that it was found in."""

    pid: int
    started_ticks: int
    cgroup: str
    """The directory's absolute path."""
    cgroup_id: int

    @property
    def process(self) -> Process:
        """Never another that got its number later."""
        return Process(self.pid, self.started_ticks)


@dataclass(frozen=True, slots=True)
class Moved:
    """Where the processes of an isolation were before a cgroup was made for them, and where they return to."""

    cgroup: str
    """What they shared with strangers: the new one is made in it, and whoever is born in that returns to it."""
    cgroup_id: int
    boot: str
    """The boot these processes are of; on another one their numbers are anybody's."""
    processes: tuple[Was, ...] = ()
    """Written down before they are moved."""
    unclear: tuple[Was, ...] = ()
    """What appeared among the strangers meanwhile and has lost its parent: it may be the agent's."""

    def knows(self, one_of: Collection[Process]) -> bool:
        """Whether any of these is among the processes that are moved."""
        return any(each.process in one_of for each in self.processes)
