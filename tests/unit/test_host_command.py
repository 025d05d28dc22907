"""Commands run bounded: in time, in output, and with nobody left behind at the deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from watchdog.errors import UsageError
from watchdog.host.command import (
    OUTPUT_LIMIT_BYTES,
    CommandNotExecutable,
    CommandNotFound,
    CommandTimeout,
    Completed,
    run,
)

PATIENCE_S = 5.0
SLACK_S = 1.0
IGNORES_TERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def gone_within(pid: int, limit_s: float) -> bool:
    end_s = time.monotonic() + limit_s
    while alive(pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    return not alive(pid)


def test_a_command_that_ends() -> None:
    done = run(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"], PATIENCE_S)
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "first\nlast\n")
    assert done.last_error_line() == "last"
    assert done.ending() == "exit status 3"
    assert not done.truncated


def test_a_command_ended_by_a_signal() -> None:
    assert run(["sh", "-c", "kill -SEGV $$"], PATIENCE_S).ending() == "killed by SIGSEGV"
    assert Completed(-99, "", "", 0).ending() == "killed by signal 99"


def test_stdin_is_empty_unless_given() -> None:
    assert run(["cat"], PATIENCE_S).stdout == ""
    assert run(["cat"], PATIENCE_S, input="text").stdout == "text"


def test_more_input_than_a_pipe_holds_and_than_is_read() -> None:
    text = "x" * 1_000_000
    assert run(["wc", "-c"], PATIENCE_S, input=text).stdout.strip() == "1000000"
    assert run(["true"], PATIENCE_S, input=text).status == 0


def test_the_environment_is_what_was_given() -> None:
    assert run(["/usr/bin/env"], PATIENCE_S, env={"ONLY": "this"}).stdout == "ONLY=this\n"


def test_output_is_capped_at_the_end_that_matters_less() -> None:
    flood = "import sys\nfor s in (sys.stdout, sys.stderr):\n s.write('first' + 'x' * 5_000_000 + 'last')"
    done = run([sys.executable, "-c", flood], PATIENCE_S)
    assert done.status == 0
    assert done.truncated
    assert len(done.stdout) == len(done.stderr) == OUTPUT_LIMIT_BYTES
    assert done.stdout.startswith("first")
    assert done.stderr.endswith("last")


def test_output_that_is_not_text() -> None:
    assert run(["printf", "\\377ok"], PATIENCE_S).stdout == "\ufffdok"


@pytest.mark.parametrize("argv", ["echo hello", [], ["a\0b"], [1]])
def test_what_is_no_list_of_words_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError):
        run(argv, PATIENCE_S)


def test_no_shell_ever_reads_the_words() -> None:
    assert run(["echo", "$(id); `id` && id"], PATIENCE_S).stdout == "$(id); `id` && id\n"


def test_programs_that_cannot_be_started(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    orphan = tmp_path / "orphan"
    orphan.write_text("#!/no/such/interpreter\n")
    orphan.chmod(0o755)
    with pytest.raises(CommandNotFound, match="no-such-program"):
        run(["no-such-program"], PATIENCE_S)
    with pytest.raises(CommandNotFound, match="interpreter"):
        run([str(orphan)], PATIENCE_S)
    with pytest.raises(CommandNotExecutable) as caught:
        run([str(plain)], PATIENCE_S)
    assert "chmod +x" in caught.value.hint
    with pytest.raises(CommandNotExecutable):
        run([str(tmp_path)], PATIENCE_S)


@pytest.mark.parametrize("argv", [["sleep", "600"], [sys.executable, "-c", IGNORES_TERM]])
def test_a_hung_command_is_killed_at_its_deadline(argv: list[str]) -> None:
    started_s = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"within 0\.3 s and was killed"):
        run(argv, 0.3)
    assert time.monotonic() - started_s < 0.3 + SLACK_S


def test_its_children_are_killed_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sleep 600 & echo $! >{pids}; wait; sleep 600"
    with pytest.raises(CommandTimeout):
        run(["sh", "-c", script], 0.3)
    assert gone_within(int(pids.read_text()), SLACK_S)


def test_a_child_that_keeps_the_pipe_open_neither_delays_nor_dies(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    done = run(["sh", "-c", f"echo done; sleep 600 & echo $! >{pids}"], PATIENCE_S)
    assert done.stdout == "done\n"
    assert done.seconds < PATIENCE_S / 2
    left = int(pids.read_text())
    try:
        assert alive(left)  # a restart command may start a daemon
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)


def test_no_descriptor_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    run(["true"], PATIENCE_S, input="x")
    with pytest.raises(CommandTimeout):
        run(["sleep", "600"], 0.05)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
