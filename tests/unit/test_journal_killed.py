"""Writers are killed with -9 at random points: what was said to be written is there, and nothing is there in part."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from watchdog.journal import Journal

KILLS = 20
AT_WORK_S = 0.06
"""From the first record that a writer says it wrote to its end: a few dozen transactions."""
NOW = datetime(2026, 3, 1, tzinfo=UTC)

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from watchdog.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
name = sys.argv[2]
for number in range(1_000_000):
    with journal.transaction() as tx:
        tx.execute("INSERT INTO peer (name, restart_count) VALUES (?, 1)", (f"{name}-{number}-a",))
        journal.record(datetime.now(UTC), "pair", name=name, number=number)
        tx.execute("INSERT INTO peer (name, restart_count) VALUES (?, 2)", (f"{name}-{number}-b",))
    print(number, flush=True)
"""


def write_until_killed(state: Path, name: str, rng: random.Random) -> int:
    """The last pair that a killed writer had said is written."""
    with subprocess.Popen([sys.executable, "-c", WRITER, state, name], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline()]
        time.sleep(rng.uniform(0.0, AT_WORK_S))
        writer.kill()
        said += writer.stdout.readlines()
    return int([line for line in said if line.endswith("\n")][-1])


def test_writers_killed_at_random_points_lose_nothing_and_leave_nothing_half_done(tmp_path: Path) -> None:
    rng = random.Random(4)
    state = tmp_path / "state"
    said = {}
    for kill in range(KILLS):
        name = f"writer{kill}"
        said[name] = write_until_killed(state, name, rng)
        with closing(Journal.open(state)) as journal:
            assert journal.broken_records() == []
            rows = {row["name"] for row in journal.read("SELECT name FROM peer")}
            written = {(str(e["name"]), e["number"]) for e in journal.trail() if e["kind"] == "pair"}
            assert rows == {f"{who}-{number}-{half}" for who, number in written for half in "ab"}
            for who, last in said.items():
                assert {number for name, number in written if name == who} >= set(range(last + 1))
            journal.record(NOW, "looked")
    with closing(Journal.open(state)) as journal:
        assert journal.damage() == []


def test_makers_killed_at_random_points_leave_a_whole_journal_or_none(tmp_path: Path) -> None:
    rng = random.Random(5)
    code = (
        "import sys; from pathlib import Path; from watchdog.journal import Journal; print(1, flush=True); "
        "Journal.open(Path(sys.argv[1])); print(2, flush=True)"
    )
    for kill in range(KILLS):
        state = tmp_path / f"state{kill}"
        with subprocess.Popen([sys.executable, "-c", code, state], stdout=subprocess.PIPE) as maker:
            assert maker.stdout is not None
            maker.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.02))
            maker.kill()
        with closing(Journal.open(state)) as journal:
            journal.record(NOW, "after")
            assert len(journal.trail()) == 1
