"""The test bed is a real systemd, shut off from this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.systemd.testbed import REPOSITORY, Testbed, TestbedFailed, hidden

pytestmark = pytest.mark.systemd


def test_systemd_is_its_pid_1_and_running(testbed: Testbed) -> None:
    assert testbed.read("/proc/1/comm").strip() == "systemd"
    assert testbed.systemctl("is-system-running").stdout.strip() == "running"


def test_commands_run_in_a_session_of_cgroup_v2(testbed: Testbed) -> None:
    lines = testbed.read("/proc/self/cgroup").splitlines()
    assert "0::/system.slice/testbed-session.service" in lines


def test_the_package_and_bcc_are_importable(testbed: Testbed) -> None:
    out = testbed.run([*testbed.python, "-c", "import bcc, watchdog; print(watchdog.__file__)"]).stdout
    assert out.strip() == str(REPOSITORY / "watchdog" / "__init__.py")


@pytest.mark.parametrize("path", ["/etc/watchdog-testbed-probe", "/run/watchdog-testbed-probe"])
def test_nothing_written_comes_out(testbed: Testbed, path: str) -> None:
    testbed.write(path, "text\n")
    assert testbed.read(path) == "text\n"
    assert not Path(path).exists()


def test_the_machines_settings_cannot_be_changed(testbed: Testbed) -> None:
    assert testbed.run(["sh", "-c", "echo 1 >/proc/sys/kernel/panic"], check=False).returncode != 0
    testbed.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"])


def test_a_hung_command_ends_at_its_deadline(testbed: Testbed) -> None:
    with pytest.raises(TestbedFailed, match=r"within 0\.2 s"):
        testbed.run(["sleep", "600"], 0.2)
    assert "sleep\x00600" not in testbed.run(["sh", "-c", "cat /proc/*/cmdline"], check=False).stdout


def test_popen_runs_beside_and_is_killed_with_its_children(testbed: Testbed) -> None:
    with testbed.popen(["sh", "-c", "sleep 601 & wait"]) as process:
        testbed.kill(process)
    assert "sleep\x00601" not in testbed.run(["sh", "-c", "cat /proc/*/cmdline"], check=False).stdout


def test_hidden_directories_are_those_under_covered_ones(tmp_path: Path) -> None:
    covered = str(tmp_path).startswith("/tmp")  # pytest's own choice
    assert hidden([tmp_path, Path("/usr")]) == ([tmp_path.resolve()] if covered else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_bed_leaves_nothing_behind_when_it_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "init.sh"
    broken.write_text("echo broken >&2; exit 1\n")
    monkeypatch.setattr("tests.systemd.testbed.INIT", broken)
    bed = Testbed()
    bed.cgroup = bed.cgroup.with_name(f"watchdog-testbed-{os.getpid()}-broken")
    try:
        with pytest.raises(TestbedFailed, match="broken"):
            bed.start()
    finally:
        bed.stop()
    bed.stop()
    assert not bed.cgroup.exists()
