"""What a command says: words for people, one JSON document for machines, and every error in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, TextIO

from watchdog.errors import ConfigurationError, WatchdogError

SCHEMA_PREFIX = "watchdog-mesh"
INDENT = 4
PIPED_CHARS = 4096
"""More than any row has: rich breaks at 80 where there is no terminal."""


class Output:
    """One command's output. With `as_json` exactly one document goes to standard output, whatever happens."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def words(self, *lines: str) -> None:
        """Lines for people, on a terminal broken between words; nothing with --json."""
        for line in () if self.as_json else lines:
            print(_fitted(line, sys.stdout))

    def document(self, kind: str, version: int, facts: Mapping[str, Any]) -> None:
        """The JSON document of one kind; nothing without --json."""
        if self.as_json:
            print(json.dumps({"schema": f"{SCHEMA_PREFIX}/{kind}/{version}", **facts}, indent=2, default=str))

    def error(self, error: WatchdogError) -> None:
        """One line on standard error; with --json a document on standard output instead."""
        if self.as_json:
            facts: dict[str, Any] = {
                "error": error.message,
                "hint": error.hint,
                "exit_status": int(error.exit_status),
            }
            if isinstance(error, ConfigurationError):
                facts["problems"] = list(error.problems)
            self.document("error", 1, facts)
        else:
            print(_fitted(f"watchdog-mesh: {error.one_line()}", sys.stderr), file=sys.stderr)


def one_line(text: str) -> str:
    """Text as one line of printable characters: what peers and units say must not steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _fitted(line: str, stream: TextIO) -> str:
    """For a terminal broken between words, for a pipe as it is."""
    plain = one_line(line)
    return broken(plain, shutil.get_terminal_size().columns) if stream.isatty() else plain


def broken(line: str, columns: int) -> str:
    """A long line as several, indented under their first; no word, such as a path, is cut in two."""
    further = " " * (len(line) - len(line.lstrip()) + INDENT)
    wrapped = wrap(line, columns, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapped)


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    """A table that fits the terminal; in a pipe a line for each row, however long, for grep to find."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in header:
        shown.add_column(name, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(one_line(cell), style=STYLES.get(cell, "")) for cell in row))
    piped = not sys.stdout.isatty()
    Console(highlight=False, soft_wrap=piped, width=PIPED_CHARS if piped else None).print(shown)


STYLES = {
    "HEALTHY": "green",
    "DEGRADED": "yellow",
    "OFFLINE": "red",
    "ISOLATED": "bold magenta",
    "UNKNOWN": "bright_black",
    "ok": "green",
    "FAIL": "bold red",
    "PASS": "green",
}
