"""One watcher's mind: what it believes of each peer, and which orders follow. It has no threads and no clock.

The monitor feeds it heartbeats and carries out its orders; a simulator can drive the same code on a virtual clock.
What a watcher decides it decides with the others: every order goes through the Coordinator, every event through
the outbox. An order is given first and told of then; where the mesh is the journal that is one transaction, elsewhere a
watcher killed in between tells of it at its next round. A standing is written before what follows from it: killed in
between, the watcher finds the same demand at its next miss.

While the journal or the coordinator does not answer, a round goes on: peers are heard and believed, nothing is
ordered, and what could not be written is written when it can.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime

from watchdog import ladder, quorum
from watchdog.clock import Moment
from watchdog.errors import JournalFailed, WatchdogError
from watchdog.herald import STORM, Herald, Publish
from watchdog.journal import Journal
from watchdog.ladder import Demand, OrderState, PeerRecord, Policy, Standing
from watchdog.mesh.coordinator import Coordinator, Member, Order
from watchdog.mesh.overview import fresh_s
from watchdog.model import Action, Heartbeat, PeerStatus, Progress, Severity, Status
from watchdog.ordering import Held, Ordering
from watchdog.quorum import Doubt
from watchdog.standings import ITSELF, Saved, Standings
from watchdog.tick import Tick

LEASE_MARGIN_S = 10.0
MOST_NAMED = 8
"""Peers in one sentence; the rest are counted."""
SAID_FOR_IT = "isolated; who did it ended before it could say so"


@dataclass
class Watched:
    """One peer and what this watcher knows of it."""

    endpoint: str
    standing: Standing = field(default_factory=Standing)
    last_seen: datetime | None = None
    beat: Heartbeat | None = None
    progress: Progress | None = None
    suspected: bool = False
    """Others were told that this watcher misses it."""
    suspect_since_round: int = 0
    unsaved: bool = False
    unasked_count: int = 0
    """Rounds in a row in which this watcher could not ask it."""
    unasked: str = ""
    """Why, in the last of them."""
    unasked_told: bool = False


class Watcher:
    """Not safe for threads: one thread owns it."""

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        coordinator: Coordinator,
        journal: Journal,
        publish: Publish,
        voters_on: Callable[[str], Collection[str]],
        restart_timeout_s: float,
    ) -> None:
        self.name = name
        self.policy = policy
        self.peers: dict[str, Watched] = {}
        self.doubt = Doubt()
        self.storm = Doubt()
        self.score = 0
        self.rounds = 0
        self.trouble = ""
        """What the journal or the coordinator refused in the last round."""
        self.total_checks = self.total_misses = self.total_restarts = self.total_isolations = 0
        self._coordinator = coordinator
        self._journal = journal
        self._standings = Standings(journal, name)
        self._herald = Herald(name, coordinator, journal, publish, fresh_s(policy))
        self._voters_on = voters_on
        self._ordering = Ordering(
            name, policy, coordinator, journal, self._herald, voters_on, restart_timeout_s + LEASE_MARGIN_S
        )
        self._tick: Tick | None = None
        self._records: dict[str, PeerRecord] = {}
        self._untaken: list[str] = []
        self._version: int | None = None
        self._overrun_s = 0.0
        self._saved_doubt: Doubt | None = None
        self._said_own: set[str] = set()
        self._silenced: set[str] = set()
        self._storm_is_said = True  # by the process before this one, as far as is known

    def watch(self, peer: str, endpoint: str, at: Moment) -> None:
        """Begin to watch a peer where this watcher left it, or with a clean slate.

        While the journal does not answer it is watched all the same; the first round in which it does takes it up.
        """
        self.peers[peer] = Watched(endpoint)
        self._untaken.append(peer)
        if self._untaken[0] != peer:
            return  # the journal was asked for another one, which may have taken seconds
        try:
            self._take_up(at)
        except JournalFailed as error:  # a damaged one too: it is set aside after the first round
            self.trouble = error.one_line()

    def _take_up(self, at: Moment) -> None:
        """What this watcher left, and what the mesh knows, of every peer of which it could not be read before."""
        while self._untaken:
            peer = self._untaken[0]
            saved, watched = self._standings.load(peer), self.peers[peer]
            self._records[peer] = self._coordinator.record(peer, at)
            self._untaken.pop(0)
            if saved is None:
                continue
            if watched.beat is None:  # what was heard since is newer
                watched.standing = saved.standing
            watched.last_seen = watched.last_seen or saved.last_seen
            watched.progress = watched.progress or saved.progress
            watched.suspected = True  # it may have been: the first good answer takes back what was said then

    # A round

    def begin_round(
        self,
        at: Moment,
        *,
        late_s: float = 0.0,
        clock_jump_s: float = 0.0,
        suspended_s: float = 0.0,
        own_endpoint_probed: bool = False,
    ) -> None:
        """Begin a tick: every peer (and the own endpoint, where it is probed) is heard once, then the round ends."""
        late_s = max(late_s, self._overrun_s)
        self.score = quorum.score_after(self.score, late_s, self.policy.interval_s)
        self._tick = Tick(
            begun_s=at.s,
            interval_s=self.policy.interval_s,
            waiting=set(self.peers),
            counted={name for name, peer in self.peers.items() if peer.standing.status is not Status.ISOLATED},
            late_s=late_s,
            clock_jump_s=clock_jump_s,
            suspended_s=suspended_s,
            own_endpoint_waited_for=own_endpoint_probed,
            silenced=self._silenced,
        )
        with self._remembering():
            self._refresh_records(at)
            self._tick.cut_off = {name for name, record in self._records.items() if record.isolated}
            self._tick.counted = set(self.peers) - self._tick.cut_off  # whom somebody let back is waited for
            self._tick.silenced = set(self._coordinator.silences(at))
            self._tick.silenced_no_more = self._silenced - self._tick.silenced
            if any(record.order_open for record in self._records.values()):
                self._ordering.tell_again(at)
            if self._saved_doubt is None:
                self._saved_doubt = saved = self._standings.load_doubt()
                deaf = saved.deaf or self.doubt.deaf
                self.doubt = replace(self.doubt, deaf=deaf) if self.doubt.doubting else saved
            self._take_up(at)
            self._settle_for_the_dead(at)

    @property
    def round_is_complete(self) -> bool:
        """Every answer of the tick is in."""
        return self._tick is None or self._tick.is_complete

    def waits_for(self, peer: str) -> bool:
        """The round needs an answer of that peer: an older probe's may have come in before it was asked again."""
        return self._tick is not None and peer in self._tick.waiting

    def hear_own(self, beat: Heartbeat) -> None:
        """How the own agent answered this round."""
        if self._tick is not None:
            self._tick.own_endpoint_waited_for = False
            self._tick.own_endpoint = "" if beat.healthy else beat.detail
            self._tick.own_endpoint_heard = beat.healthy

    def skip(self, peer: str, late_s: float = 0.0, unasked: str = "") -> None:
        """This watcher could not ask the peer, and why, or stood still for that long meanwhile: no word on the peer."""
        tick = self._tick
        if tick is None or peer not in tick.waiting:
            return
        tick.waiting.discard(peer)
        tick.stalled_s = max(tick.stalled_s, late_s)
        if unasked:
            self.peers[peer].unasked_count += 1
            self.peers[peer].unasked = unasked

    def break_off(self) -> None:
        """The round under way is not brought to its end: nothing follows from it."""
        self._tick = None

    def hear(self, peer: str, beat: Heartbeat, at: Moment) -> list[Order]:
        """Judge one heartbeat of the round; the orders that may be carried out now."""
        tick = self._tick
        if tick is None or peer not in tick.waiting:
            return []  # an answer to a round that is over, or the second one to this
        tick.waiting.discard(peer)
        record = self._record(peer, at, tick, fresh=not beat.healthy)
        if not beat.healthy and peer in tick.cut_off and not record.isolated:
            with self._remembering():
                self._learn(peer, at)
            return []  # asked while it was cut off, and let back since
        self.total_checks += 1
        self.total_misses += not beat.healthy
        watched = self.peers[peer]
        watched.unasked_count, watched.unasked, watched.unasked_told = 0, "", False
        policy = quorum.stretched(self.policy, self.score)
        learned = ladder.learn(watched.standing, record, policy)
        contested = beat.healthy and record.restart_count > 0
        if contested and not tick.trouble:
            with self._remembering():
                contested = self._is_contested(peer, at)
        standing, demands = ladder.hear(learned, beat, record, policy, at.s - tick.begun_s, contested=contested)
        self._note(peer, watched, standing, beat, tick)
        self._believe(peer, watched, standing, beat, at, tick)
        tick.held += [Held(peer, demand, beat, record, standing.missed_count, tick.begun_s) for demand in demands]
        return [] if not tick.held or self._must_wait(tick, at) else self._carry_out_held(tick, at)

    def end_round(self, at: Moment) -> list[Order]:
        """All answers of the tick are in, or late: doubt or trust, then act on what was held back."""
        tick = self._tick
        if tick is None:
            return []
        if not tick.trouble:
            with self._remembering():
                self._compare(tick, at)
        seen = tick.seen(at)
        self.doubt = quorum.judge_round(self.doubt, seen)
        self.storm = quorum.judge_storm(self.storm, self._newly_suspect(), tick.seen_of_the_others(at))
        if not tick.trouble:
            with self._remembering():
                self._tell_doubt(at)
                self._tell_storm(tick, at)
                self._tell_unasked(at)
                self._coordinator.attend(self.name, self.doubt.reason, at, self._misses(tick))
        orders = self._carry_out_held(tick, at)
        if tick.unflushed and not tick.trouble:
            with self._remembering():
                self._journal.flush()
        self._overrun_s = tick.overrun_s(at)
        self._silenced = tick.silenced
        self.trouble = tick.trouble
        self.rounds += 1
        self._tick = None
        return orders

    # An order's end

    def may_begin(self, order: Order, at: Moment) -> bool:
        """Ask once more before acting, from the thread that will: has the order been overtaken or expired?

        One that has come to doubt itself since it gave the order does no more with it than it might order now.
        """
        beat = self.peers[order.peer].beat
        is_down = order.action is Action.RESTART and beat is not None and beat.unit_down
        return (is_down or not self._hands_bound) and self._coordinator.begin(order, at)

    def drop(self, order: Order, why: str, at: Moment) -> None:
        """An order was not carried out: it was overtaken, or its time was up."""
        with self._journal.transaction():
            if self._coordinator.finish(order.token, at, failed=True, outcome=why):
                self._herald.dropped(order, why, at)
            self._learn(order.peer, at)
        self.peers[order.peer].unsaved = False

    def settle(self, order: Order, at: Moment, *, failed: bool, outcome: str, kind: str = "") -> None:
        """An order ended: journal it and tell people, once of each kind of failure."""
        with self._journal.transaction():
            if self._coordinator.finish(order.token, at, failed=failed, outcome=outcome):
                self._herald.ended(order, outcome, at, failed=failed, kind=kind)
            self._learn(order.peer, at)
        self.peers[order.peer].unsaved = False
        self.total_restarts += order.action is Action.RESTART
        self.total_isolations += order.action is Action.ISOLATE and not failed

    def status_of(self, peer: str) -> PeerStatus:
        """A copy of what is believed of one peer."""
        watched = self.peers[peer]
        record = self._records.get(peer, PeerRecord())
        standing, beat = watched.standing, watched.beat
        return PeerStatus(
            name=peer,
            endpoint=watched.endpoint,
            status=standing.status,
            last_seen=watched.last_seen,
            missed_count=standing.missed_count,
            restart_count=standing.restart_count,
            last_restart=record.last_restart,
            response_time_ms=beat.response_time_ms if beat else None,
            detail=watched.unasked or (beat.detail if beat else ""),
            verified=beat.verified if beat else False,
            isolated_since=record.isolated_since,
            restarts_left=max(0, self.policy.restarts_before_isolation - standing.restart_count),
            unasked=watched.unasked if self._is_unasked(watched) else "",
        )

    # What was heard

    def _note(self, peer: str, watched: Watched, standing: Standing, beat: Heartbeat, tick: Tick) -> None:
        if standing.status is Status.ISOLATED:
            tick.counted.discard(peer)  # cut off since the round began
            return
        tick.counted.add(peer)
        if beat.healthy:
            tick.answered.add(peer)
            return
        tick.gone.add(peer)
        was_there = watched.standing.status is not Status.ISOLATED and self.rounds > 0  # or nothing was known of it
        if watched.standing.missed_count == 0 or not was_there or peer in tick.silenced_no_more:
            tick.newly_gone.add(peer)
            watched.suspect_since_round = self.rounds

    def _believe(
        self, peer: str, watched: Watched, standing: Standing, beat: Heartbeat, at: Moment, tick: Tick
    ) -> None:
        """Take over the new standing, vote by it, and write both down: at once for every kill, and for a loss of power
        with the order that follows from it, or at the round's end. A disk takes 200 misses as one."""
        votes = not beat.healthy and standing.status is not Status.ISOLATED and self._may_vote(tick, at)
        watched.unsaved |= standing != watched.standing or votes or watched.suspected
        watched.standing, watched.beat = standing, beat
        watched.progress = beat.progress or watched.progress
        watched.last_seen = at.utc if beat.healthy else watched.last_seen
        if not watched.unsaved or tick.trouble:
            return
        with self._remembering():
            tick.unflushed = True
            with self._journal.transaction(flushed=False):
                self._standings.save(peer, Saved(standing, watched.last_seen, watched.progress))
                if votes:
                    counts = not beat.impostor and not self.storm.doubting
                    watched.suspected = True  # also where the answer to this is lost
                    self._coordinator.suspect(self.name, peer, self._word(standing.missed_count) if counts else 0, at)
                elif watched.suspected:
                    self._coordinator.trust(self.name, peer)
            watched.unsaved, watched.suspected = False, votes

    def _may_vote(self, tick: Tick, at: Moment) -> bool:
        """Not in doubt, nor in a round that is going to end in it: what was said before is taken back then."""
        return not (self.doubt.doubting or quorum.reasons_to_doubt(tick.seen(at)))

    def _word(self, missed_count: int) -> int:
        """What this watcher says of its misses: no vote before it would act by itself, and none in its first round.

        A slow one waits for more of them. One that has just begun cannot tell how old those are that it took over.
        """
        enough = quorum.stretched(self.policy, self.score).missed_before_restart
        sure = missed_count >= enough and self.rounds > 0
        return missed_count if sure else min(missed_count, self.policy.missed_before_restart - 1)

    def _learn(self, peer: str, at: Moment) -> None:
        """Take over what the mesh did to the peer, as soon as this watcher knows."""
        watched = self.peers[peer]
        self._records[peer] = self._coordinator.record(peer, at)
        watched.standing = ladder.learn(
            watched.standing, self._records[peer], quorum.stretched(self.policy, self.score)
        )
        self._standings.save(peer, Saved(watched.standing, watched.last_seen, watched.progress))

    def _misses(self, tick: Tick) -> dict[str, int]:
        """What this watcher says of those it heard or missed. Its own agent is missed where its endpoint was, in vain.

        Whom it cannot ask, and did not since it began, it says nothing of: what it knew before is not repeated as news.
        """
        return {self.name: 1 if tick.own_endpoint else 0} | {
            name: watched.standing.missed_count if self.rounds else self._word(watched.standing.missed_count)
            for name, watched in self.peers.items()
            if watched.beat and not watched.unasked and watched.standing.status is not Status.ISOLATED
        }

    def _others(self, peers: Collection[str], at: Moment) -> list[Member]:
        """What the other watchers last said, of those that are there and watch one of `peers`, as its own does."""
        asked = {name for peer in peers for name in (peer, *self._voters_on(peer))} - {self.name}
        return [each for each in self._coordinator.members(at, fresh_s(self.policy)) if each.watcher in asked]

    def _is_contested(self, peer: str, at: Moment) -> bool:
        """Asked when it is heard and when it is forgiven: a demand is held until the round's last answer."""
        return bool(quorum.who_misses(peer, self._others((peer,), at)))

    def _compare(self, tick: Tick, at: Moment) -> None:
        """What a round that may be a sick watcher's looks like beside what the mesh knows and the others say."""
        if tick.own_endpoint and (self.name in tick.cut_off or self._coordinator.record(self.name, at).isolated):
            tick.own_endpoint = ""  # we cut it off: its silence says nothing of this watcher
        if tick.gone:
            tick.silenced = set(self._coordinator.silences(at))  # one may have been silenced since the round began
        missed = {peer: self.peers[peer].standing.missed_count for peer in tick.gone - tick.silenced}
        peers = len(tick.counted - tick.silenced)
        if tick.may_hear_nobody or (tick.gone and self._hands_bound) or quorum.is_storm(len(missed), peers):
            others = self._others(tick.gone, at)
            tick.contradicted = quorum.contradicted(missed, peers, others)
            tick.agreed = quorum.is_agreed(tick.gone, tick.heard(self.name), others)
            if tick.may_hear_nobody and tick.gone - tick.silenced:
                tick.alone_against = ", ".join(sorted(quorum.who_contradicts(tick.gone, others)))

    def _newly_suspect(self) -> int:
        since_round = self.rounds - quorum.STORM_TICKS + 1
        return sum(
            watched.standing.missed_count > 0
            and not (self._tick and name in self._tick.silenced)
            and watched.standing.status is not Status.ISOLATED
            and watched.suspect_since_round >= since_round
            for name, watched in self.peers.items()
        )

    def _must_wait(self, tick: Tick, at: Moment) -> bool:
        """This is a round of doubt or a storm, or answers that are still out could make it one: act on nobody yet."""
        if tick.own_endpoint_waited_for or tick.may_hear_nobody or quorum.reasons_to_doubt(tick.seen(at)):
            return True
        unknown, peers = tick.unknown, len(tick.counted)
        others = tick.waiting & tick.counted - tick.silenced
        return quorum.may_still_doubt(len(tick.newly_gone), unknown, peers) or quorum.is_storm(
            self._newly_suspect() + len(others), tick.seen_of_the_others(at).peers
        )

    # What follows

    @property
    def _hands_bound(self) -> bool:
        return self.doubt.doubting or self.storm.doubting

    def _carry_out_held(self, tick: Tick, at: Moment) -> list[Order]:
        """The orders given; what the journal refuses is dropped, and demanded again by the next heartbeat."""
        held, tick.held = tick.held, []
        orders = []
        for each in held:
            if tick.trouble:
                break
            with self._remembering():
                order = self._carry_out(each, at)
                if order is not None:
                    orders.append(order)
        return orders

    def _carry_out(self, held: Held, at: Moment) -> Order | None:
        order = None
        if held.demand in (Demand.RESTART, Demand.ISOLATE):
            order = self._order(held, at)
        else:
            with self._journal.transaction():
                self._tell(held, at)
        self._records[held.peer] = self._coordinator.record(held.peer, at)
        return order

    def _tell(self, held: Held, at: Moment) -> None:
        peer = held.peer
        if held.demand is Demand.ALERT and not self._hands_bound:
            self._herald.degraded(peer, held.in_words, at)
        elif held.demand is Demand.IMPOSTOR:
            self._herald.warn(peer, "impostor", f"somebody else answers for it: {held.beat.detail}", at)
        elif held.demand is Demand.RESOLVE:
            self._herald.over(peer, "answers again", at)
        elif held.demand is Demand.FORGIVE and not self._is_contested(peer, at):
            self._forgive(held, at)

    def _forgive(self, held: Held, at: Moment) -> None:
        if self._coordinator.forgive(held.peer, held.record, at):
            self._journal.record(at.utc, "restart forgiven", peer=held.peer, watcher=self.name)

    def _order(self, held: Held, at: Moment) -> Order | None:
        if self.rounds == 0:
            return None  # the first round after a start acts on nobody
        if held.demand is Demand.RESTART:
            return None if self._hands_bound and not held.beat.unit_down else self._ordering.restart(held, at)
        return None if self._hands_bound else self._ordering.isolate(held, at)

    def _settle_for_the_dead(self, at: Moment) -> None:
        """Say for a watcher that cut a peer off, and was killed before it could, that it did."""
        for peer in self.peers:
            record = self._records.get(peer, PeerRecord())
            if record.isolated and record.last_action is Action.ISOLATE and record.order is OrderState.LAPSED:
                order = Order(record.token, peer, record.episode, Action.ISOLATE, self.name, "")
                with self._journal.transaction():
                    still = self._coordinator.record(peer, at).order is OrderState.LAPSED
                    if still and self._coordinator.finish(order.token, at, failed=False, outcome=SAID_FOR_IT):
                        self._herald.ended(order, SAID_FOR_IT, at, failed=False)
                self._records[peer] = self._coordinator.record(peer, at)

    # What people are told of this watcher itself

    def _tell_doubt(self, at: Moment) -> None:
        """Doubt takes its votes back. People are told once when it begins and once when it is over."""
        doubt = replace(self.doubt, clean_ticks=0, settled_ticks=0)
        with self._journal.transaction() if doubt != self._saved_doubt or doubt.doubting else nullcontext():
            if doubt.doubting:
                self._withdraw_votes()
            if doubt != self._saved_doubt:
                self._standings.save(ITSELF, doubt)
        self._saved_doubt = doubt
        reason = f"this watcher doubts itself and acts on nobody: {self.doubt.reason}" if self.doubt.doubting else ""
        self._tell_own(self._herald.itself, "self-doubt", reason, Severity.MEDIUM, at)

    def _tell_own(self, subject: str, what: str, reason: str, severity: Severity, at: Moment) -> None:
        """Whether it has begun is read from the record, which outlives this process; what has is told by this one, too:
        whoever began it may have been killed before it could, and what people know is not told twice."""
        begun = self._records.get(subject, PeerRecord()).episode_open
        if (begun and subject in self._said_own) if reason else not begun:
            return
        with self._journal.transaction():
            if reason:
                self._herald.warn(subject, what, reason, at, severity)
            else:
                self._herald.over(subject, f"the {what} is over", at)
        self._said_own = self._said_own | {subject} if reason else self._said_own - {subject}
        self._records[subject] = self._coordinator.record(subject, at)

    def _withdraw_votes(self) -> None:
        for peer, watched in self.peers.items():
            if watched.suspected:
                self._coordinator.trust(self.name, peer)
                watched.suspected = False

    def _tell_storm(self, tick: Tick, at: Moment) -> None:
        """Every watcher in a storm says so every round, and it is over when the last one has stopped.

        One that most of the others contradict says nothing of it: people would be told that nobody is isolated, and it
        binds nobody.
        """
        reason, is_seen = "", self.storm.doubting and not self.doubt.contradicted
        if is_seen:
            missed = {name for name, peer in self.peers.items() if peer.standing.missed_count}
            gone = ", ".join(sorted(missed - tick.silenced))
            reason = f"{self.storm.reason}: {gone}; nobody is isolated"
            self._coordinator.suspect(self.name, STORM, 0, at)
            for peer in [name for name, watched in self.peers.items() if watched.suspected]:
                self._coordinator.suspect(self.name, peer, 0, at)  # what it said before the storm is no vote any more
        elif self._storm_is_said:
            self._coordinator.trust(self.name, STORM)
        self._storm_is_said = is_seen
        self._tell_own(STORM, "storm", reason, Severity.CRITICAL, at)

    def _is_unasked(self, watched: Watched) -> bool:
        return watched.unasked_count >= self.policy.missed_before_restart

    def _tell_unasked(self, at: Moment) -> None:
        """One event for all whom it newly cannot ask, and one when it can ask everybody again."""
        if not any(each.unasked for each in self.peers.values()):
            self._tell_own(self._herald.asking, "trouble with asking", "", Severity.MEDIUM, at)
        newly = sorted(n for n, each in self.peers.items() if self._is_unasked(each) and not each.unasked_told)
        if newly:
            whom = "; ".join(f"{name} ({self.peers[name].unasked})" for name in newly[:MOST_NAMED])
            more = f" and {len(newly) - MOST_NAMED} more" if len(newly) > MOST_NAMED else ""
            reason = f"this watcher cannot ask, and knows nothing of: {whom}{more}"
            with self._journal.transaction():
                self._herald.warn(self._herald.asking, f"unasked/{','.join(newly)}", reason, at, Severity.MEDIUM)
            self._records[self._herald.asking] = self._coordinator.record(self._herald.asking, at)
            for name in newly:
                self.peers[name].unasked_told = True

    # What is kept

    def _record(self, peer: str, at: Moment, tick: Tick, *, fresh: bool) -> PeerRecord:
        if fresh and not tick.trouble:
            with self._remembering():
                self._records[peer] = self._coordinator.record(peer, at)
        return self._records.get(peer, PeerRecord())

    def _refresh_records(self, at: Moment) -> None:
        """Read the shared records again when somebody else has written, or when one of them moves by itself."""
        version = self._coordinator.version()
        if version != self._version or any(record.order_open for record in self._records.values()):
            self._records = self._coordinator.records(at)
            self._version = version

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """What the journal or the coordinator refuses is this round's trouble; nothing more is asked of them in it."""
        assert self._tick is not None, "a round has begun"
        try:
            yield
        except WatchdogError as error:
            self._tick.trouble = error.one_line()
            self._version = None
