"""`doctor` on this host and on worse ones: what it says of each thing, and what it ends with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import Answer, Host
from tests.unit.own import Start, starting

pytestmark = pytest.mark.kernel

FAILED, HOST_CANNOT = 1, 5
PEER = '[[peer]]\nname = "{name}"\nendpoint = "http://127.0.0.1:9/"\n{setting}\n'


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as starts:
        yield starts


def checks(answer: Answer) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in answer.document["checks"]}


def test_a_host_that_can_isolate_and_has_no_configuration(host: Host, tmp_path: Path) -> None:
    answer = host.mesh("doctor", "--json", env={"WATCHDOG_MESH_CONFIG": str(tmp_path / "none.toml")})
    assert (answer.status, answer.document["can_isolate"]) == (FAILED, True), "one that was named must be there"
    assert "No such file" in checks(answer)["configuration"]["detail"]
    host.configure(PEER.format(name="shield", setting=""))
    answer = host.mesh("doctor", "--json")
    found = checks(answer)
    assert (answer.document["can_isolate"], found["programs"]["ok"], found["journal"]["ok"]) == (True, True, True)
    assert (found["peer shield"]["ok"], answer.status) == (False, FAILED)
    assert "set one of unit, pid_file" in found["peer shield"]["remedy"]
    words = host.mesh("doctor")
    assert "This host can isolate." in words.out
    assert "peer shield: set one of unit, pid_file" in words.out


def test_a_host_that_cannot(host: Host) -> None:
    host.configure(PEER.format(name="shield", setting=""))
    confined = ["setpriv", "--bounding-set=-bpf,-sys_admin"]
    answer = host.mesh("doctor", "--json", prefix=confined)
    assert (answer.status, answer.document["can_isolate"]) == (HOST_CANNOT, False)
    found = checks(answer)
    assert (found["cgroup v2"]["ok"], found["libbpf"]["ok"]) == (True, False)
    assert "CAP_BPF" in found["libbpf"]["remedy"] + found["libbpf"]["detail"]
    assert "bcc" not in found, "the first that fails ends the list"
    assert "This host CANNOT isolate." in host.mesh("doctor", prefix=confined).out


def test_agents_without_a_unit(
    host: Host, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, start: Start, tmp_path: Path
) -> None:
    cgroup = scratch_cgroup()
    run_in_cgroup(cgroup)
    agent = start("sleep", "600.25", ready=False)
    (tmp_path / "agent.pid").write_text(str(agent.pid))
    settings = {
        "pidded": f'pid_file = "{tmp_path}/agent.pid"',
        "spoken": r'command_line = "sleep 600\\.25$"',
        "gone": f'pid_file = "{tmp_path}/none.pid"',
        "executed": 'exec = "/no/such/agent"',
        "grouped": f'cgroup = "{cgroup.path}"',
        "lost": f'cgroup = "{cgroup.path}-gone"',
        "ported": "port = 9",
        "rooted": 'cgroup = "/"',
        "unhelped": f'cgroup = "{cgroup.path}"\nrestart = ["/nowhere/restart"]',
    }
    host.configure("".join(PEER.format(name=name, setting=setting) for name, setting in settings.items()))
    answer = host.mesh("doctor", "--json")
    found = {name: checks(answer)[f"peer {name}"] for name in settings}
    assert {name for name, check in found.items() if check["ok"]} == {"pidded", "spoken", "grouped"}
    for name in ("pidded", "spoken"):
        assert f"pid {agent.pid} sleep 600.25" in found[name]["detail"]
    assert found["grouped"]["detail"] == f"{cgroup.path}: 1 process"
    for name in ("gone", "executed", "lost", "ported", "rooted", "unhelped"):
        assert found[name]["remedy"], name
    assert found["unhelped"]["detail"].startswith(
        f"{cgroup.path}: 1 process; restart: cannot find the program /nowhere"
    )
    assert not checks(answer)["configuration"]["ok"]
    assert "peer 'rooted'.cgroup: want a cgroup below" in checks(answer)["configuration"]["detail"]
    assert answer.status == FAILED
