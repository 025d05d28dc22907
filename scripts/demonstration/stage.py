"""Where the demo plays: cgroups and a directory of its own, both named so that a later demo can tell whose they were.

Whatever happens on it, `cleared` takes everything away again; of a demo that was killed, the next one does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.errors import WatchdogError
from watchdog.host import processes
from watchdog.host.processes import Process
from watchdog.kernel import bpffs, cgroups, gate, libbpf
from watchdog.kernel.libbpf import BpfRefused

RUN = Path("/run")
"""Root's alone, and empty after a boot, like the cgroups."""
NAME = re.compile(r"watchdog-demo-(\d+)-(\d+)")
PRIVATE_MODE = 0o700
END_LIMIT_S = 5.0
STEP_S = 0.02


@dataclass(slots=True)
class Stage:
    """One demo's places, by the process that plays it."""

    owner: Process
    left: list[str] = field(default_factory=list)
    """What was still there when it was last cleared."""

    @property
    def name(self) -> str:
        return f"watchdog-demo-{self.owner.pid}-{self.owner.started_ticks}"

    @property
    def top(self) -> Path:
        """Its cgroup; every process it starts is in one of those below."""
        return cgroups.find_v2_root() / self.name

    @property
    def room(self) -> Path:
        """Its directory."""
        return RUN / self.name

    @property
    def pins(self) -> Path:
        """Where a bpffs is mounted for it."""
        return self.room / "bpffs"

    def cgroup(self, name: str) -> Path:
        """One of its cgroups, made where it is missing."""
        path = self.top / name
        path.mkdir(exist_ok=True)
        return path


@contextmanager
def set_up() -> Iterator[Stage]:
    """A stage of this process. It has to be cleared, however the demo ends."""
    own = processes.of_pid(os.getpid())
    assert own is not None, "this very process runs"
    stage = Stage(own)
    try:
        stage.room.mkdir(mode=PRIVATE_MODE)
        stage.top.mkdir()
        yield stage
    finally:
        clear(stage)


def abandoned() -> list[Stage]:
    """What demos left that were killed."""
    names = {path.name for folder in (RUN, cgroups.find_v2_root()) for path in folder.iterdir()}
    found = [Stage(Process(*map(int, match.groups()))) for name in sorted(names) if (match := NAME.fullmatch(name))]
    return [stage for stage in found if not processes.still_same(stage.owner)]


def clear(stage: Stage) -> None:
    """Take the stage down: processes first, then cgroups and what was attached to them, pins, files.

    Every part is tried whatever became of the others; `stage.left` says what is still there. Runs twice without harm.
    """
    program_ids: list[int] = []
    with suppress(OSError, WatchdogError):
        program_ids = _pinned_program_ids(stage)
    for part in (_end_processes, _open, _remove_cgroups, _unmount, _remove_room):
        with suppress(OSError, WatchdogError):
            part(stage)
    until(lambda: not _left(stage, program_ids))
    stage.left = _left(stage, program_ids)


def ready_programs(stage: Stage) -> int:
    """How many BPF programs wait in its pins."""
    return len(_pinned_program_ids(stage))


def _left(stage: Stage, program_ids: Iterable[int]) -> list[str]:
    found = [processes.describe(process.pid) for process in _children(stage)]
    if bpffs.is_on_bpffs(stage.pins):
        found.append(f"the mount {stage.pins}")
    found += [f"{kind} {path}" for kind, path in (("cgroup", stage.top), ("directory", stage.room)) if path.exists()]
    return found + [f"BPF program {program_id}" for program_id in program_ids if _is_loaded(program_id)]


def _pinned_program_ids(stage: Stage) -> list[int]:
    if not bpffs.is_on_bpffs(stage.pins):
        return []
    found = (_pinned_program_id(pin) for pin in stage.pins.rglob("*") if pin.is_file())
    return sorted(program_id for program_id in found if program_id is not None)


def _pinned_program_id(pin: Path) -> int | None:
    """None for a map, or a link, and for what has gone meanwhile."""
    try:
        with libbpf.obj_get(pin) as fd:
            return libbpf.prog_info(fd).id if libbpf.is_program(fd) else None
    except BpfRefused:
        return None


def until(met: Callable[[], bool], limit_s: float = END_LIMIT_S) -> bool:
    """Wait for what ends by itself; whether it did in time."""
    deadline_s = time.monotonic() + limit_s
    while not met():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(STEP_S)
    return True


def _children(stage: Stage) -> list[Process]:
    """Only this demo's own: what an earlier one started is found by its cgroup alone."""
    return processes.descendants(stage.owner) if stage.owner.pid == os.getpid() else []


def _end_processes(stage: Stage) -> None:
    until(lambda: _all_ended(stage))


def _all_ended(stage: Stage) -> bool:
    running = {process.pid for process in _children(stage)} | _inside(stage.top)
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return not running


def _open(stage: Stage) -> None:
    """Detach what isolates our cgroups: a socket that cannot say goodbye would hold on to them for minutes."""
    for attached in gate.find_attached(cgroups.resolve(stage.top)):
        gate.detach(attached.cgroup, [attached.program_id])


def _inside(top: Path) -> set[int]:
    found: set[int] = set()
    for procs in top.glob("**/cgroup.procs"):
        with suppress(OSError):
            found |= {int(line) for line in procs.read_text().split()}
    return found - {cgroups.OTHER_NAMESPACE}


def _remove_cgroups(stage: Stage) -> None:
    until(lambda: all(_is_removed(Path(folder)) for folder, _, _ in os.walk(stage.top, topdown=False)))


def _is_removed(cgroup: Path) -> bool:
    """A process leaves its cgroup a moment after its end; until then it is busy."""
    try:
        cgroup.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _unmount(stage: Stage) -> None:
    bpffs.unmount(stage.pins)


def _remove_room(stage: Stage) -> None:
    if not bpffs.is_on_bpffs(stage.pins):
        shutil.rmtree(stage.room)


def _is_loaded(program_id: int) -> bool:
    try:
        libbpf.prog_info_of(program_id)
    except BpfRefused:
        return False
    return True
