"""What wakes the keeper before its time: the kernel's news of cgroups, pins, drop-ins, mounts, links and filters.

News say that something happened, never what is to be done: the sweep asks the kernel, and finds by itself what no news
told of. So nothing depends on them, and where the kernel gives none (a limit is reached) it is said once.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from watchdog import clock
from watchdog.actions import noted, programs, targets
from watchdog.actions.place import Place, glance
from watchdog.errors import WatchdogError
from watchdog.host import unit_filters
from watchdog.intents import Intent
from watchdog.kernel import bpffs
from watchdog.kernel.common import FOLDER as COMMON
from watchdog.kernel.inotify import Inotify, Names
from watchdog.kernel.layers import tc
from watchdog.kernel.link_watch import Change, LinkWatch
from watchdog.kernel.mounts import MOUNTINFO
from watchdog.kernel.netns import Netns

LULL_S = 0.02
"""After news that nobody needs: whoever makes much of it does not keep us busy."""

log = logging.getLogger("watchdog")


class Wakes:
    """Follows what the isolations in force depend on. For one thread, but for `interrupt`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._inotify, self._links = Inotify(), LinkWatch()
        self._mounts = MOUNTINFO.open("rb")
        self._interrupt = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_new, self._was_mounted = False, True
        self._troubles: dict[str, str] = {}

    def close(self) -> None:
        """Let go of everything."""
        self._inotify.close()
        self._links.close()
        self._mounts.close()
        os.close(self._interrupt)

    def interrupt(self) -> None:
        """End every `wait` from now on, from another thread."""
        os.eventfd_write(self._interrupt, 1)

    def follow(self, intents: Sequence[Intent]) -> None:
        """Wait for news of exactly these isolations from now on. What is followed anew is news."""
        self._try("files", lambda: self._follow_paths(intents))
        self._try("links", lambda: self._links.follow(spaces_of(intents, self._place)))
        self._was_mounted = not intents or bpffs.is_on_bpffs(self._place.pins)

    def wait(self, timeout_s: float) -> None:
        """Return at the first news that matters, and after that time at the latest."""
        until_s = clock.now_s() + timeout_s
        if self._is_new:
            self._is_new = False
            return
        while (left_s := until_s - clock.now_s()) > 0:
            ready = self._ready(left_s)
            if self._interrupt in ready or (ready and self._matters(ready)):
                return
            if ready:
                select.select([self._interrupt], [], [], min(LULL_S, left_s))

    def _follow_paths(self, intents: Sequence[Intent]) -> None:
        self._is_new = self._inotify.follow(paths_of(intents, self._place))

    def _try(self, what: str, follow: Callable[[], None]) -> None:
        try:
            follow()
        except WatchdogError as error:
            trouble = error.one_line()
            if self._troubles.get(what) != trouble:
                log.warning("drift of %s is found by looking every few seconds only: %s", what, trouble)
            self._troubles[what] = trouble
        else:
            self._troubles.pop(what, None)

    def _ready(self, timeout_s: float) -> set[int]:
        poller = select.poll()
        poller.register(self._mounts, select.POLLPRI)
        for fd in (self._interrupt, self._inotify.fileno(), *self._links.filenos()):
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        return {fd for fd, _ in poller.poll(timeout_s * 1000)}

    def _matters(self, ready: set[int]) -> bool:
        files = self._inotify.news()
        links = [event for event in self._links.news() if event.change is not Change.LINK_WENT]
        return files or bool(links) or (self._mounts.fileno() in ready and self._is_unmounted())

    def _is_unmounted(self) -> bool:
        before, self._was_mounted = self._was_mounted, bpffs.is_on_bpffs(self._place.pins)
        return before and not self._was_mounted


def paths_of(intents: Sequence[Intent], place: Place) -> dict[Path, Names]:
    """What is to be followed for these isolations, and in a directory which names; None for all of them."""
    found: dict[Path, Names] = {}
    for intent in intents:
        for path, names in _paths_of(intent, place):
            known = found.get(path, ())
            found[path] = None if names is None or known is None else {*known, *names}
    return found


def _paths_of(intent: Intent, place: Place) -> Iterator[tuple[Path, Names]]:
    if intent.where.cgroup:
        yield _nearest(Path(intent.where.cgroup))
        yield Path(intent.where.cgroup) / "cgroup.events", None
    if intent.held_by.slot:
        slot = place.pins / intent.held_by.slot
        yield from ((slot, None), (slot.parent / COMMON, None), (slot.parent, {slot.name, COMMON}))
        yield place.pins, {slot.parent.name}
    if intent.where.unit:
        drop_in = unit_filters.drop_in(intent.where.unit, place.drop_ins)
        yield from ((drop_in.parent, {drop_in.name}), (place.drop_ins, {drop_in.parent.name}))
        seen = noted.read(intent, place)
        if seen is not None and seen.unit_file is not None:
            file = Path(seen.unit_file.path)
            yield file.parent, {file.name}


def _nearest(path: Path) -> tuple[Path, Names]:
    """The nearest directory above that is there, and the name in it that leads to the path."""
    while not path.parent.is_dir():
        path = path.parent
    return path.parent, {path.name}


def spaces_of(intents: Sequence[Intent], place: Place) -> Mapping[int, Netns]:
    """The network namespaces whose links matter to these isolations, by inode."""
    found: dict[int, Netns] = {}
    for intent in intents:
        cgroups = glance(intent.where, place.root)
        slot = programs.recorded(intent.held_by, place)
        target = targets.target_of(intent, slot, place, cgroups, build=False)
        found |= tc.watched(target)
    return found
