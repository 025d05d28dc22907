"""Building slots and the common programs, in a short-lived child process: compiler.py.

LLVM costs 100 MiB and 0.4 s a compilation; neither the watcher nor a command pays for it. The child holds the
lock as long as it lives, longer than a parent that is killed, and ends itself at its deadline.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused
from watchdog.kernel import bpffs, common, slots
from watchdog.kernel.compiler import BCC_MISSING, LEFTOVER_PREFIX
from watchdog.kernel.headers import HeaderRoots, Headers, find_headers
from watchdog.kernel.locks import locked
from watchdog.kernel.slots import Slot
from watchdog.kernel.sources import source_dir, source_key

BUILD_TIMEOUT_S = 240.0

MIN_BUILD_S = 1.0
"""Left to a build even when waiting for the lock took all the time there was."""

DETAIL_CHARACTERS = 4000
"""As much of the compiler's words as an error carries; the first errors matter."""

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


class BuildFailed(KernelRefused):
    """The builder could not compile, load or pin; `detail` holds everything it and the compiler said."""

    def __init__(self, message: str, *, detail: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """What is compiled, and with which headers; tests use others."""

    sources: Path = field(default_factory=source_dir)
    header_roots: HeaderRoots = field(default_factory=HeaderRoots)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is missing: the paths it is to be pinned at."""

    slots: Sequence[Path]
    common: Path | None


def ensure_slots(
    pins: Path, lock: Path, count: int, timeout_s: float = BUILD_TIMEOUT_S, inputs: BuildInputs | None = None
) -> list[Slot]:
    """At least `count` whole slots of this version's sources under `pins`, and the common programs beside them.

    Built where they are missing; a few milliseconds and no bcc where they are there. `lock` is a file; whoever
    comes second waits for it and finds the work done. HostCannot names what to install; BuildFailed carries the
    compiler's words.
    """
    inputs = inputs or BuildInputs()
    bpffs.prepare(pins)
    key = source_key(inputs.sources)
    ready = slots.list_slots(pins, key)
    if len(ready) >= count and common.find(pins, key) is not None:
        return ready
    bpffs.check_writable(pins)
    deadline_s = time.monotonic() + timeout_s
    with locked(lock, timeout_s) as lock_fd:
        remove_leftovers(pins / key)
        wanted = Wanted(
            slots=_missing_slots(pins / key, count - len(slots.list_slots(pins, key))),
            common=None if common.find(pins, key) else pins / key / common.FOLDER,
        )
        if wanted.slots or wanted.common:
            _run_builder(wanted, inputs, max(MIN_BUILD_S, deadline_s - time.monotonic()), lock_fd)
        return slots.list_slots(pins, key)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed builders left under one key; only with the lock held."""
    for path in folder.glob(f"{LEFTOVER_PREFIX}*"):
        slots.remove(path)


def _missing_slots(folder: Path, count: int) -> list[Path]:
    """Paths for `count` more slots. A damaged slot keeps its number: it may be attached and be repinned."""
    taken = {slots.slot_number(path) for path in folder.glob("*")} if folder.exists() else set()
    free = (number for number in range(len(taken) + max(count, 0)) if number not in taken)
    return [folder / slots.slot_name(number) for number, _ in zip(free, range(count), strict=False)]


def _run_builder(wanted: Wanted, inputs: BuildInputs, timeout_s: float, lock_fd: int) -> None:
    host = os.uname()
    headers = find_headers(host.release, host.machine, inputs.header_roots)
    request = {
        "slots": [str(path) for path in wanted.slots],
        "common": str(wanted.common) if wanted.common else "",
        "sources": str(inputs.sources),
        "includes": [str(path) for path in headers.includes],
        "deadline_s": max(1, round(timeout_s)),
    }
    answer, said = _run_child(json.dumps(request), _child_environment(headers), timeout_s, lock_fd)
    if answer != {}:
        _raise_failure(answer, said)


def _child_environment(headers: Headers) -> dict[str, str]:
    """Nothing of the caller's but the path, and no way for the working directory to shadow a module."""
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    own = {"PATH": path, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(_PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1"}
    return own | ({"BCC_KERNEL_SOURCE": str(headers.tree)} if headers.tree else {})


def _run_child(
    request: str, environment: Mapping[str, str], timeout_s: float, lock_fd: int
) -> tuple[dict[str, str] | None, str]:
    """The child's answer ({} is success, None is none at all) and everything it printed."""
    read_fd, write_fd = os.pipe()
    command = [sys.executable or "/usr/bin/python3", "-P", "-m", "watchdog.kernel.compiler", str(write_fd), request]
    with os.fdopen(read_fd, encoding="utf-8") as answers:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(write_fd, lock_fd),
                cwd="/",
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise HostCannot(
                f"cannot start {command[0]}: {error.strerror}", hint="is this Python still there?"
            ) from error
        finally:
            os.close(write_fd)
        said = _await_child(child, timeout_s)
        text = answers.read()
    return (json.loads(text) if text else None), said


def _await_child(child: subprocess.Popen[bytes], timeout_s: float) -> str:
    try:
        said, _ = child.communicate(timeout=timeout_s)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)  # its session: BCC may have started tools
        child.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise BuildFailed(
            f"the BPF builder did not finish within {timeout_s:.0f} s and was killed",
            detail="",
            hint="is the machine overloaded? try again",
        ) from error
    return said.decode(errors="replace")


def _raise_failure(answer: Mapping[str, str] | None, said: str) -> None:
    detail = said.strip()[:DETAIL_CHARACTERS]
    if answer is None:
        raise BuildFailed(f"the BPF builder died: {_gist(said) or 'it said nothing'}", detail=detail)
    if answer["kind"] == BCC_MISSING:
        raise HostCannot(
            f"bcc cannot be imported by {sys.executable}: {answer['message']}",
            hint="install the distribution's python3-bpfcc and use an environment with --system-site-packages, "
            "as scripts/setup does; PyPI's bcc is another project",
        )
    gist = _gist(said)
    raise BuildFailed(
        f"{answer['message']}: {gist}" if gist else answer["message"],
        detail=detail,
        hint=answer.get("hint") or "`watchdog-mesh doctor` checks compiler, headers and kernel",
    )


def _gist(said: str) -> str:
    """The compiler's first error, else the last thing said."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror:", line)]
    return (errors or lines[-1:] or [""])[0]
