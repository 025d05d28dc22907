"""The safety rails: what is refused without --force, as pure rules over what was found out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_NAMED = 8
"""Processes named in a refusal; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about a target before it is isolated."""

    is_root_cgroup: bool = False
    is_moved: bool = False
    """It gets a cgroup of its own: what it holds is the agent's processes and nobody else."""
    holds_init: bool = False
    holds_self: bool = False
    """The very process that is asked to isolate it."""
    holds_watcher: bool = False
    """A watcher of this host: `watchdog-mesh run`."""
    holds_caller: bool = False
    """The session that typed the command: a shell, a terminal, an ssh connection among our ancestors."""
    holds_sshd: bool = False
    strangers: Sequence[str] = ()
    """Processes in the cgroup that are not the agent's, described."""
    elsewhere: Sequence[str] = ()
    """Processes of the agent in other cgroups, described."""
    isolated_now: Sequence[str] = ()
    """Other targets that are isolated."""
    max_isolated: int = 1
    peers_left: int | None = None
    """Configured agents that would still be on the network; None when the target is none of them."""
    watchers_left: int | None = None
    """Watchers that run and are on time, without the target's own; None when the target is no configured agent, or no
    watcher runs at all: none is needed to act."""


def objections(facts: Facts) -> list[str]:
    """Why this target is not isolated without --force; empty when nothing speaks against it."""
    found = []
    if facts.is_root_cgroup:
        found.append("it is the root cgroup: the whole host would be cut off")
    if facts.holds_init:
        found.append("it holds PID 1")
    if facts.holds_self:
        found.append("it holds this very process: what it does next would be cut off")
    if facts.holds_watcher:
        found.append("it holds a watcher of this mesh: nobody would be left to see to it")
    if facts.holds_caller:
        found.append("it holds the session this command was given in: the way back would be cut")
    if facts.holds_sshd:
        found.append("it holds sshd: the way into this host would be cut")
    if facts.strangers:
        found.append(f"it holds processes that are not the agent's: {_listed(facts.strangers)}")
    if facts.elsewhere:
        found.append(f"processes of it are in other cgroups, and would not be cut off: {_listed(facts.elsewhere)}")
    if facts.peers_left == 0:
        found.append("it is the last peer that is still on the network")
    if facts.watchers_left == 0:
        found.append("no watcher but its own is alive and on time: nobody would be left to see to it")
    if len(facts.isolated_now) >= facts.max_isolated:
        found.append(
            f"the limit max_isolated = {facts.max_isolated} is reached: {', '.join(facts.isolated_now)} "
            f"{'is' if len(facts.isolated_now) == 1 else 'are'} isolated"
        )
    return found


def never(facts: Facts) -> list[str]:
    """What not even --force allows: it would take the host with it, and the way to undo it."""
    found = ["it is the root cgroup: the whole host would be cut off"] if facts.is_root_cgroup else []
    if facts.is_moved and facts.holds_init:
        found.append("PID 1 and all that descends from it would be stopped and moved")
    elif facts.is_moved and facts.holds_self:
        found.append("this very process would be stopped and moved with it")
    return found


def _listed(described: Sequence[str]) -> str:
    named = "; ".join(described[:MOST_NAMED])
    more = len(described) - MOST_NAMED
    return f"{named}; and {more} more" if more > 0 else named
