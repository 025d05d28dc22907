"""`isolate --adopt`: an agent that shares its cgroup with strangers is moved into one that is made for it.

The new cgroup is made below the old one: that is always allowed ("no internal processes" forbids a cgroup both
processes and controllers for its children, and the old one has processes), the old one's limits and filters go on to
hold, and a systemd unit keeps its processes and ends them with the rest. To systemd such a cgroup is a stranger's work
in its tree (it wants one writer for each part): it leaves it alone, and ours touches nothing else there.

The new one is isolated and frozen while it is empty. Then the processes are moved in, each stops where it lands, and
the tree is scanned until nobody of it is outside. What their sockets are is found out then, and only then do they run.
Which processes, from where and to where is in the journal before the first of them is moved. Their sockets stay the
old cgroup's: watchdog.kernel.layers.cookies drops them there, and nobody else's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from watchdog import clock
from watchdog.actions import targets, whereabouts
from watchdog.actions.place import Place
from watchdog.errors import KernelRefused, Refused, UsageError, WatchdogError
from watchdog.host import processes
from watchdog.host.processes import Process
from watchdog.intents import Intent, State, Where
from watchdog.kernel import cgroups, moves
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import freeze, sequence
from watchdog.kernel.layers.base import FROZEN
from watchdog.kernel.slots import Slot
from watchdog.moved import Moved, Was

PREFIX = "watchdog-mesh-"
"""Of the names of cgroups that are made; no suffix of systemd's units follows."""

SCANS_AT_MOST = 50
"""Seen: two for an agent that does not fork meanwhile, and few more for one that does."""

NAMED_AT_MOST = 3
"""Processes that are named where they stay."""

INIT_PID = 1

RETURNED = "returned"
"""The step of a release at which one process is back where it was."""

Step = Callable[[str], None]


def apart(where: Where, agent: frozenset[int] | None, place: Place) -> Where:
    """The same processes, in a cgroup that is yet to be made; as it is where they share theirs with nobody.

    UsageError where no processes were named but a cgroup and all that is in it.
    """
    if agent is None:
        if where.moved is not None:
            return where
        raise UsageError(
            f"{where.unit or where.cgroup} is named with all that is in it: there are no strangers to leave behind",
            hint="without --adopt; or name a process, with --pid or a peer that is found by one",
        )
    tree = whereabouts.running(agent)
    if not tree:
        raise UsageError("it has ended, or is the kernel's own: there is nothing to move")
    old = Cgroup(Path(where.cgroup), where.cgroup_id, place.root)
    inside = cgroups.processes(old)
    if inside <= agent and inside.issuperset(process.pid for process in tree) and not old.is_root:
        return where
    top = min(tree, key=lambda process: (process.started_ticks, process.pid))
    path = old.path / f"{PREFIX}{top.pid}-{top.started_ticks}"
    moved = Moved(where.cgroup, where.cgroup_id, clock.boot_id(), tuple(whereabouts.found(tree, place.root)))
    return Where(str(path), 0, "", where.peer, moved)


def move_in(intent: Intent, slot: Slot, place: Place, step: Step) -> Intent:
    """Make the cgroup, put all layers on it while nobody is inside, and move its processes there. With the lock held;
    a dead process's work is taken up where it ended."""
    moved = intent.where.moved
    if moved is None or moved.boot != clock.boot_id() or intent.state is not State.ISOLATING:
        return intent  # once isolated, what leaves is brought back as for every cgroup: watchdog.actions.noted
    new = whereabouts.there(intent.where, place.root)
    if new is None:
        old = Cgroup(Path(moved.cgroup), moved.cgroup_id, place.root)
        new = moves.make(old, Path(intent.where.cgroup).name)
        step("made")
        moves.note_origin(new, old)
    if intent.where.cgroup_id != new.inode:
        intent = place.intents.change(
            intent, intent.state, place.now(), where=replace(intent.where, cgroup_id=new.inode)
        )
        step("noted")
    try:
        sequence.cut(replace(targets.target_of(intent, slot, place, [new]), level=FROZEN), step)
        intent = _gather(intent, new, place, step)
    except WatchdogError:
        if intent.why.level != FROZEN:
            freeze.let_run(new)
        raise
    if not cgroups.processes(new):
        raise KernelRefused(f"{intent.name} is not cut off: its processes ended meanwhile", hint="ps -ef")
    return intent


def _gather(intent: Intent, new: Cgroup, place: Place, step: Step) -> Intent:
    """Move until nobody is left outside, and note who came meanwhile and may be the agent's."""
    moved = _moved(intent)
    old = Cgroup(Path(moved.cgroup), moved.cgroup_id, place.root)
    before = cgroups.own_processes(old)
    for _ in range(SCANS_AT_MOST):
        outside = list(whereabouts.found(_outside(intent.where, new), place.root))
        agent = {was.pid for was in (*moved.processes, *outside)}
        unclear = tuple(whereabouts.found(whereabouts.orphans(old, before, agent), place.root))
        if outside or unclear != moved.unclear:
            moved = replace(moved, processes=_joined(moved.processes, outside), unclear=unclear)
            intent = place.intents.change(intent, intent.state, place.now(), where=replace(intent.where, moved=moved))
        if not outside:
            return intent
        for each in outside:
            _move(each, new, place)
            step("moved")
    raise KernelRefused(
        f"{intent.name} cannot be moved: it forks faster than it is scanned ({len(moved.processes)} processes so far)",
        hint="isolate the whole cgroup, strangers included: --cgroup, or --force instead of --adopt",
    )


def _outside(where: Where, new: Cgroup) -> list[Process]:
    outside = whereabouts.outside(where, new)
    if {INIT_PID, os.getpid()} & {each.pid for each in outside}:
        raise Refused("the tree of its processes holds PID 1 or this very process, which would be stopped with it")
    return outside


def _move(was: Was, new: Cgroup, place: Place) -> None:
    if processes.still_same(was.process) and moves.put(was.pid, new):
        took_its_number = processes.of_pid(was.pid)
        if took_its_number not in (None, was.process):
            moves.put(was.pid, Cgroup(Path(was.cgroup), was.cgroup_id, place.root))


def move_back(where: Where, place: Place, step: Step) -> list[str]:
    """Let its processes go back to where they were and remove the cgroup; what stays, and why, a sentence each.

    All of them as they are then, children among them. Does nothing twice. With the lock held, the layers gone.
    """
    new = whereabouts.there(where, place.root)
    if where.moved is None or new is None:
        return []
    with suppress(WatchdogError):  # where this very process is inside, it does without
        freeze.stop(new, freeze.WORKING)
    try:
        why = _empty(where, new, place, step)
    finally:
        freeze.let_run(new)
    if not why and moves.remove(new):
        step("removed")
        return []
    stay = "; ".join(processes.describe(pid) for pid in sorted(cgroups.processes(new))[:NAMED_AT_MOST])
    return [f"its processes stay in {new.path} ({stay}): {why or 'it cannot be removed'}"]


def returned(intent: Intent, place: Place) -> Intent:
    """After a release: the intent with its processes where they are again, for who wants to look at them there."""
    where, moved = intent.where, intent.where.moved
    if moved is None or moved.cgroup == str(place.root) or whereabouts.there(where, place.root) is not None:
        return intent
    return replace(intent, where=replace(where, cgroup=moved.cgroup, cgroup_id=moved.cgroup_id, moved=None))


def _empty(where: Where, new: Cgroup, place: Place, step: Step) -> str:
    """Move everybody out; why not, if anybody stays."""
    moved = where.moved
    assert moved is not None
    old = Cgroup(Path(moved.cgroup), moved.cgroup_id, place.root)
    homes = {was.process: Cgroup(Path(was.cgroup), was.cgroup_id, place.root) for was in moved.processes}
    for _ in range(SCANS_AT_MOST):
        inside = whereabouts.inside(where, new)
        if not inside:
            return ""
        for each in inside:
            home = next((home for home in (homes.get(each, old), old) if cgroups.exists(home)), None)
            if home is None:
                return f"the cgroup they were in, {old.path}, is gone"
            try:
                moves.put(each.pid, home)
            except KernelRefused as error:
                return error.message
            step(RETURNED)
    return "others come for every one that is moved"


def _moved(intent: Intent) -> Moved:
    assert intent.where.moved is not None
    return intent.where.moved


def _joined(known: Collection[Was], found: Iterable[Was]) -> tuple[Was, ...]:
    """A process that is known has its first cgroup for its home."""
    there = {was.process for was in known}
    return (*known, *(was for was in found if was.process not in there))
