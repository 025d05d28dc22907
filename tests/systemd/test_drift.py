"""What becomes of an isolated unit by others' hands, under a real systemd and watcher: found, repaired, told once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.systemd.mission_bed import PINS, Mission, wait_for, watcher
from tests.systemd.testbed import Testbed

pytestmark = pytest.mark.systemd

WATCHDOG_S = 60
UNIT, OTHER_NAME = "shield.service", "protector.service"
UNITS = "/run/systemd/system"
DROP_IN = f"{UNITS}/{UNIT}.d/50-watchdog-mesh.conf"
WHY = ("--reason", "a test")
AWAY = "away.scope"


@pytest.fixture(scope="module")
def mission(testbed: Testbed) -> Iterator[Mission]:
    """The agents, the architect, and one watcher."""
    cast = Mission(testbed)
    try:
        cast.set_up(watchdog_s=WATCHDOG_S)
        testbed.systemctl("start", watcher("immune"), timeout_s=120.0)
        yield cast
    finally:
        testbed.systemctl("stop", AWAY, OTHER_NAME, check=False)
        testbed.run(["rm", "-rf", f"{UNITS}/{OTHER_NAME}", f"{UNITS}/{OTHER_NAME}.d"])
        cast.tear_down()


@pytest.fixture
def isolated(mission: Mission) -> Iterator[Mission]:
    """shield is cut off, and the watcher has seen that all is well."""
    assert mission.document("isolate", "shield", *WHY)["gaps"] == []
    yield mission
    mission.document("release", "shield", *WHY)
    wait_for(lambda: not mission.rows(DRIFTING), "the episode has no end")


DRIFTING = """SELECT id FROM isolation WHERE body LIKE '%"drift":{%'"""


def events(mission: Mission) -> list[dict[str, Any]]:
    """What the architect was told of shield's isolation changing."""
    told = [hook["body"]["data"] for hook in mission.hooks()]
    return [each for each in told if each["peer_name"] == "shield" and "solated again" in each["reason"]]


def holds(mission: Mission, unit: str = UNIT) -> bool:
    seen = mission.document("verify", "shield")
    return bool(seen["holds"]) and seen["gaps"] == [] and seen["unit"] == unit


# What others do


def remove_the_drop_in(mission: Mission) -> None:
    mission.bed.run(["rm", DROP_IN])


def revert(mission: Mission) -> None:
    """As an administrator does who wonders about a drop-in: it goes, and systemd reads its files again."""
    mission.bed.run(["rm", "-r", f"{UNITS}/{UNIT}.d"])
    mission.bed.systemctl("daemon-reload")


def remove_the_pins(mission: Mission) -> None:
    mission.bed.run(["sh", "-c", f"rm -r {PINS}/*/slot-*"])


def move_out(mission: Mission) -> None:
    if not mission.bed.show(AWAY, "ControlGroup"):
        sleeping = f"setsid systemd-run --quiet --scope --unit={AWAY} sleep 1000 >/dev/null 2>&1 &"
        mission.bed.run(["sh", "-c", sleeping])
        wait_for(lambda: mission.bed.show(AWAY, "ControlGroup"), "the scope does not run")
    procs = f"/sys/fs/cgroup{mission.bed.show(AWAY, 'ControlGroup')}/cgroup.procs"
    mission.bed.run(["sh", "-c", f"echo {mission.bed.show(UNIT, 'MainPID')} >{procs}"])


@dataclass(frozen=True)
class Row:
    make: Callable[[Mission], None]
    said: str
    cause: str
    holds: bool
    """Whether all of it is cut off meanwhile."""


ROWS = [
    Row(remove_the_drop_in, "its drop-in is missing", "removed or rewrote the drop-in", holds=True),
    Row(revert, "its drop-in is missing", "removed or rewrote the drop-in", holds=True),
    Row(remove_the_pins, "the pins that its drop-in names are gone", "somebody removed files below", holds=True),
    Row(move_out, "left its cgroup", "systemd-run --scope or a login session moved it", holds=False),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.make.__name__)
def test_what_others_do_is_found_repaired_and_told_once(isolated: Mission, row: Row) -> None:
    before = len(events(isolated))
    stop(isolated)
    row.make(isolated)
    seen = isolated.document("verify", "shield")
    assert (seen["holds"], row.said in "; ".join(seen["gaps"])) == (row.holds, True), seen["gaps"]
    go_on(isolated)
    told = wait_for(lambda: events(isolated)[before:], "nobody was told")
    assert (told[0]["severity"], told[0]["state"]) == ("CRITICAL", "FIRING")
    assert row.said in told[0]["reason"]
    assert row.cause in told[0]["reason"]
    wait_for(lambda: holds(isolated), "it does not hold again")
    row.make(isolated)
    wait_for(lambda: drifted(isolated) >= 2 and holds(isolated), "it is not found again")
    assert len(events(isolated)) == before + 1
    kinds = [row["record"] for row in isolated.rows("SELECT record FROM audit ORDER BY seq DESC LIMIT 20")]
    assert row.cause in "".join(kinds)


def stop(mission: Mission) -> None:
    """The watcher looks away, so that the command is the first to see it."""
    mission.bed.systemctl("kill", "--signal=STOP", "--kill-whom=main", watcher("immune"))


def go_on(mission: Mission) -> None:
    mission.bed.systemctl("kill", "--signal=CONT", "--kill-whom=main", watcher("immune"))


def drifted(mission: Mission) -> int:
    """How often it has in this episode."""
    counted = """SELECT json_extract(body, '$.drift.count') AS n FROM isolation WHERE state = 'isolated'"""
    return mission.rows(counted)[0]["n"] or 0


def test_the_end_of_an_episode_is_told(mission: Mission) -> None:
    mission.document("isolate", "shield", *WHY)
    before = len(events(mission))
    remove_the_drop_in(mission)
    wait_for(lambda: len(events(mission)) > before, "nobody was told")
    assert not ends(mission)
    mission.document("release", "shield", *WHY)
    (state,) = wait_for(lambda: ends(mission), "its end was not told")
    assert state == "RESOLVED"


def ends(mission: Mission) -> list[str]:
    """The states of the events that tell of an episode of one drift of the drop-in, as it is over."""
    told = [hook["body"]["data"] for hook in mission.hooks()]
    return [each["state"] for each in told if each["reason"].count("it drifted once since")]


def test_a_restart_of_the_unit_is_repaired_and_no_alarm(isolated: Mission) -> None:
    before = len(events(isolated))
    isolated.bed.systemctl("restart", UNIT)
    wait_for(lambda: holds(isolated), "the guards are not back")
    assert len(events(isolated)) == before
    assert not isolated.rows(DRIFTING)


def test_an_isolation_follows_its_unit_to_another_name(isolated: Mission) -> None:
    before, heard = len(events(isolated)), isolated.heard("shield")
    isolated.bed.run(["mv", f"{UNITS}/{UNIT}", f"{UNITS}/{OTHER_NAME}"])
    isolated.bed.systemctl("daemon-reload")
    told = wait_for(lambda: events(isolated)[before:], "nobody was told")
    assert f"{UNIT} is named {OTHER_NAME} now" in told[0]["reason"]
    assert "somebody renamed the unit file" in told[0]["reason"]
    wait_for(lambda: holds(isolated, OTHER_NAME), "it does not hold again")
    assert isolated.bed.run(["test", "-e", DROP_IN], check=False).returncode != 0
    isolated.bed.systemctl("stop", UNIT)
    starts = len(isolated.starts("shield"))
    isolated.bed.systemctl("start", OTHER_NAME)
    wait_for(lambda: len(isolated.starts("shield")) > starts, "it did not start")
    wait_for(lambda: holds(isolated, OTHER_NAME), "it does not hold again")
    assert isolated.heard("shield") == heard
