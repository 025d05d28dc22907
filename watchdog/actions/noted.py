"""What an isolation was last seen with: its processes, its unit's file, the links that it is filtered on.

The kernel tells where a process is, not where it was. What is noted here lets any process see later that one was moved
out, that a unit goes by another name, that a link is new. It is in the run directory and ends with the boot: without it
nothing is worse but this.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from watchdog import clock
from watchdog.actions.place import Place
from watchdog.clock import rfc3339
from watchdog.errors import KernelRefused, UsageError, WatchdogError
from watchdog.host import processes, unit_files
from watchdog.host.processes import Process
from watchdog.host.systemd import UnitState
from watchdog.host.unit_files import UnitFile
from watchdog.intents import Intent, State
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup

FOLDER = "noted"
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600


@dataclass(frozen=True, slots=True)
class Noted:
    """What was seen."""

    since: str
    """The isolation's beginning: another one's notes say nothing."""
    since_ticks: int
    """When it was first noted, as processes' starts are counted."""
    processes: frozenset[Process] = frozenset()
    unit_file: UnitFile | None = None
    covered: Mapping[str, frozenset[tuple[int, int]]] = field(default_factory=dict)
    """The links with filters of ours by layer, each by its namespace's inode and its index."""


def read(intent: Intent, place: Place) -> Noted | None:
    """What is noted of this very isolation; None where nothing is."""
    try:
        noted = msgspec.json.decode(_path(intent, place).read_bytes(), type=Noted)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return noted if noted.since == rfc3339(intent.since) else None


def note(intent: Intent, place: Place, inside: Iterable[Cgroup], unit: UnitState | None) -> None:
    """Note what is to be seen now. A run directory that cannot be written fails no isolation."""
    before = read(intent, place) or Noted(rfc3339(intent.since), now_ticks())
    found = {process for pid in _pids(inside) if (process := processes.of_pid(pid)) is not None}
    file = unit_files.read(unit.fragment_path) if unit is not None and unit.fragment_path else None
    covered = {layer: frozenset(links) for layer, links in covered_of(intent, place).items()}
    after = replace(before, processes=frozenset(found), unit_file=file or before.unit_file, covered=covered)
    if after != before or not _path(intent, place).exists():
        with suppress(OSError):
            _write(_path(intent, place), msgspec.json.encode(after))


def covered_of(intent: Intent, place: Place) -> dict[str, set[tuple[int, int]]]:
    """The links that were seen with filters of ours: for the layers to keep, so that they know a new link."""
    kept = place.covered.get(intent.id)
    if kept is None:
        noted = read(intent, place)
        before = {layer: set(links) for layer, links in noted.covered.items()} if noted else {}
        kept = place.covered.setdefault(intent.id, before)
    return kept


def forget(intent: Intent, place: Place) -> None:
    """Its isolation is over."""
    place.covered.pop(intent.id, None)
    with suppress(OSError):
        _path(intent, place).unlink(missing_ok=True)


def moved_out(intent: Intent, place: Place, inside: Collection[Cgroup]) -> list[Process]:
    """Processes that are the agent's and in none of its cgroups: they were inside, or descend from such.

    What an agent began elsewhere before it was isolated is not among them.
    """
    noted = read(intent, place) if intent.state is State.ISOLATED else None
    if noted is None:
        return []
    pids = _pids(inside)
    left = [each for each in noted.processes if each.pid not in pids and processes.still_same(each)]
    left += [child for child in _children(pids) if child.pid not in pids and child.started_ticks >= noted.since_ticks]
    below = [child for each in left for child in processes.descendants(each) if child.pid not in pids]
    return sorted(each for each in {*left, *below} if _is_outside(each, inside))


def _is_outside(process: Process, inside: Iterable[Cgroup]) -> bool:
    """Asked of itself: it may have been made, or have ended, since the others inside were listed."""
    try:
        here = cgroups.of_pid(processes.running_thread(process.pid))
    except UsageError:  # it has ended, or is where nothing can be seen from here
        return processes.still_same(process)
    return processes.still_same(process) and not any(top.contains(here) for top in inside)


def bring_back(moved: Iterable[Process], inside: Collection[Cgroup]) -> None:
    """Move processes back into the agent's cgroup. KernelRefused names those that cannot be."""
    homes = [home for top in inside for home in cgroups.tree(top)]
    refused = [f"{processes.describe(each.pid)}: {reason}" for each in moved if (reason := _move(each, homes))]
    if refused:
        raise KernelRefused(f"cannot move its processes back: {'; '.join(refused)}")


def made_again(intent: Intent, place: Place) -> tuple[Cgroup, ...]:
    """A cgroup for processes that live on and whose own was removed behind them; none where that cannot be."""
    path = Path(intent.where.cgroup)
    try:
        path.mkdir()
        return (cgroups.resolve(path, place.root),)
    except (OSError, WatchdogError):
        return ()


def now_ticks() -> int:
    """Now, as processes' starts are counted."""
    return int(clock.now_s() * os.sysconf("SC_CLK_TCK"))


def _move(process: Process, homes: Iterable[Cgroup]) -> str:
    """Why not; "" where it is there, or gone. A cgroup whose processes have to be below it takes none itself."""
    reason = "its cgroup is gone"
    for home in homes:
        if not processes.still_same(process):
            return ""
        try:
            (home.path / "cgroup.procs").write_text(str(process.pid))
        except ProcessLookupError:
            return ""
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return ""
    return reason


def _pids(inside: Iterable[Cgroup]) -> set[int]:
    return {pid for cgroup in inside for pid in cgroups.processes(cgroup)} - {cgroups.OTHER_NAMESPACE}


def _children(pids: Iterable[int]) -> Iterator[Process]:
    """Those whose parent lives; the kernel lists them by thread."""
    for pid in pids:
        for thread in _names(f"/proc/{pid}/task"):
            with suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                    if (process := processes.of_pid(int(child))) is not None:
                        yield process


def _names(folder: str) -> list[str]:
    with suppress(OSError):  # ended midway
        return os.listdir(folder)  # noqa: PTH208 -- of every process of the agent
    return []


def _path(intent: Intent, place: Place) -> Path:
    return place.run / FOLDER / f"{intent.id}.json"


def _write(path: Path, text: bytes) -> None:
    path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(text)
    beside.chmod(_FILE_MODE)
    beside.replace(path)
