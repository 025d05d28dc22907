"""Who holds the lock of isolations that somebody waits for, in words, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

from watchdog.host import processes
from watchdog.kernel import locks

COMMAND = "watchdog-mesh"


@dataclass(frozen=True, slots=True)
class Holders:
    """Those that hold a lock, as they were when they were looked at."""

    words: str
    """For people: "process 1234 (watchdog-mesh isolate shield), which is stopped"."""
    remedy: str
    stopped: bool
    """Whether one of them does nothing until somebody lets it go on."""


def no_word(_: Holders) -> None:
    """For who waits in silence."""


def holders(path: Path) -> Holders:
    """Look who holds it now."""
    pids = [pid for pid in sorted(locks.holders(path)) if processes.of_pid(pid) is not None]
    if not pids:
        return Holders("a process that is not seen from here", f"see which: fuser -v {path}", stopped=False)
    stopped = [pid for pid in pids if processes.is_stopped(pid)]
    # a stopped process takes no signal but these two
    ends = f"kill -KILL {_listed(stopped or pids)}, then watchdog-mesh reconcile"
    remedy = f"let it go on: kill -CONT {_listed(stopped)}; or end it: {ends}" if stopped else f"if it hangs: {ends}"
    return Holders(", ".join(_described(pid, is_stopped=pid in stopped) for pid in pids), remedy, bool(stopped))


def _listed(pids: list[int]) -> str:
    return " ".join(map(str, pids))


def _described(pid: int, *, is_stopped: bool) -> str:
    words = processes.words(pid)
    ours = next((at for at, word in enumerate(words) if PurePath(word).name == COMMAND), None)
    said = processes.shown(pid, words if ours is None else [COMMAND, *words[ours + 1 :]])  # not where Python is
    return f"process {pid} ({said}){', which is stopped' if is_stopped else ''}"
