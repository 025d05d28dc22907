"""How watchers act as one: the Coordinator and its backends."""

from __future__ import annotations

from watchdog.journal import Journal
from watchdog.mesh.coordinator import Coordinator
from watchdog.mesh.local import LocalCoordinator


def coordinator_of(journal: Journal) -> Coordinator:
    """The Coordinator of the mesh that this host's journal belongs to: the only place that chooses a backend."""
    return LocalCoordinator(journal)
