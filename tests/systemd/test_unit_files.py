"""The unit files in systemd/: systemd finds nothing wrong, and everything we do can be done in their sandbox."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.testbed import REPOSITORY, Testbed
from watchdog.paths import facts
from watchdog.paths.probe import Outcome

pytestmark = pytest.mark.systemd

UNIT_FILES = REPOSITORY / "systemd"
WATCHER = "watchdog-mesh@.service"
RESTORE = "watchdog-mesh-restore.service"
INSTANCE = "watchdog-mesh@sandbox.service"
AGENT = "wd-agent.service"
COMMAND = "/opt/watchdog-mesh/venv/bin/watchdog-mesh"
PINS = "/sys/fs/bpf/watchdog-mesh"
EXPOSURE_LIMIT = 4.5
"""systemd-analyze security, 0 to 10: 4.0 when written. Cutting agents off costs most of what is left."""

NOT_TRIED = {"E12d", "E12f", "E15d"}
"""AF_XDP and /dev/net/tun are not for watchers; ping without privilege is for who is in ping_group_range."""

STAND_IN = f"""
import json, os, socket, sys, time
from pathlib import Path
from watchdog.host import unit_filters, unit_restart
from watchdog.kernel import cgroups, gate
from watchdog.kernel.programs import EGRESS, INGRESS
from watchdog.kernel.builder import ensure_slots
from watchdog.paths import facts, probe

(slot,) = ensure_slots(Path("{PINS}"), Path("/run/watchdog-mesh/lock"), 1)
cgroup = cgroups.resolve_relative("/system.slice/{AGENT}")
assert gate.attach(cgroup, slot)
unit_filters.install_filters("{AGENT}", slot.pin(INGRESS), slot.pin(EGRESS))
assert unit_restart.restart("{AGENT}", 10.0).worked
pid = int((cgroup.path / "cgroup.procs").read_text().split()[0])
os.readlink(f"/proc/{{pid}}/fd/0")
os.close(os.pidfd_open(pid))
(cgroup.path / "cgroup.freeze").write_text("1")
(cgroup.path / "cgroup.freeze").write_text("0")
again = cgroups.resolve_relative("/system.slice/{AGENT}")
assert cgroups.by_id(again.inode, again.root) == again
findings = probe.probe_from_inside(again, netns=Path(f"/proc/{{pid}}/ns/net"))
told = {{each.path: [each.outcome, each.detail] for each in findings}}
Path("/var/lib/watchdog-mesh/inside").write_text(json.dumps([told, facts.has_vsock()]))
Path("/var/lib/watchdog-mesh/probe").write_text("x")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
notify.send(b"READY=1")
time.sleep(600)
"""


@pytest.fixture
def installed(testbed: Testbed) -> Iterator[Testbed]:
    """Both unit files in place, and an agent to isolate."""
    for name in (WATCHER, RESTORE):
        testbed.unit(name, (UNIT_FILES / name).read_text())
    testbed.unit(AGENT, "[Service]\nExecStart=/bin/sleep infinity\n")
    testbed.systemctl("start", AGENT)
    yield testbed
    for name in (INSTANCE, AGENT, RESTORE):
        testbed.remove_unit(name)
    testbed.run(["rm", "-rf", f"/run/systemd/system/{WATCHER}", "/run/watchdog-mesh", "/var/lib/watchdog-mesh", PINS])


def replace_command(bed: Testbed, command: str) -> None:
    """Run something else in the watcher's sandbox, which must see the package wherever it is."""
    show = " ".join({str(REPOSITORY), str(Path(sys.prefix))})
    bed.write(
        f"/run/systemd/system/{INSTANCE}.d/stand-in.conf",
        f"[Service]\nExecStart=\nExecStart={command}\nRestart=no\nBindReadOnlyPaths={show}\n"
        f"Environment=PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1\n",
    )
    bed.systemctl("daemon-reload")


@pytest.mark.parametrize("name", [WATCHER, RESTORE])
def test_systemd_finds_nothing_wrong(testbed: Testbed, name: str) -> None:
    instance = name.replace("@.", "@sandbox.")
    testbed.write(f"/root/verify/{instance}", (UNIT_FILES / name).read_text().replace(COMMAND, "/bin/true"))
    said = testbed.run(["systemd-analyze", "verify", f"/root/verify/{instance}"])
    assert said.stdout + said.stderr == ""


def test_the_command_is_where_install_puts_it() -> None:
    for name in (WATCHER, RESTORE):
        (command,) = re.findall(r"^ExecStart=(\S+)", (UNIT_FILES / name).read_text(), re.MULTILINE)
        assert command == COMMAND
    assert "readonly HOME_DIR=/opt/watchdog-mesh\n" in (REPOSITORY / "scripts/install").read_text()


def test_the_sandbox_is_tight(installed: Testbed) -> None:
    said = installed.run(["systemd-analyze", "security", "--no-pager", INSTANCE], check=False).stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: (\d+\.\d+)", said)
    assert float(exposure) <= EXPOSURE_LIMIT


def test_an_isolation_can_be_made_in_the_sandbox_and_is_seen_outside(installed: Testbed) -> None:
    if facts.VSOCK_DEVICE.exists():
        minor = os.minor(facts.VSOCK_DEVICE.stat().st_rdev)
        installed.run(["mknod", "-m", "666", str(facts.VSOCK_DEVICE), "c", "10", str(minor)])
    installed.write("/opt/stand_in.py", STAND_IN)
    replace_command(installed, f"{sys.executable} /opt/stand_in.py")
    started = installed.systemctl("start", INSTANCE, timeout_s=90.0, check=False)
    journal = installed.run(["journalctl", "--no-pager", "-n", "30", "-u", INSTANCE], check=False).stdout
    assert started.returncode == 0, journal
    assert installed.show(AGENT, "IPIngressFilterPath").startswith(PINS)
    pins = installed.run(["find", PINS, "-path", "*/slot-*/wd_*gress"]).stdout.split()
    assert {Path(pin).name for pin in pins} == {"wd_ingress", "wd_egress"}
    assert installed.run(["stat", "-c", "%a", "/run/watchdog-mesh"]).stdout.strip() == "700"

    told, has_vsock = json.loads(installed.run(["cat", "/var/lib/watchdog-mesh/inside"]).stdout)
    untried = {path: found for path, found in told.items() if found[0] == Outcome.UNTRIED}
    assert set(untried) <= NOT_TRIED, untried
    assert {told[path][0] for path in ("E2c", "E2d", "E3f", "E15a", "E4a", "E4c", "E4d")} == {Outcome.STOPPED}
    assert {told[path][0] for path in ("E5a", "E16b")} == {Outcome.GOT_THROUGH}, "no packet hook stops these"
    assert told["E12a"][0] == Outcome.GOT_THROUGH
    assert has_vsock == facts.has_vsock(), "the device is seen in the sandbox, too"


def test_an_agent_that_may_have_no_process_more_is_tried_all_the_same(installed: Testbed) -> None:
    """The probe is moved there, not forked there: the kernel counts it and does not refuse it."""
    installed.write(f"/run/systemd/system/{AGENT}.d/tasks.conf", "[Service]\nTasksMax=1\n")
    installed.systemctl("daemon-reload")
    installed.systemctl("restart", AGENT)
    installed.write("/opt/stand_in.py", STAND_IN)
    replace_command(installed, f"{sys.executable} /opt/stand_in.py")
    installed.systemctl("start", INSTANCE, timeout_s=90.0)
    assert installed.show(AGENT, "TasksMax") == "1"
    told, _ = json.loads(installed.run(["cat", "/var/lib/watchdog-mesh/inside"]).stdout)
    assert told["E2c"][0] == Outcome.STOPPED
    assert installed.show(AGENT, "ActiveState") == "active"


def test_one_watcher_leaves_the_shared_directory_to_the_others(installed: Testbed) -> None:
    replace_command(installed, "/bin/sh -c 'systemd-notify --ready; exec sleep infinity'")
    installed.write(f"/run/systemd/system/{INSTANCE}.d/notify.conf", "[Service]\nNotifyAccess=all\n")
    installed.systemctl("daemon-reload")
    installed.systemctl("start", INSTANCE)
    installed.systemctl("stop", INSTANCE)
    installed.run(["test", "-d", "/run/watchdog-mesh"])


def test_agents_start_after_what_was_isolated_is_isolated_again(installed: Testbed) -> None:
    installed.systemctl("enable", "--runtime", RESTORE)
    try:
        assert RESTORE in installed.show("basic.target", "After").split()
        assert RESTORE in installed.show("basic.target", "Wants").split()
        assert "basic.target" in installed.show(AGENT, "After").split()
        assert RESTORE in installed.show(INSTANCE, "After").split()
    finally:
        installed.systemctl("disable", "--runtime", RESTORE)


def test_the_boot_holds_no_ordering_cycle(installed: Testbed) -> None:
    installed.systemctl("enable", "--runtime", RESTORE)
    try:
        said = installed.run(["systemd-analyze", "verify", "default.target"], check=False)
        assert "cycle" not in said.stdout + said.stderr
    finally:
        installed.systemctl("disable", "--runtime", RESTORE)
