"""What the whole mesh says at one moment: who watches, who votes against whom, who is silenced."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from watchdog.clock import Moment
from watchdog.ladder import PeerRecord, Policy
from watchdog.mesh.coordinator import Coordinator, Member, Silence, Suspicion
from watchdog.model import Action
from watchdog.quorum import votes_wanted

FRESH_TICKS = 2


def fresh_s(policy: Policy) -> float:
    """How long a watcher's word counts, in seconds."""
    return policy.interval_s * FRESH_TICKS


def votes_on(
    peer: str, said: Iterable[Suspicion], voters: Collection[str], record: PeerRecord, policy: Policy
) -> set[str]:
    """Who of `voters` has missed the peer often enough, and since it was last restarted, for its word to be a vote.

    A miss from before a restart does not say that the restart was in vain; a probe is asked at most a timeout before.
    `said` and `record` were read at the same moment.
    """
    enough, oldest_s = policy.missed_before_restart, math.inf
    if record.begun_age_s is not None and record.last_action is Action.RESTART:
        oldest_s = record.begun_age_s - min(policy.timeout_s, policy.interval_s)
    return {
        each.watcher
        for each in said
        if each.peer == peer and each.watcher in voters and each.missed_count >= enough and each.age_s <= oldest_s
    }


@dataclass(frozen=True, slots=True)
class Votes:
    """The votes for the isolation of one peer."""

    cast: tuple[str, ...]
    """The watchers whose vote counts now."""
    wanted: int
    """A strict majority of those that have one, and two at least; a single one is enough with hard local evidence."""


@dataclass(frozen=True, slots=True)
class Overview:
    """A copy."""

    members: tuple[Member, ...] = ()
    votes: Mapping[str, Votes] = field(default_factory=dict)
    """By peer; only for those that somebody suspects."""
    silences: Mapping[str, Silence] = field(default_factory=dict)
    """Those in force, by peer."""


NOTHING_SAID = Overview()


def look(
    coordinator: Coordinator,
    peers: Collection[str],
    voters_on: Callable[[str], Collection[str]],
    policy: Policy,
    at: Moment,
) -> Overview:
    """Ask the coordinator; raises WatchdogError when it does not answer."""
    said: dict[str, list[Suspicion]] = {}

    def votes(peer: str, suspicions: list[Suspicion], voters: set[str]) -> Votes:
        cast = votes_on(peer, suspicions, voters, coordinator.record(peer, at), policy)
        return Votes(tuple(sorted(cast)), wanted=votes_wanted(len(voters), policy))

    for each in coordinator.suspicions(at, fresh_s(policy)):
        said.setdefault(each.peer, []).append(each)
    return Overview(
        members=tuple(coordinator.members(at, fresh_s(policy))),
        votes={peer: votes(peer, said[peer], set(voters_on(peer))) for peer in peers if peer in said},
        silences=coordinator.silences(at),
    )
