"""What must never happen, whatever goes wrong. Each check knows the truth, which no watcher does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from tests.simulation.fitness import Truth
from tests.simulation.host import START_S, Host
from watchdog.clock import Moment
from watchdog.ladder import SPACING_SLACK, Standing
from watchdog.mesh.coordinator import Order, OrderRequest
from watchdog.model import Action, Heartbeat, Status
from watchdog.watcher import Watcher

HEALTHY_SLACK = 8
"""Heartbeats by which a forgiveness may be late: counted by two watchers, or lost with one that was killed."""


STORM_SHARE = 3
TRUSTING = "AND self_doubt = ''"
FRESH_TICKS = 2
FRESH_INTERVALS = 2.5
"""How old a vote may be: two intervals, and what a probe and the way to the journal took."""
SCHEDULED_S = 1.0
"""From an order to its beginning; after a reboot it is the order's time that is known."""


def _age_s(begun: Moment, at: Moment) -> float:
    """How long ago that was, as far as the clocks tell."""
    return at.s - begun.s if at.boot == begun.boot else abs((at.utc - begun.utc).total_seconds())


class Violation(AssertionError):
    """Something that must never happen did."""


@dataclass
class Given:
    """One order, as it was given."""

    order: Order
    round_s: float
    expires_s: float
    boot: str
    begun: Moment | None = None
    ended_s: float | None = None
    failed: bool = False


@dataclass
class Heard:
    """What one watcher heard of one peer."""

    misses: int = 0
    false_misses: int = 0
    """Misses in a row of a peer that was up."""
    healthy_since_restart: int = 0
    began_round: int = 0
    """The watcher's round in which the misses began."""
    missed_s: float = 0.0
    """When it was missed last."""
    says: tuple[bool, bool] = (False, False)
    """What others know of it: whether it misses the peer, and whether it is wrong in that."""
    said: tuple[bool, bool] = (False, False)
    misses_before: int = 0
    """Both before the heartbeat that was heard last."""
    score: int = 0
    """How slow the watcher was when it missed the peer last."""


@dataclass
class Checks:
    """Fed by the processes; raises Violation."""

    host: Host
    given: list[Given] = field(default_factory=list)
    heard: dict[tuple[str, str], Heard] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=dict)
    """Peer -> restarts begun since it was last known to be well, or released."""
    lost: set[str] = field(default_factory=set)
    """Watchers that heard every peer until they heard none: from the first round without, until they hear again."""
    released: dict[str, int] = field(default_factory=dict)
    """Peer -> the newest order there was when it was released."""
    isolations: int = 0
    restarts: int = 0

    def __post_init__(self) -> None:
        self.truth = Truth(self.host)

    def must(self, holds: bool, what: str) -> None:
        """Raise unless it holds."""
        if not holds:
            raise Violation(f"{what} (at {self.host.now_s - START_S:.1f} s)")

    # Heartbeats

    def of(self, watcher: str, peer: str) -> Heard:
        """What that watcher heard of that peer."""
        return self.heard.setdefault((watcher, peer), Heard())

    def on_heard(self, watcher: str, beat: Heartbeat, *, was_up: bool) -> None:
        """A heartbeat reaches a watcher's mind."""
        heard = self.of(watcher, beat.peer)
        heard.said, heard.misses_before = heard.says, heard.misses
        reaches_others = not self.host.refused.get(watcher)
        if not beat.healthy and self.host.is_isolated(beat.peer):
            heard.misses = heard.false_misses = 0  # who is cut off does not go silent, and what is counted begins anew
        elif beat.healthy:
            heard.misses = heard.false_misses = 0
            alone = any(h.misses for (who, name), h in self.heard.items() if name == beat.peer and who != watcher)
            heard.healthy_since_restart += reaches_others and not alone
        else:
            heard.misses += 1
            heard.missed_s, heard.score = self.host.now_s, self.truth.of[watcher].score
            if heard.misses == 1:
                heard.began_round = self.truth.of[watcher].rounds
            heard.false_misses = heard.false_misses + 1 if was_up else 0
        if reaches_others:
            heard.says = (heard.misses > 0, heard.false_misses > 0)

    def on_killed(self, watcher: str) -> None:
        """Killed before it could write down what it heard last: others know its word from before."""
        written = {peer for (peer,) in self._rows("SELECT peer FROM observation WHERE watcher = ?", watcher)}
        for peer in self.host.names:
            heard = self.of(watcher, peer)
            if heard.says[0] != (peer in written):
                heard.says, heard.misses = heard.said, heard.misses_before

    def on_round(self, watcher: Watcher, before: dict[str, Standing]) -> None:
        """A round ended. `before` are the standings at its beginning."""
        if watcher.trouble:
            return
        for name, peer in watcher.peers.items():
            if self.host.is_isolated(name) and before[name].status is Status.ISOLATED:
                self.must(peer.standing.status is Status.ISOLATED, f"{watcher.name} forgot the isolation of {name}")

    def on_loaded(self, name: str, peer: str, loaded: Standing, allowed: tuple[Standing, ...]) -> None:
        """A watcher was started again."""
        self.must(loaded in allowed, f"{name} lost what it believed of {peer}: {loaded}, believed {allowed}")
        heard = self.of(name, peer)  # what it heard while it could not write is lost with it
        heard.misses, heard.false_misses = loaded.missed_count, min(heard.false_misses, loaded.missed_count)

    # Orders

    def on_claim(
        self, watcher: Watcher, request: OrderRequest, order: Order, beat: Heartbeat, *, first_round: bool
    ) -> None:
        """An order was given."""
        peer, what = request.peer, f"{request.watcher} orders {request.action} of {request.peer}"
        self.host.say(f"{what}, token {order.token}: {request.reason}")
        excused = request.action is Action.RESTART and beat.unit_down
        self.must(not first_round, f"{what} in its first round")
        self.must(excused or not watcher.doubt.doubting, f"{what} in self-doubt")
        self.must(excused or not watcher.storm.doubting, f"{what} in a storm")
        if not excused:
            self._must_be_fit(watcher, what)
        self.must(not beat.impostor, f"{what} for an impostor's sake")
        heard, score = self.of(request.watcher, peer), self.truth.of[request.watcher].score
        self.must(heard.misses >= self._least(score), f"{what} after {heard.misses} misses, being slow ({score})")
        if request.action is Action.ISOLATE:
            self._must_be_votes(request, what)
        elif not beat.evidence and heard.false_misses == heard.misses:
            self._must_be_first_or_shared(request, what)
        self.must(not self.host.is_isolated(peer), f"{what}, which is isolated")
        self.must(all(order.token > each.order.token for each in self.given), f"{what} with an old token")
        at = self.host.at()
        self.given.append(Given(order, request.round_s, at.s + request.lease_s, at.boot))

    def _must_be_fit(self, watcher: Watcher, what: str) -> None:
        """By the truth, whatever the watcher thinks of itself."""
        name = watcher.name
        missed = {peer for peer in watcher.peers if self.of(name, peer).misses}
        self.must(
            name not in self.lost or self._is_shared(name, missed), f"{what}, and heard nobody since a moment ago"
        )
        self.must(not self.truth.why_not(name), f"{what}, and {self.truth.why_not(name)}")
        there = [peer for peer in watcher.peers if not self.host.is_isolated(peer)]
        gone = [peer for peer in there if self.of(name, peer).misses]
        meant = [peer for peer in there if not self.host.is_silenced(peer)]
        lately = [peer for peer in meant if self._went_silent_lately(name, peer)]
        storm = len(lately) > 1 and len(lately) * STORM_SHARE > len(meant)
        self.must(not storm, f"{what}, and {lately} of {meant} went silent just now")
        if len(gone) > 1 and gone == there and all(self.of(name, peer).false_misses for peer in gone):
            trusted = self._trusted(name)
            alone = trusted and not any(missing & set(gone) for missing in trusted.values())
            self.must(not alone, f"{what}, hears nobody of {gone}, and {sorted(trusted)} hear them")

    def _went_silent_lately(self, watcher: str, peer: str) -> bool:
        heard = self.of(watcher, peer)
        return heard.misses > 0 and heard.began_round >= self.truth.of[watcher].rounds - 1

    def _must_be_votes(self, request: OrderRequest, what: str) -> None:
        """Whose word an isolation rests on."""
        self._must_be_fresh(request, what)
        for voter in request.voters:
            self.must(not self.truth.of[voter].withdrawn, f"{what} by the word of {voter}, that doubts itself")
            heard = self.of(voter, request.peer)
            enough = heard.misses >= self._least(heard.score)
            self.must(enough, f"{what} by the word of {voter} after {heard.misses} misses, being slow ({heard.score})")

    def _must_be_fresh(self, on: OrderRequest | Order, what: str) -> None:
        for voter in on.voters:
            age_s = self.host.now_s - self.of(voter, on.peer).missed_s
            fresh = age_s <= FRESH_INTERVALS * self.host.policy.interval_s
            self.must(fresh, f"{what} by the word that {voter} gave {age_s:.0f} s ago")

    def _least(self, score: int) -> int:
        """Misses that a watcher as slow as that must wait for."""
        return math.ceil(self.host.policy.missed_before_restart * (1 + score / 2))

    def _must_be_first_or_shared(self, request: OrderRequest, what: str) -> None:
        """A peer that is well, and was restarted before: only when most watchers are wrong about it.

        One that missed it less often than a restart of its own needs is not wrong yet.
        """
        peer = request.peer
        if not int(self._rows("SELECT coalesce(max(restart_count), 0) FROM peer WHERE name = ?", peer)[0][0]):
            return
        said = self._said(request.watcher, TRUSTING)
        words = {name: misses[peer] for name, misses in said.items() if name != peer and peer in misses}
        hearing = [name for name, misses in words.items() if misses < self._least(0)]
        few = (len(words) - len(hearing) + 1) * 2 <= len(self.host.names) - 1
        self.must(not (hearing and few), f"{what}, which is well, again, and {hearing} hear it")

    def on_forgive(self, watcher: str, peer: str) -> None:
        """A restart is forgiven."""
        trusted = self._trusted(watcher)
        missing = [name for name, who in trusted.items() if peer in who and name != peer]
        self.must(not missing, f"{watcher} forgives {peer} a restart, and {missing} miss it")

    def _is_shared(self, name: str, missed: set[str]) -> bool:
        """All others that are there miss the same, and one of them hears this one: links are cut, or agents hang."""
        others = self._there(name)
        return any(name not in each for each in others.values()) and all(each >= missed for each in others.values())

    def _trusted(self, but: str) -> dict[str, set[str]]:
        """The others that are there and have not said that they doubt themselves: whom each misses."""
        return self._there(but, TRUSTING)

    def _there(self, but: str, condition: str = "") -> dict[str, set[str]]:
        said = self._said(but, condition)
        return {name: {peer for peer, count in misses.items() if count} for name, misses in said.items()}

    def _said(self, but: str, condition: str) -> dict[str, dict[str, int]]:
        """What the others that are there said of each peer: its misses in a row."""
        at = self.host.at()
        since_s = at.s - FRESH_TICKS * self.host.policy.interval_s
        rows = self.host.journal.read(
            f"SELECT name, misses FROM watcher WHERE boot = ? AND seen_s >= ? {condition}", (at.boot, since_s)
        )
        return {row["name"]: json.loads(row["misses"]) for row in rows if row["name"] != but}

    def on_begin(self, watcher: Watcher, order: Order, at: Moment) -> None:
        """An order is about to be carried out."""
        what = f"{order.watcher} begins {order.action} of {order.peer} (token {order.token})"
        mine = next(each for each in self.given if each.order.token == order.token)
        newest = max(each.order.token for each in self.given if each.order.peer == order.peer)
        self.must(order.token == newest, f"{what} after a newer order was given")
        self.must(mine.boot == at.boot and at.s < mine.expires_s, f"{what} after its lease")
        self.must(not mine.begun, f"{what} twice")
        beat = watcher.peers[order.peer].beat
        excused = order.action is Action.RESTART and beat is not None and beat.unit_down
        self.must(excused or not watcher.doubt.doubting, f"{what} in self-doubt")
        self.must(excused or not watcher.storm.doubting, f"{what} in a storm")
        self.must(not self.host.is_silenced(order.peer), f"{what} in a silence")
        self.must(not self.host.is_isolated(order.peer), f"{what}, which is isolated")
        self._must_be_fresh(order, what)
        mine.begun = at
        if order.action is Action.RESTART:
            self._on_restart(mine, at, what)
        else:
            self._on_isolation(mine, at, what)

    def _on_restart(self, mine: Given, at: Moment, what: str) -> None:
        peer, policy = mine.order.peer, self.host.policy
        under_way = [each for each in self._begun(Action.RESTART) if each is not mine and self._is_open(each, at)]
        self.must(not under_way, f"{what} while another restart is under way")
        before = [e for e in self._begun(Action.RESTART) if e.order.peer == peer and e is not mine]
        if before and before[-1].boot == at.boot:
            spacing_s = at.s - before[-1].round_s
            least_s = (policy.missed_before_restart - SPACING_SLACK) * policy.interval_s
            self.must(spacing_s >= least_s - 1e-6, f"{what} {spacing_s:.0f} s after the one before")
        recent, most = self.recent_restarts(peer, at), policy.restarts_before_isolation
        self.must(recent <= most, f"{what}, restart {recent} within {policy.budget_window_s:.0f} s")
        self._forgive_what_should_be(peer)
        self.budget[peer] = self.budget.get(peer, 0) + 1
        self.restarts += 1
        for (_, name), heard in self.heard.items():
            if name == peer:
                heard.healthy_since_restart = 0

    def _on_isolation(self, mine: Given, at: Moment, what: str) -> None:
        peer = mine.order.peer
        before = [e for e in self._begun(Action.ISOLATE) if e.order.peer == peer and e is not mine]
        self.must(not (before and self._is_open(before[-1], at)), f"{what} while that is under way")
        self._forgive_what_should_be(peer)
        wanted = self.host.policy.restarts_before_isolation
        self.must(self.budget.get(peer, 0) >= wanted, f"{what} after {self.budget.get(peer, 0)} restarts")
        voters = [name for name in self.host.names if name != peer]
        missing = [name for name in voters if self.of(name, peer).says[0]]
        wrong = [name for name in missing if self.of(name, peer).says[1]]
        few = len(voters) == 1 or len(wrong) * 2 <= len(voters)
        self.must(len(wrong) < len(missing) or not few, f"{what}, which is well, by the word of {wrong} of {voters}")
        self.isolations += 1

    def on_end(self, order: Order, *, failed: bool) -> None:
        """An order was settled."""
        mine = next(each for each in self.given if each.order.token == order.token)
        mine.ended_s, mine.failed = self.host.now_s, failed

    def on_release(self, peer: str) -> None:
        """An operator let a peer back."""
        self.budget[peer] = 0
        self.released[peer] = max((each.order.token for each in self.given), default=0)

    # The end

    def on_calm(self, watchers: list[Watcher]) -> None:
        """All faults have been over for long enough: everybody is well, and people were told so."""
        wrong = self.not_yet_well(watchers)
        self.must(not wrong, wrong)
        self._everything_told_is_resolved()

    def not_yet_well(self, watchers: list[Watcher]) -> str:
        """What a mesh without faults still has to recover from; empty when nothing."""
        at = self.host.at()
        for watcher in watchers:
            if watcher.doubt.doubting or watcher.storm.doubting or watcher.score:
                return f"{watcher.name} is not itself: {watcher.doubt}, {watcher.storm}, score {watcher.score}"
            for name, peer in watcher.peers.items():
                if peer.standing.status is not Status.HEALTHY or peer.unsaved or peer.suspected:
                    return f"{watcher.name} still believes {name} to be {peer.standing}"
        if open_ones := self._rows("SELECT name FROM peer WHERE episode_open"):
            return f"episodes that nobody ends: {open_ones}"
        if left := [each.order.token for each in self.given if each.begun and self._is_open(each, at)]:
            return f"orders that nobody settles: {left}"
        if said := self._rows("SELECT watcher, peer FROM observation"):
            return f"suspicions that nobody takes back: {said}"
        return ""

    def _everything_told_is_resolved(self) -> None:
        told: dict[tuple[str, int], set[str]] = {}
        for (body,) in self._rows("SELECT body FROM event"):
            event = json.loads(body)["data"]
            told.setdefault((event["peer_name"], event["episode"]), set()).add(event["state"])
        for episode, states in told.items():
            self.must(states == {"FIRING", "RESOLVED"}, f"of {episode} people were told only {states}")

    def on_isolated(self, peer: str, watchers: list[Watcher]) -> None:
        """A dead peer was isolated a while ago: everybody knows, people were told once, and nothing more is done."""
        for watcher in watchers:
            if watcher.name != peer:
                status = watcher.peers[peer].standing.status
                self.must(status is Status.ISOLATED, f"{watcher.name} believes {peer} to be {status}")
        newest = max(each.order.token for each in self.given)
        told = self._rows("SELECT key FROM event WHERE key LIKE ?", f"{peer}/%/isolate/{newest}/%")
        wanted = {f"isolate/{newest}/ordered", f"isolate/{newest}/isolated"}
        self.must({key.split("/", 2)[2] for (key,) in told} == wanted, f"of the isolation people were told {told}")

    def _rows(self, sql: str, *values: str) -> list[tuple[str, ...]]:
        return [tuple(row) for row in self.host.journal.read(sql, values)]

    # Helpers

    def recent_restarts(self, peer: str, at: Moment) -> int:
        """Restarts of the peer begun within the budget's window, since it was last released."""
        begun = [
            each.begun
            for each in self._begun(Action.RESTART)
            if each.order.peer == peer and each.order.token > self.released.get(peer, 0) and each.begun is not None
        ]
        return sum(_age_s(each, at) < self.host.policy.budget_window_s - SCHEDULED_S for each in begun)

    def _begun(self, action: Action) -> list[Given]:
        return [each for each in self.given if each.begun and each.order.action is action]

    @staticmethod
    def _is_open(given: Given, at: Moment) -> bool:
        return given.ended_s is None and given.boot == at.boot and at.s < given.expires_s

    def _forgive_what_should_be(self, peer: str) -> None:
        """Enough healthy heartbeats heard by one watcher forgive everything: the budget is as new."""
        policy = self.host.policy
        enough = policy.restarts_before_isolation * policy.forgive_after_count + HEALTHY_SLACK
        if any(h.healthy_since_restart >= enough for (_, name), h in self.heard.items() if name == peer):
            self.budget[peer] = 0
