"""The host that isolations are carried out on, and where on it a target is right now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.host import systemd, unit_filters
from watchdog.intents import Intents, Where
from watchdog.journal import Journal
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.locks import locked

LOCK_TIMEOUT_S = 60.0
"""Longer than the slowest isolation: a daemon-reload under load, and a build of programs if none are ready."""


@dataclass(frozen=True)
class Place:
    """Everything an isolation touches, so that tests and drills touch scratch things."""

    journal: Journal
    pins: Path
    run: Path
    drop_ins: Path = unit_filters.BASE
    root: Path = field(default_factory=cgroups.find_v2_root)

    @property
    def intents(self) -> Intents:
        """The journal's isolations."""
        return Intents(self.journal)

    @property
    def build_lock(self) -> Path:
        """Held while programs are built."""
        return self.run / "build.lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One isolate, release or reconcile at a time on this host; a dead holder's lock is free."""
        with locked(self.run / "isolation.lock", LOCK_TIMEOUT_S):
            yield


def cgroups_of(where: Where, root: Path) -> list[Cgroup]:
    """The cgroups the target occupies now: none when nothing of it runs.

    A unit that was restarted has another cgroup than the one that was noted; the one noted may be there under the
    same name with another id.
    """
    found = [cgroup for cgroup in (_noted(where, root), _of_unit(where.unit, root)) if cgroup is not None]
    return list({cgroup.inode: cgroup for cgroup in found}.values())


def _noted(where: Where, root: Path) -> Cgroup | None:
    if not where.cgroup:
        return None
    noted = Cgroup(Path(where.cgroup), where.cgroup_id, root)
    return noted if cgroups.exists(noted) else cgroups.recreated(noted)


def _of_unit(unit: str, root: Path) -> Cgroup | None:
    """The unit's cgroup as systemd says; what it said may be gone by the time we look."""
    if not unit or not systemd.running():
        return None
    name = systemd.query(unit).control_group
    if not name or not (root / name.lstrip("/")).is_dir():
        return None
    return cgroups.resolve_relative(name, root)
