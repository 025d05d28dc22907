"""The mission on a real systemd, with nothing faked: three agents, three watchers, an architect who must be told.

shield goes silent in a way that restarts cannot cure. The watchers are killed at several stages of the ladder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.systemd.mission_bed import AGENTS, INTERVAL_S, STATE, Mission, is_whole, wait_for, watcher
from tests.systemd.testbed import Testbed

pytestmark = pytest.mark.systemd

WATCHDOG_S = 5
WATCHERS_OF_SHIELD = ("immune", "sidecar")
RESTARTS_BY_HAND = 3


@pytest.fixture(scope="module")
def mission(testbed: Testbed) -> Iterator[Mission]:
    """All of it running, everybody healthy."""
    cast = Mission(testbed)
    try:
        cast.set_up(watchdog_s=WATCHDOG_S)
        testbed.systemctl("start", *map(watcher, AGENTS), timeout_s=120.0)
        wait_for(lambda: everybody_is_healthy(cast), "somebody is not healthy")
        yield cast
    finally:
        cast.tear_down()


def everybody_is_healthy(mission: Mission) -> bool:
    believed = [mission.believed(name) for name in AGENTS]
    return all(len(each) == len(AGENTS) - 1 and set(each.values()) == {"HEALTHY"} for each in believed)


def kill(mission: Mission, name: str, signal: str = "KILL") -> None:
    mission.bed.systemctl("kill", f"--signal={signal}", "--kill-whom=main", watcher(name))


def test_a_hung_agent_is_restarted_once_and_is_well(mission: Mission) -> None:
    before = mission.starts("sidecar")
    mission.bed.systemctl("kill", "--signal=STOP", "--kill-whom=main", "sidecar.service")
    wait_for(lambda: len(mission.starts("sidecar")) > len(before), "it was not restarted")
    wait_for(lambda: everybody_is_healthy(mission), "it is not healthy again")
    wait_for(lambda: ("RESOLVED", "alert", "HIGH") in mission.told("sidecar"), "nobody told that it is well")
    wait_for(lambda: mission.orders("sidecar", "restart") == ["done"], "the restart did not end well")
    assert len(mission.starts("sidecar")) == len(before) + 1
    assert mission.orders("sidecar", "isolate") == []


def test_a_watcher_that_hangs_is_begun_anew_by_systemd(mission: Mission) -> None:
    """Type=notify and WatchdogSec= at work; the others go on, and nobody is accused."""
    unit, told = watcher("sidecar"), len(mission.hooks())
    restarts = int(mission.bed.show(unit, "NRestarts"))
    kill(mission, "sidecar", "STOP")
    wait_for(lambda: int(mission.bed.show(unit, "NRestarts")) == restarts + 1, "it was not begun anew")
    wait_for(lambda: mission.bed.show(unit, "ActiveState") == "active", "it is not ready again")
    wait_for(lambda: everybody_is_healthy(mission), "somebody is not healthy")
    assert [hook["body"]["data"]["severity"] for hook in mission.hooks()[told:]].count("CRITICAL") == 0


def test_the_whole_mission(mission: Mission) -> None:
    first = mission.starts("shield")
    mission.silence("shield")
    climb(mission, len(first))
    cut_off(mission, len(first))
    restart_by_hand(mission)
    let_back(mission)
    nothing_was_doubled_or_forgotten(mission, len(first))


def climb(mission: Mission, starts: int) -> None:
    """Exactly one restart a rung, whoever is killed in between."""
    for rung, victim in enumerate(("immune", "sidecar", ""), 1):
        wait_for(lambda: mission.orders("shield", "restart") == ["done"] * rung, f"no restart {rung}")  # noqa: B023
        assert len(mission.starts("shield")) == starts + rung
        if victim:
            kill(mission, victim)


def cut_off(mission: Mission, starts: int) -> None:
    wait_for(lambda: mission.orders("shield", "isolate") == ["done"], "it was not isolated")
    for name in AGENTS:
        kill(mission, name)
    assert len(mission.starts("shield")) == starts + 3
    assert len(set(mission.starts("shield"))) == starts + 3
    assert mission.in_force() == [("shield", "isolated")]
    others = {name: mission.heard(name) for name in WATCHERS_OF_SHIELD}
    heard = mission.heard("shield")
    wait_for(
        lambda: all(mission.heard(name) > before for name, before in others.items()), "the others are cut off, too"
    )
    verified = mission.document("verify", "shield")
    assert is_whole(verified), verified
    assert verified["dropped"]["egress"]["packets"] > 0
    inside = wait_for(lambda: mission.document("verify", "shield")["inside"], "no watcher tried it from inside")
    assert (inside["passed"], inside["wrong"]) == (True, []), inside
    assert mission.heard("shield") == heard
    wait_for(
        lambda: mission.told("shield").count(("FIRING", "alert_architect", "CRITICAL")), "the architect was not told"
    )
    wait_for(lambda: set(mission.believed("shield").values()) == {"ISOLATED"}, "a watcher forgot the isolation")


def restart_by_hand(mission: Mission) -> None:
    """It comes back isolated, and nothing gets out in between, although it talks from its first moment on."""
    heard, starts = mission.heard("shield"), len(mission.starts("shield"))
    for _ in range(RESTARTS_BY_HAND):
        mission.bed.systemctl("restart", "shield.service")
        starts += 1
        wait_for(lambda: len(mission.starts("shield")) == starts, "it did not start")  # noqa: B023
    wait_for(lambda: is_whole(mission.document("verify", "shield")), "the guards are not back")
    assert mission.heard("shield") == heard
    assert mission.in_force() == [("shield", "isolated")]


def let_back(mission: Mission) -> None:
    mission.let_speak("shield")
    rounds = mission.rows("SELECT max(seq) AS n FROM audit")[0]["n"]
    released = mission.document("release", "shield", "--reason", "it was repaired")
    assert (released["exit"], released["changed"]) == (0, True)
    heard = mission.heard("shield")
    wait_for(lambda: mission.heard("shield") > heard, "it is still cut off")
    wait_for(lambda: everybody_is_healthy(mission), "it is not healthy again")
    wait_for(
        lambda: mission.told("shield").count(("RESOLVED", "alert", "CRITICAL")) >= 1, "nobody told that it is over"
    )
    assert mission.rows("SELECT max(seq) AS n FROM audit")[0]["n"] > rounds


def nothing_was_doubled_or_forgotten(mission: Mission, starts: int) -> None:
    assert mission.orders("shield", "restart") == ["done"] * 3
    assert mission.orders("shield", "isolate") == ["done"]
    assert len(mission.starts("shield")) == starts + 3 + RESTARTS_BY_HAND
    pending = "SELECT count(*) AS n FROM delivery WHERE state = 'pending'"
    wait_for(lambda: mission.rows(pending)[0]["n"] == 0, "not everything was delivered", 10 * INTERVAL_S)
    hooks = mission.hooks()
    events = mission.rows("SELECT id FROM event ORDER BY seq")
    assert [hook["id"] for hook in hooks] == [event["id"] for event in events]
    told = Counter(mission.told("shield"))
    assert told["FIRING", "restart", "HIGH"] == 3
    assert told["FIRING", "isolate", "CRITICAL"] == 1
    assert told["FIRING", "alert_architect", "CRITICAL"] == 1
    assert told["FIRING", "alert", "MEDIUM"] == 1
    assert mission.mesh("history", "--verify").returncode == 0
    assert mission.mesh("status").returncode == 0


def test_a_journal_damaged_under_running_watchers_is_kept_told_of_and_begun_anew(mission: Mission) -> None:
    """What is cut off stays so all the while, and can be let back afterwards."""
    assert mission.document("isolate", "sidecar", "--reason", "drill")["holds"]
    heard, told = mission.heard("sidecar"), len(mission.hooks())
    spoil = f"dd if=/dev/urandom of=$(readlink -f {STATE}/journal.db) bs=4k count=30 conv=notrunc"
    mission.bed.run(["sh", "-c", spoil])
    wait_for(lambda: any("begun" in each for each in reasons(mission, told)), "nobody was told of it")
    wait_for(lambda: mission.in_force() == [("sidecar", "isolated")], "what is cut off was not adopted")
    kept = [path.name for path in (mission.bed.root / STATE.lstrip("/")).glob("journal.db.damaged-*")]
    assert len(kept) == 1
    assert mission.heard("sidecar") == heard
    assert mission.orders("sidecar", "restart") == [], "nobody restarts what is isolated"
    released = mission.document("release", "sidecar", "--reason", "the drill is over")
    assert (released["exit"], released["changed"]) == (0, True)
    wait_for(lambda: everybody_is_healthy(mission), "it is not healthy again")


def reasons(mission: Mission, first: int) -> list[str]:
    """Why the architect was told what came after the `first` events."""
    return [hook["body"]["data"]["reason"] for hook in mission.hooks()[first:]]
