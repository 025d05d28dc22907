"""One watcher's mind, round by round: what it believes, orders and says, alone and with others."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from tests.unit.watching import DOWN, FAILED, INTERVAL_S, POLICY, SQUATTED, UP, Bench
from watchdog.config import Config
from watchdog.errors import JournalFailed
from watchdog.ladder import OrderState
from watchdog.mesh.coordinator import Order, Silence
from watchdog.model import Action, Heartbeat, Progress, Severity, Status

SILENT = {"shield": DOWN}
BOTH_SILENT = {"shield": DOWN, "sidecar": DOWN}
CRASHED = {"shield": FAILED}
HOUR_S = 3600.0
FOUR = ("shield", "sidecar", "scribe", "scout")
ALERT = ("alert", "MEDIUM", "FIRING")
RESTART = ("restart", "HIGH", "FIRING")
ISOLATE = ("isolate", "CRITICAL", "FIRING")
ARCHITECT = ("alert_architect", "CRITICAL", "FIRING")


@pytest.fixture(params=[True, False], ids=["local", "elsewhere"], autouse=True)
def _mesh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher is the same whether its mesh is its host's journal, or a store elsewhere."""
    monkeypatch.setattr(Bench, "mesh_is_the_journal", request.param)


where_the_mesh_is_the_journal = pytest.mark.parametrize("_mesh", [True], indirect=True, ids=["local"])
where_it_is_elsewhere = pytest.mark.parametrize("_mesh", [False], indirect=True, ids=["elsewhere"])


def full(*_: object, **__: object) -> None:
    """A journal that takes nothing more."""
    raise JournalFailed("the journal: database or disk is full")


@pytest.fixture
def bench() -> Bench:
    """immune watches shield and sidecar; all three have votes. One round has passed, so that it may act."""
    made = Bench()
    made.round()
    return made


@pytest.fixture
def pair() -> Bench:
    made = Bench(names=("immune", "sidecar"))
    for name in made.names:
        made.round(name=name, passes_s=INTERVAL_S / 2)
    return made


def both(pair: Bench, count: int, beats: dict[str, Heartbeat]) -> list[Order]:
    """Two watchers, half an interval apart."""
    return [
        order for _ in range(count) for name in pair.names for order in pair.round(beats, name, passes_s=INTERVAL_S / 2)
    ]


def actions(orders: list[Order]) -> list[str]:
    return [f"{order.action} {order.peer}" for order in orders]


# The ladder, as a mesh of three climbs it


def test_from_the_first_miss_to_isolation_and_back(pair: Bench) -> None:
    orders = both(pair, 12, SILENT)
    assert actions(orders) == ["restart shield"] * 3 + ["isolate shield"]
    assert pair.heard() == [ALERT, RESTART, RESTART, RESTART, ISOLATE, ARCHITECT]
    assert both(pair, 50, SILENT) == []
    assert both(pair, 50, {}) == [], "whatever it answers"
    assert [w.status_of("shield").status for w in pair.watchers.values()] == [Status.ISOLATED] * 2
    pair.release("shield")
    both(pair, 1, {})
    assert [w.status_of("shield").status for w in pair.watchers.values()] == [Status.HEALTHY] * 2
    assert pair.heard()[6:] == [("alert", "CRITICAL", "RESOLVED")]


def test_a_released_peer_begins_anew(pair: Bench) -> None:
    both(pair, 12, SILENT)
    pair.release("shield")
    assert actions(both(pair, 12, SILENT)) == ["restart shield"] * 3 + ["isolate shield"]
    assert pair.heard().count(ISOLATE) == pair.heard().count(ARCHITECT) == 2


def test_a_peer_that_recovers_after_a_restart(bench: Bench) -> None:
    bench.rounds(3, SILENT)
    bench.rounds(2)
    assert bench.heard() == [ALERT, RESTART, ("alert", "HIGH", "RESOLVED")]
    status = bench.watcher.status_of("shield")
    assert (status.status, status.restart_count, status.missed_count) == (Status.HEALTHY, 1, 0)
    assert status.last_seen == bench.at().utc - timedelta(seconds=INTERVAL_S)
    assert bench.trail("restart forgiven") == []
    bench.rounds(9)
    assert bench.watcher.status_of("shield").restart_count == 0
    assert len(bench.trail("restart forgiven")) == 1


@pytest.mark.parametrize(("misses", "restarts"), [(0, 1), (1, 1), (2, 1), (3, 2)])
def test_an_agent_has_two_intervals_to_come_up(bench: Bench, misses: int, restarts: int) -> None:
    """Misses are counted anew from a restart's end: the ladder's spacing is the grace after a start."""
    bench.rounds(3, SILENT)
    bench.rounds(misses, SILENT)
    bench.rounds(5)
    assert len(bench.begun) == restarts


def test_a_restart_is_forgiven_once_by_several_watchers(pair: Bench) -> None:
    both(pair, 6, SILENT)
    assert pair.mesh.record("shield", pair.at()).restart_count == 2
    both(pair, 10, {})
    assert pair.mesh.record("shield", pair.at()).restart_count == 1
    both(pair, 10, {})
    assert pair.mesh.record("shield", pair.at()).restart_count == 0
    assert len(pair.trail("restart forgiven")) == 2


def test_no_fourth_restart_within_fifteen_minutes_whatever_is_forgiven() -> None:
    """Health forgives one after three beats here: without the window there would be one every six."""
    policy = replace(POLICY, forgive_after_s=3 * INTERVAL_S)
    quick = Bench(policy=policy)
    quick.round()
    begun_s = []
    for number in range(200):
        orders = quick.round(SILENT if number % 7 < 3 else {})
        begun_s += [quick.now_s for order in orders if order.action is Action.RESTART]
    assert len(begun_s) > 9
    assert all(fourth - first >= 900.0 for first, fourth in zip(begun_s, begun_s[3:], strict=False))
    told = [each for each in quick.told if "restarted 3 times within 900 s" in each.reason]
    assert {each.severity for each in told} == {Severity.HIGH}


def test_one_word_restarts_a_peer_once_that_another_watcher_hears(pair: Bench) -> None:
    """A day in which one link is cut: without the other's word there were 301 restarts."""
    for _ in range(2880):
        pair.round(SILENT, "immune", passes_s=INTERVAL_S / 2)
        pair.round({}, "sidecar", passes_s=INTERVAL_S / 2)
    assert actions(pair.begun) == ["restart shield"]
    assert pair.heard() == [ALERT, RESTART, ("alert", "CRITICAL", "FIRING")]
    assert "missed by immune of 2 watchers, heard by sidecar" in pair.told[-1].reason
    both(pair, 20, {})
    assert pair.mesh.record("shield", pair.at()).restart_count == 0, "now that they agree, health forgives it"


def test_one_lost_heartbeat_of_another_watcher_is_no_word_for_a_restart(pair: Bench) -> None:
    """sidecar's link to shield is cut. Each heartbeat that immune lost had sidecar restart shield, which is well."""
    for number in range(40):
        pair.round(SILENT if number in (10, 20, 21, 30) else {}, "immune", passes_s=INTERVAL_S / 2)
        pair.round(SILENT, "sidecar", passes_s=INTERVAL_S / 2)
    assert actions(pair.begun) == ["restart shield"]


def test_a_budget_used_up_over_hours_isolates_nobody_whoever_is_sick(pair: Bench) -> None:
    """sidecar's link to shield is cut, so that nothing is forgiven; shield hangs for two minutes in each hour."""
    for number in range(6 * 120):
        pair.round(SILENT if number % 120 > 115 else {}, "immune", passes_s=INTERVAL_S / 2)
        pair.round(SILENT, "sidecar", passes_s=INTERVAL_S / 2)
    assert {order.action for order in pair.begun} == {Action.RESTART}
    assert len(pair.begun) > POLICY.restarts_before_isolation
    assert pair.begun[-1].reason.endswith("as fewer than 3 of those before are new")
    assert actions(both(pair, 12, SILENT))[-1] == "isolate shield", "once it stays away"


def test_what_stays_away_is_not_restarted_anew_every_hour(bench: Bench) -> None:
    """One word isolates nobody, and three restarts that did not help are not forgotten while it is silent."""
    bench.rounds(400, SILENT)
    assert actions(bench.begun) == ["restart shield"] * 3


def test_a_relapse_is_restarted_in_time_and_without_a_false_alarm(pair: Bench) -> None:
    """Within 90 s of the first miss: when the second watcher has missed it as often as a restart needs."""
    both(pair, 3, SILENT)
    both(pair, 4, {})
    begun = len(pair.begun)
    for number in range(6):
        pair.round(SILENT, pair.names[number % 2], passes_s=INTERVAL_S / 2)
    assert len(pair.begun) == begun + 1
    assert [each.reason for each in pair.told if "is not: missed by" in each.reason] == []


def test_when_the_others_miss_it_too_or_the_unit_is_down_it_is_restarted_again(pair: Bench) -> None:
    for _ in range(4):
        pair.round(SILENT, "immune", passes_s=INTERVAL_S / 2)
        pair.round({}, "sidecar", passes_s=INTERVAL_S / 2)
    assert actions(both(pair, 3, SILENT)) == ["restart shield"]
    pair.round({}, "sidecar", passes_s=INTERVAL_S / 2)
    assert actions(pair.rounds(3, CRASHED)) == ["restart shield"]


def test_hard_evidence_counts_more_than_another_watcher_that_hears_it(pair: Bench) -> None:
    """A stranger may answer to that one."""
    for _ in range(7):
        pair.round(CRASHED, "immune", passes_s=INTERVAL_S / 2)
        pair.round({}, "sidecar", passes_s=INTERVAL_S / 2)
    assert actions(pair.begun) == ["restart shield"] * 2


def test_two_watchers_at_the_same_moment_give_one_order() -> None:
    pair = Bench(names=("immune", "sidecar"))
    for name in pair.names:
        pair.round(name=name, passes_s=0)
    orders = []
    for _ in range(12):
        pair.now_s += INTERVAL_S
        orders += [order for name in pair.names for order in pair.round(SILENT, name, passes_s=0)]
    assert actions(orders) == ["restart shield"] * 3 + ["isolate shield"]


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_however_many_watchers_act_as_one(count: int) -> None:
    """Each at a phase of its own: as many restarts, isolations and notifications as with one."""
    bench = Bench(peers=("shield", "sidecar"), names=tuple(f"agent-{number}" for number in range(count)))
    phase_s = INTERVAL_S / count
    orders: list[Order] = []
    for number in range(30):
        for name in bench.names:
            orders += bench.round(SILENT if number else {}, name, passes_s=phase_s)
    assert actions(orders) == ["restart shield"] * 3 + ["isolate shield"]
    assert bench.heard() == [ALERT, RESTART, RESTART, RESTART, ISOLATE, ARCHITECT]
    assert bench.heard("sidecar") == []


def test_what_was_decided_before_anothers_order_is_not_ordered_after_it() -> None:
    """Both have seen three misses; one restarts the peer while the other still waits for its round to end."""
    bench = Bench(peers=FOUR, names=("immune", "warden"))
    both(bench, 1, {})
    both(bench, 2, SILENT)
    late = bench.watchers["warden"]
    late.begin_round(bench.at())
    assert late.hear("shield", replace(DOWN, peer="shield"), bench.at()) == []
    assert actions(bench.round(SILENT)) == ["restart shield"]
    for peer in FOUR[1:]:
        assert late.hear(peer, replace(UP, peer=peer), bench.at()) == []
    assert late.end_round(bench.at()) == []
    assert len(bench.begun) == 1


def test_a_restart_that_takes_long_is_waited_for(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    [order] = bench.round(SILENT, carry_out=False)
    assert bench.watcher.may_begin(order, bench.at())
    assert bench.round(SILENT) == []
    bench.watcher.settle(order, bench.at(), failed=True, outcome="it hung")
    assert [bench.round(SILENT) for _ in range(2)] == [[], []]
    assert actions(bench.round(SILENT)) == ["restart shield"]
    assert ("alert", "HIGH", "FIRING") in bench.heard()


def test_that_a_restart_failed_is_no_alarm_once_the_peer_is_well(bench: Bench) -> None:
    """Nothing would ever end it: the peer's trouble is over."""
    bench.rounds(2, SILENT)
    [order] = bench.round(SILENT, carry_out=False)
    assert bench.watcher.may_begin(order, bench.at())
    bench.rounds(4)
    bench.watcher.settle(order, bench.at(), failed=True, outcome="it hung")
    assert bench.heard()[-1] == ("alert", "HIGH", "RESOLVED")
    assert [entry["outcome"] for entry in bench.trail("restart failed")] == ["it hung"]


def fail_isolations(pair: Bench, rounds: int) -> list[float]:
    """When, in intervals, each isolation was ordered; every one of them fails."""
    tried = []
    for number in range(rounds):
        for name in pair.names:
            for order in pair.round(SILENT, name, passes_s=INTERVAL_S / 2, carry_out=False):
                assert order.action is Action.ISOLATE
                tried.append(number + pair.names.index(name) / 2)
                pair.carry_out(order, failed=True)
    return tried


def test_an_isolation_that_fails_is_tried_again_ever_later_and_told_once(pair: Bench) -> None:
    both(pair, 11, SILENT)
    tried = fail_isolations(pair, 80)
    assert [later - earlier for earlier, later in pairwise(tried)] == [1, 2, 4, 8, 16, 20, 20]
    assert pair.heard().count(ISOLATE) == 1
    assert pair.heard().count(("alert", "CRITICAL", "FIRING")) == 1, "isolation failed"
    assert len(pair.trail("isolate ordered")) == len(tried)
    both(pair, 20, SILENT)
    assert pair.heard().count(ARCHITECT) == 1


def test_a_failed_isolation_is_told_again_only_when_it_is_another_trouble(bench: Bench) -> None:
    bench.rounds(11, {"shield": FAILED})
    for pid, kind in enumerate(["Refused", "Refused", "Refused", "KernelRefused", "Refused"], start=100):
        orders: list[Order] = []
        while not orders:  # it is tried ever later
            orders = bench.round({"shield": FAILED}, carry_out=False)
        assert orders[0].action is Action.ISOLATE
        bench.carry_out(orders[0], failed=True, outcome=f"it holds pid {pid}", kind=kind)
    told = [each.reason for each in bench.told if each.reason.startswith("isolation failed")]
    assert told == [f"isolation failed: it holds pid {pid}" for pid in (100, 103)]


def test_one_that_is_tried_again_and_not_begun_yet_is_not_told_of_again(pair: Bench) -> None:
    both(pair, 11, SILENT)
    fail_isolations(pair, 1)
    orders: list[Order] = []
    while not orders:
        orders = pair.round(SILENT, carry_out=False)
    pair.round(SILENT, passes_s=1.0)
    assert pair.heard().count(ISOLATE) == 1


def test_an_isolation_in_another_trouble_is_told_though_one_failed_before(pair: Bench) -> None:
    both(pair, 11, SILENT)
    fail_isolations(pair, 1)
    both(pair, 1, {})
    both(pair, 4, SILENT)
    assert pair.heard().count(ISOLATE) == 2


def test_an_isolation_that_failed_is_tried_at_once_when_anybody_was_released(pair: Bench) -> None:
    pair.isolate("scribe")
    both(pair, 11, SILENT)
    fail_isolations(pair, 10)
    assert both(pair, 2, SILENT) == []
    pair.release("scribe")
    assert actions(both(pair, 1, SILENT)) == ["isolate shield"]


def test_orders_that_nobody_carried_out_do_not_lead_to_isolation(bench: Bench) -> None:
    """A watcher that dies at every order: no restart was done, so none has failed."""
    for _ in range(40):
        bench.round(SILENT, carry_out=False)
    record = bench.mesh.record("shield", bench.at())
    assert record.restart_count == 0
    assert {entry["kind"] for entry in bench.journal.trail()} == {"restart ordered"}


# Who may not act


def test_the_first_round_after_a_start_acts_on_nobody(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    bench.start()
    assert bench.round(SILENT) == []
    assert bench.watcher.status_of("shield").missed_count == 3
    assert actions(bench.round(SILENT)) == ["restart shield"]


def test_what_a_watcher_missed_before_it_was_killed_is_no_vote_in_its_first_round(pair: Bench) -> None:
    """Two misses of ten minutes ago and one lost heartbeat: shield is well, and immune's link to it is cut."""
    both(pair, 2, SILENT)
    pair.rounds(20, SILENT)
    pair.start("sidecar")
    pair.round(SILENT, "sidecar", passes_s=1.0)
    assert pair.watchers["sidecar"].status_of("shield").missed_count == 3, "they are as they were"
    assert {m.watcher: m.misses["shield"] < 3 for m in pair.mesh.members(pair.at(), 60.0)}["sidecar"]
    assert pair.round(SILENT, passes_s=1.0) == []
    assert {order.action for order in pair.begun} == {Action.RESTART}
    pair.round(SILENT, "sidecar")
    assert actions(pair.round(SILENT)) == ["isolate shield"], "it misses it in a second round"


def test_nothing_acts_in_a_silence_and_nothing_is_said(bench: Bench) -> None:
    until = bench.at().utc + timedelta(hours=1)
    bench.mesh.silence(Silence("shield", until, "upgrade", "root"), bench.at())
    assert bench.rounds(20, SILENT) == []
    assert bench.watcher.status_of("shield").status is Status.OFFLINE
    bench.rounds(2)
    assert bench.told == [], "what was not told is not resolved either"


def silence(bench: Bench, *peers: str) -> None:
    for peer in peers:
        bench.mesh.silence(Silence(peer, bench.at().utc + timedelta(hours=2), "upgrade", "root"), bench.at())


def test_agents_that_are_silenced_and_stopped_are_no_sign_of_a_sick_watcher_or_a_storm(bench: Bench) -> None:
    silence(bench, "shield", "sidecar")
    bench.rounds(8, BOTH_SILENT)
    assert (bench.told, bench.doubts()) == ([], False)


def test_whom_another_watcher_heard_before_they_were_silenced_and_stopped(pair: Bench) -> None:
    """Nor is a watcher alone in missing them, when the others' rounds are yet to come."""
    silence(pair, "shield", "sidecar")
    pair.round(BOTH_SILENT)
    assert (pair.told, pair.doubts()) == ([], False)


def test_one_that_is_silenced_while_a_round_is_under_way_is(bench: Bench) -> None:
    watcher = bench.watcher
    watcher.begin_round(bench.at())
    silence(bench, "shield", "sidecar")
    for peer in BOTH_SILENT:
        watcher.hear(peer, replace(DOWN, peer=peer), bench.at())
    watcher.end_round(bench.at())
    assert (bench.told, bench.doubts()) == ([], False)


def test_beside_agents_that_are_silenced_the_ladder_goes_on() -> None:
    """Two of five are stopped for work, then a third one dies: that is one silent peer of three."""
    bench = Bench(peers=(*FOUR, "scholar"))
    bench.round()
    silence(bench, "scout", "scholar")
    stopped = dict.fromkeys(("scout", "scholar"), DOWN)
    bench.rounds(2, stopped)
    assert actions(bench.rounds(3, {**stopped, **SILENT})) == ["restart shield"]
    assert bench.heard("*") == bench.heard("immune (watcher)") == []


def test_nobody_waits_for_agents_that_are_silenced() -> None:
    """They hang for the whole timeout, and what they answer could be no storm."""
    stopped = [f"stopped{number}" for number in range(3)]
    bench = Bench(peers=(*FOUR, *stopped))
    bench.round()
    silence(bench, *stopped)
    bench.rounds(2, SILENT)
    bench.watcher.begin_round(bench.at())
    answers = {peer: replace(UP, peer=peer) for peer in FOUR} | {"shield": replace(DOWN, peer="shield")}
    assert actions([o for peer in reversed(FOUR) for o in bench.watcher.hear(peer, answers[peer], bench.at())]) == [
        "restart shield"
    ]


@pytest.mark.parametrize(("silenced", "doubts"), [((), True), (("sidecar",), True), (("shield", "sidecar"), False)])
def test_who_goes_deaf_doubts_itself_while_anybody_is_not_silenced(
    bench: Bench, silenced: tuple[str, ...], doubts: bool
) -> None:
    """Where all are silenced nothing acts on anybody."""
    silence(bench, *silenced)
    assert bench.rounds(20, BOTH_SILENT) == []
    assert bench.doubts() is doubts


def test_agents_that_are_still_gone_when_their_silence_ends_are_news(bench: Bench) -> None:
    """A watcher that went deaf meanwhile is not to restart them."""
    silence(bench, "shield", "sidecar")
    bench.rounds(5, BOTH_SILENT)
    for peer in BOTH_SILENT:
        assert bench.mesh.unsilence(peer)
    assert bench.rounds(5, BOTH_SILENT) == []
    assert bench.doubts()


def test_who_was_late_once_trusts_itself_again_beside_agents_that_are_silenced(bench: Bench) -> None:
    silence(bench, "shield", "sidecar")
    bench.rounds(2, BOTH_SILENT)
    bench.round(BOTH_SILENT, late_s=INTERVAL_S)
    assert bench.doubts()
    bench.rounds(2, BOTH_SILENT)
    assert not bench.doubts()


def test_a_silence_that_ends_finds_the_peer_as_it_is(bench: Bench) -> None:
    until = bench.at().utc + timedelta(seconds=10 * INTERVAL_S)
    bench.mesh.silence(Silence("shield", until, "upgrade", "root"), bench.at())
    assert bench.rounds(10, SILENT) == []
    assert actions(bench.rounds(1, SILENT)) == ["restart shield"]


def test_somebody_else_in_its_place(bench: Bench) -> None:
    assert bench.rounds(20, {"shield": SQUATTED}) == []
    assert bench.heard() == [("alert", "CRITICAL", "FIRING")]
    assert "port 9103 is pid 7's" in bench.told[0].reason
    assert bench.votes() == [0], "no vote to isolate"
    bench.rounds(1)
    assert bench.heard()[-1] == ("alert", "CRITICAL", "RESOLVED")


@pytest.mark.parametrize(
    ("beats", "ordered"),
    [(SILENT, []), (CRASHED, ["isolate shield"])],
    ids=["one word of two", "one word and hard evidence"],
)
def test_one_watcher_of_three(bench: Bench, beats: dict[str, Heartbeat], ordered: list[str]) -> None:
    orders = bench.rounds(14, beats)
    assert actions(orders) == ["restart shield"] * 3 + ordered
    if not ordered:
        assert bench.heard()[-1] == ("alert", "CRITICAL", "FIRING")
        assert "1 of 2 watchers vote for it" in bench.told[-1].reason
        assert bench.told[-1].reason.endswith("nothing is heard of the watcher of sidecar")
        assert bench.heard().count(("alert", "CRITICAL", "FIRING")) == 1


@pytest.mark.parametrize(("beats", "isolated"), [(SILENT, 0), (CRASHED, 1)])
def test_one_of_two_agents_isolates_the_other_only_on_evidence(beats: dict[str, Heartbeat], isolated: int) -> None:
    bench = Bench(peers=("shield",))
    bench.round()
    bench.rounds(40, beats)
    assert actions(bench.begun) == ["restart shield"] * 3 + ["isolate shield"] * isolated
    if not isolated:
        assert bench.told[-1].reason.startswith("it should be isolated, and is not: 1 of 1 watchers vote for it")


def test_two_that_accuse_each_other_isolate_nobody() -> None:
    pair = Bench(peers=("immune", "shield"), names=("immune", "shield"))
    for _ in range(30):
        pair.round({"shield": DOWN}, "immune", passes_s=INTERVAL_S / 2)
        pair.round({"immune": DOWN}, "shield", passes_s=INTERVAL_S / 2)
    assert {order.action for order in pair.begun} == {Action.RESTART}
    assert any("accuse each other" in each.reason for each in pair.told)


def test_a_vote_that_is_taken_back_in_time_counts_no_more(pair: Bench) -> None:
    both(pair, 11, SILENT)
    pair.round({}, "sidecar", passes_s=INTERVAL_S / 2)
    orders = pair.rounds(3, SILENT)
    assert orders == []


@pytest.mark.parametrize("looked_again", [False, True])
def test_a_vote_from_before_the_restart_says_nothing_of_it(looked_again: bool) -> None:
    """sidecar's watcher dies with the restart it orders at 60 s: at 116 s its word is fresh, and older than that."""
    policy = replace(POLICY, missed_before_restart=2, restarts_before_isolation=1)
    pair = Bench(names=("sidecar", "immune"), policy=policy)
    for beats in ({}, SILENT):
        pair.round(beats, "sidecar", passes_s=26.0)
        pair.round(beats, "immune", passes_s=4.0)
    [restart] = pair.round(SILENT, "sidecar", passes_s=26.0)
    assert restart.action is Action.RESTART
    assert pair.round(SILENT, "immune", passes_s=4.0) == []
    if looked_again:
        pair.round(SILENT, "sidecar", passes_s=0.0)
    pair.now_s += 26.0
    orders = pair.round(SILENT, "immune")
    assert actions(orders) == (["isolate shield"] if looked_again else [])
    assert ("1 of 2 watchers vote for it" in pair.told[-1].reason) != looked_again


def test_a_peer_that_recovers_between_an_order_and_its_beginning(pair: Bench) -> None:
    both(pair, 11, SILENT)
    orders = [o for name in pair.names for o in pair.round(SILENT, name, passes_s=1, carry_out=False)]
    [order] = orders
    other = next(name for name in pair.names if name != order.watcher)
    pair.round({}, other, passes_s=1)
    pair.carry_out(order)
    assert Action.ISOLATE not in {each.action for each in pair.begun}
    assert pair.mesh.record("shield", pair.at()).order is OrderState.VOID
    assert len(pair.trail("isolate not begun")) == 1


# Self-doubt and storm


@pytest.mark.parametrize(
    ("beats", "seen", "own"),
    [
        (BOTH_SILENT, {}, None),
        (SILENT, {"late_s": INTERVAL_S}, None),
        (SILENT, {"clock_jump_s": HOUR_S}, None),
        (SILENT, {"clock_jump_s": -HOUR_S}, None),
        (SILENT, {"suspended_s": INTERVAL_S}, None),
        (SILENT, {}, DOWN),
    ],
    ids=["nobody answers", "late", "clock forward", "clock back", "suspended", "own endpoint"],
)
def test_who_doubts_itself_says_so_once_and_acts_on_nobody(
    bench: Bench, beats: dict[str, Heartbeat], seen: dict[str, float], own: Heartbeat | None
) -> None:
    bench.rounds(2, {})
    bench.round({}, own=UP)
    if beats is SILENT:
        bench.rounds(2, SILENT)
    for _ in range(5):
        assert bench.round(beats, own=own, **seen) == []  # type: ignore[arg-type]
    assert bench.doubts()
    assert bench.heard("immune (watcher)") == [ALERT]
    assert bench.votes() == [], "they are withdrawn"
    bench.rounds(2)
    assert not bench.doubts()
    assert bench.heard("immune (watcher)") == [ALERT, ("alert", "MEDIUM", "RESOLVED")]


def test_a_watcher_says_whom_it_does_not_hear_also_in_doubt(bench: Bench) -> None:
    def missing() -> set[str]:
        return bench.mesh.members(bench.at(), INTERVAL_S * 2)[0].missing

    bench.round(SILENT)
    assert missing() == {"shield"}
    bench.round(SILENT, own=DOWN)
    assert bench.doubts()
    assert missing() == {"shield", "immune"}
    bench.isolate("shield")
    bench.round(SILENT, own=UP)
    assert missing() == set(), "who is isolated is not missed"


def test_one_silent_peer_of_two_is_the_ordinary_case(bench: Bench) -> None:
    bench.rounds(3, SILENT)
    assert not bench.doubts()
    assert len(bench.begun) == 1


def test_a_watcher_whose_agent_is_isolated_goes_on(pair: Bench) -> None:
    """Its own endpoint is cut off by us, and a second dead agent needs its vote."""
    pair.round(own=DOWN)
    assert pair.doubts()
    pair.isolate("immune")
    pair.round(own=DOWN)
    pair.round(own=DOWN)
    assert not pair.doubts()
    pair.release("immune")
    pair.round(own=DOWN)
    assert pair.doubts()


def test_what_was_asked_of_one_cut_off_is_no_miss_after_its_release(pair: Bench) -> None:
    """A probe on its way while it is let back, of a peer and of the own agent."""
    for name in ("shield", "immune"):
        pair.isolate(name)
    pair.round(SILENT, own=DOWN)
    watcher = pair.watcher
    watcher.begin_round(pair.at(), own_endpoint_probed=True)
    for name in ("shield", "immune"):
        pair.release(name)
    watcher.hear_own(replace(DOWN, peer="immune"))
    for peer in watcher.peers:
        watcher.hear(peer, replace(SILENT.get(peer, UP), peer=peer), pair.at())
    assert watcher.end_round(pair.at()) == []
    status = watcher.status_of("shield")
    assert (pair.doubts(), status.status, status.missed_count) == (False, Status.DEGRADED, 0)
    pair.now_s += INTERVAL_S
    pair.round(SILENT, own=DOWN)
    assert (pair.doubts(), watcher.status_of("shield").missed_count) == (True, 1), "asked after it"


def test_who_goes_deaf_slowly_comes_to_doubt_itself() -> None:
    """immune loses one peer after the other; the others hear each other all the time."""
    mesh = Bench(peers=("immune", "shield", "sidecar"), names=("immune", "shield", "sidecar"))

    def rounds(count: int, beats: dict[str, Heartbeat]) -> list[Order]:
        return [
            order
            for _ in range(count)
            for name in mesh.names
            for order in mesh.round(beats if name == "immune" else {}, name, passes_s=INTERVAL_S / 3)
        ]

    rounds(1, {})
    assert actions(rounds(3, SILENT)) == ["restart shield"]
    assert rounds(20, BOTH_SILENT) == []
    assert mesh.doubts()
    assert "none of 2 peers answers, and none of them is missed by shield, sidecar" in mesh.watcher.doubt.reason
    rounds(2, {})
    assert not mesh.doubts()


def test_in_doubt_only_a_unit_that_systemd_reports_down_is_restarted(bench: Bench) -> None:
    assert bench.rounds(6, BOTH_SILENT) == []
    assert actions(bench.rounds(1, {"shield": FAILED, "sidecar": DOWN})) == ["restart shield"]
    orders = bench.rounds(20, {"shield": FAILED, "sidecar": DOWN})
    assert set(actions(orders)) == {"restart shield"}, "and nobody isolated"


def test_a_round_that_shows_itself_to_be_sick_acts_on_nobody_before_its_end() -> None:
    """shield has missed two; this round everybody else goes silent as well. shield's answer comes first."""
    bench = Bench(peers=FOUR)
    bench.round()
    bench.rounds(2, SILENT)
    assert bench.round(dict.fromkeys(FOUR, DOWN)) == []
    assert bench.doubts()


def test_a_sound_round_acts_before_its_last_answer() -> None:
    bench = Bench(peers=FOUR)
    bench.round()
    bench.rounds(2, SILENT)
    watcher = bench.watcher
    watcher.begin_round(bench.at())
    for peer in ("sidecar", "scribe"):
        assert watcher.hear(peer, replace(UP, peer=peer), bench.at()) == []
    assert actions(watcher.hear("shield", replace(DOWN, peer="shield"), bench.at())) == ["restart shield"]


@pytest.mark.parametrize("clean_rounds", [0, 1])
def test_doubt_survives_the_process(bench: Bench, clean_rounds: int) -> None:
    """One counted peer alone would be the ordinary case: all others were isolated by somebody else."""
    bench.rounds(2, BOTH_SILENT)
    bench.isolate("sidecar")
    bench.rounds(clean_rounds, BOTH_SILENT)
    bench.start()
    assert bench.rounds(10, BOTH_SILENT) == []
    assert bench.doubts()
    bench.rounds(2, {"sidecar": DOWN})
    assert not bench.doubts()
    assert bench.heard("immune (watcher)") == [ALERT, ("alert", "MEDIUM", "RESOLVED")]


def test_what_a_hung_agent_said_of_its_progress_survives_the_process(bench: Bench) -> None:
    """Else it answers the first probe of the next process as one that is well, and its misses are gone."""
    hung = replace(DOWN, progress=Progress("one", 4711))
    bench.round({"shield": hung})
    bench.round(SILENT)
    bench.start()
    assert bench.watcher.peers["shield"].progress == Progress("one", 4711)
    flushed = bench.journal.flushed
    bench.rounds(2, {"sidecar": replace(UP, progress=Progress("one", 4712)), "shield": DOWN})
    bench.round({"sidecar": replace(UP, progress=Progress("one", 4713)), "shield": DOWN})
    assert bench.watcher.peers["sidecar"].progress == Progress("one", 4713)
    assert bench.journal.flushed == flushed + 3, "for shield's sake: what grows is not written down"
    assert bench.journal.read("SELECT body FROM standing WHERE peer = 'sidecar'") == []


def test_a_watcher_takes_its_peers_for_newly_gone_in_its_first_round(bench: Bench) -> None:
    """It cannot know what became of them while it was not there."""
    bench.round(SILENT)
    bench.round(BOTH_SILENT)
    assert not bench.doubts()
    bench.start()
    bench.round(BOTH_SILENT)
    assert bench.doubts()


def test_who_was_deaf_before_it_began_without_its_journal_still_is(bench: Bench) -> None:
    """One peer cannot be asked, and the other is gone: nobody was heard since."""
    bench.rounds(2, BOTH_SILENT)
    bench.journal.refusing = True
    bench.start()
    for number in range(6):
        bench.journal.refusing = number == 0
        bench.watcher.begin_round(bench.at())
        bench.watcher.skip("shield", unasked="the CA file is none")
        bench.watcher.hear("sidecar", replace(DOWN, peer="sidecar"), bench.at())
        assert bench.watcher.end_round(bench.at()) == []
        bench.now_s += INTERVAL_S
    assert bench.doubts()


def test_a_vote_on_a_peer_that_was_not_heard_since_is_withdrawn_in_doubt(bench: Bench) -> None:
    bench.rounds(3, SILENT)
    assert bench.votes() == [3]
    bench.watcher.begin_round(bench.at(), clock_jump_s=HOUR_S)
    bench.watcher.skip("shield", unasked="the CA file is none")
    bench.watcher.hear("sidecar", replace(UP, peer="sidecar"), bench.at())
    assert bench.watcher.end_round(bench.at()) == []
    assert bench.votes() == []


def test_who_doubts_itself_has_no_vote_while_its_next_round_is_under_way(bench: Bench) -> None:
    bench.rounds(3, SILENT)
    bench.round(SILENT, clock_jump_s=HOUR_S)
    bench.watcher.begin_round(bench.at())
    bench.watcher.hear("shield", replace(DOWN, peer="shield"), bench.at())
    assert bench.votes() == []


def test_an_isolation_that_was_ordered_before_the_doubt_is_not_begun_on_evidence(bench: Bench) -> None:
    """A restart of such a unit would be."""
    bench.rounds(11, CRASHED)
    [order] = bench.round(CRASHED, carry_out=False)
    assert order.action is Action.ISOLATE
    bench.journal.refusing = True
    bench.round(CRASHED, passes_s=1.0)
    bench.journal.refusing = False
    assert bench.votes(), "they could not be taken back"
    assert not bench.watcher.may_begin(order, bench.at())


def test_whoever_loses_all_is_contradicted_by_their_own_watchers() -> None:
    """Only immune has a vote."""
    mesh = Bench(peers=THREE, names=("immune", "shield"), voters=("immune",))
    for number in range(8):
        silent = {} if number == 0 else SILENT if number == 1 else BOTH_SILENT
        mesh.round(silent, "immune", passes_s=INTERVAL_S / 2)
        mesh.round({"sidecar": DOWN}, "shield", passes_s=INTERVAL_S / 2, own=UP)
    assert not mesh.doubts(), "shield's watcher misses one of them"
    mesh.round({}, "shield", passes_s=1.0, own=UP)
    mesh.round(BOTH_SILENT, "immune", passes_s=1.0)
    assert "none of them is missed by shield" in mesh.watcher.doubt.reason


def test_a_watcher_started_among_the_dead_doubts_itself_first() -> None:
    bench = Bench()
    assert bench.rounds(10, BOTH_SILENT) == []
    assert bench.doubts()


def test_the_trail_says_that_an_order_was_begun_and_never_ended(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    [order] = bench.round(SILENT, carry_out=False)
    assert bench.watcher.may_begin(order, bench.at())
    bench.start()
    bench.rounds(8, SILENT)
    [lapsed] = bench.trail("restart lapsed")
    assert (lapsed["peer"], lapsed["token"]) == ("shield", order.token)
    assert [entry["token"] for entry in bench.trail("restart done")] == [2, 3]


def test_a_storm_is_told_once_and_isolates_nobody() -> None:
    bench = Bench(peers=(*FOUR, "scholar"), names=("immune", "warden"))
    for name in bench.names:
        bench.round(name=name, passes_s=0)
    some = dict.fromkeys(FOUR[:2], DOWN)
    for _ in range(5):
        for name in bench.names:
            assert bench.round(some, name, passes_s=INTERVAL_S / 2) == []
    assert not bench.doubts()
    assert [e.severity for e in bench.told] == [Severity.CRITICAL], "one grouped alert, by whichever watcher"
    assert "shield, sidecar" in bench.told[0].reason
    assert set(bench.votes()) == {0}, "nobody votes"
    for _ in range(4):
        bench.round({}, "immune", passes_s=INTERVAL_S / 2)
        bench.round(some, "warden", passes_s=INTERVAL_S / 2)
    assert len(bench.told) == 1, "another watcher still has it"
    bench.rounds(3, {}, "warden")
    assert [e.state.value for e in bench.told] == ["FIRING", "RESOLVED"]


@pytest.mark.parametrize("silenced", [(), ("surgeon",)], ids=["two of five", "two of six, and one is silenced"])
def test_an_answer_that_may_make_it_a_storm_is_waited_for(silenced: tuple[str, ...]) -> None:
    """sidecar went silent a tick ago, and scribe does now. shield was restarted before, and is due again."""
    bench = Bench(peers=(*FOUR, "scholar", *silenced))
    silence(bench, *silenced)
    bench.round()
    bench.rounds(4, SILENT)
    bench.round(BOTH_SILENT)
    assert actions(bench.begun) == ["restart shield"]
    watcher = bench.watcher
    watcher.begin_round(bench.at())
    for peer in ("sidecar", "scout", "scholar", *silenced, "shield", "scribe"):
        beat = DOWN if peer in ("shield", "sidecar", "scribe") else UP
        assert watcher.hear(peer, replace(beat, peer=peer), bench.at()) == []
    assert watcher.end_round(bench.at()) == []
    assert watcher.storm.doubting


def test_a_storm_does_not_name_whom_somebody_silenced() -> None:
    bench = Bench(peers=(*FOUR, "scholar"))
    silence(bench, "scholar")
    bench.round()
    bench.rounds(2, {"scholar": DOWN})
    bench.rounds(3, {**BOTH_SILENT, "scholar": DOWN})
    [storm] = [each.reason for each in bench.told if each.peer_name == "*"]
    assert storm == "2 of 4 peers became suspect within 2 ticks: shield, sidecar; nobody is isolated"
    bench.rounds(2, {"scholar": DOWN})
    assert not bench.watcher.storm.doubting


def test_in_a_storm_what_is_missed_is_no_vote_while_the_round_is_under_way() -> None:
    bench = Bench(peers=(*FOUR, "scholar"))
    bench.round()
    bench.rounds(4, BOTH_SILENT)
    assert bench.watcher.storm.doubting
    bench.watcher.begin_round(bench.at())
    bench.watcher.hear("shield", replace(DOWN, peer="shield"), bench.at())
    assert set(bench.votes()) == {0}


THREE, FIVE = ("immune", *FOUR[:2]), ("immune", *FOUR)


def test_a_storm_that_one_watcher_sees_keeps_all_others_from_isolating_unless_they_know_better() -> None:
    """shield is dead, and due to be isolated. scout misses two more: nobody knows at once that they are well."""
    mesh = Bench(
        peers=(*FIVE, "scholar"),
        names=("immune", "sidecar", "scribe", "scout"),
        policy=replace(POLICY, restarts_before_isolation=1),
    )

    def rounds(count: int, silent: dict[str, Heartbeat], scout_misses: tuple[str, ...] = ()) -> None:
        for _ in range(count):
            for name in mesh.names:
                more = dict.fromkeys(scout_misses, DOWN) if name == "scout" else {}
                mesh.round(silent | more, name, passes_s=INTERVAL_S / 4, own=UP)

    rounds(1, {})
    rounds(3, SILENT)
    rounds(1, SILENT, scout_misses=("scholar", "sidecar"))
    assert mesh.watchers["scout"].storm.doubting
    rounds(1, SILENT, scout_misses=("scholar", "sidecar"))
    assert actions(mesh.begun) == ["restart shield"]
    assert next(each.reason for each in mesh.told if each.peer_name == "*").endswith("nobody is isolated")
    assert not [each for each in mesh.told if "it should be isolated, and is not" in each.reason]
    rounds(2, SILENT, scout_misses=("scholar", "sidecar"))
    assert actions(mesh.begun)[1:] == ["isolate shield"], "who doubts itself binds nobody"
    told = [(each.peer_name, each.state.value) for each in mesh.told if each.peer_name in ("*", "scout (watcher)")]
    assert told == [("*", "FIRING"), ("scout (watcher)", "FIRING"), ("*", "RESOLVED")], "and says so before that"
    assert mesh.watchers["scout"].doubt.reason == "2 of the peers that it does not hear are heard by most of the others"
    rounds(20, SILENT, scout_misses=("scholar", "sidecar"))
    assert len(mesh.begun) == 2, "and restarts nobody"
    rounds(3, SILENT)
    assert not mesh.doubts("scout")


@pytest.mark.parametrize(
    ("agents", "watchers", "hung", "deaf", "restarted"),
    [
        (THREE, THREE, FOUR[:2], "", {"shield", "sidecar"}),
        (FIVE, FIVE, FOUR[:2], "", {"shield", "sidecar"}),
        (FIVE, ("immune", "scribe", "scout"), FOUR[:2], "", {"shield", "sidecar"}),
        (THREE, ("immune",), FOUR[:2], "", set()),
        (THREE, THREE, THREE, "", set()),
        (THREE, THREE, ("shield",), "immune", {"shield"}),
        (FIVE, FIVE, ("shield",), "immune", {"shield"}),
        (FIVE, ("immune", "scribe", "scout"), FOUR[:2], "immune", {"shield", "sidecar"}),
    ],
    ids=[
        "two of three",
        "two of five",
        "two of five, and their watchers with them",
        "two of three, and their watchers with them",
        "all of them",
        "one of three, and another's watcher is deaf",
        "one of five, and another's watcher is deaf",
        "two of five and their watchers, and another's watcher is deaf",
    ],
)
def test_agents_that_hang_together_are_restarted_and_nobody_else(
    agents: tuple[str, ...], watchers: tuple[str, ...], hung: tuple[str, ...], deaf: str, restarted: set[str]
) -> None:
    mesh, gone = Bench(peers=agents, names=watchers), set(hung)
    for name in watchers:
        mesh.round(name=name, passes_s=0, own=UP)
    orders = []
    for number in range(20 * len(watchers)):
        name = watchers[number % len(watchers)]
        silent = set(agents) if name == deaf else gone
        orders += mesh.round(
            dict.fromkeys(silent, DOWN), name, passes_s=INTERVAL_S / len(watchers), own=DOWN if name in gone else UP
        )
        gone -= {order.peer for order in orders}
    assert {order.action for order in orders} <= {Action.RESTART}
    assert sorted(order.peer for order in orders) == sorted(restarted)


def test_after_a_storm_people_are_told_of_no_quorum_only_when_votes_could_be_there() -> None:
    mesh = Bench(peers=FIVE, names=("immune", "scribe", "scout"), policy=replace(POLICY, restarts_before_isolation=1))

    def rounds(count: int, silent: tuple[str, ...]) -> None:
        for _ in range(count):
            for name in mesh.names:
                mesh.round(dict.fromkeys(silent, DOWN), name, passes_s=INTERVAL_S / 3, own=UP)

    rounds(1, ())
    rounds(3, ("shield",))
    rounds(2, ())
    rounds(12, ("shield", "sidecar"))
    assert ("isolate", "shield") in {(order.action, order.peer) for order in mesh.begun}
    assert [each.reason for each in mesh.told if "no configured watcher votes" in each.reason] == []


def test_cut_links_between_agents_that_are_well_restart_nobody() -> None:
    """Each hears its own agent and no other: all watchers miss the same, and none is hung."""
    mesh = Bench(peers=THREE, names=THREE)
    for name in THREE:
        mesh.round(name=name, passes_s=0, own=UP)
    for number in range(60):
        name = THREE[number % 3]
        assert mesh.round(dict.fromkeys(THREE, DOWN), name, passes_s=INTERVAL_S / 3, own=UP) == []
    assert all(mesh.doubts(name) for name in THREE)


def test_a_slow_watcher_is_patient(bench: Bench) -> None:
    for _ in range(3):
        bench.round(SILENT, late_s=INTERVAL_S * 0.2)
    assert bench.watcher.score == 3
    assert bench.begun == []
    assert bench.rounds(20, SILENT)


def test_a_watcher_that_stood_still_says_nothing_of_those_it_could_not_hear(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    watcher = bench.watcher
    watcher.begin_round(bench.at())
    bench.now_s += 20.0
    watcher.skip("shield", 20.0)
    watcher.hear("sidecar", replace(UP, peer="sidecar"), bench.at())
    assert watcher.round_is_complete
    assert watcher.end_round(bench.at()) == []
    assert watcher.status_of("shield").missed_count == 2
    assert watcher.doubt.doubting


def test_nobody_is_restarted_while_another_s_restart_is_unfinished_and_the_count_goes_on(bench: Bench) -> None:
    waiting = replace(DOWN, unfinished="waiting for sidecar")
    assert bench.rounds(6, {"shield": waiting}) == []
    assert bench.watcher.status_of("shield").status is Status.OFFLINE
    assert actions(bench.round(SILENT)) == ["restart shield"]


def cannot_ask(bench: Bench, *peers: str, name: str = "immune", passes_s: float = INTERVAL_S) -> None:
    """One round in which the others answer."""
    watcher = bench.watchers[name]
    watcher.begin_round(bench.at())
    for peer in watcher.peers:
        if peer in peers:
            watcher.skip(peer, unasked="the CA file is none")
        else:
            watcher.hear(peer, replace(UP, peer=peer), bench.at())
    assert watcher.end_round(bench.at()) == []
    bench.now_s += passes_s


@pytest.mark.parametrize("heard_before", [True, False])
def test_who_cannot_ask_a_peer_does_not_hear_it(pair: Bench, heard_before: bool) -> None:
    """Counted as one that hears it, sidecar's watcher kept immune from restarting a dead peer more than once."""
    if not heard_before:
        pair.start("sidecar")
    for _ in range(10):
        pair.round(SILENT, "immune", passes_s=INTERVAL_S / 2)
        cannot_ask(pair, "shield", name="sidecar", passes_s=INTERVAL_S / 2)
    assert actions(pair.begun) == ["restart shield"] * 3
    assert [each.reason for each in pair.told if "is not: missed by" in each.reason] == []
    pair.rounds(3, SILENT)
    assert "1 of 2 watchers vote for it" in pair.told[-1].reason


def test_who_does_not_watch_a_peer_does_not_hear_it(pair: Bench) -> None:
    """It is not in its configuration, whatever that of the others says."""
    del pair.watchers["sidecar"].peers["shield"]
    assert actions(both(pair, 10, SILENT)) == ["restart shield"] * 3


def test_what_was_missed_before_it_could_not_be_asked_is_not_said_again(pair: Bench) -> None:
    """sidecar's watcher missed shield, and cannot ask it any more: nothing that immune hears would be forgiven ever."""
    both(pair, 4, SILENT)
    for _ in range(12):
        pair.round({}, "immune", passes_s=INTERVAL_S / 2)
        cannot_ask(pair, "shield", name="sidecar", passes_s=INTERVAL_S / 2)
    assert pair.mesh.record("shield", pair.at()).restart_count == 0


def test_what_another_process_missed_is_not_said_by_one_that_has_not_asked_yet(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    watcher = bench.start()
    watcher.begin_round(bench.at())
    watcher.hear("sidecar", replace(UP, peer="sidecar"), bench.at())
    watcher.end_round(bench.at())
    assert bench.mesh.members(bench.at(), 60.0)[0].misses == {"immune": 0, "sidecar": 0}


def test_who_can_ask_nobody_makes_nobody_doubt() -> None:
    """immune loses one peer after the other, and warden has no word on either."""
    mesh = Bench(names=("immune", "warden"))
    for number in range(20):
        mesh.round(BOTH_SILENT if number > 2 else SILENT if number else {}, "immune", passes_s=INTERVAL_S / 2)
        cannot_ask(mesh, *BOTH_SILENT, name="warden", passes_s=INTERVAL_S / 2)
    assert not mesh.doubts("immune")


def test_a_peer_that_cannot_be_asked_is_told_once_and_is_unknown_until_it_can(bench: Bench) -> None:
    cannot_ask(bench, "shield")
    cannot_ask(bench, "shield")
    assert (bench.told, bench.watcher.status_of("shield").unasked) == ([], "")
    for _ in range(5):
        cannot_ask(bench, "shield")
    shown = bench.watcher.status_of("shield")
    assert (shown.status, shown.missed_count) == (Status.HEALTHY, 0)
    assert shown.unasked == shown.detail == "the CA file is none"
    asking = "immune (watcher, asking)"
    assert bench.heard(asking) == [ALERT]
    assert "cannot ask, and knows nothing of: shield (the CA file is none)" in bench.told[0].reason
    bench.start()
    for _ in range(4):
        cannot_ask(bench, "shield")
    assert bench.heard(asking) == [ALERT], "who begins anew knows what was told"
    for _ in range(3):
        cannot_ask(bench, "shield", "sidecar")
    assert bench.heard(asking) == [ALERT, ALERT], "another one is news"
    cannot_ask(bench, "sidecar")
    assert bench.watcher.status_of("shield").unasked == ""
    assert bench.heard(asking) == [ALERT, ALERT]
    bench.round()
    assert bench.heard(asking) == [ALERT, ALERT, ("alert", "MEDIUM", "RESOLVED")]
    assert not bench.begun


def test_who_cannot_be_asked_is_told_when_the_journal_answers_again(bench: Bench) -> None:
    for _ in range(2):
        cannot_ask(bench, "shield")
    bench.journal.refusing = True
    cannot_ask(bench, "shield")
    bench.journal.refusing = False
    cannot_ask(bench, "shield")
    cannot_ask(bench, "shield")
    assert bench.heard("immune (watcher, asking)") == [ALERT]


def test_a_round_that_lasts_longer_than_the_interval_is_late(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    watcher = bench.watcher
    watcher.begin_round(bench.at())
    watcher.hear("sidecar", replace(UP, peer="sidecar"), bench.at())
    bench.now_s += INTERVAL_S * 2
    assert watcher.hear("shield", replace(DOWN, peer="shield"), bench.at()) == []
    assert watcher.end_round(bench.at()) == []
    assert watcher.doubt.doubting
    assert watcher.score == 0
    bench.round()
    assert watcher.score == 1, "the next one begins late, whatever the clock of the loop says"


def test_answers_out_of_turn_are_no_answers(bench: Bench) -> None:
    watcher = bench.watcher
    assert watcher.hear("shield", replace(DOWN, peer="shield"), bench.at()) == []
    watcher.begin_round(bench.at())
    for _ in range(5):
        watcher.hear("shield", replace(DOWN, peer="shield"), bench.at())
    watcher.break_off()
    assert watcher.end_round(bench.at()) == []
    assert watcher.status_of("shield").missed_count == 1
    assert watcher.total_checks == 3


# A journal that does not answer


def test_without_a_journal_peers_are_heard_and_nothing_is_ordered(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    bench.journal.refusing = True
    for misses in (3, 4, 5):
        assert bench.round(SILENT) == []
        assert bench.watcher.status_of("shield").missed_count == misses
    assert bench.watcher.status_of("shield").status is Status.OFFLINE
    assert "locked" in bench.watcher.trouble
    assert bench.doubts()
    bench.journal.refusing = False
    assert bench.rounds(2, SILENT) == []
    assert bench.watcher.trouble == ""
    assert actions(bench.rounds(1, SILENT)) == ["restart shield"]
    assert bench.heard("immune (watcher)") == [ALERT, ("alert", "MEDIUM", "RESOLVED")], "told when it could be"


@pytest.mark.parametrize("heard", [DOWN, UP])
def test_a_watcher_begun_without_its_journal_hears_acts_on_nobody_and_takes_up_what_it_left(
    bench: Bench, heard: Heartbeat
) -> None:
    bench.rounds(2, SILENT)
    bench.journal.refusing = True
    asked = bench.journal.asked
    bench.start()
    assert bench.journal.asked == asked + 1, "each question may take seconds"
    for misses in (1, 2, 3, 4):
        assert bench.round({"shield": heard}) == []
        assert bench.watcher.status_of("shield").missed_count == (misses if heard is DOWN else 0)
        assert bench.watcher.status_of("sidecar").status is Status.HEALTHY
    assert bench.doubts()
    assert "locked" in bench.watcher.trouble
    bench.journal.refusing = False
    assert bench.round({"shield": heard}) == [], "the first clean round does not end the doubt"
    assert bench.doubts()
    assert bench.watcher.trouble == ""
    assert actions(bench.rounds(2, {"shield": heard})) == (["restart shield"] if heard is DOWN else [])
    assert bench.heard("immune (watcher)") == [ALERT, ("alert", "MEDIUM", "RESOLVED")], "told when it could be"
    if heard is UP:
        assert bench.votes() == [], "what the one before said is taken back"


def test_who_was_started_without_a_journal_trusts_itself_no_sooner(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    bench.start()
    bench.journal.refusing = True
    bench.rounds(3, SILENT)
    bench.journal.refusing = False
    assert bench.rounds(1, SILENT) == []
    assert bench.doubts()
    assert bench.rounds(1, SILENT) == []
    assert actions(bench.rounds(1, SILENT)) == ["restart shield"]


@where_it_is_elsewhere
def test_without_a_mesh_peers_are_heard_and_nothing_is_ordered(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    bench.reach_mesh(reached=False)
    for misses in (3, 4, 5):
        assert bench.round(SILENT) == []
        assert bench.watcher.status_of("shield").missed_count == misses
    assert "does not answer" in bench.watcher.trouble
    assert bench.doubts()
    bench.reach_mesh(reached=True)
    assert bench.rounds(2, SILENT) == []
    assert bench.watcher.trouble == ""
    assert actions(bench.rounds(1, SILENT)) == ["restart shield"]
    assert bench.heard("immune (watcher)") == [ALERT, ("alert", "MEDIUM", "RESOLVED")], "told when it could be"


def test_a_journal_that_refuses_is_asked_once_a_round(bench: Bench) -> None:
    """A locked journal keeps every question waiting for seconds."""
    bench.journal.refusing = True
    asked = bench.journal.asked
    bench.round(BOTH_SILENT)
    assert bench.journal.asked == asked + 1


def test_what_a_round_heard_is_put_on_disk_once_and_a_quiet_one_costs_nothing(bench: Bench) -> None:
    assert bench.journal.flushed == 0
    bench.round(BOTH_SILENT)
    assert bench.journal.flushed == 1
    bench.rounds(2)
    flushed = bench.journal.flushed
    bench.rounds(5)
    assert bench.journal.flushed == flushed


def test_a_disk_that_takes_nothing_more_is_trouble(bench: Bench) -> None:
    bench.journal.disk_full = True
    bench.round(SILENT)
    assert "no space left" in bench.watcher.trouble
    assert bench.watcher.status_of("shield").missed_count == 1
    bench.journal.disk_full = False
    bench.round(SILENT)
    assert bench.watcher.trouble == ""


def test_what_could_not_be_written_is_written_when_it_can(bench: Bench) -> None:
    bench.journal.refusing = True
    bench.rounds(5, SILENT)
    bench.journal.refusing = False
    bench.round(SILENT)
    bench.start()
    assert bench.watcher.status_of("shield").missed_count == 6


@where_the_mesh_is_the_journal
def test_an_order_and_its_event_are_written_together_or_not_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.rounds(2, SILENT)
    with monkeypatch.context() as patched:
        patched.setattr(bench.journal, "record", full)
        assert bench.round(SILENT) == []
    assert bench.mesh.record("shield", bench.at()).token == 0
    assert bench.heard() == [ALERT]
    bench.rounds(2, SILENT)
    assert actions(bench.rounds(1, SILENT)) == ["restart shield"]


@where_it_is_elsewhere
@pytest.mark.parametrize("killed", [False, True])
def test_an_order_whose_event_was_lost_is_told_of_at_the_next_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """The mesh has the order, and the journal refused or the watcher was killed right then."""
    bench.rounds(2, SILENT)
    with monkeypatch.context() as patched:
        patched.setattr(bench.journal, "record", full)
        assert bench.round(SILENT) == []
    assert (bench.mesh.record("shield", bench.at()).token, bench.heard()) == (1, [ALERT])
    if killed:
        bench.start()
    bench.rounds(2, SILENT)
    assert bench.heard() == [ALERT, RESTART]
    assert [entry["token"] for entry in bench.trail("restart ordered")] == [1]
    assert actions(bench.rounds(2, SILENT)) == ["restart shield"], "nobody began it, and its time is up"


@pytest.mark.parametrize("killed", [False, True])
def test_a_storm_whose_event_was_lost_is_told_at_the_next_round(monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    bench = Bench(peers=(*FOUR, "scholar"))
    bench.round()
    with monkeypatch.context() as patched:
        patched.setattr(bench.journal, "record", full)
        bench.round(BOTH_SILENT)
    assert bench.heard("*") == []
    if killed:
        bench.start()
    bench.rounds(2, BOTH_SILENT)
    assert bench.heard("*") == [("alert", "CRITICAL", "FIRING")]
    bench.start()
    bench.rounds(2, BOTH_SILENT)
    assert bench.heard("*") == [("alert", "CRITICAL", "FIRING")]


def test_an_order_that_was_told_of_is_not_told_of_again(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    bench.round(SILENT, carry_out=False)
    bench.round(SILENT)
    bench.start()
    bench.round(SILENT, passes_s=0.0)
    assert bench.heard() == [ALERT, RESTART]
    assert len(bench.trail("restart ordered")) == 1


@where_it_is_elsewhere
def test_an_end_that_the_journal_did_not_take_is_told_when_it_is_said_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.rounds(2, SILENT)
    (order,) = bench.round(SILENT, carry_out=False)
    assert bench.watcher.may_begin(order, bench.at())
    with monkeypatch.context() as patched:
        patched.setattr(bench.journal, "record", full)
        with pytest.raises(JournalFailed):
            bench.watcher.settle(order, bench.at(), failed=True, outcome="exit code 1")
    assert bench.heard() == [ALERT, RESTART]
    for _ in range(2):
        bench.watcher.settle(order, bench.at(), failed=True, outcome="exit code 1")
    assert bench.heard() == [ALERT, RESTART, ("alert", "HIGH", "FIRING")]


def test_in_a_storm_only_a_unit_that_systemd_reports_down_is_restarted() -> None:
    bench = Bench(peers=(*FOUR, "scholar"))
    bench.round()
    orders = bench.rounds(9, {"shield": FAILED, "sidecar": DOWN})
    assert bench.watcher.storm.doubting
    assert not bench.doubts()
    assert set(actions(orders)) == {"restart shield"}
    assert bench.rounds(20, {"shield": FAILED, "sidecar": DOWN}) == [], "and nobody is isolated, evidence or not"


# What survives


def test_misses_budgets_and_standings_survive(bench: Bench) -> None:
    bench.rounds(5, SILENT)
    before = {peer: watched.standing for peer, watched in bench.watcher.peers.items()}
    bench.start()
    assert {peer: watched.standing for peer, watched in bench.watcher.peers.items()} == before
    assert before["shield"].missed_count == 5
    assert before["shield"].restart_count == 1


def test_a_reboot_and_clock_steps_change_nothing_that_is_believed(bench: Bench) -> None:
    bench.rounds(5, SILENT)
    before = bench.watcher.peers["shield"].standing
    bench.boot, bench.now_s, bench.wall_step_s = "next", 40.0, HOUR_S
    bench.start()
    assert bench.watcher.peers["shield"].standing == before
    assert bench.round(SILENT) == []
    assert actions(bench.rounds(1, SILENT)) == ["restart shield"], "the age of the last order means nothing now"
    assert bench.mesh.record("shield", bench.at()).restart_count == 2


def test_an_isolation_survives_everything(pair: Bench) -> None:
    both(pair, 12, SILENT)
    pair.boot, pair.now_s = "next", 40.0
    for name in pair.names:
        pair.start(name)
    assert both(pair, 10, SILENT) == []
    assert pair.watcher.status_of("shield").status is Status.ISOLATED


def test_what_a_killed_watcher_did_is_said_for_it(pair: Bench) -> None:
    both(pair, 11, SILENT)
    order = next(o for name in pair.names for o in pair.round(SILENT, name, passes_s=INTERVAL_S / 2, carry_out=False))
    assert pair.watchers[order.watcher].may_begin(order, pair.at())
    pair.isolate("shield")
    assert ARCHITECT not in pair.heard()
    both(pair, 4, SILENT)
    assert pair.heard().count(ARCHITECT) == 1
    assert pair.mesh.record("shield", pair.at()).order is OrderState.DONE
    pair.watchers[order.watcher].settle(order, pair.at(), failed=False, outcome="late word")
    assert pair.heard().count(ARCHITECT) == 1


def test_standings_that_nobody_can_read_begin_anew(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.rounds(1, SILENT)
    with bench.journal.transaction() as tx:
        tx.execute("UPDATE standing SET body = '{\"standing\": 7}'")
    bench.start()
    assert bench.watcher.peers["shield"].standing.missed_count == 0
    assert "what immune believed of shield cannot be read" in caplog.text
    assert actions(bench.rounds(4, SILENT)) == ["restart shield"]


@where_the_mesh_is_the_journal
def test_a_new_journal_under_a_running_watcher(bench: Bench) -> None:
    """Tokens begin again at 1: whatever the watcher knew of the old ones, it restarts once and waits."""
    bench.rounds(8, SILENT)
    with bench.journal.transaction() as tx:
        for table in ("orders", "peer", "standing", "observation", "sqlite_sequence"):
            tx.execute(f"DELETE FROM {table}")
    at_s = [bench.now_s for _ in range(12) if bench.round(SILENT)]
    assert [later - earlier for earlier, later in pairwise(at_s)] == [3 * INTERVAL_S] * 2


def test_counters(pair: Bench) -> None:
    both(pair, 12, SILENT)
    totals = [(w.total_checks, w.total_misses) for w in pair.watchers.values()]
    assert totals == [(26, 12), (13, 12)], "immune watches two, sidecar one"
    assert sum(w.total_restarts for w in pair.watchers.values()) == 3
    assert sum(w.total_isolations for w in pair.watchers.values()) == 1


# Words and deeds of a watcher that is not quite well


def test_a_slow_watcher_has_no_vote_before_it_would_act_itself(bench: Bench) -> None:
    slow_s, spoke = INTERVAL_S * 0.2, []
    for _ in range(5):
        bench.round(late_s=slow_s)
    for missed in range(1, 20):
        bench.round(SILENT, late_s=slow_s)
        enough = math.ceil(POLICY.missed_before_restart * (1 + bench.watcher.score / 2))
        [vote] = bench.votes()
        assert vote == (missed if missed >= enough else min(missed, POLICY.missed_before_restart - 1))
        spoke.append(vote >= POLICY.missed_before_restart)
    assert spoke.index(True) + 1 == enough > POLICY.missed_before_restart


def test_in_a_round_that_is_bad_from_its_beginning_nobody_is_voted_against(bench: Bench) -> None:
    bench.rounds(2, SILENT)
    bench.watcher.begin_round(bench.at(), suspended_s=INTERVAL_S)
    bench.watcher.hear("shield", replace(DOWN, peer="shield"), bench.at())
    assert bench.votes() == [], "and what was said before is taken back"
    bench.watcher.hear("sidecar", replace(UP, peer="sidecar"), bench.at())
    assert bench.watcher.end_round(bench.at()) == []
    assert bench.votes() == []


def test_a_storm_takes_the_votes_of_before_back() -> None:
    peers = ("shield", "sidecar", "warden", "keeper", "porter", "usher", "guard")
    bench = Bench(peers)
    bench.rounds(2, {"shield": DOWN})
    assert bench.votes() == [2]
    bench.round(dict.fromkeys(("shield", "sidecar", "warden", "keeper"), DOWN))
    assert (bench.watcher.storm.doubting, bench.watcher.doubt.doubting) == (True, False)
    assert set(bench.votes()) == {0}


@pytest.mark.parametrize("isolated", [UP, DOWN], ids=["heard", "silent"])
@pytest.mark.parametrize(("beat", "storm"), [(UP, False), (DOWN, True)])
def test_whom_somebody_let_back_is_waited_for(isolated: Heartbeat, beat: Heartbeat, storm: bool) -> None:
    """What is counted against it begins anew, so its answer may make this the round of a storm."""
    bench = Bench(policy=replace(POLICY, missed_before_restart=2))
    bench.round()
    bench.isolate("shield")
    bench.round({"shield": isolated, "sidecar": DOWN})
    bench.release("shield")
    bench.watcher.begin_round(bench.at())
    assert bench.watcher.hear("sidecar", replace(DOWN, peer="sidecar"), bench.at()) == []
    orders = bench.watcher.hear("shield", replace(beat, peer="shield"), bench.at())
    orders += bench.watcher.end_round(bench.at())
    assert (actions(orders), bench.watcher.storm.doubting) == ([] if storm else ["restart sidecar"], storm)


@pytest.mark.parametrize(("beat", "begins"), [(DOWN, False), (FAILED, True)])
def test_what_was_ordered_before_it_came_to_doubt_itself_is_not_begun(
    bench: Bench, beat: Heartbeat, begins: bool
) -> None:
    bench.rounds(2, {"shield": beat})
    [order] = bench.round({"shield": beat}, carry_out=False, passes_s=1.0)
    bench.round({"shield": beat}, late_s=INTERVAL_S, passes_s=1.0)
    assert bench.doubts()
    assert bench.watcher.may_begin(order, bench.at()) is begins


@pytest.mark.parametrize(
    ("timeout_s", "ticks"),
    [(Config().restart_timeout, [3, 6, 9, 12]), (60.0, [3, 8, 13, 18])],
)
def test_restarts_that_hang_shift_the_ladder_only_where_they_may_last_longer_than_an_interval(
    bench: Bench, timeout_s: float, ticks: list[int]
) -> None:
    """At 30 s: restarts at 90, 180 and 270 s and the isolation at 360 s, although no restart ends in time."""
    acted, under_way = list[int](), list[tuple[float, Order]]()
    for tick in range(1, ticks[-1] + 1):
        bench.now_s = 1000.0 + tick * INTERVAL_S
        while under_way and under_way[0][0] < bench.now_s:
            ended_s, order = under_way.pop(0)
            bench.now_s = ended_s
            bench.watcher.settle(order, bench.at(), failed=True, outcome="it hung")
        bench.now_s = 1000.0 + tick * INTERVAL_S
        for order in bench.round({"shield": FAILED}, carry_out=False, passes_s=0.0):
            assert bench.watcher.may_begin(order, bench.at())
            acted.append(tick)
            if order.action is Action.RESTART:
                under_way.append((bench.now_s + timeout_s, order))
    assert acted == ticks
    assert actions([order]) == ["isolate shield"]
