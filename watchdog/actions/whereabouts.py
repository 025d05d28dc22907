"""Where the processes are that were moved into a cgroup of their own: asked of the kernel, changing nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from watchdog import clock
from watchdog.actions.place import Place
from watchdog.errors import UsageError
from watchdog.host import agents, processes
from watchdog.host.processes import Process
from watchdog.intents import Where
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.moved import Moved, Was

ENDED = (
    "the processes that were moved into it have ended: nothing is held, and what starts now is elsewhere: release it, "
    "and isolate again"
)
"""reconcile has nothing to put back then."""


def known(some: Collection[Process], place: Place) -> Where | None:
    """The isolation in force that moved one of these, or made the cgroup that one of them was born in."""
    for intent in place.intents.in_force():
        where = intent.where
        if where.moved is None or where.moved.boot != clock.boot_id():
            continue
        new = there(where, place.root)
        if where.moved.knows(some) or (
            new and any(new.contains(place_of(each, place.root) or place.top) for each in some)
        ):
            return where
    return None


def there(where: Where, root: Path) -> Cgroup | None:
    """The cgroup that was made; its id is not known where who made it died then."""
    inode = cgroups.inode_at(where.cgroup)
    if where.moved is None or where.moved.boot != clock.boot_id() or inode is None:
        return None
    return Cgroup(Path(where.cgroup), inode, root) if where.cgroup_id in (0, inode) else None


def family(where: Where, root: Path) -> list[Process]:
    """All of the agent's processes, inside and outside, the oldest first."""
    new = there(where, root)
    moved = [was.process for was in _still(where.moved)]
    return processes.families([*moved, *(running(cgroups.processes(new)) if new else ())])


def inside(where: Where, new: Cgroup) -> list[Process]:
    """Who is in its cgroup; also those that are not listed there, as their first thread ended before they came."""
    unlisted = [was.process for was in _still(where.moved) if processes.has_lost_leader(was.pid)]
    return [*running(cgroups.processes(new)), *(each for each in unlisted if not _is_outside(each, new))]


def outside(where: Where, new: Cgroup) -> list[Process]:
    """Those of them that are not in its cgroup."""
    listed = cgroups.processes(new)
    return [each for each in family(where, new.root) if each.pid not in listed and _is_outside(each, new)]


def orphans(old: Cgroup, before: Collection[int], agent: Collection[int]) -> list[Process]:
    """Who came to the old cgroup since `before` and has no parent among the strangers: whose it is nobody knows."""
    now = cgroups.own_processes(old)
    return [each for each in running(now - set(before) - set(agent)) if _is_orphan(each, now)]


def _is_orphan(process: Process, strangers: Collection[int]) -> bool:
    parent = next(iter(processes.ancestors(process.pid)), None)
    return parent is None or parent.pid not in strangers or processes.is_init(parent.pid)


def has_ended(where: Where, root: Path) -> bool:
    """Whether nothing is left of what was moved: it ended, or the boot did."""
    if where.moved is None:
        return False
    new = there(where, root)
    return not (new and cgroups.processes(new)) and not _still(where.moved)


def gaps(where: Where, root: Path) -> list[str]:
    """Who of the agent's is not held, a sentence each."""
    new = there(where, root)
    if where.moved is None or new is None:
        return []
    lost = [was for was in _still(where.moved) if processes.has_lost_leader(was.pid)]
    unclear = [was for was in where.moved.unclear if processes.still_same(was.process)]
    return [
        *(f"what process {was.pid} has open is not found: its first thread has ended" for was in lost),
        *(
            f"{processes.describe(was.pid)} lost its parent while the agent was moved, and may be the agent's"
            for was in unclear
            if _is_outside(was.process, new)
        ),
    ]


def _still(moved: Moved | None) -> list[Was]:
    if moved is None or moved.boot != clock.boot_id():
        return []
    return [was for was in moved.processes if processes.still_same(was.process)]


def _is_outside(process: Process, new: Cgroup) -> bool:
    place = place_of(process, new.root)
    return place is not None and not new.contains(place)


def begun_anew(where: Where, place: Place, held: Collection[Cgroup]) -> tuple[list[str], list[str]]:
    """Whether a peer that is found by its processes runs where nothing holds it, as it was started anew; then what of
    that cannot be told. A sentence each.

    Nobody is to be let back because of it: what names the process, as its pid file, may be the agent's to write.
    """
    how = place.selectors.get(where.peer)
    try:
        found = agents.find(how) if how else []
    except agents.NotRunning:
        return [], []
    except UsageError as error:
        return [], [f"whether {where.peer} runs elsewhere too is not known: {error.message}"]
    for process in found:
        at = place_of(process, place.root)
        if at is not None and not any(cgroup.contains(at) for cgroup in held):
            seems = f"{where.peer} seems to be {processes.describe(process.pid)} in {at.path} now, which is open"
            return [f"{seems}: if it is, watchdog-mesh isolate --cgroup {at.path}"], []
    return [], []


def place_of(process: Process, root: Path) -> Cgroup | None:
    """The cgroup it is in; None for one that has ended."""
    with suppress(UsageError):
        return cgroups.of_pid(processes.running_thread(process.pid), root)
    return None


def found(some: Iterable[Process], root: Path) -> Iterator[Was]:
    """These processes with the cgroups they are in, without those that have ended."""
    for process in some:
        if (place := place_of(process, root)) is not None:
            yield Was(process.pid, process.started_ticks, str(place.path), place.inode)


def running(pids: Iterable[int]) -> list[Process]:
    """Those that run, the kernel's own left out."""
    each = (processes.of_pid(pid) for pid in sorted(pids) if not processes.is_kernel_thread(pid))
    return [process for process in each if process is not None]
