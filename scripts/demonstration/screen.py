"""What the audience sees: a sentence an event, with its time, and a table at the end. Colour on a terminal only."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 100
TIME_COLUMNS, WHO_COLUMNS = 8, 10
PASS, FAIL, SKIP, NOT_REACHED = "PASS", "FAIL", "SKIP", "not reached"
STYLES = {
    PASS: "green",
    FAIL: "bold red",
    SKIP: "yellow",
    NOT_REACHED: "bright_black",
    "MEDIUM": "yellow",
    "HIGH": "bright_red",
    "CRITICAL": "bold white on red",
    "RESOLVED": "green",
    "DEGRADED": "yellow",
    "OFFLINE": "red",
    "ISOLATED": "bold magenta",
    "HEALTHY": "green",
}
WORDS = ("DEGRADED", "OFFLINE", "ISOLATED", "HEALTHY")
"""Coloured wherever they stand."""


class Screen:
    """Standard output. When it closes, `on_closed` is called, and nothing is said any more."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._width = min(self._console.width, WIDEST)
        self._began_s = time.monotonic()
        self._on_closed = on_closed
        self._closed = False

    @property
    def is_watched(self) -> bool:
        """Whether it is a terminal."""
        return self._console.is_terminal

    @property
    def age_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began_s

    def title(self, text: str) -> None:
        """What the next lines are about."""
        self._print("")
        self._print(Text(text, style="bold"))

    def say(self, who: str, text: str) -> None:
        """One sentence: when, who or what, and what happened."""
        indent = " " * (TIME_COLUMNS + WHO_COLUMNS)
        when = f"{self.age_s:.1f} s".rjust(TIME_COLUMNS - 2)
        lines = textwrap.fill(
            printable(text), self._width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
        body = Text(lines[len(indent) :])
        for word in WORDS:
            body.highlight_words([word], style=STYLES[word])
        padding = " " * (WHO_COLUMNS - len(who))
        self._print(Text.assemble((f"{when}  ", "bright_black"), (who, STYLES.get(who, "cyan")), padding, body))

    def plain(self, text: str) -> None:
        """A sentence without a time."""
        self._print(textwrap.fill(printable(text), self._width))

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Every step, its time and its result."""
        shown = Table(box=SIMPLE_HEAD, pad_edge=False)
        shown.add_column("", justify="right")
        shown.add_column("STEP", overflow="fold")
        shown.add_column("TIME", justify="right", no_wrap=True)
        shown.add_column("RESULT", no_wrap=True)
        for number, (name, took, result) in enumerate(rows, 1):
            shown.add_row(str(number), printable(name), took, Text(result, style=STYLES.get(result, "")))
        self._print(shown)

    def _print(self, what: Text | Table | str) -> None:
        with self._console.capture() as captured:
            self._console.print(what, markup=False, soft_wrap=not isinstance(what, Table))
        try:
            if not self._closed:
                sys.stdout.write(captured.get())
                sys.stdout.flush()
        except OSError:  # the terminal or the pipe has gone: the demo ends, and has nobody to tell
            self._closed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at exit
            self._on_closed()


def printable(text: str) -> str:
    """Text that cannot steer a terminal, as one line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
