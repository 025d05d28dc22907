"""From what an operator or the configuration names to a cgroup, and what the safety rails must know about it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from watchdog import clock, config, rails
from watchdog.actions import adopt, moving, stand_ins, whereabouts
from watchdog.actions.place import Place, glance, look, names_a_cgroup, selector_of, unit_cgroup
from watchdog.config import Config
from watchdog.errors import Refused, UsageError
from watchdog.host import agents, processes, systemd
from watchdog.host.agents import AgentSelector
from watchdog.intents import Where
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.mesh.overview import fresh_s
from watchdog.status import published

INIT_PID = 1
SSHD = ("sshd", "sshd-session", "sshd-auth")
"""Its name, and since OpenSSH 9.8 those of the processes that serve a login."""
LATE_S = 30.0
"""Beyond two intervals without a word in its status a watcher hangs; systemd ends it about then (WatchdogSec=)."""


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


def locate(named: Named, settings: Config, place: Place, *, adopt_it: bool = False) -> Located:
    """Find the target on this host. Raises UsageError when there is none, or when it may be several.

    With `adopt_it` one that shares its cgroup with strangers is where a cgroup is to be made for it.
    """
    found = _of_named(named, settings, place)
    return replace(found, where=moving.apart(found.where, found.agent, place)) if adopt_it else found


def _of_named(named: Named, settings: Config, place: Place) -> Located:
    if named.peer:
        return _of_peer(named.peer, settings, place)
    if named.unit:
        found = _of_unit(named.unit, "", place)
    elif named.pid:
        found = _of_processes(AgentSelector(pid=named.pid), "", place)
    else:
        found = _of_cgroup(Path(named.cgroup), "", place)
    return replace(found, where=replace(found.where, peer=_peer_of(found, settings, place)))


def configured_peer(name: str, settings: Config) -> config.Peer:
    """The peer of that name. Raises UsageError that says which there are."""
    peer = settings.peer(name)
    if peer is None:
        problem, hint = unknown_peer(name, settings)
        raise UsageError(problem, hint=f"{hint}; or name a --unit")
    return peer


def unknown_peer(name: str, settings: Config) -> tuple[str, str]:
    """What is wrong with a name that no peer has, and what to do."""
    if not settings.peers:
        problem = f"there is no peer {name!r}: none is configured, by default in {config.DEFAULT_PATH}"
        return problem, "write one: watchdog-mesh config example; or give its path with --config"
    known = ", ".join(each.name for each in settings.peers)
    return f"there is no peer {name!r} in the configuration", f"known: {known}"


def _of_peer(name: str, settings: Config, place: Place) -> Located:
    peer = configured_peer(name, settings)
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


def _peer_of(found: Located, settings: Config, place: Place) -> str:
    """The configured peer that was meant without its name: it is isolated as that peer, and every watcher knows."""
    known = _known_peer(found, settings, place)
    return "" if known and _is_held_elsewhere(known, found.where, place) else known


def _is_held_elsewhere(peer: str, where: Where, place: Place) -> bool:
    """Then this is something more that is cut off, under its own name."""
    held = [each.where for each in place.intents.in_force() if each.where.peer == peer]
    return any(
        not (where.unit and where.unit == each.unit) and not (where.cgroup and where.cgroup == each.cgroup)
        for each in held
    )


def _known_peer(found: Located, settings: Config, place: Place) -> str:
    where = found.where
    known = where.peer or place.peers.get(where.unit, "") or place.peers.get(where.cgroup, "")
    if known or not where.cgroup:
        return known
    by_process = [peer for peer in settings.peers if peer.selector and not names_a_cgroup(peer)]
    return next((peer.name for peer in by_process if _runs_in(peer, found, place)), "")


def _runs_in(peer: config.Peer, found: Located, place: Place) -> bool:
    try:
        its = _of_processes(selector_of(peer), peer.name, place)
    except UsageError:
        return False  # it does not run, or not in one cgroup
    same = found.agent is None or its.agent is None or bool(found.agent & its.agent)
    return same and its.where.cgroup == found.where.cgroup


def _of_unit(unit: str, peer: str, place: Place) -> Located:
    """By its full id: aliases are resolved, so that one unit has one name in the journal. No cgroup has an alias."""
    name = systemd.normalise(unit)
    if (cgroup := unit_cgroup(name, place.root)) is not None:
        return Located(Where(str(cgroup.path), cgroup.inode, name, peer), None)
    where = Where(cgroup="", cgroup_id=0, unit=systemd.show(name).id, peer=peer)
    found = look(where, place.root).cgroups
    return Located(replace(where, cgroup=str(found[-1].path), cgroup_id=found[-1].inode) if found else where, None)


def _of_cgroup(path: Path, peer: str, place: Place) -> Located:
    return Located(_at(cgroups.resolve(path, place.root), peer), None)


def _at(cgroup: Cgroup, peer: str) -> Where:
    """A cgroup that is a unit's is isolated as that unit: it would be another one after a restart."""
    return Where(str(cgroup.path), cgroup.inode, adopt.unit_at(cgroup), peer)


def _of_processes(how: AgentSelector, peer: str, place: Place) -> Located:
    found = agents.find(how)
    if (moved := whereabouts.known(found, place)) is not None:
        return Located(replace(moved, peer=peer or moved.peer), None)
    places = {cgroups.of_pid(process.pid, place.root) for process in found}
    gone = [process for process in found if not processes.still_same(process)]
    if gone:
        raise UsageError(f"process {gone[0].pid} ended while it was looked at", hint="find out what took its place")
    if len(places) > 1:
        listed = ", ".join(sorted(str(each.path) for each in places))
        raise UsageError(f"its processes are in several cgroups: {listed}", hint="name one with --cgroup")
    agent = {process.pid for process in found}
    agent |= {child.pid for process in found for child in processes.descendants(process)}
    return Located(_at(places.pop(), peer), frozenset(agent))


def check_rails(located: Located, settings: Config, place: Place, *, force: bool) -> list[str]:
    """Raises Refused with every reason that speaks against it; with `force` the reasons come back instead."""
    facts = facts_of(located, settings, place)
    if never := rails.never(facts):
        hint = "name the process that is meant, and none above it" if facts.is_moved else "name a child cgroup of it"
        raise Refused(f"{_name(located.where)} is not isolated: {'; '.join(never)}", hint=hint)
    found = rails.objections(facts)
    if found and not force:
        hint = way_round(facts, located.agent or ())
        kind = "; ".join(each.partition(":")[0] for each in found)  # what is named after it may differ every time
        raise Refused(f"{_name(located.where)} is not isolated: {'; '.join(found)}", hint=hint, kind=kind)
    return found


def way_round(facts: rails.Facts, agent: Collection[int]) -> str:
    """What is left to an operator who means it. PID 1 and this very process are never moved, so not even adopted."""
    may_be_moved = not {INIT_PID, os.getpid()} & set(agent)
    adopt_it = "; or have a cgroup made for it, with --adopt"
    return "if that is meant, say --force" + (adopt_it if may_be_moved and (facts.strangers or facts.elsewhere) else "")


def facts_of(located: Located, settings: Config, place: Place) -> rails.Facts:
    """What the rails ask about a target."""
    where, found = located.where, glance(located.where, place.root)
    inside = {pid for cgroup in found for pid in cgroups.processes(cgroup)}
    strangers: set[int] = set()
    elsewhere: list[int] = []
    if located.agent is not None and where.moved is None:
        strangers, elsewhere = _strangers(inside, located.agent), _elsewhere(located.agent, found, place)
    if where.moved is not None:
        inside = {process.pid for process in whereabouts.family(where, place.root)}
    others = [intent for intent in place.intents.in_force() if not _same(intent.where, where)]
    others = [intent for intent in others if not stand_ins.is_gone(intent, place.root)]
    above = {parent.pid for parent in processes.ancestors(os.getpid())} - {INIT_PID}
    return rails.Facts(
        is_root_cgroup=any(cgroup.is_root for cgroup in found),
        is_moved=where.moved is not None,
        holds_init=INIT_PID in inside,
        holds_self=os.getpid() in inside,
        holds_watcher=bool(inside & (published.pids(place.run) - {os.getpid()})),
        holds_caller=bool(inside & above),
        holds_sshd=any(processes.name_of(pid) in SSHD for pid in inside),
        strangers=[_described(pid) for pid in sorted(strangers)],
        elsewhere=[_described(pid) for pid in elsewhere],
        isolated_now=[intent.name for intent in others],
        max_isolated=settings.isolation.max_isolated,
        peers_left=_peers_left(where, {intent.where.peer for intent in others}, settings),
        watchers_left=_watchers_left(where, settings, place),
    )


def _strangers(inside: Collection[int], agent: frozenset[int]) -> set[int]:
    """Those that are not the agent's, nor were born of it since it was looked at, and have not ended."""
    others = set(inside) - agent
    born = {pid for pid in others if not agent.isdisjoint(parent.pid for parent in processes.ancestors(pid))}
    return {pid for pid in others - born if pid == cgroups.OTHER_NAMESPACE or processes.of_pid(pid) is not None}


def _elsewhere(agent: Collection[int], found: Collection[Cgroup], place: Place) -> list[int]:
    """The agent's own that are in none of its cgroups."""
    places = {each.pid: whereabouts.place_of(each, place.root) for each in whereabouts.running(agent)}
    return [pid for pid, at in places.items() if at and not any(cgroup.contains(at) for cgroup in found)]


def _same(one: Where, other: Where) -> bool:
    return any(a and a == b for a, b in ((one.peer, other.peer), (one.unit, other.unit), (one.cgroup, other.cgroup)))


def _described(pid: int) -> str:
    if pid == cgroups.OTHER_NAMESPACE:
        return "processes of another pid namespace, which cannot be seen from here"
    return processes.describe(pid)


def _peers_left(where: Where, isolated: set[str], settings: Config) -> int | None:
    """How many configured agents would still be on the network, the watcher's own among them."""
    everybody = {peer.name for peer in settings.peers} | ({settings.self_name} if settings.self_name else set())
    alone = len(everybody) == 1
    return None if not where.peer or alone else len(everybody - isolated - {where.peer})


def _watchers_left(where: Where, settings: Config, place: Place) -> int | None:
    running = [watcher for watcher in published.read_all(place.run) if watcher.alive]
    if not where.peer or not running:
        return None
    late_s = fresh_s(settings.policy) + LATE_S
    on_time = [each for each in running if (age_s := each.age_s(clock.utc_now())) is None or age_s < late_s]
    return len([each for each in on_time if each.watcher != where.peer])


def _name(where: Where) -> str:
    return where.peer or where.unit or where.cgroup
