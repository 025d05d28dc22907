"""The bed itself: it notices claims that are wrong, and leaves nothing behind, whatever ends it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup
from watchdog.kernel import freezer
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.slots import Slot
from watchdog.paths import bed, catalogue, coverage
from watchdog.paths.bed import Subject
from watchdog.paths.coverage import Row
from watchdog.paths.words import Coverage, Layer

pytestmark = pytest.mark.kernel

KILLED_S = 5.0

OPEN_A_BED = """
import sys, time
from pathlib import Path
from watchdog.paths import bed

with bed.opened(Path(sys.argv[1])) as opened:
    print("open", flush=True)
    time.sleep(60)
"""


def claiming(*layers: Layer) -> coverage.Isolate:
    """Isolates nothing and says that these hold."""

    @contextmanager
    def isolate(_: Subject) -> Iterator[frozenset[Layer]]:
        yield frozenset(layers)

    return isolate


def disagreeing(rows: list[Row]) -> dict[str, str]:
    return {row.path: row.disagreement for row in rows if row.disagreement}


def children(cgroup: Cgroup) -> list[Path]:
    return [path for path in cgroup.path.iterdir() if path.is_dir()]


def test_a_layer_that_does_not_hold_is_noticed(scratch_cgroup: MakeCgroup) -> None:
    parent = scratch_cgroup()
    wrong = disagreeing(coverage.coverage(claiming(Layer.PACKETS), parent.path))
    covered = {path.id for path in catalogue.CATALOGUE if frozenset({Layer.PACKETS}) in path.stopped_by}
    assert set(wrong) == covered
    assert set(wrong.values()) == {"it is said to be covered, and got through"}
    assert children(parent) == []


def test_a_layer_that_is_not_claimed_is_noticed(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    def modest(subject: Subject) -> AbstractContextManager[frozenset[Layer]]:
        return _claiming_nothing(coverage.packets(slot)(subject))

    wrong = disagreeing(coverage.coverage(modest, scratch_cgroup().path))
    assert "E1a" in wrong
    assert all("was stopped" in why for why in wrong.values())


@contextmanager
def _claiming_nothing(isolated: AbstractContextManager[object]) -> Iterator[frozenset[Layer]]:
    with isolated:
        yield frozenset()


def test_a_frozen_agent_is_seen_as_such_and_goes_on(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    @contextmanager
    def isolate(subject: Subject) -> Iterator[frozenset[Layer]]:
        with coverage.packets(slot)(subject) as layers:
            freezer.freeze(subject.cgroup)
            yield layers | {Layer.FREEZE}
            freezer.thaw(subject.cgroup)

    rows = coverage.coverage(isolate, scratch_cgroup().path)
    assert disagreeing(rows) == {}
    still_open = {row.path for row in rows if row.verdict.coverage is Coverage.NOT_COVERED}
    assert still_open == {"E9a", "E9b", "E9d", "E15b", "E15c"}


def test_nothing_stays_when_the_isolation_fails(scratch_cgroup: MakeCgroup) -> None:
    def broken(_: Subject) -> AbstractContextManager[frozenset[Layer]]:
        raise RuntimeError("broken")

    parent = scratch_cgroup()
    with pytest.raises(RuntimeError, match="broken"):
        coverage.coverage(broken, parent.path)
    assert children(parent) == []


def test_a_killed_bed_ends_and_the_next_one_clears_it_away(scratch_cgroup: MakeCgroup) -> None:
    parent = scratch_cgroup()
    with subprocess.Popen(
        [sys.executable, "-c", OPEN_A_BED, str(parent.path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        process.kill()
    [left] = children(parent)
    deadline_s = time.monotonic() + KILLED_S
    while "populated 1" in (left / "cgroup.events").read_text():
        assert time.monotonic() < deadline_s, "its processes do not end"
        time.sleep(0.01)

    with bed.opened(parent.path):
        assert left not in children(parent)
    assert children(parent) == []
    assert not list(Path("/tmp").glob(f"{bed.PREFIX}{process.pid}-*"))
