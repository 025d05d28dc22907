"""Work that may never end, done aside and with a deadline: who does it is left alone where it does not answer.

What an agent has open can hang whoever looks at it, in a sleep that no signal ends: a getsockopt waits for the lock of
a socket whose sender waits for a page of a dead NFS or FUSE server, a close waits for as long as SO_LINGER says. A
forked child shares nothing with us that anybody waits for, and costs about 5 ms. What hangs only as long as nobody
kills it (/proc) is done in a thread.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import select
import signal
import struct
import threading
import time
import warnings
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from watchdog.errors import KernelRefused, WatchdogError

DEADLINE_S = 2.0
"""For all of one answer: isolations wait for each other meanwhile. Seen: 0.1 s for 5,000 sockets."""
SILENCE_S = 1.0
"""From one piece of an answer to the next."""
KILLED_S = 0.1
"""For its end once it is killed; after an answer it has longer: what it closes then may be much, or hang as well."""
PAUSE_S = 0.001
"""Between two pieces, and before it is asked again whether it has ended: waking up for each takes longer than to make
it."""

HANGS = "no answer in time: a file or a socket of it hangs"
TOO_LONG = "there is more than can be looked at in time"
DIED = "who looked at them ended without an answer"

_LENGTH = struct.Struct("=I")
_READ_BYTES = 1 << 18
_PARENTS_OWN = (0, 1, 2)

Say = Callable[[Any], None]
T = TypeVar("T")

_lock = threading.Lock()
_left: dict[int, Hashable] = {}
"""Children that did not end in time, by pid, and what they were asked about."""


_stuck: dict[Hashable, threading.Thread] = {}
"""Threads likewise, by what they were asked."""


class NoAnswer(KernelRefused):
    """There is none, and may be none for as long as what hangs does."""

    left: int = 0
    """The pid of the child that hangs, where it outlived its killing."""


def answer(about: Hashable, work: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """What `work` returns or raises; NoAnswer where it does not in time. It is done in a child: nothing that it changes
    of our memory is changed here, and whatever it opens is closed with it."""
    heard: list[T] = []
    _ask(about, lambda say: say(work()), heard.append, 1, deadline_s, deadline_s)
    return heard[0]


def ask(about: Hashable, work: Callable[[Say], None], hear: Callable[[Any], None], at_most: int) -> None:
    """The same, piece by piece: what `work` says is heard before it ends, or hangs. Nobody is asked while as many as
    `at_most` hang that were asked the same."""
    _ask(about, work, hear, at_most, DEADLINE_S, SILENCE_S)


def _ask(
    about: Hashable,
    work: Callable[[Say], None],
    hear: Callable[[Any], None],
    at_most: int,
    deadline_s: float,
    silence_s: float,
) -> None:
    with _lock:
        _reap()
        if [*_left.values()].count(about) >= at_most:
            raise NoAnswer(HANGS)
    reading, writing = os.pipe()
    try:
        child = _begun(work, writing)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        _hear_out(reading, hear, time.monotonic() + deadline_s, silence_s)
    except BaseException as error:
        os.kill(child, signal.SIGKILL)
        if not _is_over(child, about, KILLED_S) and isinstance(error, NoAnswer) and error.message == HANGS:
            error.left = child
        raise
    else:
        _is_over(child, about, SILENCE_S)
    finally:
        os.close(reading)


def hangs(child: int) -> bool:
    """Whether a child that was left alone is still there."""
    with _lock:
        _reap()
        return child in _left


def in_thread(about: Hashable, work: Callable[[], None], deadline_s: float = DEADLINE_S) -> None:
    """Do what changes our memory, and can be left in the middle; NoAnswer where it was. Not begun while one hangs."""
    with _lock:
        before = _stuck.get(about)
    if before is not None and before.is_alive():
        raise NoAnswer(HANGS)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the caller's
            failed.append(error)

    thread = threading.Thread(target=run, name="watchdog-aside", daemon=True)
    with _lock:
        _stuck[about] = thread
    thread.start()
    thread.join(deadline_s)
    if thread.is_alive():
        raise NoAnswer(HANGS)
    with _lock:
        _stuck.pop(about, None)
    if failed:
        raise failed[0]


def _begun(work: Callable[[Say], None], writing: int) -> int:
    """A handler of ours that ran in the child would take it for us, so no signal comes before there is none."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with warnings.catch_warnings():
            # Python 3.12 and later warn of a fork beside threads: the child may want a lock that one of them has. This
            # one imports nothing, logs nothing, prints nothing and execs nothing; malloc's locks the C library sees to.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _be_the_child(work, writing)
    except OSError as error:
        raise NoAnswer(f"no process could be begun for it: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _be_the_child(work: Callable[[Say], None], writing: int) -> NoReturn:
    try:
        gc.disable()  # it would touch, and so copy, all of our memory
        _let_go_of_everything_but(writing)
        _take_signals_as_they_come()
        say = _Saying(writing)
        try:
            work(say.value)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            say.error(error)
        else:
            say.end()
    finally:
        os._exit(0)


def _let_go_of_everything_but(kept: int) -> None:
    """Locks and links of ours are to end with us. The first three stay taken, by what nobody can write to: what is
    printed by mistake must not go to an agent's descriptor."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        fd = int(name)
        if fd != kept:
            with suppress(OSError):
                os.close(fd)
    nowhere, other_end = os.pipe()
    for fd in _PARENTS_OWN:
        if fd not in {nowhere, other_end, kept}:
            os.dup2(nowhere, fd)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _take_signals_as_they_come() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _Saying:
    """The child's end of the pipe: each piece with its length and what it is before it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def value(self, value: Any) -> None:
        self._write(b"v" + pickle.dumps(value))

    def error(self, error: Exception) -> None:
        self._write(b"e" + _packed(error))

    def end(self) -> None:
        self._write(b".")

    def _write(self, piece: bytes) -> None:
        left = memoryview(_LENGTH.pack(len(piece)) + piece)
        while left:
            left = left[os.write(self._fd, left) :]


def _packed(error: Exception) -> bytes:
    """Some errors take more to make than they say."""
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - pickle raises whatever the error's own class does
        hint = error.hint if isinstance(error, WatchdogError) else ""
        return pickle.dumps(KernelRefused(str(error) or type(error).__name__, hint=hint))
    return packed


def _hear_out(reading: int, hear: Callable[[Any], None], until_s: float, silence_s: float) -> None:
    """Hear everything until the end; what `work` raised is raised."""
    waiting = select.poll()
    waiting.register(reading, select.POLLIN)
    heard, talks = bytearray(), False
    while True:
        left_s = max(0.0, until_s - time.monotonic())
        if not left_s or not waiting.poll(min(left_s, silence_s) * 1000):
            raise NoAnswer(TOO_LONG if talks and left_s < silence_s else HANGS)
        more = os.read(reading, _READ_BYTES)
        if not more:
            raise NoAnswer(DIED)
        heard += more
        time.sleep(PAUSE_S)
        for kind, piece in _pieces(heard):
            if kind == b".":
                return
            value = pickle.loads(piece)  # noqa: S301 - our own child has written it
            if kind == b"e":
                raise value
            hear(value)
            talks = True


def _pieces(heard: bytearray) -> list[tuple[bytes, bytes]]:
    """Those that are whole, taken out of what was heard."""
    found, at = [], 0
    while len(heard) >= at + _LENGTH.size:
        begin = at + _LENGTH.size
        end = begin + _LENGTH.unpack_from(heard, at)[0]
        if end > len(heard):
            break
        found.append((bytes(heard[begin : begin + 1]), bytes(heard[begin + 1 : end])))
        at = end
    del heard[:at]
    return found


def _is_over(child: int, about: Hashable, within_s: float) -> bool:
    """Whether it has ended; otherwise it is remembered, to be reaped when somebody is asked the next time."""
    until_s = time.monotonic() + within_s
    while not _is_reaped(child):
        if time.monotonic() > until_s:
            os.kill(child, signal.SIGKILL)
            with _lock:
                _left[child] = about
            return False
        time.sleep(PAUSE_S)
    return True


def _reap() -> None:
    for child in [child for child in _left if _is_reaped(child)]:
        del _left[child]


def _is_reaped(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:  # somebody else has reaped it
        return True
