"""What a host may say against a silent agent, and what it must not."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.own import Start, starting
from watchdog import config
from watchdog.actions import evidence
from watchdog.host.systemd import parse_state

RUNNING = "shield.service is active (running), result success"
EXITED = "shield.service is active (exited), result success"
NO_V2_TREE = Path("/nonexistent")
SLEEPS = "print('ready', flush=True); import time; time.sleep(600)"


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as starts:
        yield starts


def state(
    active: str, sub: str, *, kind: str = "simple", main: int = 0, cgroup: str = "/x", exits: str = "main"
) -> str:
    return (
        f"Id=shield.service\nActiveState={active}\nSubState={sub}\nResult=success\nType={kind}\nExitType={exits}\n"
        f"MainPID={main}\nControlGroup={cgroup}\n"
    )


@pytest.mark.parametrize(
    ("shown", "said", "is_down"),
    [
        (state("failed", "failed"), "shield.service is failed (failed), result success", True),
        (state("inactive", "dead", cgroup=""), "shield.service is inactive (dead), result success", True),
        (state("deactivating", "stop-sigterm", main=7), "", False),
        (state("deactivating", "final-sigkill"), "", False),
        (state("activating", "auto-restart", cgroup=""), "", False),
        (state("active", "running", main=7), "", False),
        (state("active", "running"), f"{RUNNING}, and its main process is gone", False),
        (state("active", "exited", cgroup=""), f"{EXITED}, and has no process", False),
        (state("active", "exited", kind="oneshot", cgroup=""), f"{EXITED}, and has no process", False),
        (state("active", "exited", kind="oneshot"), "", False),
        (state("active", "running", kind="forking"), "", False),
        (state("active", "running", exits="cgroup"), "", False),
        (state("active", "listening", kind="", cgroup=""), "", False),
    ],
)
def test_of_a_unit(shown: str, said: str, is_down: bool) -> None:
    assert evidence.judge_unit(parse_state(shown)) == (said, is_down)


def test_a_unit_that_systemd_does_not_know_says_nothing_of_the_agent() -> None:
    """A slip in the configuration must not be the second word of an isolation."""
    unknown = state("inactive", "dead", cgroup="") + "LoadState=not-found\n"
    assert evidence.judge_unit(parse_state(unknown)) == ("", False)


def against(setting: str, root: Path = NO_V2_TREE) -> str:
    text = f'self = "immune"\n[[peer]]\nname = "shield"\nendpoint = "http://127.0.0.1:9/"\n{setting}\n'
    said, is_down = evidence.against(config.parse(text, Path("config.toml"), {}).peers[0], root)
    assert not is_down, "only systemd says that"
    return said


def test_of_a_pid_file(start: Start, tmp_path: Path) -> None:
    agent = start(sys.executable, "-c", SLEEPS)
    file = tmp_path / "agent.pid"
    file.write_text(str(agent.pid))
    setting = f'pid_file = "{file}"'
    assert against(setting) == ""
    agent.kill()
    agent.wait()
    assert against(setting) == f"there is no process {agent.pid}, though the pid file {file} names it"
    file.write_text("nonsense")
    assert against(setting) == ""
    file.unlink()
    assert against(setting) == "", "it may be where this process cannot look"


def test_of_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        setting = f"port = {server.getsockname()[1]}"
        assert against(setting) == ""
    assert against(setting) == f"no process was found by {setting.replace(' =', '')}"


def test_of_an_executable_and_a_command_line(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "wd-evidence-agent"
    shutil.copy(shutil.which("sleep") or "", program)
    settings = (f'exec = "{program}"', 'command_line = "wd-evidence-agent 600"')
    assert [against(each) for each in settings] == [
        f"no process was found by exec {program}",
        "no process was found by command_line wd-evidence-agent 600",
    ]
    agent = start(str(program), "600", ready=False)
    assert [against(each) for each in settings] == ["", ""]
    other = start(str(program), "600", ready=False)
    assert [against(each) for each in settings] == ["", ""], "two of them are not none"
    for each in (agent, other):
        each.kill()
        each.wait()
    assert all(against(each) for each in settings)


def test_where_executables_cannot_be_seen_nothing_is_said() -> None:
    ask = (
        "from watchdog.host import agents; from pathlib import Path\n"
        "try: agents.find(agents.AgentSelector(exec=Path('/nonexistent/agent')))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    for confined, said in (([], "NotRunning"), (["setpriv", "--bounding-set=-sys_ptrace"], "UsageError")):
        done = subprocess.run([*confined, sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


def test_of_a_peer_that_nothing_finds() -> None:
    assert against("") == ""


def test_of_a_cgroup_that_cannot_be_looked_at(tmp_path: Path) -> None:
    assert against(f'cgroup = "{tmp_path}"', tmp_path.parent) == ""
    assert against('cgroup = "/elsewhere/x"', tmp_path) == ""
    assert against(f'cgroup = "{tmp_path}/gone"', tmp_path) == f"its cgroup {tmp_path}/gone is gone"
