"""What an interrupted command says, and that it says it in one line whenever it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from watchdog import interrupts
from watchdog.cli import isolate, release
from watchdog.errors import Exit

REASON = ("--reason", "it lies")
PROJECT = Path(interrupts.__file__).parents[1]
AT_IMPORT = """
import os, signal, sys
at = sys.argv.pop(1)
class Interrupting:
    def find_spec(self, name, *_):
        if name == at:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from watchdog.__main__ import main
main()
"""
AFTER_OUTPUT = """
import os, signal, sys
class Interrupting:
    def __getattr__(self, name):
        return getattr(sys.__stdout__, name)
    def flush(self):
        sys.__stdout__.flush()
        os.kill(os.getpid(), signal.SIGINT)
sys.stdout = Interrupting()
from watchdog.__main__ import main
main()
"""
NOBODY_READS = """
import signal, sys, time
from watchdog import interrupts
interrupts.listen()
interrupts.settle()
print("settled", flush=True)
while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
    time.sleep(0.01)
print("goes on", flush=True)
sys.stdin.read()
"""
AT_EXIT = """
import atexit, ctypes, os, signal
from watchdog.__main__ import main
class AtTheVeryEnd:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT):
        kill(pid, number)
import sys
sys.at_the_very_end = AtTheVeryEnd()
atexit.register(os.kill, os.getpid(), signal.SIGINT)
main()
"""


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["isolate", "shield", *REASON], "shield may be cut off or not", "verify shield"),
        (["isolate", *REASON, "shield", "--json"], "shield may be cut off or not", "verify shield"),
        (["isolate", "--allow=192.0.2.1", "--no-allow", "shield"], "shield may be cut off or not", "verify shield"),
        (["isolate", "--unit", "a.service", *REASON], "a.service may be cut off or not", "verify --unit a.service"),
        (["isolate", "--pid=7", *REASON, "--adopt"], "process 7 may be cut off or not", "verify --pid 7"),
        (["isolate", "--cgroup", "/c g", *REASON], "/c g may be cut off or not", "verify --cgroup '/c g'"),
        (["isolate", "shield", "--shadow", *REASON], "shield may be watched or not", "verify shield"),
        (["isolate", "--reason"], "the target may be cut off or not", "verify TARGET"),
        (["release", "shield", "--config", "/e/c", *REASON], "shield may be let back", "verify shield --config /e/c;"),
        (["drill"], "no agent was touched", "watchdog-mesh reconcile"),
        (["reconcile"], "not everything may be as it is meant", "reconcile, again"),
    ],
)
def test_what_changes_the_kernel_says_what_may_be_the_case(words: list[str], said: str, hint: str) -> None:
    error = interrupts.error_of(words)
    assert error.message.startswith("interrupted; ")
    assert said in error.message
    assert hint in error.hint
    assert "reconcile" in error.hint
    assert error.exit_status == Exit.INTERRUPTED


@pytest.mark.parametrize(
    "words",
    [[], ["status"], ["verify", "shield"], ["isolate", "shield", "--dry-run"], ["--help"], ["history", "--json"]],
)
def test_what_only_looks_was_interrupted_and_no_more(words: list[str]) -> None:
    error = interrupts.error_of(words)
    assert (error.message, error.hint, error.exit_status) == ("interrupted", "", Exit.INTERRUPTED)


def test_the_options_with_a_word_of_their_own_are_those_of_the_verbs() -> None:
    options = [each for verb in (isolate.verb, release.verb) for each in verb.params if isinstance(each, click.Option)]
    assert {name for each in options if not each.is_flag for name in each.opts} == {
        *interrupts.TARGETS,
        *interrupts.VALUES,
    }


def run(script: str, *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


EARLY = [
    "watchdog.early",
    "watchdog.kernel.hold",
    "watchdog.interrupts",
    "watchdog.cli.app",
    "click",
    "watchdog.journal",
]


@pytest.mark.parametrize("module", [*EARLY, "watchdog.cli.status"])
def test_it_is_one_line_from_the_first_import_on(module: str) -> None:
    said = run(AT_IMPORT, module, "status")
    assert said == (Exit.INTERRUPTED, "", "watchdog-mesh: interrupted\n")


@pytest.mark.parametrize("module", [*EARLY, "watchdog.cli.isolate"])
def test_it_is_one_document_with_json_from_the_first_import_on(module: str) -> None:
    status, out, err = run(AT_IMPORT, module, "isolate", "shield", *REASON, "--json")
    assert (status, err) == (Exit.INTERRUPTED, "")
    document = json.loads(out)
    assert document["schema"] == "watchdog-mesh/error/1"
    assert document["error"] == "interrupted; shield may be cut off or not"
    assert document["exit_status"] == Exit.INTERRUPTED


@pytest.mark.parametrize("script", [AFTER_OUTPUT, AT_EXIT], ids=["after its output", "while Python ends"])
@pytest.mark.parametrize(
    ("words", "ends"), [(["config", "example", "--json"], Exit.OK), (["no-such-verb", "--json"], Exit.USAGE)]
)
def test_what_has_said_its_document_ends_with_its_own_status(script: str, words: list[str], ends: Exit) -> None:
    status, out, err = run(script, *words)
    assert (status, err) == (ends, "")
    json.loads(out)


def test_the_second_request_to_end_ends_what_nobody_reads() -> None:
    """The first came while it was said what was done."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", NOBODY_READS], stdin=pipe, stdout=pipe, text=True) as blocked:
        assert blocked.stdout is not None
        assert blocked.stdout.readline() == "settled\n"
        blocked.send_signal(signal.SIGTERM)
        assert blocked.stdout.readline() == "goes on\n"
        blocked.send_signal(signal.SIGTERM)
        assert blocked.wait(10.0) == -signal.SIGTERM


def test_one_who_was_started_without_interrupts_has_none() -> None:
    """As by nohup, or a shell's & in a script."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in interrupts.NUMBERS}
    try:
        interrupts.listen()
        for number in interrupts.NUMBERS:
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
