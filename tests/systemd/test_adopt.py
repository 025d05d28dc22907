"""An agent in a unit with another: moved into a cgroup of its own, which systemd leaves alone and ends with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.systemd.mission_bed import MISSION, RUN, STATE, Mission, is_whole, python_unit, wait_for
from tests.systemd.testbed import REPOSITORY, Testbed

pytestmark = pytest.mark.systemd

OK = 0
UNIT = "shared.service"
CGROUP = f"/sys/fs/cgroup/system.slice/{UNIT}"
WHY = ("--reason", "a test")
AGENT = f"{sys.executable} {REPOSITORY}/tests/systemd/agent.py"
BOTH = f"""
[Service]
Environment=PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1
ExecStart=/bin/sh -c '{AGENT} shield 9103 & echo $$! >{MISSION}/shield.pid; {AGENT} sidecar 9102 & wait'
"""


@pytest.fixture
def host(testbed: Testbed) -> Iterator[Mission]:
    """shield and sidecar run in one unit, talk all the time, and are heard."""
    seen = Mission(testbed)
    try:
        testbed.run(["ip", "link", "set", "lo", "up"])
        testbed.run(["mkdir", "-p", MISSION])
        testbed.unit("architect.service", python_unit("architect.py"))
        testbed.unit(UNIT, BOTH)
        testbed.systemctl("start", "architect.service", UNIT)
        wait_for(lambda: seen.heard("shield") and seen.heard("sidecar"), "they are not heard")
        yield seen
    finally:
        testbed.remove_unit(UNIT)
        seen.tear_down()
        testbed.run(["rm", "-rf", STATE, RUN])


def only_sidecar_is_heard(host: Mission) -> bool:
    shield, sidecar = host.heard("shield"), host.heard("sidecar")
    wait_for(lambda: host.heard("sidecar") > sidecar + 20, "sidecar is cut off, too")
    return host.heard("shield") == shield


def test_systemd_leaves_it_alone_and_a_release_puts_it_back(host: Mission) -> None:
    bed, pid = host.bed, host.file("shield.pid").strip()
    isolated = host.document("isolate", "--pid", pid, "--adopt", *WHY)
    assert isolated["moved"] == {"from": CGROUP, "processes": [int(pid)], "unclear": []}
    assert isolated["cgroup"].startswith(f"{CGROUP}/watchdog-mesh-{pid}-")
    assert isolated["unit"] is None
    assert is_whole(isolated)
    assert only_sidecar_is_heard(host)
    bed.systemctl("daemon-reload")
    bed.systemctl("set-property", "--runtime", UNIT, "TasksMax=100")
    assert is_whole(host.document("verify", "--pid", pid))
    assert only_sidecar_is_heard(host)
    assert host.document("release", "--pid", pid, *WHY)["exit"] == OK
    assert f"0::/system.slice/{UNIT}\n" in bed.read(f"/proc/{pid}/cgroup")
    shield = host.heard("shield")
    wait_for(lambda: host.heard("shield") > shield, "it is still cut off")
    assert bed.show(UNIT, "ActiveState") == "active"


def test_a_stop_of_the_unit_ends_it_with_the_rest(host: Mission) -> None:
    bed, pid = host.bed, host.file("shield.pid").strip()
    isolated = host.document("isolate", "--pid", pid, "--adopt", "--level", "frozen", *WHY)
    assert is_whole(isolated)
    bed.systemctl("stop", UNIT)
    assert not (bed.root / CGROUP.lstrip("/")).exists()
    said = host.document("verify", "--cgroup", isolated["cgroup"])
    assert "the processes that were moved into it have ended" in said["gaps"][0]
    assert host.document("reconcile")["exit"] == OK
    assert host.document("release", "--cgroup", isolated["cgroup"], *WHY)["exit"] == OK
