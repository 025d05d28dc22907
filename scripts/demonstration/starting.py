"""How the demo's processes are started: inside their cgroup from the first, in a session of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from scripts.demonstration.agent import LOG

_INSIDE = Path(__file__).with_name("inside.py")


def command_in(cgroup: Path, *command: str | Path) -> list[str]:
    """The command, moved into the cgroup before it begins."""
    return [sys.executable, "-I", "-S", str(_INSIDE), str(cgroup), *map(str, command)]


def start(
    cgroup: Path, command: Sequence[str | Path], output: IO[bytes], environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start it. A Ctrl-C at the terminal goes to the demo alone, which then ends everything in order."""
    return subprocess.Popen(
        command_in(cgroup, *command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,
    )


def start_agent(room: Path, cgroup: Path) -> subprocess.Popen[bytes]:
    """One agent, whose words go to its room's log."""
    with (room / LOG).open("ab") as log:
        return start(cgroup, [sys.executable, "-m", f"{__package__}.agent", room], log)
