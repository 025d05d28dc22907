"""The host that isolations are carried out on, and where on it a target is right now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from watchdog import clock, early
from watchdog.actions import waiting
from watchdog.actions.waiting import Holders
from watchdog.config import Config, Peer
from watchdog.errors import HostCannot, SystemdFailed, WatchdogError
from watchdog.host import systemd, unit_filters
from watchdog.host.agents import AgentSelector
from watchdog.host.systemd import UnitState
from watchdog.intents import Intent, Intents, Where
from watchdog.journal import Journal
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.locks import PATIENCE_S, LockBusy, locked
from watchdog.kernel.slices import SLICE
from watchdog.kernel.sockets import Known

LOCK_TIMEOUT_S = 60.0
"""Longer than the slowest isolation: a daemon-reload under load, and a build of programs if none are ready."""

TOLD_AFTER_S = 1.0
"""How long somebody waits for it before they are told for whom."""

WHOLE_CGROUP = ("unit", "cgroup")
"""Selectors that name a cgroup and all that is in it; the others name processes, and the rest are strangers."""

log = logging.getLogger("watchdog")

News = Callable[[Intent, str], Callable[[], None]]
"""Gets ready to tell people that an isolation by hand has begun, or that one has ended, and why; what it returns
publishes that, as part of the transaction in which it becomes so: whoever is killed meanwhile, it is told once."""


def no_news(_: Intent, __: str) -> Callable[[], None]:
    """For drills and tests: nobody is told."""
    return lambda: None


@dataclass(frozen=True)
class Place:
    """Everything an isolation touches, so that tests and drills touch scratch things."""

    journal: Journal
    pins: Path
    run: Path
    drop_ins: Path = unit_filters.BASE
    root: Path = field(default_factory=cgroups.find_v2_root)
    peers: Mapping[str, str] = field(default_factory=dict)
    """Configured peers by the unit or the cgroup's path that is theirs: what is found cut off gets its name back."""
    host_links: bool = False
    """Whether filters may be put on links of the host's own network namespaces."""
    host_ends: Mapping[str, str] = field(default_factory=dict)
    """By configured peer, the host end of its own veth, where an operator has named it."""
    selectors: Mapping[str, AgentSelector] = field(default_factory=dict)
    """By configured peer that is found by its processes: where it runs now may be another cgroup than before."""
    news: News = field(default=no_news, compare=False, repr=False)
    now: Callable[[], datetime] = field(default=clock.utc_now, compare=False, repr=False)
    """When something becomes so: asked when it is written down, as the lock may have been waited for."""
    waiting: Callable[[Holders], None] = field(default=waiting.no_word, compare=False, repr=False)
    """Told once for whom it is waited, where that takes longer than TOLD_AFTER_S."""
    known: dict[tuple[int, frozenset[int]], Known] = field(default_factory=dict, compare=False, repr=False)
    """What this process has found out about the sockets of isolated agents, by intent and all intents in force."""

    covered: dict[int, dict[str, set[tuple[int, int]]]] = field(default_factory=dict, compare=False, repr=False)
    """Links that were seen with filters of ours, by intent and layer (watchdog/actions/noted.py)."""

    @property
    def intents(self) -> Intents:
        """The journal's isolations."""
        return Intents(self.journal)

    @property
    def build_lock(self) -> Path:
        """Held while programs are built."""
        return self.run / "build.lock"

    @property
    def top(self) -> Cgroup:
        """The whole v2 tree, for walking only."""
        return Cgroup(self.root, self.root.stat().st_ino, self.root)

    @contextmanager
    def alone(self, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
        """One isolate, release or reconcile at a time on this host; a dead holder's lock is free.

        `waits` is called where that takes longer than a keeper's sweep.
        """
        path = self.run / "isolation.lock"
        told = [(PATIENCE_S, waits), (TOLD_AFTER_S, lambda: self.waiting(waiting.holders(path)))]
        with locked(path, LOCK_TIMEOUT_S, told, _busy):
            yield


def _busy(path: Path) -> LockBusy:
    found = waiting.holders(path)
    return LockBusy(f"{path} is held by {found.words} for {LOCK_TIMEOUT_S:g} s now", hint=found.remedy)


def configured(settings: Config, journal: Journal, own: Peer | None = None) -> Place:
    """The place that a configuration names; `own` is the agent of the watcher that asks, which is not its peer.

    It is the others' peer: what is found cut off must have the name that they know it by.
    """
    agents = [*settings.peers, own] if own else settings.peers
    peers = {systemd.normalise(peer.unit): peer.name for peer in agents if peer.unit}
    peers |= {str(peer.cgroup): peer.name for peer in agents if peer.cgroup}
    return Place(
        journal,
        settings.paths.bpffs,
        settings.paths.run,
        peers=peers,
        host_links=settings.isolation.host_links,
        host_ends={peer.name: peer.host_end for peer in agents if peer.host_end},
        selectors={peer.name: selector_of(peer) for peer in agents if peer.selector and not names_a_cgroup(peer)},
    )


def names_a_cgroup(peer: Peer) -> bool:
    """Whether all that is in a cgroup is the agent; else it is the processes that are found, and the rest strangers."""
    return peer.selector is not None and peer.selector[0] in WHOLE_CGROUP


def selector_of(peer: Peer) -> AgentSelector:
    """How processes are found that no unit and no cgroup names."""
    return AgentSelector(pid_file=peer.pid_file, exec=peer.exec, command_line=peer.command_line, port=peer.port)


def note_agents(settings: Config, config: Path, identity: str) -> None:
    """Write down whom an isolate by hand may hold before it has looked at anything (watchdog/early.py).

    `identity` is early.identity_of(config) from before it was loaded.
    Only agents that are a whole unit or cgroup, and nobody where something is allowed. Where it cannot be written that
    is said in the log, and isolations only begin a little later.
    """
    allows = settings.isolation.allow or settings.isolation.allow_heartbeat
    agents = [] if allows else [peer for peer in settings.peers if peer.unit or peer.cgroup]
    rows = [(peer.name, systemd.normalise(peer.unit) if peer.unit else "", str(peer.cgroup or "")) for peer in agents]
    rows = [row for row in rows if not row[1].endswith(SLICE)]  # others' units are in there, too
    try:
        early.note(str(settings.paths.run), str(config), identity, str(cgroups.find_v2_root()), rows)
    except (OSError, WatchdogError) as error:
        log.warning("cannot note whom an isolate may hold early: %s", error)


@dataclass(frozen=True, slots=True)
class Sight:
    """Where a target is right now."""

    cgroups: tuple[Cgroup, ...]
    """What it occupies: none when nothing of it runs."""
    unit: UnitState | None
    """What systemd says of its unit; None where it has none, or where systemd does not run or answer."""


def look(where: Where, root: Path) -> Sight:
    """Find the target's cgroups now.

    A unit that was restarted has another cgroup than the one that was noted; the one noted may be there under the
    same name with another id.
    """
    state = _state_of(where.unit)
    told = _of_unit(state, root)
    return Sight(_each_once([*glance(where, root), *([told] if told else [])]), state)


def glance(where: Where, root: Path) -> tuple[Cgroup, ...]:
    """The target's cgroups as far as the tree itself shows them: before a cut nobody waits for systemd's answer."""
    found = (_noted(where, root), unit_cgroup(where.unit, root) if where.unit else None)
    return _each_once([cgroup for cgroup in found if cgroup is not None])


def unit_cgroup(unit: str, root: Path) -> Cgroup | None:
    """A unit's cgroup, by its full id, without asking systemd; None where nothing of it runs, or no systemd."""
    return cgroups.of_unit(unit, root) if systemd.SYSTEMD_RUNTIME.is_dir() else None


def _each_once(found: Iterable[Cgroup]) -> tuple[Cgroup, ...]:
    return tuple({cgroup.inode: cgroup for cgroup in found}.values())


def _noted(where: Where, root: Path) -> Cgroup | None:
    if not where.cgroup:
        return None
    noted = Cgroup(Path(where.cgroup), where.cgroup_id, root)
    return noted if cgroups.exists(noted) else cgroups.recreated(noted)


def _state_of(unit: str) -> UnitState | None:
    """A systemd that hangs keeps nobody from being cut off where it was last seen."""
    if not unit or not systemd.SYSTEMD_RUNTIME.is_dir():
        return None
    try:
        return systemd.query(unit)
    except (HostCannot, SystemdFailed):
        return None


def _of_unit(state: UnitState | None, root: Path) -> Cgroup | None:
    """The unit's cgroup as systemd says; what it said may be gone by the time we look."""
    if state is None or not state.control_group or not (root / state.control_group.lstrip("/")).is_dir():
        return None
    return cgroups.resolve_relative(state.control_group, root)
