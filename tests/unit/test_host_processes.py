"""A process is its pid and its start together; the rest is read from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.own import Start, starting
from watchdog.host import caller, processes
from watchdog.host.processes import Process

SLEEPS = "print('ready', flush=True); import time; time.sleep(600)"
FAMILY = "import os\nif os.fork() == 0: os.fork() or print('ready', flush=True)\nimport time; time.sleep(600)"

LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print('ready', flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as starts:
        yield starts


def process_of(started: subprocess.Popen[str]) -> Process:
    found = processes.of_pid(started.pid)
    assert found is not None
    return found


def test_a_process_is_the_same_until_it_ends(start: Start) -> None:
    started = start(sys.executable, "-c", SLEEPS)
    process = process_of(started)
    assert processes.still_same(process)
    assert processes.of_pid(started.pid) == process
    started.kill()
    started.wait()
    assert not processes.still_same(process)


def test_a_reused_number_is_another_process(start: Start) -> None:
    process = process_of(start(sys.executable, "-c", SLEEPS))
    assert not processes.still_same(Process(process.pid, process.started_ticks - 1))


def test_a_zombie_runs_no_more(start: Start) -> None:
    started = start("true", ready=False)
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    assert processes.of_pid(started.pid) is None


def test_its_start_is_on_the_clock_since_boot(start: Start) -> None:
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    process = process_of(start(sys.executable, "-c", SLEEPS))
    assert before_s - 0.1 <= process.started_s() <= time.clock_gettime(time.CLOCK_BOOTTIME) + 0.1


def test_ancestors_reach_pid_1() -> None:
    found = [parent.pid for parent in processes.ancestors(os.getpid())]
    assert found[0] == os.getppid()
    assert found[-1] == 1


def test_descendants_over_two_generations(start: Start) -> None:
    top = process_of(start(sys.executable, "-c", FAMILY))
    child, grandchild = processes.descendants(top)
    assert [each.pid for each in processes.ancestors(grandchild.pid)][:2] == [child.pid, top.pid]
    assert processes.descendants(Process(top.pid, 0)) == []


def test_families_of_several_are_told_once_and_the_oldest_first(start: Start) -> None:
    top = process_of(start(sys.executable, "-c", FAMILY))
    child, grandchild = processes.descendants(top)
    assert processes.families([grandchild, top, child]) == [top, child, grandchild]
    assert processes.families([Process(top.pid, 0), grandchild]) == [grandchild]


def test_a_process_without_its_first_thread_runs(start: Start) -> None:
    started = start(sys.executable, "-c", LEADERLESS)
    while not processes.has_lost_leader(started.pid):
        assert started.poll() is None
    assert processes.of_pid(started.pid) is not None
    thread = processes.running_thread(started.pid)
    assert thread != started.pid
    assert Path(f"/proc/{started.pid}/task/{thread}").exists()
    assert processes.running_thread(os.getpid()) == os.getpid()


def test_the_kernels_own_and_inits() -> None:
    assert not processes.is_kernel_thread(os.getpid())
    assert not processes.is_kernel_thread(2**22 + 1)
    assert not processes.is_init(os.getpid())
    assert processes.is_init(1)


def test_the_cgroup_of_a_process() -> None:
    own = processes.cgroup_of(os.getpid())
    assert own is not None
    assert own.startswith("/")
    assert processes.of_pid(os.getpid()) in processes.in_cgroup(own)


@pytest.mark.parametrize(
    ("cgroup", "top", "below"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b/c", "/a/b", True),
        ("/a/bc", "/a/b", False),
        ("/a", "/a/b", False),
        ("/a", "/", True),
        ("/", "/", True),
        (None, "/", False),
    ],
)
def test_below(cgroup: str | None, top: str, below: bool) -> None:
    assert processes.is_below(cgroup, top) is below


def test_names_that_try_to_confuse(start: Start) -> None:
    started = start("bash", "-c", f"exec -a $') S 1 \\e[2J' {sys.executable} -c \"{SLEEPS}\"")
    assert process_of(started).pid == started.pid
    shown = processes.describe(started.pid)
    assert shown.startswith(f"pid {started.pid} ) S 1 ?[2J -c ")
    assert "\x1b" not in shown


def test_what_is_gone_or_a_kernel_thread() -> None:
    gone = 2**22 + 1  # above the kernel's greatest pid
    assert processes.of_pid(gone) is None
    assert processes.cgroup_of(gone) is None
    assert processes.ancestors(gone) == []
    assert processes.describe(gone) == f"pid {gone} (gone)"
    assert "[kthreadd]" in processes.describe(2) or processes.name_of(2) != "kthreadd"


def test_who_runs_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "mallory\x1b[2J" + "x" * 100)
    found = caller.who()
    assert found.user == "root" or os.getuid() != 0
    assert found.sudo_user is not None
    assert found.sudo_user.startswith("mallory?[2Jxxx")
    assert len(found.sudo_user) == caller.NAME_SHOWN
    monkeypatch.delenv("SUDO_USER")
    assert caller.who().sudo_user is None


@pytest.mark.parametrize(
    ("says", "login", "login_uid"),
    [("0\n", "root", 0), ("4242424\n", "uid 4242424", 4242424), (str(2**32 - 1), None, None), ("?", None, None)],
)
def test_the_kernel_says_who_logged_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str, login: str | None, login_uid: int | None
) -> None:
    (tmp_path / "loginuid").write_text(says)
    monkeypatch.setattr(caller, "LOGIN_UID", tmp_path / "loginuid")
    found = caller.who()
    assert (found.login, found.login_uid, found.uid) == (login, login_uid, os.getuid())
    monkeypatch.setattr(caller, "LOGIN_UID", tmp_path / "no kernel audit")
    assert caller.who().login_uid is None


def test_the_caller_in_words() -> None:
    assert caller.Caller("root", None, None, None, 0, None).in_words() == "root"
    full = caller.Caller("root", "alice", "alice", "/dev/pts/0", 0, 1000)
    assert full.in_words() == "root (login alice, sudo alice, /dev/pts/0)"
