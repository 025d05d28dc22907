"""Looking at a target's sockets, and being told which of them are its own."""

from __future__ import annotations

from contextlib import suppress

from watchdog.errors import WatchdogError
from watchdog.kernel import hooks, scanning
from watchdog.kernel.cgroups import CgroupGone
from watchdog.kernel.hooks import Placed
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.once import once
from watchdog.kernel.programs import WHOSE
from watchdog.kernel.sockets import Scan


def ask(target: Target) -> list[WatchdogError]:
    """Attach the program that tells. Why not, where that is not possible: sock_diag is asked instead then."""
    refused: list[WatchdogError] = []
    for cgroup in target.cgroups if WHOSE.name in target.common.programs else ():
        if not hooks.ours_at(cgroup, (WHOSE.hook,), (WHOSE.name,)):
            try:
                with suppress(CgroupGone):
                    hooks.attach(cgroup, [Placed(WHOSE.hook, target.common.programs[WHOSE.name])])
            except WatchdogError as error:
                refused.append(error)
    return refused


def stop_asking(target: Target) -> None:
    """Detach it."""
    for cgroup in target.cgroups:
        hooks.detach_ours(cgroup, (WHOSE.hook,), (WHOSE.name,))


def is_told(target: Target) -> bool:
    """Whether it is attached to every cgroup of the target."""
    return all(hooks.ours_at(cgroup, (WHOSE.hook,), (WHOSE.name,)) for cgroup in target.cgroups)


def look(target: Target) -> Scan:
    """Everything the target has open; every socket counts as from elsewhere where nothing tells."""
    return once(
        ("whose", target.cgroups), lambda: scanning.scan(target.cgroups, target.known if is_told(target) else None)
    )
