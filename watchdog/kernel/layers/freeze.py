"""Standing still: while we work, so that nothing slips through between two layers, and for good at level "frozen".

What we froze carries a mark, an extended attribute of the cgroup's directory: it is there from before the freezing
until after the thawing, whatever becomes of us and of the journal, and goes with the cgroup. Without a mark, whoever
froze the cgroup was somebody else, and it stays frozen.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import cgroups, freezer
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import FROZEN, Target
from watchdog.kernel.visitor import began

MARK = "trusted.watchdog-mesh.frozen"
"""Its value is the level FROZEN, or WORKING with the pid and the start time of who works. Only CAP_SYS_ADMIN reads and
writes trusted attributes."""

WORKING = "working"

STILL_TIMEOUT_S = 0.05
"""For the freezing while we work: seen 0.06 ms, 5 ms at worst; the packets are stopped by then, so it is no reason
to wait for a process in an uninterruptible sleep."""

_NO_MARK = {errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT}


class Freeze:
    """The level "frozen": every process of the target stands still until its release."""

    name = "freeze"

    def missing(self, common: Common) -> str:
        """Never: every kernel with cgroup_skb programs that share has it (5.2)."""
        return ""

    def not_applicable(self, target: Target) -> str:
        """Why it is to run, unless we left it frozen."""
        if target.level == FROZEN or any(mark_of(cgroup) for cgroup in target.cgroups):
            return ""
        return f"level {target.level}: it runs on"

    def attach(self, target: Target) -> None:
        """At level frozen: stop all of it, for good."""
        if target.level == FROZEN:
            for cgroup in target.cgroups:
                with suppress(CgroupGone):
                    stop(cgroup, FROZEN)
                    freezer.freeze(cgroup)

    def gaps(self, target: Target) -> list[str]:
        """What still runs at level frozen; what stands still at another although only our work needed it."""
        if target.level == FROZEN:
            return [f"{cgroup.path} is not frozen" for cgroup in target.cgroups if not _stands_still(cgroup)]
        return [f"{cgroup.path} was left frozen" for cgroup in target.cgroups if mark_of(cgroup)]

    def detach(self, target: Target) -> None:
        """Let run what we stopped."""
        for cgroup in target.cgroups:
            let_run(cgroup)


def stop(cgroup: Cgroup, why: str) -> None:
    """Begin to freeze, with a mark; what others froze is left as it is. Does not wait for it."""
    if not mark_of(cgroup) and freezer.is_told_to_freeze(cgroup):
        return
    if holds_us(cgroup):
        raise KernelRefused(f"{cgroup.path} holds this very process, which cannot freeze itself")
    _mark(cgroup, why)
    freezer.begin(cgroup)


def let_run(cgroup: Cgroup) -> None:
    """Undo `stop`. What is gone, or was not frozen by us, is left."""
    if not mark_of(cgroup):
        return
    with suppress(CgroupGone):
        freezer.end(cgroup)
    try:
        os.removexattr(cgroup.path, MARK)
    except OSError as error:
        if error.errno not in _NO_MARK:  # another mesh's reconcile may have seen it, too
            raise KernelRefused(f"cannot take the mark from {cgroup.path}: {error.strerror}") from error


@contextmanager
def standing_still(target: Target) -> Iterator[list[str]]:
    """Stop all of it while we work, and let it run again whatever happens. Yields what could not be stopped, as
    sentences: the work is done nevertheless."""
    trouble: list[str] = []
    try:
        for cgroup in target.cgroups:
            try:
                stop(cgroup, FROZEN if target.level == FROZEN else WORKING)
            except CgroupGone:
                continue
            except WatchdogError as error:
                trouble.append(error.message)
        yield trouble
    finally:
        if target.level != FROZEN:
            for cgroup in target.cgroups:
                let_run(cgroup)


def await_still(target: Target, timeout_s: float = STILL_TIMEOUT_S) -> None:
    """Wait until nothing of it runs any more, and no longer than that."""
    for cgroup in target.cgroups:
        with suppress(WatchdogError):
            freezer.await_frozen(cgroup, timeout_s)


def mark_of(cgroup: Cgroup) -> str:
    """WORKING or FROZEN where we froze it, "" where we did not."""
    try:
        return os.getxattr(cgroup.path, MARK).decode(errors="replace").partition(" ")[0]
    except OSError as error:
        if error.errno in _NO_MARK:
            return ""
        raise KernelRefused(f"cannot read the mark of {cgroup.path}: {error.strerror}") from error


def is_at_work(cgroup: Cgroup) -> bool:
    """Whether whoever froze it while working works still: it may be of another mesh, as a drill's or a test's is."""
    try:
        _, pid, when = os.getxattr(cgroup.path, MARK).decode(errors="replace").split()
        return began(int(pid)) == when
    except (OSError, ValueError, IndexError):
        return False


def find_frozen(top: Cgroup) -> Iterator[Cgroup]:
    """Every cgroup below `top` that we froze and that is frozen still."""
    return (cgroup for cgroup in cgroups.tree(top) if mark_of(cgroup))


def holds_us(cgroup: Cgroup) -> bool:
    """Whether this process is in the cgroup or below it."""
    return cgroup.contains(cgroups.of_pid(os.getpid(), cgroup.root))


def _mark(cgroup: Cgroup, why: str) -> None:
    try:
        os.setxattr(cgroup.path, MARK, (f"{why} {_us()}" if why == WORKING else why).encode())
    except FileNotFoundError as error:
        raise CgroupGone(f"the cgroup {cgroup.path} is gone") from error
    except OSError as error:
        raise KernelRefused(f"cannot mark {cgroup.path} as frozen by us: {error.strerror}") from error


def _us() -> str:
    return f"{os.getpid()} {began(os.getpid())}"


def _stands_still(cgroup: Cgroup) -> bool:
    try:
        return freezer.is_frozen(cgroup)
    except CgroupGone:
        return True
