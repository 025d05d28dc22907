"""`python -m demonstration`: plays the story and says how it went. scripts/demo calls it, with signals blocked."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import TracebackType

from demonstration import stage as stages
from demonstration.pace import Failed, Interrupted, Pace, Stuck
from demonstration.screen import FAIL, NOT_REACHED, PASS, SKIP, Screen
from demonstration.story import Step, Story
from watchdog.errors import Exit, NotRoot, WatchdogError

OUTPUT_CLOSED = 141
"""As a shell says it of what SIGPIPE ended."""

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
    _sweep(screen)
    try:
        with stages.set_up() as stage:
            rows = list(_perform(Story(stage, screen, pace), screen))
    except Interrupted as interrupted:
        left = stages.left(stage)
        screen.plain(f"\nInterrupted ({interrupted}). Left behind: {', '.join(left) or 'nothing'}.")
        return Exit.FAILED if left else interrupted.exit_status
    return _conclude(rows, screen)


def _sweep(screen: Screen) -> None:
    """What an earlier demo left that was killed. Another one that is running is left alone."""
    for stage in stages.abandoned():
        stages.clear(stage)
        left = stages.left(stage)
        done = f"could not be removed whole: {', '.join(left)}" if left else "was removed"
        screen.plain(f"What an earlier demo (process {stage.owner.pid}) left when it was killed {done}.")


def _perform(story: Story, screen: Screen) -> Iterator[Row]:
    """Each step and what came of it. A failed check stops nothing; where the story cannot go on, it ends."""
    stuck = False
    for step in story.steps():
        if stuck and not step.always:
            yield step.name, "", NOT_REACHED
            continue
        if step.chapter:
            screen.title(step.chapter)
        if step.skip:
            screen.say(SKIP, f"{step.name}: {step.skip}")
            yield step.name, "", SKIP
            continue
        began_s = time.monotonic()
        trouble = _tried(step)
        took = f"{time.monotonic() - began_s:.1f} s"
        if trouble is not None:
            screen.say(FAIL, f"{step.name}: {trouble}")
            stuck = stuck or isinstance(trouble, Stuck)
            if stuck:
                _tell_logs(story, screen)
        yield step.name, took, FAIL if trouble else PASS


def _tried(step: Step) -> Failed | None:
    try:
        step.play()
    except Failed as failed:
        return failed
    return None


def _tell_logs(story: Story, screen: Screen) -> None:
    for name in story.mesh.agents:
        for line in story.mesh.last_words(name):
            screen.say(name, f"its watcher's log: {line}")


def _conclude(rows: list[Row], screen: Screen) -> int:
    screen.table(rows)
    results = [result for _, _, result in rows]
    counts = {result: results.count(result) for result in (PASS, FAIL, SKIP, NOT_REACHED)}
    words = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    good = counts[PASS] + counts[SKIP] == len(rows)
    screen.plain(f"{words}. {'The mesh did what it is for.' if good else 'The demo FAILED.'}")
    return Exit.OK if good else Exit.FAILED


def _bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """One line, as for every other error; what it names is enough to find it."""
    where = traceback.extract_tb(trace)[-1:] if trace else []
    place = "".join(f" at {frame.filename}:{frame.lineno}" for frame in where)
    print(f"demo: a fault of the demo itself{place}: {kind.__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
