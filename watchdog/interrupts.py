"""What an interrupt does to a command: KeyboardInterrupt where it stands, until nothing is left to stop.

Interrupts are Ctrl-C, and to be told to end: by kill, a service manager, a deadline, a terminal that was closed.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from types import FrameType

from watchdog.errors import Interrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TARGETS = ("--unit", "--pid", "--cgroup")
CONFIG = "--config"
VALUES = (CONFIG, "--reason", "--incident", "--ttl", "--allow", "--level")
"""Options of isolate and release with a word of their own, beside those that name a target."""
CARRIED_ON = "what was begun a watcher, or watchdog-mesh reconcile, carries to its end"
_settled = False


def listen() -> None:
    """Have them interrupt; one that whoever started us has ignored (nohup, a shell's &) stays ignored."""
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def settle() -> None:
    """From here on they change nothing: what was done is being said, or taken back.

    But for a second SIGTERM, or SIGHUP: who reads what is said may not read on.
    """
    global _settled
    _settled = True


def end() -> None:
    """Settle until the process has ended.

    Python drops our handler before that, and an interrupt would take the place of the exit status.
    """
    settle()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if not _settled:
        raise KeyboardInterrupt
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)


def error_of(words: Sequence[str]) -> Interrupted:
    """What is to be said of a command line that was interrupted: what may be the case, and what to do next."""
    verb, rest = (words[0], words[1:]) if words else ("", ())
    if verb == "isolate" and "--dry-run" not in rest:
        return _of_change(rest, "watched or not" if "--shadow" in rest else "cut off or not")
    if verb == "release":
        return _of_change(rest, "let back or not")
    if verb == "drill":
        return Interrupted(
            "interrupted; no agent was touched", hint="if anything is left of its stand-in: watchdog-mesh reconcile"
        )
    if verb == "reconcile":
        return Interrupted("interrupted; not everything may be as it is meant", hint="watchdog-mesh reconcile, again")
    return Interrupted("interrupted")


def _of_change(rest: Sequence[str], may_be: str) -> Interrupted:
    name, again = _target(rest)
    return Interrupted(f"interrupted; {name} may be {may_be}", hint=f"see watchdog-mesh verify {again}; {CARRIED_ON}")


def _target(rest: Sequence[str]) -> tuple[str, str]:
    """What was named, and the words that name it again."""
    found, config, todo = [("the target", "TARGET")], "", list(rest)
    while todo:
        option, is_joined, value = todo.pop(0).partition("=")
        if option in TARGETS or option in VALUES:
            value = value if is_joined else (todo.pop(0) if todo else "")
        if option in TARGETS:
            found.append((f"process {value}" if option == "--pid" else value, f"{option} {shlex.quote(value)}"))
        elif option == CONFIG:
            config = f" {CONFIG} {shlex.quote(value)}"
        elif not option.startswith("-"):
            word = option + is_joined + value
            found.append((word, shlex.quote(word)))
    name, again = found[-1]
    return name, again + config
