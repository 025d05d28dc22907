"""The one way to run a foreign command: a list, a deadline, its own process group, bounded output."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from watchdog.errors import UsageError, WatchdogError

OUTPUT_LIMIT_BYTES = 64 * 1024
"""Kept of each stream: the beginning of stdout, the end of stderr."""
TERMINATE_GRACE_S = 0.5
"""Between SIGTERM and SIGKILL for a command that outlived its deadline."""
KILL_GRACE_S = 0.4
"""How long to wait for the kernel to end what got SIGKILL; longer only in uninterruptible sleep."""
READ_BYTES = 64 * 1024


class CommandFailed(WatchdogError):
    """A command could not be run to its end."""


class CommandNotFound(CommandFailed):
    """There is no such program, or the interpreter its first line names is missing."""


class CommandNotExecutable(CommandFailed):
    """The file is there and cannot be executed."""


class CommandTimeout(CommandFailed):
    """The deadline passed; the command's whole process group was killed."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended by itself."""

    status: int
    """Exit status; minus the signal's number when a signal ended it."""
    stdout: str
    stderr: str
    seconds: float
    truncated: bool = False
    """One of the streams was longer than OUTPUT_LIMIT_BYTES."""

    def last_error_line(self) -> str:
        """The last line of stderr that is not empty, for messages; "" when there is none."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def ending(self) -> str:
        """How it ended: "exit status 3" or "killed by SIGSEGV"."""
        if self.status >= 0:
            return f"exit status {self.status}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-self.status).name}"
        return f"killed by signal {-self.status}"


def run(
    argv: Sequence[str],
    timeout_s: float,
    *,
    input: str | None = None,  # noqa: A002 -- subprocess's own name for it
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a command to its end, whatever its exit status.

    It gets a session of its own, so that at the deadline all of it is killed (SIGTERM, SIGKILL after
    TERMINATE_GRACE_S), and /dev/null or `input` on stdin. Children it leaves behind after ending by itself
    go on, and do not delay the return; their end of the output pipes is closed, so a daemon started this
    way must redirect its output, as daemons do. Raises CommandNotFound, CommandNotExecutable,
    CommandTimeout, or UsageError for a list that no program could be started with.
    """
    started_s = time.monotonic()
    process = _start(argv, env, piped=input is not None)
    exchange = _exchange(process, (input or "").encode())
    try:
        ended = exchange.until_exit(started_s + timeout_s)
        if not ended:
            killed = _kill_group(process, exchange)
            raise _timed_out(argv, timeout_s, killed)
        status = process.wait()
    finally:
        exchange.close()
    stdout, stderr = exchange.stdout, exchange.stderr
    return Completed(
        status,
        stdout.text(),
        stderr.text(),
        time.monotonic() - started_s,
        truncated=stdout.truncated or stderr.truncated,
    )


def _start(argv: Sequence[str], env: Mapping[str, str] | None, *, piped: bool) -> subprocess.Popen[bytes]:
    if isinstance(argv, str) or not argv or not all(isinstance(word, str) for word in argv):
        raise UsageError(f"a command must be a list of words, got {argv!r}", hint='write ["program", "argument"]')
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env) if env is not None else None,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _not_found(argv[0]) from error
    except OSError as error:
        raise _not_started(argv[0], error) from error
    except ValueError as error:  # a zero byte in a word
        raise UsageError(f"cannot execute {argv[0]!r}: {error}") from error


def _not_found(program: str) -> CommandNotFound:
    if shutil.which(program) is None:
        return CommandNotFound(f"cannot find the program {program!r}", hint="install it, or name it by its full path")
    return CommandNotFound(
        f"cannot execute {program!r}: the interpreter its first line names is missing",
        hint=f"look at the first line: head -n 1 {program}",
    )


def _not_started(program: str, error: OSError) -> CommandFailed:
    what = f"cannot execute {program!r}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.ENOEXEC):
        return CommandNotExecutable(what, hint=f"make it executable, and look at its first line: chmod +x {program}")
    return CommandFailed(what, hint="this host lacks memory, processes or open files for it: see ulimit -a")


def _timed_out(argv: Sequence[str], timeout_s: float, killed: bool) -> CommandTimeout:
    what = " ".join(argv)
    if killed:
        return CommandTimeout(f"{what!r} did not end within {timeout_s:g} s and was killed")
    return CommandTimeout(
        f"{what!r} did not end within {timeout_s:g} s and cannot be killed",
        hint="it hangs inside the kernel; look at its wchan and at dmesg",
    )


def _exchange(process: subprocess.Popen[bytes], to_write: bytes) -> _Exchange:
    try:
        return _Exchange(process, to_write)
    except OSError as error:  # no descriptor left: a command we cannot follow must not go on
        _signal_group(process.pid, signal.SIGKILL)
        process.communicate()
        raise CommandFailed(f"cannot follow a command: {error.strerror}", hint="see ulimit -n") from error


def _kill_group(process: subprocess.Popen[bytes], exchange: _Exchange) -> bool:
    """End the command's whole process group; whether its leader is gone.

    The leader is not reaped before the last signal, so its number cannot have become another group's.
    """
    _signal_group(process.pid, signal.SIGTERM)
    exchange.until_exit(time.monotonic() + TERMINATE_GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_GRACE_S)
    return process.returncode is not None


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


@dataclass(slots=True)
class _Stream:
    """One output stream, bounded while it is read."""

    keep_end: bool
    kept: bytearray = field(default_factory=bytearray)
    truncated: bool = False

    def add(self, chunk: bytes) -> None:
        self.kept += chunk
        excess = len(self.kept) - OUTPUT_LIMIT_BYTES
        if excess <= 0:
            return
        self.truncated = True
        if self.keep_end:
            del self.kept[:excess]
        else:
            del self.kept[OUTPUT_LIMIT_BYTES:]

    def text(self) -> str:
        return self.kept.decode(errors="replace")


class _Exchange:
    """Feeds a command and reads it until its main process ends, without ever blocking on a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], to_write: bytes) -> None:
        self.stdout = _Stream(keep_end=False)
        self.stderr = _Stream(keep_end=True)
        self._process = process
        self._to_write = memoryview(to_write)
        self._exit_fd = os.pidfd_open(process.pid)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._exit_fd, selectors.EVENT_READ, None)
        for pipe, stream in ((process.stdout, self.stdout), (process.stderr, self.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe.fileno(), selectors.EVENT_READ, stream)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin.fileno(), selectors.EVENT_WRITE, None)

    def until_exit(self, deadline_s: float) -> bool:
        """Read and write until the main process ends (True) or the deadline on the monotonic clock passes."""
        while (left_s := deadline_s - time.monotonic()) > 0:
            ready = self._selector.select(left_s)
            exited = any(key.fd == self._exit_fd for key, _ in ready)
            for key, _ in ready:
                if key.fd != self._exit_fd:
                    self._serve(key)
            if exited:
                self._drain()
                return True
        return False

    def _drain(self) -> None:
        """Read what the ended process left in the pipes; others may hold them open and be silent."""
        for key in list(self._selector.get_map().values()):
            while isinstance(key.data, _Stream) and self._serve(key) and not key.data.truncated:
                pass

    def _serve(self, key: selectors.SelectorKey) -> bool:
        """Move one pipe forward; whether there was anything to move."""
        if isinstance(key.data, _Stream):
            return self._read(key.fd, key.data)
        self._write(key.fd)
        return True

    def _read(self, fd: int, stream: _Stream) -> bool:
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self._selector.unregister(fd)
            return False
        stream.add(chunk)
        return True

    def _write(self, fd: int) -> None:
        try:
            self._to_write = self._to_write[os.write(fd, self._to_write) :]
        except BrokenPipeError:  # it does not want the rest
            self._to_write = self._to_write[:0]
        if not self._to_write:
            self._selector.unregister(fd)
            assert self._process.stdin is not None
            self._process.stdin.close()

    def close(self) -> None:
        """Close our ends. What still writes to them gets SIGPIPE."""
        self._selector.close()
        os.close(self._exit_fd)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
