"""What is said of a target that is not found, and of one that a safety rail refuses."""

from __future__ import annotations

import os

import pytest

from watchdog.actions import locate
from watchdog.config import DEFAULT_PATH, Config, Peer, without_file
from watchdog.errors import UsageError
from watchdog.rails import Facts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (without_file({}), f"there is no peer 'nemo': none is configured, by default in {DEFAULT_PATH}; write one"),
        (
            Config(peers=[Peer("shield", "http://127.0.0.1:9/healthz")]),
            "there is no peer 'nemo' in the configuration; known: shield; or name a --unit",
        ),
    ],
)
def test_a_peer_that_is_not_known(settings: Config, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        locate.configured_peer("nemo", settings)
    assert refused.value.one_line().startswith(said)


SHARED, SCATTERED = Facts(strangers=["pid 7 sshd"]), Facts(elsewhere=["pid 8 sleep 60"])


@pytest.mark.parametrize(
    ("facts", "agent", "adopting_helps"),
    [
        (SHARED, {2, 3}, True),
        (SCATTERED, {2, 3}, True),
        (Facts(holds_sshd=True), {2, 3}, False),
        (SHARED, {1}, False),
        (SCATTERED, {1, 2, 3}, False),
        (SHARED, {2, os.getpid()}, False),
    ],
)
def test_adopting_is_hinted_at_only_where_it_can_work(facts: Facts, agent: set[int], adopting_helps: bool) -> None:
    hint = locate.way_round(facts, agent)
    assert hint.startswith("if that is meant, say --force")
    assert ("--adopt" in hint) is adopting_helps
