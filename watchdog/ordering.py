"""From a demand to an order: what it says, whose votes it rests on, and the claim that only one watcher gets."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from watchdog import quorum
from watchdog.clock import Moment
from watchdog.herald import STORM, Herald
from watchdog.journal import Journal
from watchdog.ladder import Demand, OrderState, PeerRecord, Policy
from watchdog.mesh.coordinator import THIS_HOST, Coordinator, Denied, Member, Order, OrderRequest
from watchdog.mesh.overview import fresh_s, votes_on
from watchdog.model import Action, Heartbeat, Severity

ISOLATION_LEASE_S = 60.0


class Held(NamedTuple):
    """A demand, and what it rests on: it is carried out at once, or when the round has shown itself to be sound."""

    peer: str
    demand: Demand
    beat: Heartbeat
    record: PeerRecord
    missed_count: int
    round_s: float

    @property
    def in_words(self) -> str:
        """How often it was missed, and what was heard last."""
        return f"{self.missed_count} heartbeat{'s' if self.missed_count != 1 else ''} missed: {self.beat.detail}"


class Ordering:
    """For the watcher `name`. Whether it may act at all was asked before."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        coordinator: Coordinator,
        journal: Journal,
        herald: Herald,
        voters_on: Callable[[str], Collection[str]],
        restart_lease_s: float,
    ) -> None:
        self._name = name
        self._policy = policy
        self._coordinator = coordinator
        self._journal = journal
        self._herald = herald
        self._voters_on = voters_on
        self._restart_lease_s = restart_lease_s
        self._told_token = 0
        """The newest order that this process was given and told of."""

    def restart(self, held: Held, at: Moment) -> Order | None:
        """Order a restart; None when another watcher was first, or nobody may."""
        if held.beat.unfinished or self._is_contradicted(held, at) or self._is_used_up(held, at):
            return None
        count, most = held.record.restart_count, self._policy.restarts_before_isolation
        number = f"restart {count + 1} of {most}"
        if count >= most:
            number = f"restart {count + 1}, as fewer than {most} of those before are new"
        return self._order(held, Action.RESTART, f"{held.in_words}; {number}", (), self._restart_lease_s, at)

    def _is_contradicted(self, held: Held, at: Moment) -> bool:
        """One word is enough for the first restart: if that did not help him who asked, others may know better."""
        if held.record.restart_count == 0 or held.beat.evidence:
            return False
        members = self._coordinator.members(at, fresh_s(self._policy))
        voters, enough = set(self._voters_on(held.peer)), self._policy.missed_before_restart
        against = quorum.against_another_restart(held.peer, self._name, voters, members, enough)
        if against and held.missed_count > enough:  # before, the others' third miss may be yet to come
            with self._journal.transaction():
                reason = f"it should be restarted again, and is not: {against}; is it the agent, or a watcher?"
                self._herald.warn(held.peer, "disagreement", reason, at)
        return bool(against)

    def _is_used_up(self, held: Held, at: Moment) -> bool:
        """Forgiveness counts heartbeats, which one watcher may hear while another does not; this counts restarts."""
        window_s, most = self._policy.budget_window_s, self._policy.restarts_before_isolation
        if self._coordinator.restarts(held.peer, window_s, at) < most:
            return False
        reason = f"{held.in_words}; it was restarted {most} times within {window_s:.0f} s, and is not again yet"
        with self._journal.transaction():
            self._herald.warn(held.peer, "budget", reason, at, Severity.HIGH)
        return True

    def isolate(self, held: Held, at: Moment) -> Order | None:
        """Order an isolation if there is a quorum; without one people are told, once an episode.

        Where the budget was used up long ago, another restart is due instead: health forgives nothing while one watcher
        misses the peer, and that one may be the sick one.

        Not at the first miss that is enough, nor while this watcher's own vote is out, as right after a storm: the
        others' rounds come within an interval, and with them their votes.
        """
        peer = held.peer
        members = self._coordinator.members(at, fresh_s(self._policy))
        if self._is_stale(held, members, at):
            return self.restart(held, at)
        suspicions = self._coordinator.suspicions(at, fresh_s(self._policy))
        if quorum.who_is_trusted({each.watcher for each in suspicions if each.peer == STORM}, members):
            return None  # people were told so: whichever watcher sees the storm, nobody is isolated
        voters = set(self._voters_on(peer))
        votes = votes_on(peer, suspicions, voters, self._coordinator.record(peer, at), self._policy)
        against = quorum.may_isolate(
            watchers=voters,
            votes=votes,
            accused_by_peer={s.peer for s in suspicions if s.watcher == peer},
            evidence=held.beat.evidence,
            policy=self._policy,
        )
        own_is_out = self._name in voters - votes
        if against and (own_is_out or held.missed_count <= self._policy.missed_before_restart):
            return None
        if against:
            with self._journal.transaction():
                reason = f"it should be isolated, and is not: {against}{self._absent(voters, at)}"
                self._herald.warn(peer, "no-quorum", reason, at)
            return None
        proof = held.beat.evidence or f"votes of {', '.join(sorted(votes))}"
        reason = f"{held.record.restart_count} restarts did not help: {held.beat.detail}; {proof}"
        return self._order(held, Action.ISOLATE, reason, tuple(sorted(votes)), ISOLATION_LEASE_S, at)

    def _is_stale(self, held: Held, members: Collection[Member], at: Moment) -> bool:
        """The restarts that did not help are those of a trouble that was over long ago."""
        peer, lease_s, voters = held.peer, self._restart_lease_s, set(self._voters_on(held.peer))
        since_s = quorum.budget_since_s(peer, held.missed_count, voters, members, self._policy, lease_s)
        return self._coordinator.restarts(peer, since_s, at) < self._policy.restarts_before_isolation

    def _absent(self, voters: Collection[str], at: Moment) -> str:
        present = {member.watcher for member in self._coordinator.members(at, fresh_s(self._policy))}
        absent = ", ".join(sorted(set(voters) - present - {self._name}))
        return f"; nothing is heard of the watcher of {absent}" if absent else ""

    def _order(
        self, held: Held, action: Action, reason: str, voters: tuple[str, ...], lease_s: float, at: Moment
    ) -> Order | None:
        request = OrderRequest(
            peer=held.peer,
            action=action,
            watcher=self._name,
            reason=reason,
            known_token=held.record.token,
            round_s=held.round_s,
            lease_s=lease_s,
            voters=voters,
            fresh_s=fresh_s(self._policy),
        )
        with self._journal.transaction():
            claim = self._coordinator.claim(request, at)
            if isinstance(claim, Denied):
                return None
            if held.record.order is OrderState.LAPSED:
                self._herald.lapsed(held.peer, held.record, at)
            again = held.record.last_action is action and held.record.order_episode == claim.episode
            self._herald.ordered(claim, at, again=again and action is Action.ISOLATE and held.record.in_vain)
        self._told_token = claim.token
        return claim

    def tell_again(self, at: Moment) -> None:
        """Tell of orders that this watcher was given and nobody may know of.

        The journal refused when the order was given, no answer came to the claim, or the process before this one was
        killed right then.
        """
        for order in self._coordinator.orders_for(THIS_HOST, at):
            if order.watcher == self._name and order.token > self._told_token:
                with self._journal.transaction():
                    self._herald.ordered_before(order, at)
                self._told_token = order.token
