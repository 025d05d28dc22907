"""What actions do to an intent, and what the mesh of the host's journal then knows, in the same transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.meshes import START, at
from watchdog.errors import JournalFailed
from watchdog.intents import Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.mesh import coordinator_of
from watchdog.mesh.coordinator import Coordinator, Order, OrderRequest, Silence
from watchdog.model import Action

SHIELD = Where("/cg", 1, peer="shield")
LATER = START + timedelta(minutes=5)


@pytest.fixture
def journal() -> Journal:
    return Journal.in_memory()


@pytest.fixture
def mesh(journal: Journal) -> Coordinator:
    """One on which the peer was restarted once."""
    made = coordinator_of(journal)
    order = made.claim(OrderRequest("shield", Action.RESTART, "immune", "", 0, 0.0, 70.0), at(0.0))
    assert isinstance(order, Order)
    assert made.begin(order, at(0.0))
    return made


@pytest.mark.parametrize(
    ("states", "isolated", "restart_count"),
    [
        ([State.ISOLATING], False, 1),
        ([State.ISOLATING, State.ISOLATED], True, 1),
        ([State.ISOLATING, State.ISOLATED, State.ISOLATED], True, 1),
        ([State.ISOLATED], True, 1),
        ([State.ISOLATED, State.RELEASING], True, 1),
        ([State.ISOLATED, State.RELEASING, State.RELEASED], False, 0),
        ([State.ISOLATING, State.RELEASING, State.RELEASED], False, 0),
        ([State.ISOLATED, State.RELEASING, State.ISOLATING], False, 0),
        ([State.ISOLATED, State.RELEASING, State.ISOLATING, State.ISOLATED], True, 0),
        ([State.ISOLATING, State.UNDOING], False, 1),
        ([State.ISOLATING, State.UNDOING, State.FAILED], False, 1),
        ([State.SHADOW, State.ENDING, State.ENDED], False, 1),
    ],
)
def test_what_the_mesh_knows_of_an_intent(
    journal: Journal, mesh: Coordinator, states: list[State], isolated: bool, restart_count: int
) -> None:
    intents = Intents(journal)
    intent = intents.begin(SHIELD, Why("test"), With(), START, states[0])
    for state in states[1:]:
        intent = intents.change(intent, state, LATER)
    record = mesh.record("shield", at(400.0))
    assert record.isolated_since == (START if isolated else None)
    assert record.restart_count == restart_count


def test_a_peer_is_isolated_until_the_last_of_its_intents_is_over(journal: Journal, mesh: Coordinator) -> None:
    intents = Intents(journal)
    first, second = (intents.begin(SHIELD, Why("test"), With(), START, State.ISOLATED) for _ in range(2))
    intents.change(first, State.RELEASED, LATER)
    assert mesh.record("shield", at(400.0)).isolated
    intents.change(second, State.RELEASED, LATER)
    assert not mesh.record("shield", at(400.0)).isolated


def test_an_isolation_that_gets_another_peer_s_name_is_that_peer_s(journal: Journal, mesh: Coordinator) -> None:
    intents = Intents(journal)
    intent = intents.begin(replace(SHIELD, peer=""), Why("test"), With(), START, State.ISOLATED)
    assert [name for name, record in mesh.records(at(0.0)).items() if record.isolated] == []
    for name in ("shield", "sidecar"):
        intent = intents.change(intent, State.ISOLATED, LATER, where=replace(SHIELD, peer=name))
        assert [name for name, record in mesh.records(at(0.0)).items() if record.isolated] == [name]


def test_an_intent_and_what_is_told_of_it_are_one_transaction(journal: Journal, mesh: Coordinator) -> None:
    intents = Intents(journal)

    def isolate_and_fail() -> None:
        with journal.transaction():
            intents.begin(SHIELD, Why("test"), With(), START, State.ISOLATED)
            assert mesh.record("shield", at(0.0)).isolated
            raise JournalFailed("the disk is full")

    with pytest.raises(JournalFailed):
        isolate_and_fail()
    assert not mesh.record("shield", at(0.0)).isolated
    assert intents.in_force() == []


def test_the_end_of_a_silence_is_what_was_said_when_it_was_made(mesh: Coordinator) -> None:
    """Two clocks read one after the other are a little apart, and differently each time."""
    until = START + timedelta(minutes=30)
    mesh.silence(Silence("shield", until, "upgrade", "root"), at(0.0))
    for apart_s in (0.000007, -0.000003, 0.2):
        assert mesh.silences(at(100.0, wall_step_s=apart_s))["shield"].until == until
