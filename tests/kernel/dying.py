"""Work that is killed with SIGKILL wherever one likes: a child does it, and kills itself there."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import watchdog
from watchdog.journal import Journal

PACKAGE = str(Path(watchdog.__file__).parent)

Work = Callable[[], object]


class Count:
    """Kills this process at the `at`-th `here()`; with 0 it only counts."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def here(self, *_: object) -> None:
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingJournal(Journal):
    """Dies right before, or right after, a commit."""

    count = Count(0)
    before_commit = False

    @contextmanager
    def transaction(self, *, flushed: bool = True) -> Iterator[object]:  # type: ignore[override]
        outermost = not getattr(self, "_inside", False)
        self._inside = True
        try:
            with super().transaction(flushed=flushed) as tx:
                yield tx
                if outermost and self.before_commit:
                    self.count.here()
            if outermost and not self.before_commit:
                self.count.here()
        finally:
            self._inside = not outermost


def survived(work: Work) -> bool:
    """Run `work` in a child; False where it was killed. What it raises fails the test."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 -- whatever it is, the child must not go on as the test
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "see the traceback on standard error"
    return True


def killed_at_return(work: Work, at: int) -> Work:
    """`work`, killed when the `at`-th function of the package returns."""

    def killed() -> None:
        count = Count(at)

        def profile(frame: FrameType, event: str, _: object) -> None:
            if event == "return" and frame.f_code.co_filename.startswith(PACKAGE):
                count.here()

        sys.setprofile(profile)
        work()

    return killed


def returns_of(work: Work) -> int:
    """How many functions of the package return while `work` runs to its end."""
    read_fd, write_fd = os.pipe()

    def counted() -> None:
        count = Count(0)

        def profile(frame: FrameType, event: str, _: object) -> None:
            if event == "return" and frame.f_code.co_filename.startswith(PACKAGE):
                count.here()

        sys.setprofile(profile)
        work()
        sys.setprofile(None)
        os.write(write_fd, str(count.seen).encode())

    try:
        assert survived(counted)
        return int(os.read(read_fd, 20))
    finally:
        os.close(read_fd)
        os.close(write_fd)
