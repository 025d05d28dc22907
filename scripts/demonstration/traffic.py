"""Who reaches whom: between the agents and a talker outside of every cgroup of the demo's, over every path at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from scripts.demonstration.company import Member
from scripts.demonstration.pace import Failed
from scripts.demonstration.talk import FAR, KINDS, LOOPBACK, NEAR, Call, Talker, attempt
from watchdog.kernel import netns
from watchdog.kernel.netns import Netns

OUTSIDE = "outside"
PATIENCE_S = 3.0
"""How long something may take that has to pass."""
SILENCE_S = 0.5
"""How long nothing has to come through before it counts as stopped; loopback takes a fraction of a millisecond."""
MOST_NAMED = 4

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Crossing:
    """One round of attempts: all their tokens, those whose echo came back, those that arrived at all."""

    tried: frozenset[str]
    echoed: frozenset[str]
    arrived: frozenset[str]

    def in_words(self, what: str) -> str:
        """For a round that came out: "30 of 30 TCP and UDP tries pass"."""
        return f"{len(self.tried)} of {len(self.tried)} TCP and UDP tries {what}"

    def check_all_passed(self) -> None:
        """Raises Failed unless every attempt was echoed."""
        if lost := self.tried - self.echoed:
            raise Failed(f"did not pass: {_listed(lost)}")

    def check_none_passed(self) -> None:
        """Raises Failed when anything arrived or came back."""
        if leaked := self.echoed | self.arrived:
            raise Failed(f"got through: {_listed(leaked)}")


class Traffic:
    """The talker outside, in a network of its own, and the agents."""

    def __init__(self, outside: Talker, network_outside: Netns, members: Collection[Member]) -> None:
        self._outside = outside
        self._network_outside = network_outside
        self._members = {member.name: member for member in members}
        self._rounds = 0

    def pairs_with(self, name: str) -> list[Pair]:
        """Every way from, to and within one agent."""
        return [pair for pair in self._pairs() if name in pair]

    def pairs_without(self, name: str) -> list[Pair]:
        """Every way that has nothing to do with one agent."""
        return [pair for pair in self._pairs() if name not in pair]

    def cross(self, pairs: Collection[Pair], families: Collection[str], wait_s: float) -> Crossing:
        """Try TCP and UDP over every pair and family at once."""
        self._rounds += 1
        ports = {name: member.facts()["ports"] for name, member in self._members.items()}
        ports[OUTSIDE] = self._outside.ports
        paths = [f"{kind} {family}" for kind in KINDS for family in families]
        calls = {
            pair: [
                Call(f"{self._rounds}. {' > '.join(pair)} {path}", path, _address(pair, path), ports[pair[1]][path])
                for path in paths
            ]
            for pair in pairs
        }
        echoed = self._attempt(calls, wait_s)
        arrived = [token for name in ports for token in self._heard(name, _tokens(calls, to=name))]
        tried = [call.token for each in calls.values() for call in each]
        return Crossing(frozenset(tried), frozenset(echoed), frozenset(arrived))

    def _pairs(self) -> list[Pair]:
        names = [*self._members, OUTSIDE]
        return [(a, b) for a in names for b in names if (a, b) != (OUTSIDE, OUTSIDE)]

    def _attempt(self, calls: dict[Pair, list[Call]], wait_s: float) -> list[str]:
        by_caller: dict[str, list[Call]] = {}
        for (caller, _), each in calls.items():
            by_caller.setdefault(caller, []).extend(each)
        own = by_caller.pop(OUTSIDE, [])
        orders = {
            name: self._members[name].tell(do="attempt", calls=each, wait_s=wait_s) for name, each in by_caller.items()
        }
        echoed = netns.inside(self._network_outside, lambda: attempt(own, wait_s))
        for name, order in orders.items():
            echoed += self._members[name].hear(order)
        return echoed

    def _heard(self, name: str, tokens: list[str]) -> Any:
        if not tokens:
            return []
        return self._outside.heard(tokens) if name == OUTSIDE else self._members[name].ask(do="heard", tokens=tokens)


def _address(pair: Pair, path: str) -> str:
    """Where one of them finds the other."""
    caller, called = pair
    return (FAR if called == OUTSIDE else NEAR if caller == OUTSIDE else LOOPBACK)[path.split()[1]]


def _tokens(calls: dict[Pair, list[Call]], *, to: str) -> list[str]:
    return [call.token for (_, called), each in calls.items() for call in each if called == to]


def _listed(tokens: Collection[str]) -> str:
    named = ", ".join(sorted(token.partition(". ")[2] for token in tokens)[:MOST_NAMED])
    more = len(tokens) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
