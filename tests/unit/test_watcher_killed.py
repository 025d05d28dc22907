"""A watcher's process is killed with -9 at random points: what it believed and ordered is there, once, and no less; and
what it never touched (a silence, an isolation, what others are owed) is as it was."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.unit.meshes import START
from watchdog.clock import Moment
from watchdog.intents import Intent, Intents, State, Where, Why, With
from watchdog.journal import Journal
from watchdog.mesh.coordinator import Silence
from watchdog.mesh.local import LocalCoordinator
from watchdog.standings import Standings

KILLS = 20
AT_WORK_S = 0.08
"""From the first round that a watcher says is over to its end: some dozen rounds."""

WATCHER = """
import json, sys
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from tests.unit.meshes import START
from watchdog.clock import Moment
from watchdog.journal import Journal
from watchdog.ladder import Policy
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Heartbeat
from watchdog.outbox import Outbox
from watchdog.watcher import Watcher
from watchdog.webhook import Receiver

journal = Journal.open(Path(sys.argv[1]))
now_s = float(sys.argv[2])
architect = Receiver("architect", "https://soc.example/hook")
watcher = Watcher("immune", Policy(restarts_before_isolation=1000), coordinator=LocalCoordinator(journal),
    journal=journal, publish=Outbox(journal, (architect,), host="h").publish, voters_on=lambda _: {"immune"},
    restart_timeout_s=60)
at = lambda: Moment(now_s, START + timedelta(seconds=now_s), "boot")
for peer in ("shield", "sidecar", "scribe"):
    watcher.watch(peer, "", at())
while True:
    watcher.begin_round(at())
    orders = []
    for peer in watcher.peers:
        beat = Heartbeat(peer, healthy=peer != "shield", detail="silence")
        orders += watcher.hear(peer, beat, at())
    for order in orders + watcher.end_round(at()):
        if watcher.may_begin(order, at()):
            watcher.settle(order, at(), failed=True, outcome="it did not help")
    shield = watcher.peers["shield"].standing
    print(json.dumps({"now_s": now_s, "misses": shield.missed_count, "token": shield.token,
        "restarts": shield.restart_count}), flush=True)
    now_s += 30.0
"""


def watch_until_killed(state: Path, now_s: float, rng: random.Random) -> dict[str, Any]:
    """The last round that a killed watcher had said is over."""
    command = [sys.executable, "-c", WATCHER, str(state), str(now_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        said = [watcher.stdout.readline()]
        time.sleep(rng.uniform(0.0, AT_WORK_S))
        watcher.kill()
        said += watcher.stdout.readlines()
    last: dict[str, Any] = json.loads([line for line in said if line.endswith("\n")][-1])
    return last


def prepare(state: Path) -> tuple[Silence, Intent]:
    """An operator silenced one peer and isolated another."""
    with closing(Journal.open(state)) as journal:
        at = Moment(1000.0, START, "boot")
        silence = Silence("sidecar", START + timedelta(hours=24), "upgrade", "root")
        LocalCoordinator(journal).silence(silence, at)
        where = Where("/sys/fs/cgroup/scribe", 77, "scribe.service", "scribe")
        intent = Intents(journal).begin(where, Why("it lies", "SOC-7"), With(), START, State.ISOLATED)
        return silence, intent


def test_a_watcher_killed_at_twenty_random_points_forgets_nothing(tmp_path: Path) -> None:
    rng = random.Random(9)
    now_s, misses, tokens = 1000.0, 0, 0
    silence, intent = prepare(tmp_path / "state")
    for _ in range(KILLS):
        last = watch_until_killed(tmp_path / "state", now_s, rng)
        with closing(Journal.open(tmp_path / "state")) as journal:
            saved = Standings(journal, "immune").load("shield")
            record = LocalCoordinator(journal).record("shield", Moment(last["now_s"], START, "boot"))
            orders = journal.read("SELECT token, state FROM orders ORDER BY token")
            events = journal.read("SELECT key FROM event WHERE key LIKE '%/ordered'")
            owed = journal.read("SELECT event_seq FROM delivery WHERE state = 'pending'")
            everything = journal.read("SELECT seq FROM event")
            later = Moment(last["now_s"], START + timedelta(seconds=last["now_s"] - 1000.0), "boot")
            assert list(LocalCoordinator(journal).silences(later).values()) == [silence]
            assert Intents(journal).in_force() == [intent]
            trail = [entry for entry in journal.trail() if entry["kind"] == "restart ordered"]
            assert journal.broken_records() == []
        assert saved is not None
        assert saved.standing.missed_count >= last["misses"] > misses, "it went on where it was"
        assert record.token >= last["token"] >= tokens
        assert record.restart_count == sum(row["state"] in ("begun", "failed") for row in orders)
        assert [row["token"] for row in orders] == [entry["token"] for entry in trail]
        assert len(events) == len(orders), "an event for each order, and one"
        assert sorted(map(tuple, owed)) == sorted(map(tuple, everything)), "and each is owed"
        misses, tokens = last["misses"], record.token
        now_s = last["now_s"] + 120.0
    assert tokens > KILLS / 2
