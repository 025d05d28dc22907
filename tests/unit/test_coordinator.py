"""What every kind of Coordinator must do, edge by edge. A new kind is added to tests/unit/meshes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.meshes import KINDS, MeshOfKind, at
from watchdog.errors import WatchdogError
from watchdog.ladder import OrderState, PeerRecord
from watchdog.mesh.coordinator import Closed, Coordinator, Denied, Member, Order, OrderRequest, Silence
from watchdog.model import Action, Severity

LEASE_S = 70.0
FRESH_S = 60.0
SHIELD = OrderRequest("shield", Action.RESTART, "immune", "3 misses", known_token=0, round_s=95.0, lease_s=LEASE_S)
T0 = at(100.0)


@pytest.fixture(params=KINDS)
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MeshOfKind]:
    with KINDS[request.param](tmp_path / "state") as made:
        yield made


@pytest.fixture
def one(mesh: MeshOfKind) -> Coordinator:
    return mesh.connect()


@pytest.fixture
def other(mesh: MeshOfKind) -> Coordinator:
    return mesh.connect_other()


def claimed(coordinator: Coordinator, request: OrderRequest = SHIELD, now: float = 100.0) -> Order:
    order = coordinator.claim(request, at(now))
    assert isinstance(order, Order)
    return order


def begun(coordinator: Coordinator, request: OrderRequest = SHIELD, now: float = 100.0) -> Order:
    order = claimed(coordinator, request, now)
    assert coordinator.begin(order, at(now))
    return order


def isolation(known_token: int = 0, voters: tuple[str, ...] = ()) -> OrderRequest:
    return replace(SHIELD, action=Action.ISOLATE, known_token=known_token, voters=voters, fresh_s=FRESH_S)


# Records


def test_a_peer_never_heard_of_has_an_empty_record(one: Coordinator) -> None:
    assert one.record("shield", T0) == PeerRecord()
    assert one.records(T0) == {}


def test_all_watchers_read_the_same(one: Coordinator, other: Coordinator) -> None:
    order = begun(one)
    assert other.record("shield", T0) == one.record("shield", T0)
    assert other.records(T0) == {"shield": other.record("shield", T0)}
    found = other.record("shield", at(110.0))
    assert (found.ordered_age_s, found.begun_age_s) == pytest.approx((15.0, 10.0))
    assert found == PeerRecord(
        token=order.token,
        last_action=Action.RESTART,
        order=OrderState.OPEN,
        order_episode=1,
        episode=1,
        episode_open=True,
        restart_count=1,
        last_restart=T0.utc,
    )


def test_the_version_moves_when_another_watcher_changes_a_record(one: Coordinator, other: Coordinator) -> None:
    before = one.version()
    assert one.version() == before
    other.open_episode("shield", T0)
    assert one.version() != before


def test_an_isolation_is_in_the_record_until_the_release(one: Coordinator, other: Coordinator) -> None:
    for _ in range(2):
        other.isolated("shield", T0.utc)
        assert one.record("shield", at(500.0)).isolated_since == T0.utc
        assert one.records(T0)["shield"].isolated
        assert one.record("shield", at(1.0, boot="next")).isolated, "no reboot ends it"
    for _ in range(2):
        other.released("shield")
        assert not one.record("shield", T0).isolated
    other.released("never isolated")


# Suspicions


@pytest.mark.parametrize(("age_s", "counts"), [(0.0, True), (FRESH_S, True), (FRESH_S + 0.1, False)])
def test_a_suspicion_ages(one: Coordinator, other: Coordinator, age_s: float, counts: bool) -> None:
    one.suspect("immune", "shield", 3, T0)
    found = other.suspicions(at(100.0 + age_s), FRESH_S)
    assert [(s.watcher, s.peer, s.missed_count) for s in found] == ([("immune", "shield", 3)] if counts else [])
    assert [s.age_s for s in found] == pytest.approx([age_s] if counts else [])


def test_a_suspicion_is_replaced_and_taken_back(one: Coordinator, other: Coordinator) -> None:
    one.suspect("immune", "shield", 3, T0)
    one.suspect("immune", "shield", 4, at(130.0))
    other.suspect("sidecar", "shield", 3, at(130.0))
    assert sorted(s.missed_count for s in other.suspicions(at(131.0), FRESH_S)) == [3, 4]
    one.trust("immune", "shield")
    one.trust("immune", "shield")
    assert [s.watcher for s in other.suspicions(at(131.0), FRESH_S)] == ["sidecar"]


def test_a_reboot_ends_what_the_watchers_of_its_host_suspect(one: Coordinator, other: Coordinator) -> None:
    one.suspect("immune", "shield", 3, T0)
    assert one.suspicions(at(10.0, boot="next"), FRESH_S) == []
    assert one.suspicions(at(110.0, boot="next"), FRESH_S) == []
    one.suspect("immune", "shield", 1, at(110.0, boot="next"))
    assert [s.missed_count for s in one.suspicions(at(110.0, boot="next"), FRESH_S)] == [1]


# Episodes


def test_an_episode_begins_once_and_ends_once(one: Coordinator, other: Coordinator) -> None:
    assert one.open_episode("shield", T0) == 1
    assert other.open_episode("shield", T0) is None
    assert other.close_episode("shield", T0, FRESH_S) == Closed(1, None)
    assert one.close_episode("shield", T0, FRESH_S) is None
    assert one.open_episode("shield", T0) == 2
    assert one.open_episode("sidecar", T0) == 1


@pytest.mark.parametrize(
    ("told", "loudest"),
    [
        ([], None),
        ([Severity.MEDIUM], Severity.MEDIUM),
        ([Severity.HIGH, Severity.MEDIUM], Severity.HIGH),
        ([Severity.MEDIUM, Severity.CRITICAL, Severity.HIGH], Severity.CRITICAL),
    ],
)
def test_the_loudest_that_people_were_told(one: Coordinator, told: list[Severity], loudest: Severity | None) -> None:
    one.open_episode("shield", T0)
    one.told("shield", Severity.CRITICAL)
    one.close_episode("shield", T0, FRESH_S)
    one.told("shield", Severity.CRITICAL)
    one.open_episode("shield", T0)
    for severity in told:
        one.told("shield", severity)
    assert one.close_episode("shield", T0, FRESH_S) == Closed(2, loudest)


def test_an_episode_does_not_end_while_somebody_still_suspects(one: Coordinator, other: Coordinator) -> None:
    one.open_episode("shield", T0)
    other.suspect("sidecar", "shield", 1, T0)
    other.suspect("sidecar", "scribe", 1, T0)
    assert one.close_episode("shield", at(160.0), FRESH_S) is None
    assert one.close_episode("shield", at(160.1), FRESH_S) == Closed(1, None)


def test_an_episode_does_not_end_while_the_peer_is_isolated(one: Coordinator) -> None:
    one.open_episode("shield", T0)
    one.isolated("shield", T0.utc)
    assert one.close_episode("shield", T0, FRESH_S) is None
    one.released("shield")
    assert one.close_episode("shield", T0, FRESH_S) == Closed(1, None)


# Orders: who gets one


def test_one_of_two_gets_the_order(one: Coordinator, other: Coordinator) -> None:
    first = claimed(one)
    assert other.claim(replace(SHIELD, watcher="sidecar"), T0) is Denied.LATE
    assert (first.peer, first.watcher, first.episode) == ("shield", "immune", 1)


@pytest.mark.parametrize("known", [-1, 1])
def test_who_knows_another_newest_order_decided_too_late(one: Coordinator, known: int) -> None:
    first = begun(one)
    one.finish(first.token, T0, failed=False, outcome="ok")
    assert one.claim(replace(SHIELD, known_token=first.token + known), T0) is Denied.LATE
    assert isinstance(one.claim(replace(SHIELD, known_token=first.token), T0), Order)


def test_tokens_grow_over_all_peers(one: Coordinator, other: Coordinator) -> None:
    tokens = []
    for number in range(6):
        peer, coordinator = ("shield", one) if number % 2 else ("sidecar", other)
        known = coordinator.record(peer, T0).token
        order = begun(coordinator, replace(SHIELD, peer=peer, known_token=known))
        coordinator.finish(order.token, T0, failed=True, outcome="")
        tokens.append(order.token)
    assert tokens == sorted(set(tokens))


def test_nobody_orders_for_an_isolated_peer(one: Coordinator) -> None:
    one.isolated("shield", T0.utc)
    assert one.claim(SHIELD, T0) is Denied.LATE


def test_nobody_orders_in_a_silence(one: Coordinator, other: Coordinator) -> None:
    other.silence(Silence("shield", T0.utc + timedelta(seconds=10), "upgrade", "root"), T0)
    assert one.claim(SHIELD, at(109.9)) is Denied.SILENCED
    assert one.claim(isolation(), at(109.9)) is Denied.SILENCED
    assert isinstance(one.claim(replace(SHIELD, peer="sidecar"), at(109.9)), Order)
    assert isinstance(one.claim(isolation(), at(110.0)), Order)


def test_one_agent_at_a_time_is_restarted(one: Coordinator, other: Coordinator) -> None:
    first = begun(one)
    sidecar = replace(SHIELD, peer="sidecar", watcher="sidecar")
    assert other.claim(sidecar, T0) is Denied.BUSY
    assert isinstance(other.claim(replace(isolation(), peer="scribe"), T0), Order)
    one.finish(first.token, T0, failed=False, outcome="ok")
    assert isinstance(other.claim(sidecar, T0), Order)


def test_agents_of_two_hosts_are_restarted_at_the_same_time(one: Coordinator, other: Coordinator) -> None:
    begun(one)
    elsewhere = replace(SHIELD, peer="sidecar", watcher="sidecar", host="elsewhere")
    order = claimed(other, elsewhere)
    assert order.host == "elsewhere"
    assert other.claim(replace(elsewhere, peer="scribe"), T0) is Denied.BUSY


def test_a_lease_that_ran_out_keeps_nobody_busy(one: Coordinator, other: Coordinator) -> None:
    begun(one)
    assert other.claim(replace(SHIELD, peer="sidecar"), at(169.9)) is Denied.BUSY
    assert isinstance(other.claim(replace(SHIELD, peer="sidecar"), at(170.0)), Order)


def test_an_order_rests_on_votes_that_are_still_there(one: Coordinator, other: Coordinator) -> None:
    one.suspect("immune", "shield", 3, T0)
    other.suspect("sidecar", "shield", 3, T0)
    other.trust("sidecar", "shield")
    assert one.claim(isolation(voters=("immune", "sidecar")), T0) is Denied.VOTE_WITHDRAWN
    one.suspect("sidecar", "shield", 3, at(100.0, boot="before"))
    assert one.claim(isolation(voters=("immune", "sidecar")), T0) is Denied.VOTE_WITHDRAWN
    one.suspect("immune", "shield", 4, at(160.1))
    other.suspect("sidecar", "shield", 4, T0)
    assert one.claim(isolation(voters=("immune", "sidecar")), at(160.1)) is Denied.VOTE_WITHDRAWN, "it is too old"
    assert isinstance(one.claim(isolation(voters=("immune", "sidecar")), at(160.0)), Order)


def test_a_denied_order_changes_nothing(one: Coordinator) -> None:
    first = begun(one)
    before = one.record("shield", T0)
    assert one.claim(replace(SHIELD, known_token=first.token), T0) is Denied.LATE
    assert one.record("shield", T0) == before


# Orders: who may still act


def test_a_restart_counts_when_it_is_begun(one: Coordinator) -> None:
    order = claimed(one)
    assert one.record("shield", T0).restart_count == 0
    assert one.begin(order, at(101.0))
    assert one.record("shield", T0).restart_count == 1
    assert one.record("shield", T0).last_restart == at(101.0).utc


def test_an_isolation_counts_as_no_restart(one: Coordinator) -> None:
    begun(one, isolation())
    assert (one.record("shield", T0).restart_count, one.record("shield", T0).last_restart) == (0, None)


def silence(mesh: MeshOfKind) -> None:
    mesh.connect_other().silence(Silence("shield", at(200.0).utc, "upgrade", "root"), T0)


def let_back(mesh: MeshOfKind) -> None:
    """By an operator who cut it off by hand: what is counted against it begins anew."""
    other = mesh.connect_other()
    other.isolated("shield", T0.utc)
    other.released("shield")


def recover(mesh: MeshOfKind) -> None:
    assert mesh.connect_other().close_episode("shield", at(105.0), 0.0) is not None


def relapse(mesh: MeshOfKind) -> None:
    recover(mesh)
    assert mesh.connect_other().open_episode("shield", at(105.0)) is not None


def weaken(mesh: MeshOfKind) -> None:
    mesh.connect_other().suspect("sidecar", "shield", 0, at(105.0))


def withdraw(mesh: MeshOfKind) -> None:
    mesh.connect_other().trust("sidecar", "shield")


MEANWHILE: dict[str, tuple[Callable[[MeshOfKind], object], bool]] = {
    "nothing": (lambda mesh: None, True),
    "silenced": (silence, False),
    "isolated": (lambda mesh: mesh.connect_other().isolated("shield", T0.utc), False),
    "isolated and released": (let_back, False),
    "another one released": (lambda mesh: mesh.connect_other().released("scribe"), True),
    "recovered": (recover, False),
    "relapsed": (relapse, False),
    "vote withdrawn": (withdraw, False),
    "no vote any more": (weaken, False),
    "another's vote": (lambda mesh: mesh.connect_other().trust("scribe", "shield"), True),
    "voted again": (lambda mesh: mesh.connect_other().suspect("sidecar", "shield", 9, at(105.0)), True),
}
"""What may happen to an order, and whether it is carried out all the same."""


@pytest.mark.parametrize(("meanwhile", "begins"), MEANWHILE.values(), ids=MEANWHILE)
def test_what_may_happen_between_an_order_and_its_beginning(
    mesh: MeshOfKind, meanwhile: Callable[[MeshOfKind], None], begins: bool
) -> None:
    one = mesh.connect()
    for watcher in ("immune", "sidecar"):
        one.suspect(watcher, "shield", 3, T0)
    order = claimed(one, isolation(voters=("immune", "sidecar")))
    meanwhile(mesh)
    assert one.begin(order, at(106.0)) is begins


@pytest.mark.parametrize("silent", ["immune", "sidecar"])
def test_an_order_is_begun_and_stands_on_votes_that_are_fresh(
    one: Coordinator, other: Coordinator, silent: str
) -> None:
    """A voter that was stopped or killed since repeats nothing, and takes nothing back."""
    for watcher in ("immune", "sidecar"):
        one.suspect(watcher, "shield", 3, T0)
    order = claimed(one, isolation(voters=("immune", "sidecar")))
    other.suspect("sidecar" if silent == "immune" else "immune", "shield", 4, at(160.0))
    assert not one.begin(order, at(160.1))
    assert one.begin(order, at(160.0))
    assert not one.stands(order, at(160.1))
    other.suspect(silent, "shield", 4, at(160.1))
    assert one.stands(order, at(160.1))


@pytest.mark.parametrize(("meanwhile", "stands"), MEANWHILE.values(), ids=MEANWHILE)
def test_what_may_happen_between_the_beginning_of_an_order_and_the_act(
    mesh: MeshOfKind, meanwhile: Callable[[MeshOfKind], None], stands: bool
) -> None:
    one = mesh.connect()
    for watcher in ("immune", "sidecar"):
        one.suspect(watcher, "shield", 3, T0)
    order = begun(one, isolation(voters=("immune", "sidecar")))
    meanwhile(mesh)
    assert one.stands(order, at(106.0)) is stands


def test_only_an_order_that_is_under_way_stands(one: Coordinator, other: Coordinator) -> None:
    order = claimed(one)
    assert not one.stands(order, T0)
    assert one.begin(order, T0)
    assert one.stands(order, at(169.9))
    assert not one.stands(order, at(170.0))
    assert not one.stands(order, at(1.0, boot="x"))
    assert not one.stands(replace(order, watcher="sidecar"), T0)
    newer = claimed(other, replace(SHIELD, watcher="sidecar", known_token=order.token), 171.0)
    assert not one.stands(order, at(171.0))
    assert other.begin(newer, at(171.0))
    other.finish(newer.token, at(172.0), failed=False, outcome="done")
    assert not other.stands(newer, at(172.0))


@pytest.mark.parametrize(
    ("now", "boot", "begins"),
    [(169.9, "boot", True), (170.0, "boot", False), (500.0, "boot", False), (1.0, "x", False)],
)
def test_an_order_is_begun_within_its_lease_or_not_at_all(
    one: Coordinator, now: float, boot: str, begins: bool
) -> None:
    order = claimed(one)
    assert one.begin(order, at(now, boot=boot)) is begins
    assert one.record("shield", T0).restart_count == (1 if begins else 0)


def test_an_order_is_begun_once(one: Coordinator, other: Coordinator) -> None:
    order = begun(one)
    assert not one.begin(order, T0)
    assert not other.begin(order, T0)
    assert one.record("shield", T0).restart_count == 1


def test_an_order_that_was_overtaken_is_not_begun(one: Coordinator, other: Coordinator) -> None:
    stale = claimed(one)
    newer = claimed(other, replace(SHIELD, watcher="sidecar", known_token=stale.token), 170.0)
    assert newer.token > stale.token
    assert not one.begin(stale, at(171.0))
    assert other.begin(newer, at(171.0))


def test_an_order_that_is_over_or_anothers_is_not_begun(one: Coordinator) -> None:
    order = claimed(one)
    for forged in (replace(order, watcher="sidecar"), replace(order, peer="sidecar"), replace(order, token=99)):
        assert not one.begin(forged, T0)
    one.finish(order.token, T0, failed=True, outcome="dropped")
    assert not one.begin(order, T0)


def test_orders_for_a_host_are_those_that_wait_to_be_begun(one: Coordinator, other: Coordinator) -> None:
    for watcher in ("immune", "sidecar"):
        one.suspect(watcher, "shield", 3, T0)
    assert other.orders_for("elsewhere", T0) == []
    restart = claimed(one, replace(SHIELD, peer="scribe", host="elsewhere"))
    isolate = claimed(one, replace(isolation(voters=("immune", "sidecar")), host="elsewhere"))
    claimed(one, replace(SHIELD, peer="sidecar"))
    assert other.orders_for("elsewhere", T0) == [restart, isolate]
    assert other.begin(other.orders_for("elsewhere", T0)[0], at(101.0)), "whoever was given it, it is begun there"
    assert other.orders_for("elsewhere", at(101.0)) == [isolate]
    assert not one.begin(restart, at(102.0))
    assert other.orders_for("elsewhere", at(170.0)) == [], "its lease is over"


def test_a_reboot_ends_the_orders_that_wait_for_its_host(one: Coordinator) -> None:
    order = claimed(one)
    assert one.orders_for(order.host, T0) == [order]
    assert one.orders_for(order.host, at(1.0, boot="next")) == []


# Orders: how they end


@pytest.mark.parametrize(
    ("action", "begins", "failed", "ended", "in_vain"),
    [
        (Action.RESTART, True, False, OrderState.DONE, False),
        (Action.RESTART, True, True, OrderState.FAILED, False),
        (Action.RESTART, True, None, OrderState.LAPSED, False),
        (Action.RESTART, False, True, OrderState.VOID, True),
        (Action.RESTART, False, None, OrderState.VOID, True),
        (Action.ISOLATE, True, False, OrderState.DONE, False),
        (Action.ISOLATE, True, True, OrderState.FAILED, True),
        (Action.ISOLATE, True, None, OrderState.LAPSED, True),
        (Action.ISOLATE, False, False, OrderState.VOID, True),
    ],
)
def test_how_an_order_ends(
    one: Coordinator, action: Action, begins: bool, failed: bool | None, ended: OrderState, in_vain: bool
) -> None:
    """`failed` is None when nobody says how it ended."""
    order = claimed(one, replace(SHIELD, action=action))
    if begins:
        assert one.begin(order, T0)
    assert one.record("shield", at(169.9)).order is OrderState.OPEN
    if failed is not None:
        assert one.finish(order.token, at(110.0), failed=failed, outcome="why")
        assert one.record("shield", at(110.0)).order is ended
    assert one.record("shield", at(170.0)).order is ended
    assert one.record("shield", at(1.0, boot="next")).order is ended
    assert one.record("shield", at(170.0)).in_vain is in_vain


def test_an_order_ends_once_and_another_may_end_a_dead_ones(one: Coordinator, other: Coordinator) -> None:
    order = begun(one, isolation())
    assert other.finish(order.token, at(500.0), failed=False, outcome="said for it")
    assert other.finish(order.token, at(501.0), failed=False, outcome="said for it"), "it may be said again"
    assert not one.finish(order.token, at(501.0), failed=False, outcome="late")
    assert not one.finish(order.token, at(501.0), failed=True, outcome="said for it")
    assert one.record("shield", at(502.0)).order is OrderState.DONE
    assert not one.finish(12345, T0, failed=True, outcome="no such order")


def test_the_age_of_an_order_is_not_known_after_a_reboot(one: Coordinator) -> None:
    begun(one)
    known = one.record("shield", at(500.0))
    assert (known.ordered_age_s, known.begun_age_s) == pytest.approx((405.0, 400.0))
    rebooted = one.record("shield", at(500.0, boot="next"))
    assert (rebooted.ordered_age_s, rebooted.begun_age_s) == (None, None)


def test_isolations_that_came_to_nothing_are_counted_until_anybody_is_released(
    one: Coordinator, other: Coordinator
) -> None:
    def tried(now: float) -> int:
        return other.record("shield", at(now)).isolations_tried

    order = claimed(one, isolation())
    assert one.finish(order.token, T0, failed=True, outcome="never begun")
    assert tried(101.0) == 0
    for number in (1, 2):
        order = begun(one, isolation(order.token))
        assert one.finish(order.token, T0, failed=True, outcome="a rail")
        assert tried(101.0) == number
    assert other.records(at(101.0))["shield"].isolations_tried == 2
    lapsed = begun(one, isolation(order.token))
    assert tried(1000.0) == 3, "nobody said how it ended"
    one.isolated("scribe", T0.utc)
    one.released("scribe")
    assert tried(1002.0) == 0
    begun(one, replace(SHIELD, known_token=lapsed.token), 1003.0)
    assert tried(1004.0) == 0, "the newest order is a restart"


def test_isolations_that_came_to_nothing_are_counted_anew_in_another_trouble(
    one: Coordinator, other: Coordinator
) -> None:
    """It is not to wait for what failed in one that is over."""
    order = begun(one, isolation())
    assert one.finish(order.token, T0, failed=True, outcome="a rail")
    assert one.close_episode("shield", T0, 0.0) is not None
    order = begun(one, isolation(order.token))
    assert one.finish(order.token, T0, failed=True, outcome="a rail")
    assert other.record("shield", at(101.0)).isolations_tried == 1


def test_an_order_is_not_begun_after_a_newer_one_by_a_clock_read_before_it(
    one: Coordinator, other: Coordinator
) -> None:
    """Its watcher was stopped after it had read the clock, past the lease, and wakes up."""
    old = claimed(one)
    later = 100.0 + LEASE_S + 1.0
    newer = claimed(other, replace(SHIELD, watcher="sidecar", known_token=old.token, round_s=later - 5.0), later)
    assert not one.begin(old, T0)
    assert other.begin(newer, at(later))


def test_an_order_that_was_not_begun_has_no_beginning(one: Coordinator) -> None:
    claimed(one)
    assert one.record("shield", T0).begun_age_s is None


# Forgiveness


@pytest.mark.parametrize(
    ("now", "boot", "step_s", "counted"),
    [
        (100.0, "boot", 0.0, 1),
        (999.9, "boot", 0.0, 1),
        (1000.0, "boot", 0.0, 0),
        (999.9, "boot", 3600.0, 1),
        (1000.0, "boot", -3600.0, 0),
        (10.0, "next", 100.0, 1),
        (10.0, "next", 989.0, 1),
        (10.0, "next", 1001.0, 0),
        (10.0, "next", -800.0, 1),
        (10.0, "next", -3600.0, 0),
    ],
)
def test_restarts_are_counted_in_a_window(
    one: Coordinator, other: Coordinator, now: float, boot: str, step_s: float, counted: int
) -> None:
    """Begun at 100 s, looked at over 900 s. Its own boot's clock counts; after a reboot the wall clock does, and
    as much longer as its round was old."""
    order = begun(one)
    one.finish(order.token, T0, failed=False, outcome="it came up")
    assert one.forgive("shield", one.record("shield", T0), T0)
    assert other.restarts("shield", 900.0, at(now, boot=boot, wall_step_s=step_s)) == counted
    assert other.restarts("sidecar", 900.0, at(now, boot=boot, wall_step_s=step_s)) == 0


def test_what_was_never_begun_or_was_before_a_release_is_no_restart(one: Coordinator) -> None:
    order = claimed(one)
    assert one.restarts("shield", 900.0, T0) == 0
    assert one.begin(order, T0)
    assert one.restarts("shield", 900.0, T0) == 1
    one.finish(order.token, T0, failed=False, outcome="it came up")
    one.isolated("shield", T0.utc)
    one.released("shield")
    assert one.restarts("shield", 900.0, at(102.0)) == 0


def test_one_restart_is_forgiven_once(one: Coordinator, other: Coordinator) -> None:
    order = begun(one)
    one.finish(order.token, T0, failed=False, outcome="ok")
    known = one.record("shield", T0)
    assert other.forgive("shield", known, T0)
    assert not one.forgive("shield", known, T0)
    assert one.record("shield", T0).restart_count == 0
    assert not one.forgive("shield", one.record("shield", T0), T0)


def test_a_release_begins_the_count_anew(one: Coordinator) -> None:
    begun(one)
    one.isolated("shield", T0.utc)
    assert one.record("shield", T0).restart_count == 1
    one.released("shield")
    assert one.record("shield", T0).restart_count == 0


# Silences


HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("now", "boot", "step_s", "silenced"),
    [
        (1899.0, "boot", 0.0, True),
        (1900.0, "boot", 0.0, False),
        (1899.0, "boot", HOUR_S, True),
        (1900.0, "boot", -HOUR_S, False),
        (10.0, "next", 1800.0, True),
        (10.0, "next", 1890.0, False),
        (10.0, "next", HOUR_S, False),
    ],
    ids=["in time", "over", "clock set forward", "clock set back", "after a reboot", "over after it", "long after it"],
)
def test_a_silence_ends_in_time(one: Coordinator, now: float, boot: str, step_s: float, silenced: bool) -> None:
    """Made at 100 s for half an hour. Its own boot's clock counts; after a reboot the wall clock does."""
    one.silence(Silence("shield", T0.utc + timedelta(minutes=30), "upgrade", "root"), T0)
    moment = at(now, boot=boot, wall_step_s=step_s)
    assert ("shield" in one.silences(moment)) is silenced


def test_a_silence_says_who_why_and_until_when_on_the_clock_as_it_is(one: Coordinator, other: Coordinator) -> None:
    one.silence(Silence("shield", T0.utc + timedelta(minutes=30), "upgrade", "root"), T0)
    found = other.silences(at(200.0, wall_step_s=HOUR_S))["shield"]
    assert found == Silence("shield", T0.utc + timedelta(minutes=30, seconds=HOUR_S), "upgrade", "root")


def test_a_silence_is_replaced_and_ended(one: Coordinator, other: Coordinator) -> None:
    one.silence(Silence("shield", T0.utc + timedelta(minutes=30), "upgrade", "root"), T0)
    other.silence(Silence("shield", T0.utc + timedelta(minutes=1), "shorter", "root"), T0)
    assert list(one.silences(at(159.9))) == ["shield"]
    assert one.silences(at(160.0)) == {}
    assert other.unsilence("shield")
    assert not one.unsilence("shield")


# A backend that does not answer


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.attend("immune", "", T0),
        lambda c: c.members(T0, FRESH_S),
        lambda c: c.record("shield", T0),
        lambda c: c.records(T0),
        lambda c: c.version(),
        lambda c: c.suspect("immune", "shield", 1, T0),
        lambda c: c.trust("immune", "shield"),
        lambda c: c.suspicions(T0, FRESH_S),
        lambda c: c.open_episode("shield", T0),
        lambda c: c.close_episode("shield", T0, FRESH_S),
        lambda c: c.told("shield", Severity.HIGH),
        lambda c: c.claim(SHIELD, T0),
        lambda c: c.orders_for("elsewhere", T0),
        lambda c: c.begin(Order(1, "shield", 1, Action.RESTART, "immune", ""), T0),
        lambda c: c.stands(Order(1, "shield", 1, Action.RESTART, "immune", ""), T0),
        lambda c: c.finish(1, T0, failed=False, outcome=""),
        lambda c: c.forgive("shield", PeerRecord(restart_count=1), T0),
        lambda c: c.restarts("shield", 900.0, T0),
        lambda c: c.silence(Silence("shield", at(200.0).utc, "", ""), T0),
        lambda c: c.unsilence("shield"),
        lambda c: c.silences(T0),
    ],
)
def test_a_backend_that_does_not_answer_is_one_kind_of_error(
    mesh: MeshOfKind, ask: Callable[[Coordinator], object]
) -> None:
    with pytest.raises(WatchdogError):
        ask(mesh.fail())


# Members


def test_members_are_those_heard_of_lately(one: Coordinator, other: Coordinator) -> None:
    one.attend("immune", "", at(100.0))
    one.attend("shield", "its loop was 40 s late", at(130.0))
    assert other.members(at(160.0), FRESH_S) == [
        Member("immune", "", 60.0),
        Member("shield", "its loop was 40 s late", 30.0),
    ]
    assert [member.watcher for member in other.members(at(160.1), FRESH_S)] == ["shield"]
    assert other.members(at(160.0, wall_step_s=-3600.0), FRESH_S) != [], "no clock step makes a member older"


def test_a_member_says_whom_it_misses_and_hears(one: Coordinator, other: Coordinator) -> None:
    one.attend("immune", "its own agent is gone", at(100.0), {"shield": 3, "immune": 1, "scribe": 0})
    assert other.members(at(100.0), FRESH_S) == [
        Member("immune", "its own agent is gone", 0.0, {"immune": 1, "scribe": 0, "shield": 3})
    ]
    [said] = other.members(at(100.0), FRESH_S)
    assert (said.missing, said.heard) == ({"shield", "immune"}, {"scribe"})
    one.attend("immune", "", at(130.0))
    assert other.members(at(130.0), FRESH_S)[0].misses == {}, "it knows nothing"


def test_a_member_s_last_word_on_itself_counts(one: Coordinator, other: Coordinator) -> None:
    one.attend("immune", "the clock jumped by +3600 s", at(100.0))
    other.attend("immune", "", at(130.0))
    assert one.members(at(130.0), FRESH_S) == [Member("immune", "", 0.0)]


def test_a_reboot_ends_the_membership_of_its_host_s_watchers(one: Coordinator) -> None:
    one.attend("immune", "", at(100.0))
    assert one.members(at(130.0, boot="another"), FRESH_S) == []
    one.attend("immune", "", at(10.0, boot="another"))
    assert one.members(at(130.0), FRESH_S) == []
    assert one.members(at(10.0, boot="another"), FRESH_S) == [Member("immune", "", 0.0)]
