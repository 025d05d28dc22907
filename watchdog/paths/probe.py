"""Verification from inside: a process of ours in the agent's cgroup tries the paths that can be tried anywhere.

It speaks over loopback, to sockets of ours outside the cgroup, and to nobody else. It makes no device, no address and
no rule, loads no module, and leaves nothing behind. It never opens anything: what it finds open is for the caller to
close.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from watchdog.errors import KernelRefused, Refused, WatchdogError
from watchdog.kernel import cgroups, freezer, memory, visitor
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.scratch import scratch_folder
from watchdog.paths import catalogue, loopback_rows
from watchdog.paths.actor import SILENT, Actor, CannotEnter, must
from watchdog.paths.loopback_rows import INSIDE, LOADED_IF, OUTSIDE, Scene
from watchdog.paths.play import Phase, Play, Row, Tried

PREFIX = "watchdog-probe-"

ARRIVES_S = 0.5
"""Loopback takes a fraction of a millisecond; the rest is for a busy host."""

NEEDED_BYTES = 16 << 20
"""Memory left for the process inside: it uses some 2 MiB there. Were it killed for want of more, systemd would stop the
whole unit (OOMPolicy=stop)."""

REMOVE_TIMEOUT_S = 1.0


class Outcome(StrEnum):
    """What became of one try."""

    STOPPED = "stopped"
    GOT_THROUGH = "got through"
    UNTRIED = "could not be tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """One path as the process inside found it."""

    path: str
    """Its id in the catalogue."""
    label: str
    """Tells apart several tries of one path: "IPv6"."""
    title: str
    outcome: Outcome
    detail: str = ""
    """How it was stopped ("EPERM", "timeout": dropped in silence), or why it could not be tried."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the process inside is; the agent's own, for findings that are true of the agent."""

    uid: int
    gid: int
    capabilities: int = 0
    """Effective and permitted, a bit mask as CapEff in /proc/PID/status."""


class Inside:
    """The process inside and the one outside, ready to try; as often as is wanted, also across an isolation."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._phases = 0

    def attempt(self, within_s: float = ARRIVES_S) -> list[Finding]:
        """Try every path once. Takes `within_s` where something does not arrive outside either."""
        self._phases += 1
        controls = {row.key for row in self._play.rows if row.who == OUTSIDE}
        tried = self._play.attempt(Phase(self._phases, within_s), controls=controls)
        return _missing() + _findings(self._play.rows, tried)


def probe_from_inside(
    cgroup: Cgroup,
    *,
    uid: int | None = None,
    gid: int | None = None,
    capabilities: int = 0,
    netns: Path | None = None,
    deadline_s: float = 5.0,
    rescan: Callable[[], object] | None = None,
) -> list[Finding]:
    """Try every path that can be tried over loopback from inside `cgroup`; ends within `deadline_s`.

    `uid` (with `gid`, default the same, and `capabilities`, a bit mask as CapEff in /proc/PID/status) is who tries;
    None tries as we are, the worst case. `netns` (/proc/PID/ns/net) is where; None is our own. With `rescan`, sockets
    made before the process was moved in are tried as well: it is called when they are in the cgroup, to be found.

    One finding a path and family, in the catalogue's terms. What prevents the whole probe (a frozen or vanished cgroup)
    is the detail of findings that could not be tried. Refused for the root cgroup.
    """
    until_s = time.monotonic() + deadline_s
    who = None if uid is None else Credentials(uid, uid if gid is None else gid, capabilities)
    try:
        with inside(cgroup, who=who, netns=netns, until_s=until_s, rescan=rescan) as ready:
            return ready.attempt()
    except Refused:
        raise
    except WatchdogError as error:
        return _all_untried(error.message)


@contextmanager
def inside(
    cgroup: Cgroup,
    *,
    who: Credentials | None = None,
    netns: Path | None = None,
    until_s: float = math.inf,
    rescan: Callable[[], object] | None = None,
) -> Iterator[Inside]:
    """The same for several tries: both processes where they belong, with all rows prepared; gone at the end.

    `until_s`, of the monotonic clock, is when everything ends. WatchdogError where they cannot be put there.
    """
    if cgroup.is_root:
        raise Refused(f"{cgroup.path} is the root cgroup: no isolation is verified there")
    if freezer.is_frozen(cgroup):
        raise KernelRefused("its cgroup is frozen: nothing in it runs")
    if short := memory.shortage(cgroup, NEEDED_BYTES):
        raise KernelRefused(short)
    with ExitStack() as undo:
        folder = str(undo.enter_context(scratch_folder(PREFIX)))
        actors = {name: undo.enter_context(closing(Actor(name))) for name in (INSIDE, OUTSIDE)}
        for actor in actors.values() if netns is not None else ():
            must(actor, [["enter_netns", str(netns)]], until_s)
        scenes = [Scene(name, folder, {each: actors[each].ports for each in actors}) for name in actors]
        moved = [row for scene in scenes for row in loopback_rows.rows_from_elsewhere(scene)] if rescan else []
        made_inside = [row for scene in scenes for row in loopback_rows.rows_of(scene)]
        play = Play(actors, [*moved, *made_inside], until_s)
        play.setup({row.key for row in moved})
        undo.callback(_enter(cgroup, actors[INSIDE]))
        if who is not None:
            _become(actors[INSIDE], who, until_s)
        if rescan is not None:
            rescan()
        play.setup({row.key for row in made_inside})
        yield Inside(play)


def _become(actor: Actor, who: Credentials, until_s: float) -> None:
    """Be as the agent is. A watcher without CAP_SETUID and CAP_SETGID stays who it is, with its capabilities."""
    actor.run([["become", who.uid, who.gid]], until_s)
    must(actor, [["keep_only", who.capabilities]], until_s)


def _enter(cgroup: Cgroup, actor: Actor) -> Callable[[], None]:
    """Move it into exactly this cgroup, or into a child where only children may hold processes; how to tidy up."""
    actor.die_first()
    with cgroups.opened(cgroup) as fd:
        at = Path(f"/proc/self/fd/{fd}")
        try:
            return _moved(actor, at, cgroup.path)
        except CannotEnter as error:
            if not error.is_busy:
                raise KernelRefused(f"no process can be put into {cgroup.path}: {error.reason}") from error
            child = f"{PREFIX}{os.getpid()}"
            (at / child).mkdir(exist_ok=True)
            try:
                _moved(actor, at / child, cgroup.path / child)
            except KernelRefused:
                _remove(actor, cgroup.path / child)
                raise
            return lambda: _remove(actor, cgroup.path / child)


def _moved(actor: Actor, at: Path, path: Path) -> Callable[[], None]:
    """Marked as ours before it comes, so that nobody takes it for the agent's."""
    try:
        visitor.mark(at, actor.pid)
        actor.move(at)
    except CannotEnter:
        visitor.unmark(at)
        raise
    except OSError as error:
        raise KernelRefused(f"cannot mark a process in {path} as ours: {error.strerror}") from error
    return lambda: _leave(actor, path)


def _leave(actor: Actor, path: Path) -> None:
    actor.close()
    visitor.unmark(path)


def _remove(actor: Actor, child: Path) -> None:
    """Killed before its cgroup goes."""
    actor.close()
    cgroups.remove(child, time.monotonic() + REMOVE_TIMEOUT_S)


def _findings(rows: tuple[Row, ...], tried: dict[str, Tried]) -> list[Finding]:
    control = {(row.path, row.label): tried[row.key] for row in rows if row.who == OUTSIDE}
    return [
        _finding(row.path, row.label, *judge(tried[row.key], control[row.path, row.label]))
        for row in rows
        if row.who == INSIDE
    ]


def judge(inside: Tried, outside: Tried) -> tuple[Outcome, str]:
    """What the two tries of one path mean together: silence inside proves nothing where it is silent outside too."""
    if inside.passed:
        return Outcome.GOT_THROUGH, ""
    if inside.word == SILENT:
        return Outcome.UNTRIED, "the process inside did not answer: was it stopped or killed?"
    if not outside.passed:
        return Outcome.UNTRIED, f"it does not work outside either: {outside.word}"
    return Outcome.STOPPED, inside.word


def _finding(path: str, label: str, outcome: Outcome, detail: str) -> Finding:
    title = catalogue.find(path).title
    return Finding(path, label, f"{title} ({label})" if label else title, outcome, detail)


def _missing() -> list[Finding]:
    """What this kernel has not loaded."""
    gone = [path for path, sign in LOADED_IF.items() if not sign.exists()]
    return [_finding(path, "", Outcome.UNTRIED, "this kernel has not loaded it") for path in gone]


def _all_untried(why: str) -> list[Finding]:
    scene = Scene(INSIDE, "", {INSIDE: {}, OUTSIDE: {}})
    return _missing() + [_finding(row.path, row.label, Outcome.UNTRIED, why) for row in loopback_rows.rows_of(scene)]
