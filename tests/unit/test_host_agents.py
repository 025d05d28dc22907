"""Finding an agent: every way to name one, and every way a name can be wrong."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.own import Start, starting
from watchdog.errors import UsageError
from watchdog.host import processes
from watchdog.host.agents import AgentSelector, find

SLEEPS = "print('ready', flush=True); import time; time.sleep(600)"
GONE = 2**22 + 1
HOUR_S = 3600


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as starts:
        yield starts


def pids_found(**how: Any) -> list[int]:
    return [process.pid for process in find(AgentSelector(**how))]


@pytest.mark.parametrize("given", [{}, {"pid": 1, "port": 80}, {"unit": "a", "cgroup": "/b", "pid": 3}])
def test_exactly_one_way_is_wanted(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="in one way"):
        AgentSelector(**given)


def test_a_selector_in_words() -> None:
    assert str(AgentSelector(port=80)) == "port 80"
    assert str(AgentSelector(pid_file=Path("/run/x.pid"))) == "pid_file /run/x.pid"


def test_by_pid(start: Start) -> None:
    started = start(sys.executable, "-c", SLEEPS)
    assert pids_found(pid=started.pid) == [started.pid]
    started.kill()
    started.wait()
    with pytest.raises(UsageError, match=f"no process {started.pid}"):
        find(AgentSelector(pid=started.pid))


@pytest.mark.parametrize("pid", [0, -1, GONE])
def test_by_a_pid_that_cannot_be(pid: int) -> None:
    with pytest.raises(UsageError, match="no process"):
        find(AgentSelector(pid=pid))


def test_by_pid_file(start: Start, tmp_path: Path) -> None:
    started = start(sys.executable, "-c", SLEEPS)
    file = tmp_path / "agent.pid"
    file.write_text(f" {started.pid}\nother lines\n")
    assert pids_found(pid_file=file) == [started.pid]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds no process number"),
        ("shield\n", "holds no process number$"),
        ("-1\n", "holds no process number"),
        ("12x", "holds no process number"),
        ("\u0663", "holds no process number"),
        ("0", "no process 0"),
        (f"{GONE}\n", f"no process {GONE}, though the pid file .* names it"),
        ("9" * 60, "no process 999"),
    ],
)
def test_pid_files_that_name_no_process(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "agent.pid"
    file.write_text(text)
    with pytest.raises(UsageError, match=match) as caught:
        find(AgentSelector(pid_file=file))
    assert caught.value.hint


def test_pid_files_that_cannot_be_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to("/etc/shadow")
    missing = tmp_path / "none"
    for path, match in ((missing, "No such file"), (tmp_path, "not a file"), (fifo, "not a file"), (link, "a link")):
        with pytest.raises(UsageError, match=match) as caught:
            find(AgentSelector(pid_file=path))
        assert caught.value.hint


def test_a_pid_file_older_than_the_process_is_stale(start: Start, tmp_path: Path) -> None:
    started = start(sys.executable, "-c", SLEEPS)
    file = tmp_path / "agent.pid"
    file.write_text(f"{started.pid}")
    written_s = time.time() - HOUR_S
    os.utime(file, (written_s, written_s))
    with pytest.raises(UsageError, match="is stale"):
        find(AgentSelector(pid_file=file))


def test_a_pid_file_everybody_can_write_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "agent.pid"
    file.write_text(f"{os.getpid()}")
    file.chmod(0o666)
    with pytest.raises(UsageError, match="written by everybody"):
        find(AgentSelector(pid_file=file))


def program(tmp_path: Path) -> Path:
    """An executable that nobody else runs."""
    path = tmp_path / "wd-test-agent"
    shutil.copy(shutil.which("sleep") or "", path)
    return path


def test_by_executable(start: Start, tmp_path: Path) -> None:
    path = program(tmp_path)
    with pytest.raises(UsageError, match="no process was found by exec"):
        find(AgentSelector(exec=path))
    started = start(str(path), "600", ready=False)
    assert pids_found(exec=path) == [started.pid]
    linked = tmp_path / "linked"
    linked.symlink_to(path)
    assert pids_found(exec=linked) == [started.pid]


def test_by_executable_that_was_replaced_meanwhile(start: Start, tmp_path: Path) -> None:
    path = program(tmp_path)
    started = start(str(path), "600", ready=False)
    path.unlink()
    assert pids_found(exec=path) == [started.pid]


def test_by_script(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "wd-test-script"
    script.write_text(f"#!{sys.executable} -u\n{SLEEPS}\n")
    script.chmod(0o755)
    started = start(str(script))
    start(sys.executable, "-c", SLEEPS, str(script))  # only mentions it
    assert pids_found(exec=script) == [started.pid]


def test_several_that_are_no_family_are_listed(start: Start, tmp_path: Path) -> None:
    path = program(tmp_path)
    started = [start(str(path), "600", ready=False) for _ in range(2)]
    with pytest.raises(UsageError, match="several processes") as caught:
        find(AgentSelector(exec=path))
    assert all(f"pid {one.pid} " in caught.value.message for one in started)


def test_a_process_and_its_workers_are_one_agent(start: Start) -> None:
    mark = f"wd-family-{os.getpid()}"
    forks = f"import os\nfor _ in range(3): os.fork()\n{SLEEPS}\n# {mark}"
    started = start(sys.executable, "-c", forks)
    while len(found := pids_found(command_line=mark)) < 8:
        time.sleep(0.01)
    assert found[0] == started.pid


def test_by_command_line(start: Start) -> None:
    mark = f"wd-mark-{os.getpid()}"
    started = start(sys.executable, "-c", SLEEPS, mark, "--port=7")
    assert pids_found(command_line=rf"{mark} --port=\d$") == [started.pid]


@pytest.mark.parametrize(
    ("pattern", "match"), [("(", "not a valid regular expression"), (".*", "matches every"), ("", "matches every")]
)
def test_command_lines_that_say_nothing(pattern: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        find(AgentSelector(command_line=pattern))


def test_we_never_find_ourselves_or_our_caller() -> None:
    own = " ".join(processes.command_line(os.getpid()))[:30]
    try:
        found = pids_found(command_line="^" + own.replace("+", r"\+"))
    except UsageError:
        found = []
    assert os.getpid() not in found
    assert os.getppid() not in found


LISTENS = """
import os, socket, sys, time
s = socket.create_server(("127.0.0.1", 0))
if "--fork" not in sys.argv or os.fork():
    print(s.getsockname()[1], flush=True)
time.sleep(600)
"""


def test_by_port(start: Start) -> None:
    started = start(sys.executable, "-c", LISTENS, ready=False)
    assert started.stdout is not None
    port = int(started.stdout.readline())
    assert pids_found(port=port) == [started.pid]
    forked = start(sys.executable, "-c", LISTENS, "--fork", ready=False)
    assert forked.stdout is not None
    assert pids_found(port=int(forked.stdout.readline()))[0] == forked.pid


def test_by_a_port_nobody_listens_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match=f"no process was found by port {port}"):
        find(AgentSelector(port=port))


def test_by_cgroup() -> None:
    own = processes.cgroup_of(os.getpid())
    assert os.getpid() in pids_found(cgroup=own)
    with pytest.raises(UsageError, match="no process was found by cgroup /wd-none"):
        find(AgentSelector(cgroup="/wd-none"))
