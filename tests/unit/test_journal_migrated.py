"""A journal that the first version wrote: opened by this one it keeps everything, and goes on where it was."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from watchdog import schema
from watchdog.chain import CHAIN_START, canonical, chained
from watchdog.clock import Moment
from watchdog.database import FILE_NAME
from watchdog.intents import Intents, State
from watchdog.journal import Journal
from watchdog.ladder import OrderState
from watchdog.mesh.coordinator import Order, OrderRequest, Suspicion
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action, Severity, Status
from watchdog.outbox import Outbox
from watchdog.standings import Standings
from watchdog.webhook import Receiver

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
AT = Moment(1_000.0, NOW, "boot")
FRESH_S = 60.0
ARCHITECT = Receiver("architect", "https://soc.example/hook")
FIRST_STEP = "1e16168c0e87a0f92933edfbb683b7f7fb7e0054"

STANDING = {
    "standing": {
        "status": "OFFLINE",
        "missed_count": 7,
        "misses_since_order": 1,
        "token": 41,
        "restart_count": 2,
        "healthy_count": 0,
        "impostor": False,
    },
    "last_seen": "2026-03-01T11:50:00Z",
}
WHERE = {
    "cgroup": "/sys/fs/cgroup/system.slice/shield.service",
    "cgroup_id": 77,
    "unit": "s.service",
    "peer": "sidecar",
}
BODY = {"why": {"reason": "3 restarts did not help", "incident": "SOC-7"}, "held_by": {"slot": "slot-1"}}
ROWS = {
    "standing": ("immune", "shield", json.dumps(STANDING)),
    "peer": ("shield", 12, 1, "2026-03-01T11:50:00.000000Z", "HIGH", 2, "2026-03-01T11:59:00.000000Z"),
    "observation": ("immune", "shield", 7, 990.0, "boot"),
    "silence": ("scribe", "2026-03-01T12:30:00.000000Z", 2_800.0, "boot", "upgrade", "root"),
    "isolation": (
        5,
        "sidecar",
        json.dumps(WHERE),
        "isolated",
        json.dumps(BODY),
        "2026-03-01T11:00:00.000000Z",
        "2026-03-01T11:00:01.000000Z",
    ),
    "event": (9, "msg_1", "shield/12/degraded", "2026-03-01T11:50:00.000000Z", "HIGH", "{}"),
    "delivery": ("architect", 9, "pending", 3, "2026-03-01T12:10:00.000000Z", "HTTP 503", None),
    "gone": ("old", "ab" * 32, "2026-02-01T00:00:00.000000Z", "HTTP 410"),
}
ORDER = (
    "INSERT INTO orders (token, peer, episode, action, watcher, reason, at, ordered_s, expires_s, boot, state)"
    " VALUES (41, 'shield', 12, 'restart', 'immune', '3 misses', '2026-03-01T11:59:00.000000Z', 940, 1070, 'boot',"
    " 'begun')"
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as the first version left it: a row in every table."""
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.executescript(schema.STEPS[0])
        previous = CHAIN_START
        for seq in (1, 2, 3):
            record = canonical({"seq": seq, "at": "2026-03-01T11:59:00Z", "kind": f"event {seq}", "peer": "shield"})
            previous = chained(previous, record)
            old.execute("INSERT INTO audit (seq, record, hash) VALUES (?, ?, ?)", (seq, record, previous))
        for table, values in ROWS.items():
            old.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
        old.execute(ORDER)
        old.execute("PRAGMA user_version = 1")
        old.commit()
    return tmp_path


def test_the_first_step_is_released_and_stays_as_it_is() -> None:
    """Journals are out there that have had it: a change of a table is a new step."""
    assert hashlib.sha1(schema.STEPS[0].encode(), usedforsecurity=False).hexdigest() == FIRST_STEP
    assert len(schema.STEPS) > 1


def test_it_keeps_everything(state: Path) -> None:
    with closing(Journal.open(state)) as journal:
        mesh, outbox = LocalCoordinator(journal), Outbox(journal, [ARCHITECT], host="host")
        assert [entry["kind"] for entry in journal.trail()] == ["event 1", "event 2", "event 3"]
        saved = Standings(journal, "immune").load("shield")
        assert saved is not None
        assert (saved.standing.status, saved.standing.missed_count, saved.standing.token) == (Status.OFFLINE, 7, 41)
        record = mesh.record("shield", AT)
        assert (record.token, record.order, record.restart_count, record.episode) == (41, OrderState.OPEN, 2, 12)
        assert record.episode_open
        assert {name for name, each in mesh.records(AT).items() if each.isolated} == {"sidecar"}
        assert mesh.record("sidecar", AT).isolated_since == datetime(2026, 3, 1, 11, tzinfo=UTC)
        assert mesh.suspicions(AT, FRESH_S) == [Suspicion("immune", "shield", 7, 10.0)]
        assert [(s.peer, s.reason) for s in mesh.silences(AT).values()] == [("scribe", "upgrade")]
        [intent] = Intents(journal).in_force()
        assert (intent.id, intent.state, intent.where.peer, intent.where.cgroup_id) == (
            5,
            State.ISOLATED,
            "sidecar",
            77,
        )
        assert (intent.why.incident, intent.held_by.slot) == ("SOC-7", "slot-1")
        owed = outbox.pending(NOW)["architect"]
        assert (owed.pending, owed.last_error) == (1, "HTTP 503")
        assert journal.read("SELECT receiver FROM gone")[0]["receiver"] == "old"


def test_it_goes_on_where_it_was(state: Path) -> None:
    later = Moment(1_100.0, NOW, "boot")
    with closing(Journal.open(state)) as journal:
        mesh = LocalCoordinator(journal)
        mesh.suspect("immune", "shield", 8, later)
        mesh.attend("immune", "", later)
        order = mesh.claim(OrderRequest("shield", Action.RESTART, "immune", "again", 41, 1_090.0, 70.0), later)
        assert isinstance(order, Order)
        assert (order.token, order.episode) == (42, 12), "tokens and episodes go on growing"
        assert mesh.begin(order, later)
        assert mesh.record("shield", later).restart_count == 3
        mesh.told("shield", Severity.CRITICAL)
        journal.record(NOW, "after")
        assert journal.broken_records() == [], "the chain goes on from the old records"
        assert [member.watcher for member in mesh.members(later, FRESH_S)] == ["immune"]


def test_many_open_it_at_once(state: Path) -> None:
    """Every watcher of the host is started again by the upgrade."""
    failed: list[Exception] = []

    def open_it() -> None:
        try:
            with closing(Journal.open(state)) as journal:
                journal.record(NOW, "opened")
        except Exception as error:  # noqa: BLE001 - looked at below
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with closing(Journal.open(state)) as journal:
        assert len(journal.trail()) == 3 + len(threads)
        assert journal.broken_records() == []
