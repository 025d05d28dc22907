"""Self-doubt, storm, health score and quorum as tables, and what holds for every number of peers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.ladder import Policy
from watchdog.mesh.coordinator import Member
from watchdog.quorum import (
    MOST_SCORE,
    Doubt,
    Round,
    against_another_restart,
    budget_since_s,
    contradicted,
    is_agreed,
    is_storm,
    judge_round,
    judge_storm,
    may_isolate,
    may_still_doubt,
    reasons_to_doubt,
    score_after,
    stretched,
    too_many,
    votes_wanted,
    who_contradicts,
)

CLEAN = Round(peers=2, newly_gone=0, gone=0)
LOST = Round(peers=2, newly_gone=2, gone=2)
STILL_GONE = Round(peers=2, newly_gone=0, gone=2)
ONE_GONE = Round(peers=2, newly_gone=0, gone=1)


@pytest.mark.parametrize(
    ("gone", "peers", "too_many_are"),
    [
        (0, 0, False),
        (1, 1, False),
        (1, 2, False),
        (2, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 4, True),
        (2, 5, False),
        (3, 5, True),
        (9, 20, False),
        (10, 20, True),
    ],
)
def test_half_of_the_peers_and_at_least_two(gone: int, peers: int, too_many_are: bool) -> None:
    assert too_many(gone, peers) is too_many_are


@pytest.mark.parametrize(
    ("changed", "doubts"),
    [
        ({}, False),
        ({"newly_gone": 1, "gone": 1}, False),
        ({"newly_gone": 2, "gone": 2}, True),
        ({"newly_gone": 1, "gone": 2}, False),
        ({"own_endpoint": "no answer"}, True),
        ({"coordinator": "the journal is locked"}, True),
        ({"alone_against": "shield"}, True),
        ({"contradicted": 1}, True),
        ({"clock_jump_s": 5.0}, False),
        ({"clock_jump_s": 5.1}, True),
        ({"clock_jump_s": -5.1}, True),
        ({"clock_jump_s": 3600.0}, True),
        ({"suspended_s": 15.0}, False),
        ({"suspended_s": 15.1}, True),
        ({"late_s": 15.0}, False),
        ({"late_s": 15.1}, True),
        ({"late_s": 0.6, "interval_s": 1.0}, True),
    ],
)
def test_reasons_to_doubt(changed: dict[str, object], doubts: bool) -> None:
    assert bool(reasons_to_doubt(replace(CLEAN, **changed))) is doubts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rounds", "doubts"),
    [
        ([LOST], True),
        ([LOST, CLEAN], True),
        ([LOST, CLEAN, CLEAN], False),
        ([LOST, CLEAN, STILL_GONE, CLEAN], True),
        ([LOST, STILL_GONE, STILL_GONE, STILL_GONE], True),
        ([LOST, ONE_GONE, ONE_GONE], False),
        ([LOST, CLEAN, LOST, CLEAN], True),
        ([ONE_GONE, ONE_GONE], False),
        ([STILL_GONE], False),
        ([LOST, Round(peers=1, newly_gone=0, gone=1), Round(peers=1, newly_gone=0, gone=1)], True),
        ([LOST, Round(peers=0, newly_gone=0, gone=0), Round(peers=0, newly_gone=0, gone=0)], False),
        ([replace(CLEAN, late_s=99.0), Round(1, 0, 1), Round(1, 0, 1)], False),
        ([LOST, replace(CLEAN, late_s=99.0), Round(1, 0, 1), Round(1, 0, 1)], True),
        ([LOST, Round(2, 0, 0, unheard=2), Round(2, 0, 1, unheard=1)], True),
        ([replace(CLEAN, late_s=99.0), Round(2, 0, 0, unheard=2), CLEAN], True),
        ([LOST, Round(2, 0, 0, unheard=1), Round(2, 0, 1)], False),
        ([replace(STILL_GONE, alone_against="shield"), STILL_GONE, STILL_GONE], True),
        ([replace(STILL_GONE, alone_against="shield"), ONE_GONE, ONE_GONE], False),
        ([replace(STILL_GONE, alone_against="shield"), Round(1, 0, 1), Round(1, 0, 1)], True),
        ([replace(LOST, peers=3), *[replace(STILL_GONE, peers=3, silenced_gone=1)] * 2], True),
        ([replace(CLEAN, late_s=99.0), *[replace(STILL_GONE, silenced_gone=1)] * 2], False),
        ([replace(CLEAN, late_s=99.0), *[replace(STILL_GONE, peers=3)] * 2], True),
    ],
    ids=[
        "entered at once",
        "one clean tick is not enough",
        "two are",
        "they must follow each other",
        "nobody is back",
        "one of two is the ordinary case",
        "lost again",
        "one by one is no doubt",
        "gone before is no news",
        "deaf, and all but one isolated by others",
        "deaf, and all isolated",
        "late, and the only peer is dead",
        "deaf, then late",
        "deaf, and nobody could be asked",
        "who asks nobody is not well again",
        "one answer is enough",
        "gone one by one, and alone in that",
        "alone, and somebody is back",
        "alone, and all but one isolated by others",
        "deaf, and one of those that are gone is silenced",
        "late, and one of those that are gone is silenced",
        "late, and two of three are gone",
    ],
)
def test_doubt_from_round_to_round(rounds: list[Round], doubts: bool) -> None:
    doubt = Doubt()
    for seen in rounds:
        doubt = judge_round(doubt, seen)
    assert doubt.doubting is doubts


@pytest.mark.parametrize(
    ("suspect", "peers", "storm"),
    [
        (1, 2, False),
        (2, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 5, True),
        (2, 6, False),
        (3, 6, True),
        (7, 20, True),
    ],
)
def test_more_than_a_third_and_at_least_two(suspect: int, peers: int, storm: bool) -> None:
    assert is_storm(suspect, peers) is storm


@pytest.mark.parametrize(
    ("seen", "storm"),
    [
        ([(2, 2)], True),
        ([(2, 2), (0, 2), (0, 2)], True),
        ([(2, 2), (0, 1)], True),
        ([(2, 2), (0, 1), (0, 1)], False),
        ([(2, 2), (0, 1), (0, 2), (0, 1)], True),
        ([(1, 2)], False),
    ],
)
def test_a_storm_from_tick_to_tick(seen: list[tuple[int, int]], storm: bool) -> None:
    doubt = Doubt()
    for newly_suspect, gone in seen:
        doubt = judge_storm(doubt, newly_suspect, Round(5, 0, gone))
    assert doubt.doubting is storm


def test_a_storm_is_not_over_while_nobody_can_be_asked() -> None:
    storm = judge_storm(Doubt(), 2, Round(5, 0, 2))
    for _ in range(3):
        storm = judge_storm(storm, 0, Round(5, 0, 0, unheard=2))
    assert storm.doubting
    for _ in range(2):
        storm = judge_storm(storm, 0, Round(5, 0, 0, unheard=1))
    assert not storm.doubting


@pytest.mark.parametrize(
    ("score", "late_s", "after"),
    [(0, 3.0, 0), (0, 3.1, 1), (8, 9.0, 8), (8, 0.0, 7), (1, 0.0, 0), (0, 0.0, 0)],
)
def test_the_local_health_score(score: int, late_s: float, after: int) -> None:
    assert score_after(score, late_s, 30.0) == after


@pytest.mark.parametrize(("score", "misses"), [(0, 3), (1, 5), (2, 6), (3, 8), (8, 15)])
def test_a_slow_watcher_is_patient(score: int, misses: int) -> None:
    assert stretched(Policy(), score).missed_before_restart == misses


THREE = frozenset({"immune", "sidecar"})
"""Three agents: these two have a vote on the third."""


@pytest.mark.parametrize(
    ("votes", "accused", "evidence", "may"),
    [
        ({"immune", "sidecar"}, set(), "", True),
        ({"immune"}, set(), "", False),
        ({"immune"}, set(), "shield.service is failed", True),
        (set(), set(), "shield.service is failed", False),
        (set(), set(), "", False),
        ({"immune"}, {"immune"}, "", False),
        ({"immune", "sidecar"}, {"immune"}, "", True),
        ({"immune", "sidecar"}, {"immune", "sidecar"}, "", True),
        ({"immune"}, {"immune"}, "shield.service is failed", True),
        ({"immune", "stranger"}, set(), "", False),
        ({"stranger"}, set(), "shield.service is failed", False),
        ({"immune", "shield"}, set(), "", False),
    ],
    ids=[
        "2 of 2",
        "1 of 2",
        "1 of 2 and evidence",
        "evidence and no vote",
        "nothing",
        "mutual accusation without a third word",
        "mutual accusation with a third word",
        "it accuses both",
        "mutual accusation and evidence",
        "who is not configured has no vote",
        "nor with evidence",
        "nor has the peer itself",
    ],
)
def test_the_rules_for_three_agents(votes: set[str], accused: set[str], evidence: str, may: bool) -> None:
    against = may_isolate(watchers=THREE, votes=votes, accused_by_peer=accused, evidence=evidence, policy=Policy())
    assert (against == "") is may


@pytest.mark.parametrize(
    ("votes", "watchers", "may"),
    [
        (1, 1, False),
        (1, 2, False),
        (2, 2, True),
        (1, 3, False),
        (2, 3, True),
        (2, 4, False),
        (3, 4, True),
        (3, 5, True),
    ],
)
def test_a_strict_majority_of_the_configured_watchers_and_two_at_least(votes: int, watchers: int, may: bool) -> None:
    names = [f"watcher-{number}" for number in range(watchers)]
    against = may_isolate(watchers=names, votes=names[:votes], accused_by_peer=(), evidence="", policy=Policy())
    assert (against == "") is may
    assert (votes >= votes_wanted(watchers, Policy())) is may


@pytest.mark.parametrize(("evidence", "single_observer"), [("its unit failed", False), ("", True)])
def test_when_a_single_word_is_enough(evidence: str, single_observer: bool) -> None:
    policy = Policy(single_observer=single_observer)
    votes = {"immune"}
    assert not may_isolate(watchers=votes, votes=votes, accused_by_peer=(), evidence=evidence, policy=policy)


def test_two_agents_that_accuse_each_other_isolate_nobody() -> None:
    against = may_isolate(
        watchers={"immune"}, votes={"immune"}, accused_by_peer={"immune"}, evidence="", policy=Policy()
    )
    assert "accuse each other" in against


def said(hear: str, miss: str = "", doubt: str = "", know_nothing: str = "") -> list[Member]:
    """A letter for each watcher: who hears shield, misses it, does and doubts itself, and who cannot ask it."""
    return [
        *(word(name, hears="shield") for name in hear),
        *(word(name, misses="shield") for name in miss),
        *(word(name, "deaf", misses="shield") for name in doubt),
        *(word(name, hears="somebody") for name in know_nothing),
    ]


def word(watcher: str, doubt: str = "", *, misses: str = "", hears: str = "") -> Member:
    """What one watcher last said, of peers whose names are separated by spaces."""
    return Member(watcher, doubt, 1.0, dict.fromkeys(misses.split(), 3) | dict.fromkeys(hears.split(), 0))


@pytest.mark.parametrize(
    ("gone", "members", "contradicted_by"),
    [
        ({"shield", "sidecar"}, said("bc"), {"b", "c"}),
        ({"shield", "sidecar"}, said("b", "c"), set()),
        ({"shield", "sidecar"}, said("b", doubt="c"), {"b"}),
        ({"shield", "sidecar"}, said("", doubt="bc"), set()),
        ({"shield", "sidecar"}, [], set()),
        ({"scribe", "sidecar"}, [word("b", misses="shield", hears="sidecar")], {"b"}),
        ({"shield", "sidecar"}, said("", know_nothing="bc"), set()),
        ({"shield", "sidecar"}, said("b", know_nothing="c"), {"b"}),
    ],
    ids=[
        "all hear them",
        "one misses one",
        "it doubts itself",
        "all doubt themselves",
        "nobody",
        "it misses another",
        "who can ask none of them hears none of them",
        "nor does it speak for who hears one",
    ],
)
def test_who_contradicts_a_watcher_that_hears_nobody(
    gone: set[str], members: list[Member], contradicted_by: set[str]
) -> None:
    assert who_contradicts(gone, members) == contradicted_by


BOTH = "shield sidecar"


@pytest.mark.parametrize(
    ("missed", "members", "count"),
    [
        ({"shield": 3, "sidecar": 3}, said("bc"), 1),
        ({"shield": 3, "sidecar": 3}, [word("b", hears=BOTH), word("c", hears=BOTH)], 2),
        ({"shield": 9, "sidecar": 2}, said("bc"), 1),
        ({"shield": 2, "sidecar": 2}, said("bc"), 0),
        ({"shield": 3, "sidecar": 3}, said("b"), 0),
        ({"shield": 3, "sidecar": 3}, said("b", "c"), 0),
        ({"shield": 3, "sidecar": 3}, said("b", doubt="c"), 0),
        ({"shield": 3, "sidecar": 3}, said("b", know_nothing="c"), 0),
        ({"shield": 3, "sidecar": 3}, [word("shield", hears="shield"), word("sidecar", hears="sidecar")], 0),
        ({"shield": 3, "sidecar": 3}, said("bcd", "e"), 1),
        ({"shield": 3, "sidecar": 3}, said("bcd", "ef"), 0),
        ({"shield": 3}, said("bcd"), 0),
        ({"shield": 3, "sidecar": 3, "scribe": 3, "scout": 3}, said("bc"), 0),
    ],
    ids=[
        "two hear one of them",
        "two hear both",
        "the others' words may be older than the misses",
        "both of them",
        "one word against another",
        "most miss one",
        "one that doubts itself has no word",
        "nor has one that cannot ask",
        "whoever hears its own agent proves nothing of the links",
        "three against two, this watcher counted",
        "three against three",
        "one peer is no storm",
        "without those that are heard it is a storm all the same",
    ],
)
def test_whose_storm_others_contradict(missed: dict[str, int], members: list[Member], count: int) -> None:
    assert contradicted(missed, 5, members) == count


@pytest.mark.parametrize(
    ("members", "agreed"),
    [
        ([word("scribe", misses=BOTH)], True),
        ([word("scribe", "storm", misses=BOTH), word("scout", "deaf", misses=BOTH)], True),
        ([word("shield", "own", misses=BOTH), word("sidecar", "own", misses=BOTH)], True),
        ([word("shield", misses="sidecar", hears="shield"), word("sidecar", misses="shield", hears="sidecar")], False),
        ([], False),
        ([word("sidecar", misses="shield", hears="sidecar")], False),
        ([word("scribe", misses=BOTH), word("scout", misses="shield", hears="sidecar")], False),
        ([word("scribe", misses=BOTH), word("scout", "deaf", hears=BOTH)], False),
        ([word("shield", "deaf", misses=f"{BOTH} immune")], False),
        ([word("shield", "deaf", misses=f"{BOTH} immune"), word("scout", misses=BOTH)], True),
        ([word("scribe", misses=BOTH), word("scout", hears="immune")], True),
        ([word("scout", hears="immune")], False),
        ([word("scribe", misses="shield")], False),
    ],
    ids=[
        "another one misses both",
        "whether they trust themselves or not",
        "their own watchers do",
        "their own watchers hear them",
        "nobody else is there",
        "nobody else has a word on one",
        "one of them is heard",
        "also by one that doubts itself",
        "the only other one misses even whom this one hears",
        "one of the others misses even whom this one hears",
        "who can ask neither says nothing against it",
        "nor for it",
        "who can ask one of them is no witness for both",
    ],
)
def test_when_all_agree_on_who_is_gone(members: list[Member], agreed: bool) -> None:
    assert is_agreed(BOTH.split(), {"immune"}, members) is agreed
    assert not is_agreed((), {"immune"}, members)
    assert not is_agreed(BOTH.split(), (), members), "this watcher heard nobody at all"


SETTLED = replace(STILL_GONE, agreed=True)


@pytest.mark.parametrize(
    ("rounds", "over"),
    [
        ([SETTLED] * 3, False),
        ([SETTLED] * 4, True),
        ([STILL_GONE] * 9, False),
        ([SETTLED] * 3 + [STILL_GONE] + [SETTLED] * 3, False),
        ([SETTLED] * 3 + [replace(SETTLED, newly_gone=1)] + [SETTLED] * 3, False),
        ([SETTLED] * 3 + [replace(SETTLED, unheard=1)] + [SETTLED] * 3, False),
        ([SETTLED] * 3 + [replace(SETTLED, own_endpoint="no answer")] + [SETTLED] * 3, False),
        ([replace(SETTLED, own_endpoint="no answer")] * 9, False),
        ([replace(SETTLED, late_s=99.0)] * 9, False),
    ],
)
def test_what_settled_and_is_agreed_on_ends_doubt_and_storm(rounds: list[Round], over: bool) -> None:
    doubt, storm = judge_round(Doubt(), LOST), judge_storm(Doubt(), 2, LOST)
    for seen in rounds:
        doubt, storm = judge_round(doubt, seen), judge_storm(storm, 0, seen)
    assert doubt.doubting is storm.doubting is not over


@pytest.mark.parametrize(
    ("voters", "members", "may"),
    [
        ("ab", said("b", "a"), False),
        ("ab", said("", "ab"), True),
        ("ab", said("", "a"), True),
        ("ab", said("", "a", doubt="b"), True),
        ("a", said("s", "a"), True),
        ("abcd", said("d", "abc"), True),
        ("abcd", said("cd", "ab"), False),
        ("abcd", said("d", "ab", doubt="c"), False),
        ("abcd", said("d", "abx"), False),
        ("ab", said("", "a", know_nothing="b"), True),
        ("ab", [word("b", "its loop was late", hears="shield")], True),
    ],
    ids=[
        "the other one hears it",
        "nobody hears it",
        "the other one is not there",
        "the other one doubts itself",
        "who has no vote is not asked",
        "three of four miss it",
        "two of four",
        "who doubts itself is none of those that miss it",
        "who has no vote is none of them either",
        "who cannot ask it does not hear it",
        "who doubts itself is none of those that hear it",
    ],
)
def test_who_may_restart_a_peer_once_more(voters: str, members: list[Member], may: bool) -> None:
    assert (against_another_restart("shield", "a", voters, members, 3) == "") is may


@pytest.mark.parametrize(("misses", "may"), [(0, False), (1, False), (2, False), (3, True), (99, True)])
def test_who_lost_a_heartbeat_or_two_still_contradicts(misses: int, may: bool) -> None:
    members = [Member("b", "", 1.0, {"shield": misses})]
    assert (against_another_restart("shield", "a", "ab", members, 3) == "") is may


@pytest.mark.parametrize(
    ("misses", "others", "since_s"),
    [
        (3, [], 1275.0 + 90.0),
        (100, [], 1275.0 + 3000.0),
        (100, [Member("b", "", 1.0, {"shield": 100})], 1275.0 + 3000.0),
        (100, [Member("b", "", 1.0, {"shield": 3})], 1275.0 + 90.0),
        (100, [Member("b", "", 1.0, {"shield": 0})], 1275.0),
        (100, [Member("b", "", 1.0, {"scribe": 0})], 1275.0 + 3000.0),
        (100, [Member("b", "late", 1.0, {"shield": 0})], 1275.0 + 3000.0),
        (100, [Member("shield", "", 1.0, {"shield": 0})], 1275.0 + 3000.0),
    ],
    ids=[
        "alone",
        "it has been silent ever since",
        "for another one as well",
        "another one heard it two minutes ago",
        "another one hears it",
        "another one cannot ask it",
        "another one doubts itself",
        "the peer's own watcher has no vote",
    ],
)
def test_how_old_the_restarts_may_be_that_lead_to_an_isolation(
    misses: int, others: list[Member], since_s: float
) -> None:
    """A quarter of an hour, three times the three misses and a restart of 35 s, and how long it has been silent."""
    assert budget_since_s("shield", misses, "ab", others, Policy(), 35.0) == since_s


COUNTS = st.integers(0, 30)


@given(st.lists(st.builds(lambda p, n, g: Round(p, min(n, g, p), min(g, p)), COUNTS, COUNTS, COUNTS), max_size=20))
def test_doubt_ends_only_after_two_rounds_that_were_clean(rounds: list[Round]) -> None:
    doubt = Doubt()
    for before, seen in zip([None, *rounds], rounds, strict=False):
        was, doubt = doubt, judge_round(doubt, seen)
        assert doubt.doubting or not too_many(seen.newly_gone, seen.peers)
        if was.doubting and not doubt.doubting:
            assert before is not None
            assert not too_many(before.gone, before.peers)
            assert not too_many(seen.gone, seen.peers)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_who_waits_for_answers_never_acts_too_early(newly_gone: int, unknown: int, more: int, peers: int) -> None:
    """Whatever of the unknown turns out to be gone: if that makes it a round of doubt, it was waited for."""
    if too_many(newly_gone + min(more, unknown), peers):
        assert may_still_doubt(newly_gone, unknown, peers)


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_a_minority_without_evidence_isolates_nobody(watchers: set[str], votes: set[str], accused: set[str]) -> None:
    against = may_isolate(watchers=watchers, votes=votes, accused_by_peer=accused, evidence="", policy=Policy())
    counted = len(votes & watchers)
    assert bool(against) is (counted * 2 <= len(watchers) or counted < 2)


@given(st.lists(st.booleans(), max_size=40))
def test_the_score_stays_in_its_range(slow: list[bool]) -> None:
    score = 0
    for each in slow:
        score = score_after(score, 30.0 if each else 0.0, 30.0)
        assert 0 <= score <= MOST_SCORE
