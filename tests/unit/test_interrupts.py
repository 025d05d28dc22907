"""What an interrupted command says, and that it says it in one line whenever it is interrupted."""

from __future__ import annotations

import click
import pytest

from watchdog import interrupts
from watchdog.cli import isolate, release
from watchdog.errors import Exit

REASON = ("--reason", "it lies")


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
