"""What commands print for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.cli.output import broken, one_line

PATH = "/sys/fs/cgroup/system.slice/" + "long-" * 20 + ".service"


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("short", ["short"]),
        ("", [""]),
        ("  not covered: a new UDP socket", ["  not covered: a", "      new UDP", "      socket"]),
        (f"isolated: {PATH}", ["isolated:", f"    {PATH}"]),
        ("a well-known-name-with-hyphens", ["a", "    well-known-name-with-hyphens"]),
    ],
)
def test_a_long_line_is_broken_between_words(line: str, lines: list[str]) -> None:
    assert broken(line, 18).split("\n") == lines


@given(st.text(), st.integers(20, 200))
def test_no_word_is_lost(text: str, columns: int) -> None:
    assert broken(one_line(text), columns).split() == one_line(text).split()
