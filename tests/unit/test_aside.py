"""Work done aside: what comes of it, and what becomes of who does not answer."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from watchdog import aside
from watchdog.aside import NoAnswer
from watchdog.errors import KernelRefused, UsageError
from watchdog.kernel.libbpf import BpfRefused


def test_an_answer_is_what_the_work_returns() -> None:
    assert aside.answer("a", lambda: {"large": b"x" * (1 << 20)}) == {"large": b"x" * (1 << 20)}
    assert aside.answer("a", os.getpid) != os.getpid()


def test_what_the_work_raises_is_raised() -> None:
    def refuse() -> None:
        raise UsageError("no", hint="try it so")

    with pytest.raises(UsageError, match="no") as caught:
        aside.answer("a", refuse)
    assert caught.value.hint == "try it so"


def test_an_error_that_cannot_be_packed_is_told_in_its_words() -> None:
    def refuse() -> None:
        raise BpfRefused("no room", code=7, hint="make some")

    with pytest.raises(KernelRefused, match="no room") as caught:
        aside.answer("a", refuse)
    assert caught.value.hint == "make some"


def test_who_does_not_answer_is_killed_and_what_it_said_before_was_heard() -> None:
    heard: list[int] = []

    def work(say: aside.Say) -> None:
        say(os.getpid())
        time.sleep(60)

    began_s = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer in time"):
        aside.ask("a", work, heard.append, 1)
    assert time.monotonic() - began_s < aside.DEADLINE_S
    assert not Path(f"/proc/{heard[0]}").exists()
    assert aside.answer("a", lambda: 1) == 1, "one that has ended hangs no more"


def test_who_answers_without_end_is_killed() -> None:
    def work(say: aside.Say) -> None:
        while True:
            say(1)
            time.sleep(0.01)

    with pytest.raises(NoAnswer, match="more than can be looked at"):
        aside.ask("a", work, lambda _: None, 1)


def test_who_dies_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="ended without an answer"):
        aside.answer("a", lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_a_child_has_nothing_of_ours_open_and_no_handler(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        held, handler, blocked = aside.answer(
            "a",
            lambda: (
                [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()],
                signal.getsignal(signal.SIGUSR1),
                signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            ),
        )
    finally:
        signal.signal(signal.SIGUSR1, before)
        os.close(lock)
    assert all(each.startswith(("pipe:", "/proc/")) for each in held), held
    assert (handler, blocked) == (signal.SIG_DFL, set())


def test_a_thread_that_hangs_is_left_alone_and_no_other_is_begun() -> None:
    go_on, done = threading.Event(), list[int]()

    def work() -> None:
        go_on.wait(30)
        done.append(1)

    with pytest.raises(NoAnswer):
        aside.in_thread("t", work)
    with pytest.raises(NoAnswer):
        aside.in_thread("t", lambda: done.append(2))
    aside.in_thread("another", lambda: done.append(3))
    go_on.set()
    deadline_s = time.monotonic() + 5
    while 1 not in done:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    aside._stuck["t"].join()
    aside.in_thread("t", lambda: done.append(4))
    assert done == [3, 1, 4]
