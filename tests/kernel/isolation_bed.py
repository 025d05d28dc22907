"""A host of scratch directories, on the real kernel: its own journal, locks, pins and drop-ins."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from watchdog import clock, news
from watchdog.actions import isolation
from watchdog.actions.holding import Result
from watchdog.actions.isolation import Step, no_step
from watchdog.actions.place import Place
from watchdog.intents import Intent, State, Where, Why
from watchdog.journal import Journal
from watchdog.kernel import gate, libbpf, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.libbpf import BpfRefused
from watchdog.outbox import Outbox

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND_TIMEOUT_S = 60.0
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FREED_S = 10.0
WHY = Why("it lies", incident="INC-7", by={"user": "tester"})


@dataclass(frozen=True)
class Answer:
    """How one command line ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as exactly one JSON document."""
        return json.loads(self.out)


class Host:
    """What `watchdog-mesh` finds through its $WATCHDOG_MESH_ variables, and the same as a Place."""

    def __init__(self, folder: Path, pins: Path) -> None:
        self.folder = folder
        self.state, self.run_dir, self.drop_ins, self.pins = folder / "state", folder / "run", folder / "units", pins
        self.config = folder / "config.toml"
        """Read by every command line once it is there."""
        self._journal: Journal | None = None

    @property
    def place(self) -> Place:
        if self._journal is None:
            self._journal = Journal.open(self.state)
        outbox = Outbox(self._journal, [], host="soc-1")
        told = partial(news.of_change, outbox)
        return Place(self._journal, self.pins, self.run_dir, self.drop_ins, news=told, now=lambda: NOW)

    def close(self) -> None:
        """Let go of the journal; it is opened again when it is needed."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "WATCHDOG_MESH_STATE_DIR": str(self.state),
            "WATCHDOG_MESH_RUN_DIR": str(self.run_dir),
            "WATCHDOG_MESH_BPFFS_DIR": str(self.pins),
            "WATCHDOG_MESH_HOST_LINKS": "no",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        config = {"WATCHDOG_MESH_CONFIG": str(self.config)} if self.config.exists() else {}
        return {"PATH": os.environ["PATH"], **own, **config}

    def mesh(self, *words: str | Path, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Answer:
        """Run one command line to its end; `prefix` is put before the interpreter."""
        command = [*prefix, sys.executable, "-m", "watchdog", *map(str, words)]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
            env={**self.environment, **(env or {})},
            cwd=self.folder,
            start_new_session=True,  # without the terminal that the tests may run in
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def configure(self, text: str) -> Path:
        """Write a configuration; its path."""
        self.config.write_text(text)
        return self.config

    def receiver(self) -> str:
        """The settings of one that nobody can reach."""
        secret = self.folder / "secret"
        secret.write_text("whsec_" + "A" * 44)
        secret.chmod(0o600)
        return f'[[webhook]]\nname = "architect"\nurl = "http://127.0.0.1:9/"\nsecret_file = "{secret}"\n'

    def told(self) -> list[str]:
        """The keys of all events, in order."""
        return [row["key"] for row in self.place.journal.read("SELECT key FROM event ORDER BY seq")]

    def isolate(self, cgroup: Cgroup, step: Step = no_step, why: Why = WHY) -> Result:
        return isolation.isolate(where(cgroup), why, self.place, step)

    def intents(self) -> list[Intent]:
        """All there ever were, oldest first."""
        return self.place.intents.last(1000)[::-1]

    def states(self) -> list[State]:
        return [intent.state for intent in self.intents()]

    def pinned(self) -> list[str]:
        return sorted(str(path.relative_to(self.pins)) for path in self.pins.rglob("*"))

    def snapshot(self) -> tuple[object, ...]:
        """Everything that a command that fails must not change: rows, trail, pins, attachments, drop-ins."""
        rows: list[object] = []
        trail: list[object] = []
        if (self.state / "journal.db").exists():
            rows = [tuple(row) for row in self.place.journal.read("SELECT * FROM isolation")]
            trail = list(self.place.journal.trail())
            self.close()
        attached = sorted(self.attached(), key=str)
        return rows, trail, self.pinned(), attached, sorted(map(str, self.drop_ins.rglob("*")))

    def attached(self) -> list[tuple[str, int]]:
        """Programs from our pins, wherever they are attached: cgroup and program id."""
        own = {i for path in self.pins.glob("*/slot-*") for i in slots.pinned_programs(path)}
        top = Place(Journal(None), self.pins, self.run_dir).top
        return [(str(a.cgroup.path), a.program_id) for a in gate.find_attached(top) if a.program_id in own]


def where(cgroup: Cgroup) -> Where:
    return Where(str(cgroup.path), cgroup.inode)


def ours_at(cgroup: Cgroup) -> list[int]:
    """Ids of our programs attached to this very cgroup."""
    return [info.id for view in gate.query(cgroup).values() for info in view.ours]


def moment(utc: datetime = NOW) -> clock.Moment:
    return clock.Moment(clock.now_s(), utc, clock.boot_id())


def await_freed(program_id: int) -> None:
    """The kernel lets go of a removed cgroup's programs a moment later."""
    deadline_s = time.monotonic() + FREED_S
    while True:
        try:
            libbpf.prog_info_of(program_id)
        except BpfRefused:
            return
        assert time.monotonic() < deadline_s, f"program {program_id} is still there"
        time.sleep(0.02)


def overwrite_root_page(journal: Path, table: str) -> None:
    """Garbage where a table begins; the file itself opens well."""
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with journal.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
