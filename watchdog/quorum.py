"""When a watcher may trust its own eyes, and when the mesh may isolate: pure rules.

Why: one sick watcher must harm nobody. A watcher that loses half of its peers at once has most likely lost itself;
and an isolation by mistake is as bad as a missed one, so it needs more than one word.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Member

LEAST_GONE = 2
"""One silent peer of two is the ordinary case: doubt begins with two."""
CLEAN_TICKS_WANTED = 2
SETTLED_TICKS_WANTED = 4
"""Ticks in which nobody else went silent and all others see the same: agents hang together, and no watcher is sick."""
MISSES_WITHOUT_THE_OTHERS = 3
"""Their words are two intervals old at most: newer than the first of so many misses in a row."""
LEAST_VOTES = 2
"""A single watcher may be the sick one."""
STORM_TICKS = 2
STORM_SHARE = 3
"""A storm is more than one peer in this many."""
MOST_SCORE = 8
SLOW_SHARE = 0.1
"""A tick later than this share of the interval raises the local health score; any other tick lowers it."""
CLOCK_JUMP_S = 5.0
"""The wall clock and the monotonic clock drifted this far apart between two ticks: somebody set the clock."""
LATE_SHARE = 0.5
"""A tick later than this share of the interval means that this watcher did not run when it should have."""


def who_misses(peer: str, members: Iterable[Member]) -> set[str]:
    """Watchers that trust themselves and miss the peer."""
    return {each.watcher for each in members if not each.self_doubt and each.misses.get(peer)}


def who_is_trusted(watchers: Collection[str], members: Iterable[Member]) -> set[str]:
    """Those of `watchers` that are there and trust themselves."""
    return {each.watcher for each in members if each.watcher in watchers and not each.self_doubt}


def may_hear_nobody(gone: int, unknown: int, peers: int) -> bool:
    """Whether all peers, and at least two, are gone, or could be by answers that are still out."""
    return gone > 0 and peers >= LEAST_GONE and gone + unknown == peers


def who_contradicts(gone: Collection[str], members: Iterable[Member]) -> set[str]:
    """Watchers that trust themselves and hear some of those that are gone, if no such watcher misses any of them."""
    trusting = [each for each in members if not each.self_doubt]
    missed = any(each.missing.intersection(gone) for each in trusting)
    return set() if missed else {each.watcher for each in trusting if each.heard.intersection(gone)}


def heard_by_most(missed: Mapping[str, int], members: Collection[Member]) -> set[str]:
    """Peers that only a minority misses, of those that a watcher missed so often in a row.

    More of the others that trust themselves hear the peer than miss it, this watcher counted; what its own watcher says
    is left out, for that hears it where every link is cut.
    """
    trusting = [each for each in members if not each.self_doubt]
    lasting = [peer for peer, misses in missed.items() if misses >= MISSES_WITHOUT_THE_OTHERS]
    words = {peer: [w.misses[peer] for w in trusting if w.watcher != peer and peer in w.misses] for peer in lasting}
    return {peer for peer, said in words.items() if said.count(0) > len(said) - said.count(0) + 1}


def is_agreed(gone: Collection[str], heard: Collection[str], members: Collection[Member]) -> bool:
    """No other watcher that is there hears one of the gone, its own agent too, whether it doubts itself or not.

    Where links are cut between agents that are well, each watcher still hears its own. One of the others at least
    misses all of the gone, and is right about everybody that is `heard`: one that misses those as well may hear nobody.
    One that knows nothing of who is gone is no witness, and no contradiction either.
    """
    right = any(each.missing.issuperset(gone) and each.missing.isdisjoint(heard) for each in members)
    return bool(gone and heard and right) and all(each.heard.isdisjoint(gone) for each in members)


def against_another_restart(
    peer: str, watcher: str, voters: Collection[str], members: Collection[Member], enough: int
) -> str:
    """Why `watcher` may not restart the peer once more without hard local evidence; empty when it may.

    Whoever is there and hears the peer knows better than one that does not, unless most of those with a vote miss it.
    One that missed it less than `enough` times in a row, as a restart of its own would need, heard it a moment ago: a
    single lost heartbeat must not give a sick watcher free hand.
    """
    members = [each for each in members if each.watcher in voters and each.watcher != watcher]
    said = {each.watcher: each.misses[peer] for each in members if not each.self_doubt and peer in each.misses}
    hearing = {name for name, misses in said.items() if misses < enough}
    missing = said.keys() - hearing | {watcher}
    if not hearing or len(missing) * 2 > len(voters):
        return ""
    return f"missed by {', '.join(sorted(missing))} of {len(voters)} watchers, heard by {', '.join(sorted(hearing))}"


@dataclass(frozen=True, slots=True)
class Round:
    """One tick as its watcher saw it."""

    peers: int
    """Peers that were probed and are not isolated."""
    newly_gone: int
    """Peers that did not answer in this one, and did in the round before, or were not there: new, just let back, or
    silenced until now. None where all of them are silenced."""
    gone: int
    """Peers that did not answer in this one."""
    silenced_gone: int = 0
    """Those of them that are silenced."""
    unheard: int = 0
    """Peers that this watcher could not ask, or not hear: no word on them."""
    late_s: float = 0.0
    interval_s: float = 30.0
    clock_jump_s: float = 0.0
    suspended_s: float = 0.0
    own_endpoint: str = ""
    """What is wrong with this agent's own endpoint; empty when it answers or is not known."""
    coordinator: str = ""
    """What is wrong with the coordinator; empty when it answers."""
    agreed: bool = False
    """Every other watcher that is there misses those that did not answer, and one of them nobody that did."""
    contradicted: int = 0
    """Peers that did not answer, and most others hear, when what is left without them would be no storm."""
    alone_against: str = ""
    """The others, when this watcher hears nobody and they miss none of those; empty when it is not alone in that."""


def too_many(gone: int, peers: int) -> bool:
    """Half or more of the peers, and at least two."""
    return gone >= LEAST_GONE and gone * 2 >= peers


def may_still_doubt(newly_gone: int, unknown: int, peers: int) -> bool:
    """Whether answers that are still out could make this the round of a sick watcher."""
    return too_many(newly_gone + unknown, peers)


def reasons_to_doubt(seen: Round) -> list[str]:
    """Why this watcher should not trust what it saw in one round; empty when it may."""
    reasons = []
    if too_many(seen.newly_gone, seen.peers):
        reasons.append(f"{seen.newly_gone} of {seen.peers} peers went silent in one tick")
    if seen.alone_against:
        reasons.append(f"none of {seen.peers} peers answers, and none of them is missed by {seen.alone_against}")
    if seen.contradicted:
        reasons.append(f"{seen.contradicted} of the peers that it does not hear are heard by most of the others")
    if seen.own_endpoint:
        reasons.append(f"this watcher's own agent does not answer: {seen.own_endpoint}")
    if seen.coordinator:
        reasons.append(f"the mesh's memory is out of reach: {seen.coordinator}")
    if abs(seen.clock_jump_s) > CLOCK_JUMP_S:
        reasons.append(f"the clock jumped by {seen.clock_jump_s:+.0f} s")
    if seen.suspended_s > seen.interval_s * LATE_SHARE:
        reasons.append(f"the machine was suspended for {seen.suspended_s:.0f} s")
    if seen.late_s > seen.interval_s * LATE_SHARE:
        reasons.append(f"this watcher was {seen.late_s:.0f} s late")
    return reasons


@dataclass(frozen=True, slots=True)
class Doubt:
    """Whether a watcher trusts itself, and since how many clean ticks."""

    reason: str = ""
    clean_ticks: int = 0
    settled_ticks: int = 0
    """Ticks in a row in which it was not clean, and others agree that no watcher is the reason."""
    contradicted: bool = False
    """Since it began most of the others heard whom it did not: what it calls a storm is one for it alone."""
    deaf: bool = False
    """It began with peers that went silent: as long as nobody at all answers, no tick is clean."""

    @property
    def doubting(self) -> bool:
        """In SELF_DOUBT: it acts on nobody and its votes are withdrawn."""
        return bool(self.reason)


def _after(doubt: Doubt, seen: Round, *, clean: bool) -> Doubt:
    """What is left of a doubt or storm after a tick that was no reason for it."""
    settled = seen.agreed and not (seen.newly_gone or seen.unheard or reasons_to_doubt(seen))
    after = replace(
        doubt,
        clean_ticks=doubt.clean_ticks + 1 if clean else 0,
        settled_ticks=doubt.settled_ticks + 1 if settled else 0,
    )
    over = after.clean_ticks >= CLEAN_TICKS_WANTED or after.settled_ticks >= SETTLED_TICKS_WANTED
    return Doubt() if over else after


def judge_round(doubt: Doubt, seen: Round) -> Doubt:
    """Enter doubt at once, leave it after two clean ticks in a row, or four settled ones.

    While in doubt a tick is clean only when fewer than half of the peers (or a single one) are gone at all, and a tick
    in which no peer could be asked proves nothing. A watcher that went deaf must hear somebody: when others isolate all
    its peers but one, the silence of that one is no proof of anything. Only to that one those that are silenced count.
    """
    reasons = reasons_to_doubt(seen)
    if reasons:
        deaf = too_many(seen.newly_gone, seen.peers) or bool(seen.alone_against)
        is_alone = doubt.contradicted or bool(seen.contradicted)
        return Doubt("; ".join(reasons), deaf=doubt.deaf or deaf, contradicted=is_alone)
    if not doubt.doubting:
        return doubt
    nobody_answered = 0 < seen.peers == seen.gone + seen.unheard
    gone = seen.gone if doubt.deaf else seen.gone - seen.silenced_gone
    unclean = too_many(gone, seen.peers) or (nobody_answered and (doubt.deaf or not seen.gone))
    return _after(doubt, seen, clean=not unclean)


def is_storm(suspect: int, peers: int) -> bool:
    """More than a third of the peers, and at least two."""
    return suspect >= LEAST_GONE and suspect * STORM_SHARE > peers


def contradicted(missed: Mapping[str, int], peers: int, members: Collection[Member]) -> int:
    """How many of those missed others hear, when a storm of them is one for this watcher alone; else 0."""
    if not is_storm(len(missed), peers):
        return 0
    heard = len(heard_by_most(missed, members))
    return 0 if is_storm(len(missed) - heard, peers) else heard


def judge_storm(storm: Doubt, newly_suspect: int, seen: Round) -> Doubt:
    """A storm begins when that many became suspect within two ticks; two with fewer gone, or four settled, end it."""
    if is_storm(newly_suspect, seen.peers):
        return Doubt(f"{newly_suspect} of {seen.peers} peers became suspect within {STORM_TICKS} ticks")
    if not storm.doubting:
        return storm
    return _after(storm, seen, clean=not is_storm(seen.gone + seen.unheard, seen.peers))


def score_after(score: int, late_s: float, interval_s: float) -> int:
    """The local health score (0 well, 8 worst) after a tick: a slow watcher sees slow peers everywhere.

    The idea is Lifeguard's (memberlist's awareness score).
    """
    slow = late_s > interval_s * SLOW_SHARE
    return min(score + 1, MOST_SCORE) if slow else max(score - 1, 0)


def stretched(policy: Policy, score: int) -> Policy:
    """The ladder's policy of a watcher with that score: thresholds times 1 + score / 2."""
    if not score:
        return policy
    return replace(policy, missed_before_restart=math.ceil(policy.missed_before_restart * (1 + score / 2)))


def budget_since_s(
    peer: str, misses: int, voters: Collection[str], members: Iterable[Member], policy: Policy, restart_lease_s: float
) -> float:
    """How old the restarts may be, in seconds, that lead to an isolation by a watcher with so many misses in a row.

    Older ones say nothing of the peer as it is now, unless it was silent ever since: for each voter that has a word.
    The window is the budget's, and what the ladder itself takes for the rungs, with restarts that hang.
    """
    said = (
        each.misses[peer] for each in members if each.watcher in voters and not each.self_doubt and peer in each.misses
    )
    silent_s = min((misses, *said)) * policy.interval_s
    rung_s = policy.missed_before_restart * policy.interval_s + restart_lease_s
    return silent_s + policy.budget_window_s + policy.restarts_before_isolation * rung_s


def votes_wanted(watchers: int, policy: Policy) -> int:
    """Without hard local evidence: a strict majority of those that have a vote, and two of them at least."""
    return max(watchers // 2 + 1, 1 if policy.single_observer else LEAST_VOTES)


def may_isolate(
    *,
    watchers: Collection[str],
    votes: Collection[str],
    accused_by_peer: Collection[str],
    evidence: str,
    policy: Policy,
) -> str:
    """Why an isolation may not be ordered; empty when it may.

    watchers: those configured to have a vote on the peer, the peer excluded. votes: those of them that freshly
    suspect it. accused_by_peer: watchers the peer's own watcher freshly suspects. evidence: hard local evidence
    against the peer (its unit is failed or dead, its main process or all of it is gone), or empty. That somebody else
    answers is none: an alarm of its own, and no miss.
    """
    counted = set(votes) & set(watchers)
    if not counted:
        return "no configured watcher votes for it"
    if evidence:
        return ""
    if len(counted) == 1 and counted <= set(accused_by_peer):
        return f"{counted.pop()} and the peer accuse each other, and nobody else has a word"
    if len(counted) < votes_wanted(len(watchers), policy):
        return f"{len(counted)} of {len(watchers)} watchers vote for it, and nothing on this host proves it"
    return ""
