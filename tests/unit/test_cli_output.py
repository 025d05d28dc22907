"""What commands print for people."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.cli.output import broken, one_line
from watchdog.errors import Exit

EXAMPLE = (sys.executable, "-m", "watchdog", "config", "example")
WRONG = (sys.executable, "-m", "watchdog", "no-such-verb")
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


@pytest.mark.parametrize(
    ("redirected", "command", "status", "said"),
    [
        (">&-", EXAMPLE, Exit.OK, ""),
        (">/dev/full", EXAMPLE, Exit.FAILED, "watchdog-mesh: its output could not be written: No space left on device"),
        ("2>/dev/full", EXAMPLE, Exit.OK, ""),
        ("2>&-", WRONG, Exit.USAGE, ""),
        (">&- 2>&-", WRONG, Exit.USAGE, ""),
    ],
)
def test_an_output_that_takes_nothing(redirected: str, command: tuple[str, ...], status: Exit, said: str) -> None:
    line = ["sh", "-c", f'exec "$@" {redirected}', "sh", *command]
    done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (status, said)


def test_a_reader_that_has_gone_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(EXAMPLE, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (Exit.OK, b"")


def test_no_file_is_opened_under_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what is printed is written into it."""
    opened = "import os; from watchdog.__main__ import _open_standard_streams as o; o(); print(os.open('/', 0) > 2)"
    line = f'exec "$@" >{tmp_path}/said 0<&- 2>&-'
    subprocess.run(["sh", "-c", line, "sh", sys.executable, "-c", opened], check=True)
    assert (tmp_path / "said").read_text() == "True\n"


def on_terminal(columns: int, code: str) -> list[str]:
    """What a Python program prints on a terminal of so many columns, without the trailing blanks."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdin=its, stdout=its, env=environment):
        os.close(its)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # EIO: the other end is closed
            os.close(ours)
    return [line.rstrip() for line in said.decode().splitlines()]


COVERAGE = """
from watchdog.cli.doctor_coverage import AT_MOST, HEADER
from watchdog.cli.output import table
table([
    ("E3d2", "root", "passes", "timeout", "passes", "not applicable", "new unconnected UDP socket, IPv6"),
    ("E12h", "user", "EAFNOSUPPORT", "EACCES", "no answer", "covered DISAGREES", "socket of another family"),
], HEADER, AT_MOST)
"""


def test_a_table_leaves_its_room_to_what_is_read() -> None:
    assert on_terminal(80, COVERAGE)[3:7] == [
        " E3d2  root  passes   timeout  passes   not         new unconnected UDP socket,",
        "                                        applicable  IPv6",
        " E12h  user  EAFNOSU  EACCES   no       covered     socket of another family",
        "             PPORT             answer   DISAGREES",
    ]
    whole = on_terminal(160, COVERAGE)[3:]
    assert [line.split()[0] for line in whole if line] == ["E3d2", "E12h"], "a line each where there is room"
