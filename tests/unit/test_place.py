"""What the place of an isolation knows of the agents of its host."""

from __future__ import annotations

import pytest

from watchdog.actions import place
from watchdog.config import Config, Peer
from watchdog.errors import HostCannot
from watchdog.journal import Journal


def test_a_watcher_s_own_agent_is_found_cut_off_by_the_name_its_peers_know() -> None:
    own = Peer(name="shield", endpoint="http://127.0.0.1:9103/", unit="shield")
    other = Peer(name="immune", endpoint="http://127.0.0.1:9101/", unit="immune.service")
    try:
        found = place.configured(Config(self_name="shield", peers=[other]), Journal.in_memory(), own)
    except HostCannot as error:
        pytest.skip(error.message)
    assert found.peers == {"immune.service": "immune", "shield.service": "shield"}
