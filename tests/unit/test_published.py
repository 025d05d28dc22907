"""One watcher of a name on a host, and who asks after it is in nobody's way."""

from __future__ import annotations

import fcntl
import stat
import threading
import time
from pathlib import Path

import pytest

from watchdog.errors import WatchdogError
from watchdog.kernel import locks
from watchdog.status import published


def test_a_second_one_of_the_same_name_is_refused_and_seen_to_live(tmp_path: Path) -> None:
    with published.only_one(tmp_path, "immune"):
        assert [(each.watcher, each.alive) for each in published.read_all(tmp_path)] == [("immune", True)]
        with (
            pytest.raises(WatchdogError, match="a watcher named immune runs already"),
            published.only_one(tmp_path, "immune"),
        ):
            pass
    assert [(each.watcher, each.alive) for each in published.read_all(tmp_path)] == [("immune", False)]


def test_who_asks_just_then_keeps_no_watcher_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "watcher-immune.lock"
    with path.open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        done = threading.Timer(0.1, fcntl.flock, (asking, fcntl.LOCK_UN))
        done.start()
        began_s = time.monotonic()
        with published.only_one(tmp_path, "immune"):
            assert time.monotonic() - began_s >= 0.05
        done.join()


def test_whoever_comes_first_makes_a_run_directory_of_ours_alone(tmp_path: Path) -> None:
    with locks.locked(tmp_path / "run" / "isolation.lock", 1.0):
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
