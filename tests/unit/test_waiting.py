"""Whoever waits for the lock of isolations is told for whom, and what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from watchdog.actions import place as places
from watchdog.actions import waiting
from watchdog.actions.place import Place
from watchdog.actions.waiting import Holders
from watchdog.host import processes
from watchdog.journal import Journal
from watchdog.kernel.locks import LockBusy, locked

HOLD = "import fcntl, sys; f = open(sys.argv[-1], 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
STARTED_S = 20.0
Hold = Callable[..., int]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run" / "isolation.lock"


@pytest.fixture
def hold(lock: Path) -> Iterator[Hold]:
    """Has a process with these words hold the lock; its pid."""
    with ExitStack() as started:

        def start(*words: str, stopped: bool = False) -> int:
            lock.parent.mkdir(exist_ok=True)
            command = [sys.executable, "-c", HOLD, *words, str(lock)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.callback(process.communicate)
            started.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            if stopped:
                stop(process.pid)
            return process.pid

        yield start


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    deadline_s = time.monotonic() + STARTED_S
    while not processes.is_stopped(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def test_who_holds_it_is_named_with_its_command(hold: Hold, lock: Path) -> None:
    pid = hold("/opt/x/bin/watchdog-mesh", "isolate", "shi\x1b[31meld")
    found = waiting.holders(lock)
    assert found.words.startswith(f"process {pid} (watchdog-mesh isolate shi?[31meld ")
    assert "which is stopped" not in found.words
    assert found.remedy == f"if it hangs: kill -KILL {pid}, then watchdog-mesh reconcile"
    assert not found.stopped


def test_of_one_that_is_stopped_that_is_said(hold: Hold, lock: Path) -> None:
    pid = hold("/opt/x/bin/watchdog-mesh", "isolate", "shield", stopped=True)
    found = waiting.holders(lock)
    assert found.words.endswith("), which is stopped")
    assert found.remedy == (
        f"let it go on: kill -CONT {pid}; or end it: kill -KILL {pid}, then watchdog-mesh reconcile"
    )
    assert found.stopped


def test_any_other_command_is_shown_as_it_is_and_not_for_ever(hold: Hold, lock: Path) -> None:
    pid = hold("x" * 1000)
    said = waiting.holders(lock).words
    assert said.startswith(f"process {pid} ({sys.executable}")
    assert len(said) < 100


def test_a_holder_that_is_not_seen_is_looked_for_by_hand(lock: Path) -> None:
    found = waiting.holders(lock)
    assert (found.words, found.stopped) == ("a process that is not seen from here", False)
    assert found.remedy == f"see which: fuser -v {lock}"


def test_it_is_told_once_after_a_moment_and_named_in_the_error(
    hold: Hold, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = hold("/opt/x/bin/watchdog-mesh", "isolate", "shield", stopped=True)
    monkeypatch.setattr(places, "TOLD_AFTER_S", 0.1)
    monkeypatch.setattr(places, "LOCK_TIMEOUT_S", 0.3)
    told: list[Holders] = []
    place = Place(Journal.in_memory(), tmp_path, lock.parent, root=tmp_path, waiting=told.append)
    with pytest.raises(LockBusy) as failed, place.alone():
        pass
    assert told == [waiting.holders(lock)]
    assert failed.value.message.startswith(f"{lock} is held by process {pid} (watchdog-mesh isolate shield ")
    assert f"kill -CONT {pid}" in failed.value.hint
    with pytest.raises(LockBusy), replace(place, waiting=waiting.no_word).alone():
        pass


def test_what_is_to_be_called_is_called_once_each_in_its_order(hold: Hold, lock: Path) -> None:
    hold()
    called: list[str] = []
    waits = [(0.05, lambda: called.append("second")), (0.0, lambda: called.append("first"))]
    with pytest.raises(LockBusy), locked(lock, 0.2, waits):
        pass
    assert called == ["first", "second"]
