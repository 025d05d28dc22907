"""From what an operator or the configuration names to a cgroup, and what the safety rails must know about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from watchdog import config, rails
from watchdog.actions import isolation
from watchdog.actions.place import Place, cgroups_of
from watchdog.config import Config
from watchdog.errors import Refused, UsageError
from watchdog.host import agents, processes, systemd
from watchdog.host.agents import AgentSelector
from watchdog.intents import Where
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup

INIT_PID = 1
SSHD = "sshd"
WHOLE_CGROUP = ("unit", "cgroup")
"""Selectors that name a cgroup and all that is in it; the others name processes, and the rest are strangers."""


@dataclass(frozen=True, slots=True)
class Named:
    """What was named: exactly one of these."""

    peer: str = ""
    unit: str = ""
    pid: int = 0
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a target is, and its agent's processes; None for all that the cgroup holds."""

    where: Where
    agent: frozenset[int] | None


def locate(named: Named, settings: Config, place: Place) -> Located:
    """Find the target on this host. Raises UsageError when there is none, or when it may be several."""
    peer = settings.peer(named.peer) if named.peer else _peer_with(named, settings)
    if named.peer and peer is None:
        known = ", ".join(each.name for each in settings.peers) or "none"
        raise UsageError(f"there is no peer {named.peer!r} in the configuration", hint=f"known: {known}; or --unit")
    if peer is not None:
        return _of_peer(peer, place)
    if named.unit:
        return _of_unit(named.unit, "", place)
    if named.pid:
        return _of_processes(AgentSelector(pid=named.pid), "", place)
    return _of_cgroup(Path(named.cgroup), "", place)


def _peer_with(named: Named, settings: Config) -> config.Peer | None:
    """The configured peer whose unit was named: it is then isolated as that peer, and every watcher knows."""
    if not named.unit:
        return None
    unit = systemd.normalise(named.unit)
    return next((peer for peer in settings.peers if peer.unit and systemd.normalise(peer.unit) == unit), None)


def _of_peer(peer: config.Peer, place: Place) -> Located:
    if peer.selector is None:
        raise UsageError(
            f"the configuration does not say how to find {peer.name} on this host",
            hint=f"set one of {', '.join(config.SELECTORS)} for it",
        )
    if peer.unit is not None:
        return _of_unit(peer.unit, peer.name, place)
    if peer.cgroup is not None:
        return _of_cgroup(peer.cgroup, peer.name, place)
    return _of_processes(selector_of(peer), peer.name, place)


def selector_of(peer: config.Peer) -> AgentSelector:
    """How processes are found that no unit and no cgroup names."""
    return AgentSelector(pid_file=peer.pid_file, exec=peer.exec, command_line=peer.command_line, port=peer.port)


def _of_unit(unit: str, peer: str, place: Place) -> Located:
    where = Where(cgroup="", cgroup_id=0, unit=isolation.unit_of(unit), peer=peer)
    return Located(_with_cgroup(where, cgroups_of(where, place.root)), agent=None)


def _of_cgroup(path: Path, peer: str, place: Place) -> Located:
    cgroup = cgroups.resolve(path, place.root)
    return Located(Where(cgroup=str(cgroup.path), cgroup_id=cgroup.inode, peer=peer), agent=None)


def _of_processes(how: AgentSelector, peer: str, place: Place) -> Located:
    found = agents.find(how)
    places = {cgroups.of_pid(process.pid, place.root) for process in found}
    gone = [process for process in found if not processes.still_same(process)]
    if gone:
        raise UsageError(f"process {gone[0].pid} ended while it was looked at", hint="find out what took its place")
    if len(places) > 1:
        listed = ", ".join(sorted(str(each.path) for each in places))
        raise UsageError(f"its processes are in several cgroups: {listed}", hint="name one with --cgroup")
    cgroup = places.pop()
    agent = {process.pid for process in found}
    agent |= {child.pid for process in found for child in processes.descendants(process)}
    where = Where(cgroup=str(cgroup.path), cgroup_id=cgroup.inode, peer=peer)
    return Located(where, frozenset(agent))


def _with_cgroup(where: Where, found: Sequence[Cgroup]) -> Where:
    if not found:
        return where
    return Where(cgroup=str(found[-1].path), cgroup_id=found[-1].inode, unit=where.unit, peer=where.peer)


def check_rails(located: Located, settings: Config, place: Place, *, force: bool) -> list[str]:
    """Raises Refused with every reason that speaks against it; with `force` the reasons come back instead."""
    facts = facts_of(located, settings, place)
    if never := rails.never(facts):
        raise Refused(f"{_name(located.where)} is not isolated: {'; '.join(never)}", hint="name a child cgroup of it")
    found = rails.objections(facts)
    if found and not force:
        raise Refused(
            f"{_name(located.where)} is not isolated: {'; '.join(found)}", hint="if that is meant, say --force"
        )
    return found


def facts_of(located: Located, settings: Config, place: Place) -> rails.Facts:
    """What the rails ask about a target."""
    where = located.where
    found = cgroups_of(where, place.root)
    inside = {pid for cgroup in found for pid in cgroups.processes(cgroup)} - {cgroups.OTHER_NAMESPACE}
    others = [intent for intent in place.intents.in_force() if intent.where != where and intent.name != _name(where)]
    isolated_peers = {intent.where.peer for intent in others if intent.where.peer} | {where.peer}
    left = [peer.name for peer in settings.peers if peer.name not in isolated_peers]
    alone = where.peer and len(settings.peers) > 1
    strangers = sorted(inside - located.agent) if located.agent is not None else []
    return rails.Facts(
        is_root_cgroup=any(cgroup.is_root for cgroup in found),
        holds_init=INIT_PID in inside,
        holds_watcher=os.getpid() in inside,
        holds_caller=any(parent.pid in inside for parent in processes.ancestors(os.getpid()) if parent.pid != INIT_PID),
        holds_sshd=any(processes.name_of(pid) == SSHD for pid in inside),
        strangers=[processes.describe(pid) for pid in strangers],
        isolated_now=[intent.name for intent in others],
        max_isolated=settings.isolation.max_isolated,
        peers_left=len(left) if alone else None,
    )


def _name(where: Where) -> str:
    return where.peer or where.unit or where.cgroup
