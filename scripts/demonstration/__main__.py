"""Plays the story and says how it went. scripts/demo runs `python -m scripts.demonstration`, with signals blocked."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType

from scripts.demonstration import stage as stages
from scripts.demonstration import surroundings
from scripts.demonstration.pace import Failed, Interrupted, Pace, Stuck
from scripts.demonstration.play import Play
from scripts.demonstration.screen import FAIL, NOT_REACHED, PASS, SKIP, Screen
from scripts.demonstration.story import Step, steps
from watchdog.errors import Exit, NotRoot, WatchdogError

OUTPUT_CLOSED = 141
"""As a shell says it of what SIGPIPE ended."""

CHAPTER_S = 1.5
"""For the audience to see what comes next."""

Row = tuple[str, str, str]


def main() -> int:
    """Play it; the exit status."""
    sys.excepthook = _bug
    threading.excepthook = lambda told: _bug(told.exc_type, told.exc_value, told.exc_traceback)
    pace = Pace()
    screen = Screen(on_closed=lambda: pace.stop("its output was closed", OUTPUT_CLOSED))
    pace.listen()
    try:
        return _play(screen, pace)
    except WatchdogError as error:
        print(f"demo: {error.one_line()}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"demo: {error.filename or 'the host'}: {error.strerror}", file=sys.stderr)
        return Exit.FAILED


def _play(screen: Screen, pace: Pace) -> int:
    if os.geteuid() != 0:
        raise NotRoot("needs root, for cgroups and BPF programs", hint="run: sudo scripts/demo")
    network_outside = surroundings.make()
    _sweep(screen)
    try:
        with stages.set_up() as stage:
            rows = list(_perform(Play(stage, screen, pace, network_outside), screen))
    except Interrupted as interrupted:
        screen.title(f"Interrupted ({interrupted}). Left behind: {', '.join(stage.left) or 'nothing'}.")
        return Exit.FAILED if stage.left else interrupted.exit_status
    return conclude(rows, screen)


def _sweep(screen: Screen) -> None:
    """What an earlier demo left that was killed. Another one that is running is left alone."""
    for stage in stages.abandoned():
        stages.clear(stage)
        done = f"could not be removed whole: {', '.join(stage.left)}" if stage.left else "was removed"
        screen.plain(f"What an earlier demo (process {stage.owner.pid}) left when it was killed {done}.")


def _perform(play: Play, screen: Screen) -> Iterator[Row]:
    """Each step and what came of it. A failed check stops nothing; where the story cannot go on, it ends."""
    stuck = False
    for step in steps(play):
        if stuck and not step.always:
            yield step.name, "", NOT_REACHED
            continue
        if step.chapter:
            screen.title(step.chapter)
            play.pace.rest(CHAPTER_S if screen.is_watched else 0)
        if step.skip:
            screen.say(SKIP, f"{step.name}: {step.skip}")
            yield step.name, "", SKIP
            continue
        began_s = time.monotonic()
        trouble = _tried(step, play)
        took = f"{time.monotonic() - began_s:.1f} s"
        if trouble is not None:
            screen.say(FAIL, f"{step.name}: {trouble}")
            stuck = stuck or isinstance(trouble, Stuck)
            if stuck:
                _tell_logs(play, screen)
        yield step.name, took, FAIL if trouble else PASS


def _tried(step: Step, play: Play) -> Failed | None:
    try:
        step.check(play)
    except Failed as failed:
        return failed
    return None


def _tell_logs(play: Play, screen: Screen) -> None:
    for name in play.mesh.agents:
        for line in play.mesh.last_words(name):
            screen.say(name, f"its watcher's log: {line}")
        for line in play.members[name].last_words():
            screen.say(name, f"its own log: {line}")


def conclude(rows: Sequence[Row], screen: Screen) -> Exit:
    """The table, and the exit status: 0 only where every step passed."""
    screen.table(rows)
    results = [result for _, _, result in rows]
    counts = {result: results.count(result) for result in (PASS, FAIL, SKIP, NOT_REACHED)}
    words = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    if counts[PASS] == len(rows):
        verdict, status = "", Exit.OK
    elif counts[PASS] + counts[SKIP] == len(rows):
        verdict, status = "What was skipped could not be shown on this host.", Exit.HOST_CANNOT
    else:
        verdict, status = "The demo FAILED.", Exit.FAILED
    screen.plain(f"{words}, in {screen.age_s:.0f} s. {verdict}".rstrip())
    return status


def _bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """One line, as for every other error; what it names is enough to find it."""
    where = traceback.extract_tb(trace)[-1:] if trace else []
    place = "".join(f" at {frame.filename}:{frame.lineno}" for frame in where)
    print(f"demo: a fault of the demo itself{place}: {kind.__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
