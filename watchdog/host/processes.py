"""Processes, each known by its pid and start time together, since pids return. From /proc (proc(5)).

The only import of psutil.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog import aside
from watchdog.aside import NoAnswer

PROC = Path("/proc")
PPID, FLAGS, STARTED = 1, 6, 19
"""Places of the fields ppid (4), flags (9) and starttime (22) of /proc/PID/stat, counted after the command's name."""
PF_KTHREAD = 0x00200000
"""<linux/sched.h>: a thread of the kernel's own."""
STOPPED = "T"
"""State of a process that a signal has stopped, as Ctrl-Z does; one that a debugger holds is in state t."""
DEAD = ("Z", "X")
"""States of a process that has ended: it runs nothing and waits to be reaped."""
COMMAND_SHOWN = 60
COMMAND_LINE_S = 0.5
"""For reading one, which takes microseconds."""
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process, never another that got its number later."""

    pid: int
    started_ticks: int
    """Clock ticks from boot to its start, exactly as the kernel counts them."""

    def started_s(self) -> float:
        """Its start in seconds of CLOCK_BOOTTIME."""
        return self.started_ticks / os.sysconf("SC_CLK_TCK")


def executable_of(pid: int) -> str | None:
    """The path of what it runs; None where there is none to be seen."""
    import psutil  # 10 ms

    try:
        return str(psutil.Process(pid).exe())
    except psutil.Error:
        return None


def own_terminal() -> str | None:
    """The terminal that this process belongs to."""
    import psutil  # 10 ms

    terminal: str | None = psutil.Process().terminal()
    return terminal


def of_pid(pid: int) -> Process | None:
    """The running process with this number; None when there is none, or only a zombie."""
    return _running_one(pid, _stat(pid))


def _running_one(pid: int, fields: list[str] | None) -> Process | None:
    if fields is None or (fields[0] in DEAD and not _has_threads(pid)):
        return None
    return Process(pid, int(fields[STARTED]))


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it, until another lets it go on."""
    fields = _stat(pid)
    return fields is not None and fields[0] == STOPPED


def has_lost_leader(pid: int) -> bool:
    """Whether its first thread has ended and others run: the kernel shows it as a zombie, without descriptors."""
    fields = _stat(pid)
    return fields is not None and fields[0] in DEAD and _has_threads(pid)


def running_thread(pid: int) -> int:
    """Its first thread; another one where that has ended, which is in the cgroup that it ended in."""
    if not has_lost_leader(pid):
        return pid
    threads = sorted(int(name) for name in os.listdir(PROC / str(pid) / "task"))  # noqa: PTH208 -- as below
    return next((thread for thread in threads if (of := _stat(thread)) is not None and of[0] not in DEAD), pid)


def _has_threads(pid: int) -> bool:
    try:
        return len(os.listdir(PROC / str(pid) / "task")) > 1  # noqa: PTH208 -- half the time
    except OSError:
        return False


def is_init(pid: int) -> bool:
    """Whether it is the init of its pid namespace, to which orphans go."""
    try:
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except GONE:
        return False
    return any(line.split()[-1] == "1" for line in lines if line.startswith("NSpid:"))


def is_kernel_thread(pid: int) -> bool:
    """Whether it is the kernel's own."""
    fields = _stat(pid)
    return fields is not None and bool(int(fields[FLAGS]) & PF_KTHREAD)


def still_same(process: Process) -> bool:
    """Whether it is still running, and its number not another's."""
    return of_pid(process.pid) == process


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command's name, which may hold blanks and brackets itself."""
    try:
        with open(f"{PROC}/{pid}/stat", errors="replace") as file:  # noqa: PTH123 -- a third of the time
            text = file.read()
    except GONE:
        return None
    return text.rpartition(")")[2].split()


def pids() -> list[int]:
    """The numbers of all processes seen from here."""
    return sorted(int(name) for name in os.listdir(PROC) if name.isdecimal())  # noqa: PTH208 -- half the time


def cgroup_of(pid: int) -> str | None:
    """Its cgroup, by its path below the v2 root ("/system.slice/x.service"); None for a process that is gone."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text(errors="surrogateescape").splitlines()
    except GONE:
        return None
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)


def is_below(cgroup: str | None, top: str) -> bool:
    """Whether a cgroup is `top` or in it."""
    return cgroup is not None and (cgroup == top or cgroup.startswith(top.rstrip("/") + "/"))


def in_cgroup(top: str) -> list[Process]:
    """The processes in a cgroup and in those below it, given by its path below the v2 root."""
    return _running(pid for pid in pids() if is_below(cgroup_of(pid), top))


def _running(numbers: Iterable[int]) -> list[Process]:
    return [process for process in map(of_pid, numbers) if process is not None]


def ancestors(pid: int) -> list[Process]:
    """Its parent, the parent's parent and so on, up to PID 1."""
    return list(_ancestors(pid))


def _ancestors(pid: int) -> Iterator[Process]:
    fields = _stat(pid)
    while fields is not None and (pid := int(fields[PPID])) > 0:
        fields = _stat(pid)
        if (process := _running_one(pid, fields)) is not None:
            yield process


def descendants(process: Process) -> list[Process]:
    """Its children, their children and so on. What was orphaned has another parent and is not among them."""
    return [each for each in families([process]) if each.pid != process.pid]


def families(of: Iterable[Process]) -> list[Process]:
    """Those of them that still run, and all that descend from them, the oldest first."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        if (fields := _stat(pid)) is not None:
            children.setdefault(int(fields[PPID]), []).append(pid)
    found = dict.fromkeys(process.pid for process in of if still_same(process))
    todo = list(found)
    for pid in todo:
        todo.extend(child for child in children.get(pid, ()) if child not in found)  # it grows while it is walked
        found |= dict.fromkeys(children.get(pid, ()))
    return sorted(_running(found), key=lambda process: (process.started_ticks, process.pid))


def capabilities(pid: int) -> int:
    """Its effective capabilities as a bit mask; 0 for a process that is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except GONE:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)


def name_of(pid: int) -> str:
    """The kernel's short name for it, at most 15 characters; "" for a process that is gone."""
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
    except GONE:
        return ""


def command_line(pid: int) -> list[str]:
    """Its words, as it presents them: it can write anything there. Empty for kernel threads and the gone.

    NoAnswer where they cannot be had: they are in its memory, which nobody may look at while it maps a file into it,
    and that takes as long as a dead NFS or FUSE server likes.
    """
    raw: list[bytes] = []

    def read() -> None:
        with suppress(*GONE):
            raw.append((PROC / str(pid) / "cmdline").read_bytes())

    aside.in_thread(("command line", pid), read, COMMAND_LINE_S)
    return [word.decode(errors="replace") for word in raw[0].rstrip(b"\0").split(b"\0")] if raw and raw[0] else []


def words(pid: int) -> list[str]:
    """The same for people; empty where they cannot be had, too."""
    try:
        return command_line(pid)
    except NoAnswer:
        return []


def describe(pid: int) -> str:
    """For people: "pid 12 sshd: root@pts/0 (cgroup /x)". Never holds what a terminal would obey."""
    cgroup = cgroup_of(pid)
    if cgroup is None:
        return f"pid {pid} (gone)"
    return f"pid {pid} {shown(pid, words(pid))} (cgroup {printable(cgroup)})"


def shown(pid: int, words: Iterable[str]) -> str:
    """These words of its command line for people, or the kernel's name for it where there are none."""
    line = printable(" ".join(words)) or f"[{printable(name_of(pid))}]"
    return line if len(line) <= COMMAND_SHOWN else line[: COMMAND_SHOWN - 3] + "..."


def printable(text: str) -> str:
    """The text with everything that is no plain character replaced."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
