"""An agent whose stop takes longer than a restart may: who else is restarted meanwhile, and what the status says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.systemd import faults
from tests.systemd.mission_bed import AGENTS, RUN, Mission, wait_for, watcher
from tests.systemd.testbed import Testbed

pytestmark = pytest.mark.systemd

STOP_S = 8
FIRST_BEGUN = "SELECT begun_s FROM orders WHERE peer = 'sidecar' AND begun_s IS NOT NULL ORDER BY token LIMIT 1"
RULES = f"""
interval = "{faults.INTERVAL_S:g}s"
timeout = "600ms"
restart_timeout = "1s"
"""


@pytest.fixture
def mission(testbed: Testbed) -> Iterator[Mission]:
    """All of it running."""
    cast = Mission(testbed)
    try:
        cast.set_up(watchdog_s=120, rules=RULES)
        testbed.systemctl("start", *map(watcher, AGENTS), timeout_s=120.0)
        wait_for(lambda: "HEALTHY" in cast.believed("shield").values(), "it is not healthy")
        yield cast
    finally:
        cast.tear_down()


def detail(mission: Mission, peer: str) -> str:
    """What immune's watcher says of a peer."""
    path = mission.bed.root / RUN.lstrip("/") / "watcher-immune.json"
    return next(str(each["detail"]) for each in json.loads(path.read_text())["peers"] if each["name"] == peer)


def test_nobody_else_is_restarted_while_systemd_still_stops_the_one_before(mission: Mission) -> None:
    with faults.drop_in(mission, "shield.service", "ExecStop=/bin/sleep 600", f"TimeoutStopSec={STOP_S}s"):
        mission.silence("shield")
        wait_for(lambda: mission.orders("shield", "restart")[:1] == ["failed"], "the restart did not time out")
        mission.silence("sidecar")
        wait_for(lambda: "waiting for shield: shield.service is deactivating" in detail(mission, "sidecar"), "not said")
        assert mission.orders("sidecar", "restart") == []
        begun = wait_for(lambda: mission.rows(FIRST_BEGUN), "nobody restarted it")[0]
        stopped_s = int(mission.bed.show("shield.service", "InactiveExitTimestampMonotonic")) / 1e6
        assert stopped_s < begun["begun_s"], "shield had not stopped"
    mission.let_speak("shield")
    mission.let_speak("sidecar")
