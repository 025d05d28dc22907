"""Cgroups and folders of this process's own to try things in, gone at the end with all that is in them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup

REMOVE_TIMEOUT_S = 2.0

_serial = count()


@contextmanager
def scratch_tree(parent: Path, prefix: str) -> Iterator[Cgroup]:
    """A new cgroup "PREFIXPID-N" below `parent`; at the end everything in it is killed and its tree removed.

    What killed processes of the same prefix left is removed first. HostCannot where no cgroup can be made.
    """
    _remove_leftovers(parent, prefix)
    path = make(parent / f"{prefix}{os.getpid()}-{next(_serial)}")
    try:
        yield cgroups.resolve(path)
    finally:
        remove_tree(path)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder for unix sockets, gone at the end: others may reach in it what they know the name of.

    Those that killed processes left are removed first.
    """
    top = Path(tempfile.gettempdir())
    for old in top.glob(f"{prefix}*"):
        if _is_leftover(old, prefix) and old.lstat().st_uid == os.geteuid():
            shutil.rmtree(old, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
    except OSError as error:
        raise KernelRefused(f"cannot make a scratch folder in {top}: {error.strerror}") from error
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make(path: Path) -> Path:
    """Make one cgroup."""
    try:
        path.mkdir()
    except OSError as error:
        raise HostCannot(
            f"cannot make the scratch cgroup {path}: {error.strerror}",
            hint="this needs root and a writable cgroup tree (no ProtectControlGroups= on the service)",
        ) from error
    return path


def remove_tree(top: Path) -> None:
    """Kill everything inside, then remove the tree, deepest first; what is gone already is success."""
    with suppress(OSError):
        (top / "cgroup.kill").write_text("1")
    deadline_s = time.monotonic() + REMOVE_TIMEOUT_S
    for folder, _, _ in os.walk(top, topdown=False):
        if why_not := cgroups.remove(Path(folder), deadline_s):
            raise KernelRefused(f"cannot remove the scratch cgroup {folder}: {why_not}")


def _remove_leftovers(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        if _is_leftover(path, prefix):
            with suppress(KernelRefused):
                remove_tree(path)


def _is_leftover(path: Path, prefix: str) -> bool:
    """Whether the process that made "PREFIXPID-..." is gone."""
    pid = path.name.removeprefix(prefix).split("-")[0]
    return pid.isdigit() and not Path(f"/proc/{pid}").exists()
