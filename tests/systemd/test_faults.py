"""Faults on the real mission: three agents, three watchers, an architect; one row a fault, and what came of it.

What a row does not name did not happen: the columns are compared whole. docs/faults.md shows the same rows to people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.systemd import faults
from tests.systemd.mission_bed import AGENTS, STATE, Mission, watcher
from tests.systemd.seen import Seen
from tests.systemd.testbed import Testbed

pytestmark = pytest.mark.systemd

WATCHDOG_S = 120
"""Nobody is begun anew for being stopped: that is another test's."""
DISK_SIZE = "16m"
RULES = f"""
interval = "{faults.INTERVAL_S:g}s"
timeout = "600ms"
restarts_before_isolation = 1
restart_timeout = "2s"
forgive_restart_after = "4s"
"""
"""After one restart the next step is an isolation: who may isolate nobody is seen not to."""


class Row(NamedTuple):
    """`fleeting`: whose passing sights and doubts depend on the moment (tests/systemd/seen.py)."""

    fault: str
    play: Callable[[Seen], None]
    saw: str
    doubted: str
    done: str
    told: str
    fleeting: tuple[str, ...] = ()
    begun_anew: tuple[str, ...] = ()
    """Watchers that the fault itself ends. No other one ends."""

    @property
    def in_the_document(self) -> str:
        """The row as docs/faults.md has it."""
        cells = [self.fault, *(each or "-" for each in (self.saw, self.doubted, self.done, self.told))]
        return "| " + " | ".join(cell.replace("; ", ";<br>").replace("*:", "\\*:") for cell in cells) + " |"


RESTARTED = "MEDIUM alert, HIGH restart, HIGH RESOLVED"
DOUBT = "MEDIUM alert, MEDIUM RESOLVED"
STORM = "*: CRITICAL alert, CRITICAL RESOLVED"
NO_QUORUM = "MEDIUM alert, HIGH restart, CRITICAL alert, CRITICAL RESOLVED"
ROWS = (
    Row(
        "the watcher that delivers reaches nobody",
        faults.delivering_watcher_cut_off,
        saw="sidecar OFFLINE by immune; shield OFFLINE by immune",
        doubted="immune: own endpoint, peers gone",
        done="",
        told=f"{STORM}; immune (watcher): {DOUBT}",
    ),
    Row(
        "an agent is stopped (SIGSTOP)",
        faults.agent_stopped,
        saw="shield OFFLINE by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield restart",
        told=f"shield: {RESTARTED}; shield (watcher): {DOUBT}",
    ),
    Row(
        "an agent is killed (SIGKILL)",
        faults.agent_killed,
        saw="shield OFFLINE by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield restart",
        told=f"shield: {RESTARTED}; shield (watcher): {DOUBT}",
    ),
    Row(
        "an agent is killed, and systemd starts it again",
        faults.agent_killed_and_restarted_by_systemd,
        saw="sidecar DEGRADED by immune, shield",
        doubted="sidecar: own endpoint",
        done="sidecar started by systemd",
        told=f"sidecar: {DOUBT}; sidecar (watcher): {DOUBT}",
    ),
    Row(
        "an agent's cgroup is frozen",
        faults.agent_frozen,
        saw="shield OFFLINE by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield restart",
        told=f"shield: {RESTARTED}; shield (watcher): {DOUBT}",
    ),
    Row(
        "somebody else takes an agent's port and answers 200",
        faults.port_squatted,
        saw="shield DEGRADED by immune, sidecar",
        doubted="shield: own endpoint",
        done="",
        told=f"shield: MEDIUM alert, CRITICAL alert, CRITICAL RESOLVED; shield (watcher): {DOUBT}",
    ),
    Row(
        "all agents are killed at once",
        faults.all_agents_killed,
        saw="immune OFFLINE by shield, sidecar; sidecar OFFLINE by immune, shield; shield OFFLINE by immune, sidecar",
        doubted="immune: own endpoint; sidecar: own endpoint; shield: own endpoint",
        done="immune restart; shield restart; sidecar restart",
        told=f"{STORM}; immune: HIGH restart, HIGH RESOLVED; immune (watcher): {DOUBT}; "
        f"shield: HIGH restart, HIGH RESOLVED; shield (watcher): {DOUBT}; "
        f"sidecar: HIGH restart, HIGH RESOLVED; sidecar (watcher): {DOUBT}",
    ),
    Row(
        "all agents are stopped at once",
        faults.all_agents_stopped,
        saw="immune OFFLINE by shield, sidecar; sidecar OFFLINE by immune, shield; shield OFFLINE by immune, sidecar",
        doubted="immune: own endpoint; sidecar: own endpoint; shield: own endpoint",
        done="",
        told=f"{STORM}; immune (watcher): {DOUBT}; shield (watcher): {DOUBT}; sidecar (watcher): {DOUBT}",
    ),
    Row(
        "an agent's port is blocked for one watcher",
        faults.port_blocked_for_one,
        saw="shield OFFLINE by immune",
        doubted="",
        done="shield restart",
        told=f"shield: {NO_QUORUM}",
        fleeting=("sidecar", "shield"),
    ),
    Row(
        "an agent's port is blocked for all",
        faults.port_blocked_for_all,
        saw="shield ISOLATED by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield isolate; shield restart",
        told="shield: MEDIUM alert, HIGH restart, CRITICAL isolate, CRITICAL alert_architect, "
        f"CRITICAL RESOLVED x2; shield (watcher): {DOUBT}",
    ),
    Row(
        "two accuse each other, and the third watcher is stopped",
        faults.mutual_accusation,
        saw="immune OFFLINE by shield; shield OFFLINE by immune",
        doubted="",
        done="immune restart; shield restart",
        told=f"immune: {NO_QUORUM}; shield: {NO_QUORUM}",
        fleeting=("immune", "sidecar", "shield"),
    ),
    Row(
        "a watcher is in a network namespace of its own, and an agent is stopped",
        faults.watcher_in_a_namespace_of_its_own,
        saw="sidecar OFFLINE by immune; shield OFFLINE by immune, sidecar",
        doubted="immune: own endpoint, peers gone; shield: own endpoint",
        done="shield restart",
        told=f"{STORM}; immune (watcher): {DOUBT}; shield: HIGH restart, HIGH RESOLVED; shield (watcher): {DOUBT}",
        begun_anew=("immune",),
    ),
    Row(
        "all watchers are killed (SIGKILL) while an agent is stopped",
        faults.watchers_killed,
        saw="shield OFFLINE by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield restart",
        told=f"shield: {RESTARTED}; shield (watcher): {DOUBT}",
        begun_anew=tuple(AGENTS),
    ),
    Row(
        "a watcher is stopped before it isolates, and the agent is well again when it wakes up",
        faults.watcher_stopped_with_an_order_in_its_hand,
        saw="shield OFFLINE by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield isolate (failed); shield restart",
        told=f"shield: MEDIUM alert, HIGH restart, CRITICAL isolate, CRITICAL RESOLVED; shield (watcher): {DOUBT}",
    ),
    Row(
        "a watcher is stopped while it restarts an agent, until its lease has run out",
        faults.watcher_stopped_past_its_lease,
        saw="shield OFFLINE by immune, sidecar",
        doubted="shield: own endpoint",
        done="shield restart (failed)",
        told=f"shield: {RESTARTED}; shield (watcher): {DOUBT}",
    ),
    Row(
        "the journal's disk is full, and an agent is stopped",
        faults.disk_full,
        saw="shield OFFLINE by immune, sidecar",
        doubted="immune: disk full; sidecar: disk full; shield: disk full, own endpoint",
        done="shield restart",
        told=f"immune (watcher): {DOUBT}; shield: HIGH restart, HIGH RESOLVED; "
        f"shield (watcher): {DOUBT}; sidecar (watcher): {DOUBT}",
    ),
    Row(
        "somebody holds the journal's lock, and an agent is stopped",
        faults.journal_locked,
        saw="shield OFFLINE by immune, sidecar",
        doubted="immune: journal locked; sidecar: journal locked; shield: journal locked",
        done="shield restart",
        told="shield: HIGH restart, HIGH RESOLVED",
        fleeting=("immune", "sidecar", "shield"),
    ),
)


@pytest.fixture(scope="module")
def mission(testbed: Testbed) -> Iterator[Mission]:
    """All of it running on a small disk, everybody healthy."""
    cast = Mission(testbed)
    try:
        cast.set_up(watchdog_s=WATCHDOG_S, rules=RULES)
        testbed.run(["mkdir", "-p", STATE])
        testbed.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=700", "journal", STATE])
        testbed.systemctl("start", watcher("immune"), timeout_s=120.0)  # first: it is the one that delivers
        testbed.systemctl("start", *map(watcher, AGENTS), timeout_s=120.0)
        seen = Seen(cast)
        seen.until(seen.is_over, "somebody is not healthy")
        yield cast
    finally:
        cast.tear_down()


@pytest.fixture(autouse=True)
def forgiven(mission: Mission) -> None:
    faults.forgive(mission)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_what_comes_of(mission: Mission, row: Row) -> None:
    seen = Seen(mission, row.fleeting)
    try:
        row.play(seen)
        seen.until(seen.is_over, "it does not end")
    except BaseException:
        faults.repair(mission)
        Seen(mission).until(seen.is_over, "it cannot be repaired")
        raise
    found = (seen.saw, seen.doubted, seen.done, seen.told, seen.begun_anew)
    expected = (row.saw, row.doubted, row.done, row.told, row.begun_anew)
    assert found == expected, f"\n{seen}\n{seen.log()}"
    assert mission.mesh("history", "--verify").returncode == 0
