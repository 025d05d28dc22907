"""What a command says: words for people, one JSON document for machines, and every error in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import wrap
from types import MappingProxyType
from typing import Any, TextIO, cast

from watchdog import interrupts
from watchdog.errors import ConfigurationError, Exit, WatchdogError

SCHEMA_PREFIX = "watchdog-mesh"
INDENT = 4
PIPED_CHARS = 4096
"""More than any row has: rich breaks at 80 where there is no terminal."""
GAP = 3
"""Characters between two columns of a table."""
NO_LIMITS: Mapping[str, int] = MappingProxyType({})


class Steady:
    """A standard stream that may end before we do (`| head`, a terminal that is gone, a full disk): what was begun goes
    on to its end, and its exit status says what came of it."""

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` is None where it was closed when Python started."""
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 -- as long as we are
        self._was_terminal = self._stream.isatty()
        self.lost = ""
        """Why somebody who does want it did not get all of it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """At once: what is written later would fail when nobody can say so any more."""
        with self._or_nowhere():
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    @contextmanager
    def _or_nowhere(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # the interpreter, too, flushes what it holds, at exit
            os.close(nowhere)
            if error.errno != errno.EPIPE and not (error.errno == errno.EIO and self._was_terminal):
                self.lost = str(error.strerror)


def steady(verb: Callable[[], int | None]) -> int:
    """Run a verb with such streams; its exit status, or 1 where it would be 0 and its output was lost."""
    out, err = Steady(sys.stdout), Steady(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    status = verb()
    if out.lost:
        print(f"watchdog-mesh: its output could not be written: {out.lost}", file=sys.stderr)
    return status or (Exit.FAILED if out.lost else Exit.OK)


class Output:
    """One command's output. With `as_json` exactly one document goes to standard output, whatever happens."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def words(self, *lines: str) -> None:
        """Lines for people, on a terminal broken between words; nothing with --json."""
        for line in () if self.as_json else lines:
            print(_fitted(line, sys.stdout))

    def document(self, kind: str, version: int, facts: Mapping[str, Any]) -> None:
        """The JSON document of one kind; nothing without --json. It is the last there is to do: an interrupt changes
        nothing any more."""
        interrupts.settle()
        if self.as_json:
            print(json.dumps({"schema": f"{SCHEMA_PREFIX}/{kind}/{version}", **facts}, indent=2, default=str))

    def error(self, error: WatchdogError) -> None:
        """One line on standard error; with --json a document on standard output instead."""
        interrupts.settle()
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
            warning(error.one_line())


def warning(text: str) -> None:
    """One line on standard error, also with --json."""
    print(_fitted(f"watchdog-mesh: {text}", sys.stderr), file=sys.stderr)


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


def table(rows: Sequence[Sequence[str]], header: Sequence[str], at_most: Mapping[str, int] = NO_LIMITS) -> None:
    """A table that fits the terminal; in a pipe a line for each row, however long, for grep to find.

    `at_most` are characters of columns that are folded first where there is not room for all, to leave it to others.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    piped = not sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=piped, width=PIPED_CHARS if piped else None)
    columns = zip(header, *rows, strict=True)
    is_tight = bool(at_most) and sum(max(map(len, cells)) + GAP for cells in columns) > console.width
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=is_tight)
    for name in header:
        shown.add_column(name, overflow="fold", max_width=at_most.get(name) if is_tight else None)
    for row in rows:
        shown.add_row(*(Text(one_line(cell), style=STYLES.get(cell, "")) for cell in row))
    console.print(shown)


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
