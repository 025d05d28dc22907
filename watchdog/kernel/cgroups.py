"""Cgroups of the v2 hierarchy: finding them, naming them safely, their processes, freezing.

A cgroup is its inode, which is the kernel's cgroup id: a path alone says nothing, since a restarted unit has
a new cgroup at the old path and nothing that was attached to the old one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused, Refused, UsageError
from watchdog.kernel import visitor
from watchdog.kernel.mounts import Mount, read_mounts
from watchdog.kernel.slices import in_slices

OTHER_NAMESPACE = 0
"""What the kernel writes for a process that lives in a PID namespace we cannot see into."""

ROOT_ID = 1
"""The id of the root cgroup of the v2 hierarchy, always."""

FILEID_KERNFS = 0xFE
"""<linux/exportfs.h>: a file handle that is nothing but a cgroup id."""

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


REMOVE_RETRY_S = 0.005
SELFTEST_PREFIX, BED_PREFIX, DRILL_PREFIX = "watchdog-selftest-", "watchdog-paths-", "watchdog-drill-"
"""How the names of our own scratch cgroups begin; in a bed there are more below. What a killed process left of them is
no agent's, and the next one clears it away."""

_GONE = (FileNotFoundError, NotADirectoryError)


class _KernfsHandle(ctypes.Structure):
    """struct file_handle with the eight bytes of a cgroup id."""

    _fields_ = (("bytes", ctypes.c_uint32), ("type", ctypes.c_int32), ("id", ctypes.c_uint64))
    _pack_ = 1


class CgroupGone(KernelRefused):
    """The cgroup was removed, or another one is at its path now; whatever was attached to it went with it."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup, alive or not."""

    path: Path
    inode: int
    """The cgroup id, as bpf_get_current_cgroup_id() gives it."""
    root: Path
    """Where the v2 hierarchy is mounted."""

    @property
    def is_root(self) -> bool:
        """Whether this is the root of the hierarchy, never ours to touch."""
        return self.path == self.root

    def relative(self) -> str:
        """Its name as in /proc/PID/cgroup: "/system.slice/shield.service"."""
        return "/" + "/".join(self.path.relative_to(self.root).parts)

    def contains(self, other: Cgroup) -> bool:
        """Whether `other` is this cgroup or lies below it."""
        return other.path.is_relative_to(self.path)


def find_v2_root() -> Path:
    """Where the v2 hierarchy is mounted: /sys/fs/cgroup, or beside v1 at /sys/fs/cgroup/unified."""
    return choose_v2_root([mount for mount in read_mounts() if not _is_hidden(mount)])


def choose_v2_root(mounts: list[Mount]) -> Path:
    """The first mount that shows all of the v2 hierarchy; HostCannot where none does."""
    found = [mount for mount in mounts if mount.fs_type == "cgroup2"]
    whole = [mount.point for mount in found if mount.root == "/"]
    if whole:
        return whole[0]
    if found:
        raise HostCannot(
            f"{found[0].point} shows only the cgroup v2 tree below {found[0].root}",
            hint="run in the host's cgroup namespace, or mount cgroup2 anew inside this one",
        )
    raise HostCannot(
        "this host has no cgroup v2 hierarchy",
        hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1",
    )


def _is_hidden(mount: Mount) -> bool:
    """Something else may be mounted over it since."""
    try:
        return mount.point.stat().st_dev != mount.device
    except OSError:
        return True


def resolve(path: Path | str, root: Path | None = None) -> Cgroup:
    """The cgroup at an absolute path inside the v2 tree.

    UsageError where it does not exist, is outside, or the path holds `..` or a symbolic link; Refused for the
    root cgroup, which holds the whole machine.
    """
    root = root or find_v2_root()
    path = Path(path)
    _check_spelling(path, root)
    try:
        real, found = path.resolve(strict=True), path.lstat()
    except OSError as error:
        raise UsageError(
            f"there is no cgroup {path}: {error.strerror}", hint="systemctl status names a unit's"
        ) from error
    if real != path:
        raise UsageError(f"{path} is a symbolic link's path; it leads to {real}", hint="name that directly")
    if found.st_dev != root.stat().st_dev or not (path / "cgroup.procs").exists():
        raise UsageError(f"{path} is not a cgroup of {root}", hint="name the cgroup's directory")
    if path == root:
        raise Refused(
            f"{path} is the root cgroup: isolating it cuts off the whole machine", hint=f"name a cgroup below {root}"
        )
    return Cgroup(path, found.st_ino, root)


def _check_spelling(path: Path, root: Path) -> None:
    if "\0" in str(path) or not path.is_absolute():
        raise UsageError(f"{str(path)!r} is no absolute path", hint=f"name a cgroup below {root}")
    if ".." in path.parts:
        raise UsageError(f"{path} holds '..'", hint="name the cgroup directly")
    if not path.is_relative_to(root):
        raise UsageError(f"{path} is outside the cgroup v2 tree at {root}", hint=f"name a cgroup below {root}")


def resolve_relative(name: str, root: Path | None = None) -> Cgroup:
    """The cgroup of a name as in /proc/PID/cgroup or a unit's ControlGroup=; the same rails as `resolve`."""
    root = root or find_v2_root()
    return resolve(Path(f"{root}/{name.lstrip('/')}"), root)


def of_pid(pid: int, root: Path | None = None) -> Cgroup:
    """The cgroup a process is in, which may be the root. UsageError where the process is gone."""
    root = root or find_v2_root()
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise UsageError(f"process {pid} is gone") from error
    path = Path(f"{root}{parse_proc_cgroup(text)}")
    try:
        return Cgroup(path, path.stat().st_ino, root)
    except OSError as error:
        raise UsageError(f"process {pid} is in {path}, which cannot be seen from here: {error.strerror}") from error


def of_unit(unit: str, root: Path) -> Cgroup | None:
    """The cgroup of a unit, by its full id, of the systemd that owns this hierarchy; None where nothing of it runs.

    Found by where systemd puts it, below slices and nothing else: units of the same name that belong to a user's or a
    container's systemd lie below that one's own cgroup, which is no slice. Takes 0.1 ms, and `systemctl show` 4.
    """
    return next((found for path in in_slices(str(root), unit) if (found := _known(path, root)) is not None), None)


def _known(path: str, root: Path) -> Cgroup | None:
    inode = inode_at(path)
    return None if inode is None else Cgroup(Path(path), inode, root)


def by_id(cgroup_id: int, root: Path) -> Cgroup | None:
    """The cgroup of an id, wherever it is; None where it is gone, or outside what is mounted at `root`.

    HostCannot where this process may not ask: what cannot be looked up must not be taken for gone.
    """
    handle = _KernfsHandle(ctypes.sizeof(ctypes.c_uint64), FILEID_KERNFS, cgroup_id)
    with _opened_root(root) as mount_fd:
        fd = ctypes.CDLL(None, use_errno=True).open_by_handle_at(mount_fd, ctypes.byref(handle), os.O_RDONLY)
        if fd < 0:
            code = ctypes.get_errno()
            if code in (errno.ESTALE, errno.ENOENT):
                return None
            raise HostCannot(
                f"cannot look up the cgroup with the id {cgroup_id}: {os.strerror(code)}",
                hint="give this process CAP_DAC_READ_SEARCH and the call open_by_handle_at",
            )
        try:
            path = Path(f"/proc/self/fd/{fd}").readlink()
        finally:
            os.close(fd)
    found = Cgroup(path, cgroup_id, root)
    return found if path.is_relative_to(root) and exists(found) else None


def remove(path: Path, until_s: float) -> str:
    """Remove one cgroup; why it stays, or "" where it is gone.

    A killed process leaves its cgroup a moment after its end: a busy one is tried again until `until_s`
    (time.monotonic).
    """
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return ""
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until_s:
                return error.strerror or str(error)
            time.sleep(REMOVE_RETRY_S)
        else:
            return ""


@contextmanager
def _opened_root(root: Path) -> Iterator[int]:
    fd = os.open(root, _OPEN_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def parse_proc_cgroup(text: str) -> str:
    """The v2 name in /proc/PID/cgroup: the line of hierarchy 0. "" for the root."""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::").rstrip("/")
    raise HostCannot("the process is in no cgroup v2 hierarchy", hint="mount cgroup2; `watchdog-mesh doctor` says how")


@contextmanager
def opened(cgroup: Cgroup) -> Iterator[int]:
    """A descriptor of exactly this cgroup; CgroupGone where its path leads nowhere or to another one."""
    try:
        fd = os.open(cgroup.path, _OPEN_DIRECTORY)
    except _GONE as error:
        raise CgroupGone(f"the cgroup {cgroup.path} is gone", hint="a stopped unit has no cgroup") from error
    except OSError as error:
        raise KernelRefused(f"cannot open the cgroup {cgroup.path}: {error.strerror}") from error
    try:
        found = os.fstat(fd).st_ino
        if found != cgroup.inode:
            raise CgroupGone(
                f"the cgroup {cgroup.path} was created anew: id {cgroup.inode} then, {found} now",
                hint="`watchdog-mesh reconcile` isolates the new one where that is wanted",
            )
        yield fd
    finally:
        os.close(fd)


def exists(cgroup: Cgroup) -> bool:
    """Whether this very cgroup, not another at its path, is there."""
    return inode_at(cgroup.path) == cgroup.inode


def recreated(cgroup: Cgroup) -> Cgroup | None:
    """The cgroup that has taken this one's path since; None where it is still itself, or nothing is there."""
    inode = inode_at(cgroup.path)
    return None if inode in {None, cgroup.inode} else Cgroup(cgroup.path, inode or 0, cgroup.root)


def inode_at(path: Path | str) -> int | None:
    """The id of the cgroup at a path now; None where there is none."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - asked of every cgroup of a tree
    except OSError:
        return None


def tree(cgroup: Cgroup) -> Iterator[Cgroup]:
    """The cgroup and all below it, parents first; what vanishes midway is left out."""
    for folder, _, _ in os.walk(cgroup.path):
        inode = inode_at(Path(folder))
        if inode is not None:
            yield Cgroup(Path(folder), inode, cgroup.root)


def processes(cgroup: Cgroup) -> set[int]:
    """The pids in the cgroup and below it, without a visitor of ours; OTHER_NAMESPACE stands for those we have no
    number for."""
    return {pid for each in tree(cgroup) for pid in _own_processes(each.path) - visitor.pids(each.path)}


def own_processes(cgroup: Cgroup) -> set[int]:
    """As `processes`, without those below it."""
    return _own_processes(cgroup.path)


def _own_processes(path: Path) -> set[int]:
    try:
        return {int(line) for line in (path / "cgroup.procs").read_text().split()}
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a threaded cgroup lists its threads only
            return _processes_of_threads(path)
        if error.errno in {errno.ENOENT, errno.ENODEV}:
            return set()
        raise KernelRefused(f"cannot list the processes of {path}: {error.strerror}") from error


def _processes_of_threads(path: Path) -> set[int]:
    try:
        threads = (path / "cgroup.threads").read_text().split()
    except OSError:
        return set()
    return {pid for thread in threads if (pid := _process_of_thread(thread)) is not None}


def _process_of_thread(thread: str) -> int | None:
    try:
        status = Path(f"/proc/{thread}/status").read_text(errors="replace")
    except OSError:
        return None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))
