"""The lasting drop-in: what a real systemd does with programs we pinned."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import filters
from tests.systemd.testbed import Testbed
from watchdog.errors import SystemdFailed, UsageError
from watchdog.host.unit_filters import (
    all_installed,
    drop_in,
    filters_installed,
    install_filters,
    remove_filters,
)
from watchdog.host.unit_restart import restart

pytestmark = pytest.mark.systemd

UNIT = "wd-agent.service"
CGROUP = f"/system.slice/{UNIT}"
PINS = Path("/sys/fs/bpf/wd-test")
INGRESS, EGRESS = PINS / "ingress", PINS / "egress"
SECOND_INGRESS, SECOND_EGRESS = PINS / "second-ingress", PINS / "second-egress"
PORT = 9999
RELOADS = 20
SENDER = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        s.sendto(b"x", ("127.0.0.1", {PORT}))
    except OSError:
        pass
"""
COUNTER = f"""
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", {PORT}))
s.settimeout(0.3)
count, end = 0, time.monotonic() + float(sys.argv[1])
print("ready", flush=True)
while time.monotonic() < end:
    try:
        s.recv(9)
    except TimeoutError:
        continue
    count += 1
print(count)
"""


@pytest.fixture(autouse=True)
def _clean(testbed: Testbed) -> Iterator[None]:
    for pin in (INGRESS, EGRESS, SECOND_INGRESS, SECOND_EGRESS):
        testbed.call(filters.pin, pin)
    testbed.unit(UNIT, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep infinity\n")
    testbed.systemctl("start", UNIT)
    yield
    testbed.remove_unit(UNIT)
    testbed.run(["rm", "-rf", str(PINS)])


def attached(bed: Testbed, cgroup: str = CGROUP) -> tuple[int, int]:
    return bed.call(filters.attached, cgroup)


def test_filters_last_over_restarts_and_go_with_the_drop_in(testbed: Testbed) -> None:
    assert attached(testbed) == (0, 0)
    path = testbed.call(install_filters, UNIT, INGRESS, EGRESS)
    assert path == drop_in(UNIT)
    assert attached(testbed) == (1, 1)
    assert testbed.call(restart, UNIT, 5.0).worked
    assert attached(testbed) == (1, 1)
    assert testbed.call(remove_filters, UNIT)
    assert testbed.show(UNIT, "IPIngressFilterPath") == ""
    assert testbed.run(["ls", str(path.parent)], check=False).returncode != 0
    assert testbed.call(restart, UNIT, 5.0).worked
    assert attached(testbed) == (0, 0)


def test_installing_and_removing_twice_does_no_harm(testbed: Testbed) -> None:
    for _ in range(2):
        testbed.call(install_filters, "wd-agent", INGRESS, EGRESS)
    assert attached(testbed) == (1, 1)
    assert [testbed.call(remove_filters, "wd-agent") for _ in range(2)] == [True, False]


def test_what_is_installed_can_be_read(testbed: Testbed) -> None:
    assert testbed.call(filters_installed, UNIT) is None
    testbed.call(install_filters, UNIT, INGRESS, EGRESS)
    found = testbed.call(filters_installed, "wd-agent")
    assert found is not None
    assert (found.unit, found.ingress, found.egress) == (UNIT, INGRESS, EGRESS)
    assert testbed.call(all_installed) == [found]


def test_other_drop_ins_of_the_unit_stay(testbed: Testbed) -> None:
    other = drop_in(UNIT).with_name("10-other.conf")
    testbed.write(other, "[Service]\nNice=5\n")
    testbed.call(install_filters, UNIT, INGRESS, EGRESS)
    testbed.call(remove_filters, UNIT)
    assert "Nice=5" in testbed.read(other)


def test_a_missing_pin_is_refused_before_anything_is_written(testbed: Testbed) -> None:
    with pytest.raises(UsageError, match="no pinned program at /sys/fs/bpf/wd-test/none"):
        testbed.call(install_filters, UNIT, INGRESS, PINS / "none")
    assert testbed.call(filters_installed, UNIT) is None


def test_a_pin_that_went_missing_is_named_when_the_unit_cannot_start(testbed: Testbed) -> None:
    testbed.call(install_filters, UNIT, INGRESS, EGRESS)
    testbed.run(["rm", str(EGRESS)])
    outcome = testbed.call(restart, UNIT, 5.0)
    assert (outcome.worked, outcome.reason) == (False, "resources")
    assert str(EGRESS) in outcome.detail
    testbed.call(remove_filters, UNIT)
    assert testbed.call(restart, UNIT, 5.0).worked


def test_a_unit_that_does_not_exist(testbed: Testbed) -> None:
    with pytest.raises(UsageError, match="no unit"):
        testbed.call(install_filters, "wd-none", INGRESS, EGRESS)
    assert testbed.call(remove_filters, "wd-none") is False


@pytest.mark.parametrize("option", ["--scope", "--unit=wd-transient.service"])
def test_transient_units_and_what_they_leave_when_they_end(testbed: Testbed, option: str) -> None:
    unit = "wd-transient.scope" if option == "--scope" else "wd-transient.service"
    started = testbed.popen(["systemd-run", "--quiet", f"--unit={unit}", option, "sleep", "infinity"])
    with started:
        try:
            while testbed.show(unit, "ActiveState") != "active":
                time.sleep(0.02)
            testbed.call(install_filters, unit, INGRESS, EGRESS)
            assert attached(testbed, f"/system.slice/{unit}") == (1, 1)
        finally:
            testbed.systemctl("stop", unit, check=False)
            started.wait(5.0)
    assert testbed.show(unit, "LoadState") == "not-found"
    assert testbed.call(remove_filters, unit)
    assert testbed.call(all_installed) == []


def test_a_slice_with_its_services(testbed: Testbed) -> None:
    testbed.run(["systemd-run", "--quiet", "--unit=wd-inner", "--slice=wd.slice", "sleep", "infinity"])
    try:
        testbed.call(install_filters, "wd.slice", INGRESS, EGRESS)
        assert attached(testbed, "/wd.slice") == (1, 1)
        assert testbed.call(remove_filters, "wd.slice")
    finally:
        testbed.systemctl("stop", "wd-inner.service", "wd.slice")


def test_daemon_reloads_let_no_packet_out_beside_a_second_program(testbed: Testbed) -> None:
    """What the module says of its own traps: without the second pair, about one packet a reload passes."""
    testbed.write("/run/wd-sender.py", SENDER)
    sender = "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /run/wd-sender.py\n"
    testbed.write(f"/run/systemd/system/{UNIT}.d/10-sender.conf", sender)
    testbed.systemctl("daemon-reload")
    testbed.systemctl("restart", UNIT)
    testbed.call(filters.attach, SECOND_INGRESS, CGROUP, filters.INGRESS)
    testbed.call(filters.attach, SECOND_EGRESS, CGROUP, filters.EGRESS)
    counter = testbed.popen([*testbed.python, "-c", COUNTER, "4"], stdout=-1)
    with counter:
        assert counter.stdout is not None
        assert counter.stdout.readline() == "ready\n"
        testbed.call(install_filters, UNIT, INGRESS, EGRESS)
        assert attached(testbed) == (2, 2)
        for _ in range(RELOADS):
            testbed.systemctl("daemon-reload")
        assert counter.stdout.read() == "0\n"


def test_a_hung_systemd_does_not_keep_the_drop_in_from_going(testbed: Testbed) -> None:
    path = testbed.call(install_filters, UNIT, INGRESS, EGRESS)
    os.kill(testbed.init_pid, signal.SIGSTOP)
    try:
        with pytest.raises(SystemdFailed, match="did not answer"):
            testbed.call(remove_filters, UNIT, timeout_s=0.5)
    finally:
        os.kill(testbed.init_pid, signal.SIGCONT)
    assert testbed.run(["test", "-e", str(path)], check=False).returncode != 0
    assert testbed.call(remove_filters, UNIT)
    assert testbed.show(UNIT, "IPIngressFilterPath") == ""


def test_a_reload_that_takes_too_long_undoes_nothing(testbed: Testbed) -> None:
    with pytest.raises(SystemdFailed, match="stays in place"):
        testbed.call(install_filters, UNIT, INGRESS, EGRESS, timeout_s=0.001)
    assert testbed.call(filters_installed, UNIT) is not None
    testbed.call(install_filters, UNIT, INGRESS, EGRESS)
    assert attached(testbed) == (1, 1)


def test_an_alias_means_the_unit_itself(testbed: Testbed) -> None:
    testbed.run(["ln", "-sf", UNIT, "/run/systemd/system/wd-alias.service"])
    testbed.systemctl("daemon-reload")
    try:
        assert testbed.call(install_filters, "wd-alias", INGRESS, EGRESS) == drop_in(UNIT)
        assert testbed.call(remove_filters, "wd-alias")
        assert testbed.call(all_installed) == []
    finally:
        testbed.run(["rm", "/run/systemd/system/wd-alias.service"])


def test_a_base_of_the_callers_own(tmp_path: Path) -> None:
    path = drop_in(UNIT, tmp_path)
    path.parent.mkdir()
    path.write_text(f"[Service]\nIPIngressFilterPath={tmp_path}/none\n")
    found = filters_installed(UNIT, base=tmp_path)
    assert found is not None
    assert (found.egress, found.ingress) == (None, tmp_path / "none")
