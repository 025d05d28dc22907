"""Finding an agent's processes on this host, from the one thing its configuration says of it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from watchdog import clock
from watchdog.aside import NoAnswer
from watchdog.errors import UsageError
from watchdog.host import listeners, ports, processes, systemd
from watchdog.host.processes import Process, describe

STALE_SLACK_S = 2.0
"""A daemon may write its pid file this long before the process it names exists (a fork in between)."""
PID_FILE_LIMIT_BYTES = 64
PID_FILE_WANTED = "name the file that the agent writes its process number into"
COMM_LENGTH = 15
"""Of a name in /proc/PID/comm (TASK_COMM_LEN of the kernel, without the final zero)."""
CAP_SYS_PTRACE = 19
"""<uapi/linux/capability.h>: without it the executables of others are not shown."""
SCRIPT_PLACES = slice(1, 4)
"""Where a script's path stands among the words of its interpreter: after it, and after its options."""


@dataclass(frozen=True, slots=True)
class AgentSelector:
    """How to find an agent: exactly one of these, UsageError otherwise."""

    unit: str | None = None
    pid: int | None = None
    pid_file: Path | None = None
    exec: Path | None = None
    """Path of the executable, or of a script that is started by its own path."""
    command_line: str | None = None
    """A regular expression, searched for in the command line's words joined by blanks."""
    port: int | None = None
    """A TCP port listened on, in this network namespace, v4 or v6."""
    cgroup: str | None = None
    """Path below the v2 root, as in /proc/PID/cgroup."""

    def __post_init__(self) -> None:
        given = [name for name, value in self._items() if value is not None]
        if len(given) != 1:
            raise UsageError(
                f"say how to find the agent in one way, not {len(given)}: {', '.join(given) or 'none given'}",
                hint=f"one of {', '.join(field.name for field in fields(self))}",
            )

    def _items(self) -> list[tuple[str, object]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def __str__(self) -> str:
        return next(f"{name} {value}" for name, value in self._items() if value is not None)


class NotRunning(UsageError):
    """No process of the agent is there, for certain: not one that cannot be seen from here, nor one of several."""


def find(how: AgentSelector) -> list[Process]:
    """The agent's processes that were found this way, the main one first; never empty.

    UsageError when there is none (NotRunning where that is certain), or when several are found that are not one
    process and its descendants.
    """
    if how.unit is not None:
        return _of_unit(how.unit)
    if how.pid is not None:
        return [_of_pid(how.pid, "")]
    if how.pid_file is not None:
        return [_of_pid_file(how.pid_file)]
    if how.cgroup is not None:
        return _some(processes.in_cgroup(how.cgroup), how)
    return _one_tree(_some(_matching(how), how), how)


def _some(found: list[Process], how: AgentSelector) -> list[Process]:
    if not found:
        kind = NotRunning if _is_certain(how) else UsageError
        raise kind(f"no process was found by {how}", hint="see what runs: ps -ef; or start the agent")
    return found


def _is_certain(how: AgentSelector) -> bool:
    """Whether a process would have been seen: not one that listens in another pid namespace, nor anybody's executable
    where this process may not look."""
    if how.port is not None:
        return not listeners.listening(how.port)
    return how.exec is None or bool(processes.capabilities(os.getpid()) >> CAP_SYS_PTRACE & 1)


def _matching(how: AgentSelector) -> list[Process]:
    if how.port is not None:
        numbers = ports.holders(socket.inode for socket in listeners.listening(how.port))
        return [process for process in map(processes.of_pid, sorted(numbers)) if process is not None]
    if how.exec is not None:
        return _where(_runs(how.exec))
    return _where(_says(how.command_line or ""))


def _where(matches: Callable[[int], bool]) -> list[Process]:
    """All processes that match, except ourselves and who called us: our own command line names the agent too."""
    own = {os.getpid(), *(parent.pid for parent in processes.ancestors(os.getpid()) if parent.pid != 1)}
    found, unseen = [], []
    for pid in processes.pids():
        process = processes.of_pid(pid)
        try:
            if process and pid not in own and matches(pid) and processes.still_same(process):
                found.append(process)
        except NoAnswer:
            unseen.append(pid)
    if unseen and not found:
        raise UsageError(
            f"no process was found; it may be {describe(unseen[0])}: its command line cannot be read, its memory hangs",
            hint=f"see what it waits for: cat /proc/{unseen[0]}/task/*/wchan; or name its unit or cgroup",
        )
    return found


def _runs(path: Path) -> Callable[[int], bool]:
    wanted = {str(path), str(path.resolve())}

    def matches(pid: int) -> bool:
        executable = processes.executable_of(pid)
        if executable is None or executable in wanted:
            return executable is not None
        words = processes.command_line(pid)[SCRIPT_PLACES]
        return processes.name_of(pid) == path.name[:COMM_LENGTH] and not wanted.isdisjoint(words)

    return matches


def _says(pattern: str) -> Callable[[int], bool]:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"command_line {pattern!r} is not a valid regular expression: {error}") from error
    if wanted.search(""):
        raise UsageError(f"command_line {pattern!r} matches every process", hint="say more of the agent's command")
    return lambda pid: wanted.search(" ".join(processes.command_line(pid))) is not None


def _one_tree(found: list[Process], how: AgentSelector) -> list[Process]:
    """The process that all others descend from, then these: a daemon and its workers are one agent."""
    tops = [each for each in found if set(found).isdisjoint(processes.ancestors(each.pid))]
    if len(tops) == 1:
        return [*tops, *sorted(set(found) - set(tops))]
    listed = "; ".join(describe(process.pid) for process in tops)
    raise UsageError(f"several processes were found by {how}: {listed}", hint="name the agent by unit or pid_file")


def _of_unit(unit: str) -> list[Process]:
    state = systemd.show(unit)
    if not state.control_group:
        raise UsageError(f"{state.id} has no processes: it is {state.in_words()}", hint=f"systemctl start {state.id}")
    found = processes.in_cgroup(state.control_group)
    if not found:
        raise UsageError(f"{state.id} has no process that is running", hint=f"systemctl status {state.id}")
    return sorted(found, key=lambda process: (process.pid != state.main_pid, process))


def _of_pid(pid: int, source: str) -> Process:
    process = processes.of_pid(pid) if pid > 0 else None
    if process is None:
        raise NotRunning(f"there is no process {pid}{source}", hint="it ended, or the number is wrong: ps -ef")
    return process


def _of_pid_file(path: Path) -> Process:
    text, mode, written_s = _read_pid_file(path)
    if mode & stat.S_IWOTH:
        raise UsageError(f"the pid file {path} can be written by everybody", hint=f"chmod o-w {path}")
    first = text.strip().partition("\n")[0].strip()
    if not first.isascii() or not first.isdecimal():
        raise UsageError(f"the pid file {path} holds no process number", hint=PID_FILE_WANTED)
    process = _of_pid(int(first), f", though the pid file {path} names it")
    age_s = clock.now_s() - process.started_s()
    if age_s < clock.utc_now().timestamp() - written_s - STALE_SLACK_S:
        raise NotRunning(
            f"the pid file {path} is stale: {describe(process.pid)} was started after it was written",
            hint="remove the file and restart the agent",
        )
    return process


def _read_pid_file(path: Path) -> tuple[str, int, float]:
    """Its text, mode and time of writing. Only a regular file, and no link: it may be the agent's to make, a FIFO would
    hold us, and a link have us read what only root may."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"the pid file {path} is not a file", hint=PID_FILE_WANTED)
            text = os.read(file, PID_FILE_LIMIT_BYTES).decode(errors="replace")
        finally:
            os.close(file)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"the pid file {path} is a link", hint=PID_FILE_WANTED) from error
        raise UsageError(
            f"cannot read the pid file {path}: {error.strerror}", hint="the agent may not be running"
        ) from error
    return text, found.st_mode, found.st_mtime


def same(before: Sequence[Process], after: Sequence[Process]) -> bool:
    """Whether the main process is still the one it was."""
    return bool(before) and bool(after) and before[0] == after[0]
