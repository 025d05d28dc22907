"""What is looked at before a drift is repaired, so that its cause can be suspected (watchdog/actions/drift.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from watchdog.actions import noted
from watchdog.actions.drift import Seen
from watchdog.actions.place import Place, glance
from watchdog.host import processes, unit_filters
from watchdog.intents import Intent
from watchdog.kernel import bpffs, cgroups, credentials, moves
from watchdog.kernel.credentials import Credentials

CAP_NET_ADMIN_BIT, CAP_SYS_ADMIN_BIT = 12, 21
RIGHTS = 1 << CAP_NET_ADMIN_BIT | 1 << CAP_SYS_ADMIN_BIT
"""<uapi/linux/capability.h>: either may detach programs or delete filters."""


def look(intent: Intent, place: Place) -> Seen:
    """Before anything is changed: a repair takes these traces away."""
    there, unit = glance(intent.where, place.root), intent.where.unit
    drop_in = unit_filters.drop_in(unit, place.drop_ins) if unit else None
    return Seen(
        unit=unit,
        is_new_cgroup=bool(there) and intent.where.cgroup_id not in {cgroup.inode for cgroup in there},
        bpffs="" if bpffs.is_on_bpffs(place.pins) else str(place.pins),
        drop_in=str(drop_in) if drop_in is not None and not drop_in.exists() else "",
    )


def with_the_agent(seen: Seen, intent: Intent, place: Place) -> Seen:
    """The same, with whether the agent itself may be suspected."""
    there = glance(intent.where, place.root)
    left = {each.pid for each in noted.moved_out(intent, place, there)}
    pids = sorted(left | {pid for cgroup in there for pid in cgroups.processes(cgroup)} - {cgroups.OTHER_NAMESPACE})
    doors = moves.doors(there)
    return replace(
        seen,
        capable=_first(pids, lambda each: bool(each.capabilities & RIGHTS)),
        mover=_first(pids, lambda each: any(map(each.may_write, doors))),
    )


def _first(pids: Iterable[int], may: Callable[[Credentials], bool]) -> str:
    able = (pid for pid in pids if any(map(may, credentials.of_threads(pid))))
    return next((f"pid {pid} ({processes.printable(processes.name_of(pid))})" for pid in able), "")
