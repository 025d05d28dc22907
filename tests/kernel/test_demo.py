"""scripts/demo on this kernel: played whole, cut short while its agent is isolated, and killed."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.demonstration.__main__ import conclude
from scripts.demonstration.screen import FAIL, NOT_REACHED, PASS, SKIP, Screen
from tests.kernel.conftest import skip_or_fail
from watchdog.errors import Exit

pytestmark = pytest.mark.kernel

PROJECT = Path(__file__).parents[2]
DEMO = PROJECT / "scripts" / "demo"
LIMIT_S = 90.0
"""The demo gives up by itself before a minute is over."""
SETTLE_S = 2.0
STEPS = 27


class Demo:
    """A demo that runs. Whatever it starts has a mark in its environment."""

    def __init__(self) -> None:
        self._mark = f"WATCHDOG_DEMO_TEST={uuid.uuid4().hex}"
        self._process = subprocess.Popen(
            [DEMO, "--no-setup"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict([self._mark.split("=")])},
            start_new_session=True,
        )
        self.said = ""

    def until_said(self, words: str) -> None:
        """Read on until these words were said."""
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + LIMIT_S
        while words not in " ".join(self.said.split()):
            ready, _, _ = select.select([self._process.stdout], [], [], deadline_s - time.monotonic())
            read = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            assert read, f"the demo did not say {words!r}:\n{self.said}"
            self.said += read.decode()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Read it to its end; the exit status."""
        said, _ = self._process.communicate(timeout=LIMIT_S)
        self.said += said.decode()
        return self._process.returncode

    def close(self) -> None:
        """Have it end, and clear up after itself, whatever the test did."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=LIMIT_S)

    def left_behind(self, v2_root: Path) -> list[str]:
        """What is there of it once everything had a moment to go."""
        deadline_s = time.monotonic() + SETTLE_S
        while (found := list(self._found(v2_root))) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return found

    def _found(self, v2_root: Path) -> Iterator[str]:
        """Its processes by their mark; the rest by its name, which holds its pid."""
        yield from (str(path) for path in Path("/proc").glob("[0-9]*/environ") if self._mark in _environment(path))
        name = f"watchdog-demo-{self._process.pid}-"
        yield from (str(path) for folder in (v2_root, Path("/run")) for path in folder.glob(f"{name}*"))
        yield from (line for line in Path("/proc/self/mounts").read_text().splitlines() if name in line)


def _environment(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split("\0")
    except OSError:
        return []


@pytest.fixture
def new_demo(v2_root: Path) -> Iterator[Callable[[], Demo]]:
    """Starts demos, and ends those that still run after the test."""
    if not (PROJECT / ".venv" / "bin" / "watchdog-mesh").exists():
        skip_or_fail("the demo needs the .venv that scripts/setup makes")
    with ExitStack() as started:

        def start() -> Demo:
            demo = Demo()
            started.callback(demo.close)
            return demo

        yield start


def test_every_step_passes_and_nothing_is_left(new_demo: Callable[[], Demo], v2_root: Path) -> None:
    demo = new_demo()
    assert demo.end() == Exit.OK, demo.said
    rows = re.findall(r"^ *(\d+)   (.*\S) +\d+\.\d s   (\w+) *$", demo.said, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == [*range(1, STEPS + 1)], demo.said
    assert {step for _, step, result in rows if result != "PASS"} == set(), demo.said
    assert rows[-1][1] == "Nothing is left behind"
    assert demo.left_behind(v2_root) == []


@pytest.mark.parametrize(
    ("results", "status", "words"),
    [
        ((PASS, PASS), Exit.OK, "2 PASS"),
        ((PASS, SKIP), Exit.HOST_CANNOT, "1 PASS, 1 SKIP"),
        ((SKIP, FAIL), Exit.FAILED, "1 FAIL, 1 SKIP"),
        ((FAIL, NOT_REACHED), Exit.FAILED, "1 FAIL, 1 not reached"),
    ],
)
def test_it_exits_0_only_where_every_step_passed(
    capsys: pytest.CaptureFixture[str], results: tuple[str, ...], status: Exit, words: str
) -> None:
    rows = [(f"step {number}", "0.1 s", result) for number, result in enumerate(results)]
    assert conclude(rows, Screen(on_closed=lambda: None)) is status
    assert f"\n{words}, in 0 s." in capsys.readouterr().out


def test_an_interruption_while_isolated_leaves_nothing(new_demo: Callable[[], Demo], v2_root: Path) -> None:
    demo = new_demo()
    demo.until_said("every packet in and out is dropped")
    demo.signal(signal.SIGINT)
    assert demo.end() == 128 + signal.SIGINT, demo.said
    assert demo.said.rstrip().endswith("Interrupted (by SIGINT). Left behind: nothing.")
    assert demo.left_behind(v2_root) == []


def test_the_next_demo_removes_what_a_killed_one_left(new_demo: Callable[[], Demo], v2_root: Path) -> None:
    killed = new_demo()
    killed.until_said("BPF programs are ready")
    killed.signal(signal.SIGKILL)
    killed.end()
    assert killed.left_behind(v2_root) != []
    after = new_demo()
    after.until_said("left when it was killed was removed.")
    after.signal(signal.SIGTERM)
    assert after.end() == 128 + signal.SIGTERM, after.said
    assert killed.left_behind(v2_root) == after.left_behind(v2_root) == []
