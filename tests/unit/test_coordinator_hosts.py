"""Two hosts of one mesh, each with its own boot and clock: what one said means the same to the other."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.memory_mesh import MemoryCoordinator
from tests.unit.meshes import BOOTED_BEFORE_S, ELSEWHERE, at, store, there
from watchdog.ladder import OrderState
from watchdog.mesh.coordinator import THIS_HOST, Denied, Member, Order, OrderRequest, Silence
from watchdog.model import Action

FRESH_S = 60.0
SHIELD = OrderRequest("shield", Action.RESTART, "immune", "3 misses", known_token=0, round_s=95.0, lease_s=70.0)
SCRIBE = replace(SHIELD, peer="scribe", host=ELSEWHERE)
T0 = at(100.0)


class Hosts:
    """`here` and `elsewhere`."""

    def __init__(self) -> None:
        kept = store()
        self.here = MemoryCoordinator(kept, THIS_HOST)
        self.elsewhere = MemoryCoordinator(kept, ELSEWHERE)

    def begun_here(self) -> Order:
        """An order for an agent of `here`, under way."""
        order = self.here.claim(SHIELD, T0)
        assert isinstance(order, Order)
        assert self.here.begin(order, T0)
        return order


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def by_the_other_clock(request: OrderRequest, **changed: object) -> OrderRequest:
    return replace(request, round_s=request.round_s + BOOTED_BEFORE_S, **changed)  # type: ignore[arg-type]


def test_an_order_under_way_on_one_host_is_under_way_for_the_other(hosts: Hosts) -> None:
    order = hosts.begun_here()
    known = hosts.elsewhere.record("shield", there(at(110.0)))
    assert (known.order, known.ordered_age_s, known.begun_age_s) == (OrderState.OPEN, 15.0, 10.0)
    again = by_the_other_clock(SHIELD, watcher="scribe", known_token=order.token)
    assert hosts.elsewhere.claim(again, there(at(169.9))) is Denied.LATE
    assert isinstance(hosts.elsewhere.claim(again, there(at(170.0))), Order)


def test_the_ladder_s_spacing_is_counted_from_the_round_of_whoever_ordered(hosts: Hosts) -> None:
    order = hosts.elsewhere.claim(by_the_other_clock(SHIELD), there(T0))
    assert isinstance(order, Order)
    assert hosts.here.record("shield", at(110.0)).ordered_age_s == 15.0


def test_the_votes_of_both_count_and_each_host_s_reboot_ends_its_own(hosts: Hosts) -> None:
    isolation = replace(SHIELD, action=Action.ISOLATE, voters=("immune", "scribe"), fresh_s=FRESH_S)
    hosts.here.suspect("immune", "shield", 3, T0)
    hosts.elsewhere.suspect("scribe", "shield", 4, there(at(90.0)))
    for asked, now in ((hosts.here, T0), (hosts.elsewhere, there(T0))):
        said = {each.watcher: each.age_s for each in asked.suspicions(now, FRESH_S)}
        assert said == {"immune": 0.0, "scribe": 10.0}
    rebooted = there(at(-3990.0, boot="next", wall_step_s=4_090.0))
    hosts.elsewhere.record("shield", rebooted)
    assert [each.watcher for each in hosts.here.suspicions(T0, FRESH_S)] == ["immune"]
    assert hosts.here.claim(isolation, T0) is Denied.VOTE_WITHDRAWN
    hosts.elsewhere.suspect("scribe", "shield", 1, rebooted)
    assert isinstance(hosts.here.claim(isolation, T0), Order)


def test_both_see_all_watchers(hosts: Hosts) -> None:
    hosts.here.attend("immune", "", T0)
    hosts.elsewhere.attend("scribe", "its loop was late", there(at(70.0)))
    found = [Member("immune", "", 0.0), Member("scribe", "its loop was late", 30.0)]
    assert hosts.here.members(T0, FRESH_S) == hosts.elsewhere.members(there(T0), FRESH_S) == found


def test_a_silence_holds_on_both(hosts: Hosts) -> None:
    hosts.elsewhere.silence(Silence("shield", T0.utc + timedelta(seconds=30), "upgrade", "root"), there(T0))
    assert hosts.here.silences(at(129.0))["shield"].until == T0.utc + timedelta(seconds=30)
    assert hosts.here.claim(SHIELD, at(129.0)) is Denied.SILENCED
    assert hosts.here.silences(at(130.0)) == {}


def test_tokens_grow_over_both(hosts: Hosts) -> None:
    tokens = []
    for turn in range(6):
        peer, asked, now = ("shield", hosts.here, T0) if turn % 2 else ("scribe", hosts.elsewhere, there(T0))
        request = replace(SHIELD, peer=peer, known_token=asked.record(peer, now).token)
        order = asked.claim(request, now)
        assert isinstance(order, Order)
        assert asked.finish(order.token, now, failed=False, outcome="done")
        tokens.append(order.token)
    assert tokens == sorted(set(tokens))


def test_one_restart_at_a_time_on_each_host(hosts: Hosts) -> None:
    hosts.begun_here()
    order = hosts.here.claim(SCRIBE, T0)
    assert isinstance(order, Order)
    assert hosts.elsewhere.claim(by_the_other_clock(SHIELD, peer="sidecar"), there(T0)) is Denied.BUSY
    assert hosts.elsewhere.claim(by_the_other_clock(SCRIBE, peer="prism"), there(T0)) is Denied.BUSY


def test_an_order_for_the_other_host_is_carried_out_there(hosts: Hosts) -> None:
    order = hosts.here.claim(SCRIBE, T0)
    assert isinstance(order, Order)
    assert hosts.elsewhere.orders_for(THIS_HOST, there(T0)) == []
    (found,) = hosts.elsewhere.orders_for(ELSEWHERE, there(at(110.0)))
    assert found == order
    assert hosts.elsewhere.begin(found, there(at(110.0)))
    assert hosts.elsewhere.stands(found, there(at(111.0)))
    assert hosts.here.record("scribe", at(115.0)).begun_age_s == 5.0
    assert hosts.elsewhere.finish(found.token, there(at(120.0)), failed=False, outcome="done")
    assert hosts.here.record("scribe", at(120.0)).order is OrderState.DONE


@pytest.mark.parametrize(
    ("order_host", "state", "age_s"), [(ELSEWHERE, OrderState.LAPSED, None), (THIS_HOST, OrderState.OPEN, 10.0)]
)
def test_a_reboot_ends_the_orders_of_its_host_and_no_others(
    hosts: Hosts, order_host: str, state: OrderState, age_s: float | None
) -> None:
    hosts.elsewhere.record("shield", there(T0))
    order = hosts.here.claim(replace(SHIELD, host=order_host), T0)
    assert isinstance(order, Order)
    assert hosts.here.begin(order, T0)
    hosts.elsewhere.record("shield", there(at(-3990.0, boot="next")))
    known = hosts.here.record("shield", at(110.0))
    assert (known.order, known.begun_age_s) == (state, age_s)


def test_what_a_host_did_while_the_mesh_was_out_of_reach_is_told_when_it_can_be(hosts: Hosts) -> None:
    hosts.elsewhere.isolated("shield", T0.utc)
    hosts.elsewhere.reached = False
    hosts.elsewhere.isolated("scribe", T0.utc)
    hosts.elsewhere.released("shield")
    assert [hosts.here.record(peer, T0).isolated for peer in ("shield", "scribe")] == [True, False]
    hosts.elsewhere.reached = True
    hosts.elsewhere.attend("scribe", "", there(T0))
    assert [hosts.here.record(peer, T0).isolated for peer in ("shield", "scribe")] == [False, True]
