"""Whose word counts as a vote, and what the whole mesh says at one moment."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.meshes import at
from watchdog.journal import Journal
from watchdog.ladder import PeerRecord, Policy
from watchdog.mesh.coordinator import Order, OrderRequest, Silence, Suspicion
from watchdog.mesh.local import LocalCoordinator
from watchdog.mesh.overview import Votes, look, votes_on
from watchdog.model import Action

POLICY = Policy()
VOTERS = {"immune", "sidecar"}
RESTARTED = PeerRecord(token=1, last_action=Action.RESTART, begun_age_s=60.0)


def says(watcher: str = "immune", missed_count: int = 3, age_s: float = 1.0, peer: str = "shield") -> Suspicion:
    return Suspicion(watcher, peer, missed_count, age_s)


@pytest.mark.parametrize(
    ("said", "record", "counts"),
    [
        (says(), PeerRecord(), True),
        (says(missed_count=2), PeerRecord(), False),
        (says(missed_count=0), PeerRecord(), False),
        (says(watcher="stranger"), PeerRecord(), False),
        (says(peer="sidecar"), PeerRecord(), False),
        (says(age_s=59.0), PeerRecord(), True),
        (says(age_s=55.0), RESTARTED, True),
        (says(age_s=55.1), RESTARTED, False),
        (says(age_s=55.1), PeerRecord(token=2, last_action=Action.ISOLATE, begun_age_s=60.0), True),
        (says(age_s=55.1), PeerRecord(token=2, last_action=Action.RESTART), True),
    ],
)
def test_whose_word_is_a_vote_60_s_after_a_restart(said: Suspicion, record: PeerRecord, counts: bool) -> None:
    assert votes_on("shield", [said], VOTERS, record, POLICY) == ({"immune"} if counts else set())


def test_the_whole_mesh() -> None:
    mesh = LocalCoordinator(Journal.in_memory())
    peers = ["shield", "sidecar", "immune"]
    mesh.attend("immune", "", at(100.0))
    mesh.attend("sidecar", "the clock jumped by +3600 s", at(110.0))
    mesh.suspect("immune", "shield", 3, at(100.0))
    mesh.suspect("sidecar", "shield", 2, at(110.0))
    mesh.suspect("immune", "*", 0, at(100.0))
    mesh.silence(Silence("sidecar", at(110.0).utc + timedelta(hours=1), "upgrade", "root"), at(110.0))
    seen = look(mesh, peers, lambda peer: {*peers} - {peer}, POLICY, at(120.0))
    assert [(member.watcher, member.self_doubt) for member in seen.members] == [
        ("immune", ""),
        ("sidecar", "the clock jumped by +3600 s"),
    ]
    assert seen.votes == {"shield": Votes(("immune",), wanted=2)}
    assert list(seen.silences) == ["sidecar"]


def test_votes_are_counted_from_the_last_restart() -> None:
    mesh = LocalCoordinator(Journal.in_memory())
    mesh.suspect("immune", "shield", 3, at(100.0))
    order = mesh.claim(OrderRequest("shield", Action.RESTART, "immune", "", 0, round_s=95.0, lease_s=70.0), at(100.0))
    assert isinstance(order, Order)

    def cast(now_s: float) -> tuple[str, ...]:
        return look(mesh, ["shield"], lambda _: VOTERS, POLICY, at(now_s)).votes["shield"].cast

    assert cast(100.0) == ("immune",)
    assert mesh.begin(order, at(100.0))
    assert cast(110.0) == ()
    mesh.suspect("immune", "shield", 4, at(130.0))
    assert cast(130.0) == ("immune",)
