"""Restarts of real units by a real systemd: what worked, and every way it does not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.testbed import Testbed
from watchdog import clock, config
from watchdog.actions import place
from watchdog.actions.orders import HostActions
from watchdog.errors import SystemdFailed, UsageError
from watchdog.host import systemd, unit_restart
from watchdog.host.unit_restart import RestartOutcome, restart
from watchdog.journal import Journal
from watchdog.mesh.coordinator import Order, OrderRequest, Outcome
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action

pytestmark = pytest.mark.systemd

UNIT = "wd-agent.service"
DEADLINE_S = 10.0
STAYS = "/bin/sleep infinity"


@pytest.fixture(autouse=True)
def _clean(testbed: Testbed) -> Iterator[None]:
    yield
    testbed.remove_unit(UNIT)


def service(bed: Testbed, *settings: str) -> None:
    bed.unit(UNIT, "\n".join(("[Service]", *settings, "")))


def limited(bed: Testbed, *settings: str, burst: int = 2) -> None:
    limit = f"[Unit]\nStartLimitBurst={burst}\nStartLimitIntervalSec=1h\n"
    bed.unit(UNIT, limit + "\n".join(("[Service]", *settings, "")))


def try_restart(bed: Testbed, deadline_s: float = DEADLINE_S) -> RestartOutcome:
    return bed.call(restart, UNIT, deadline_s)


def main_pid(bed: Testbed) -> int:
    return int(bed.show(UNIT, "MainPID"))


@pytest.mark.parametrize(
    "settings",
    [
        (f"ExecStart={STAYS}",),
        ("Type=exec", f"ExecStart={STAYS}"),
        ("Type=notify", "NotifyAccess=all", "ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep infinity'"),
        ("Type=forking", "ExecStart=/bin/sh -c 'sleep infinity &'"),
    ],
    ids=["simple", "exec", "notify", "forking"],
)
def test_a_running_unit_gets_a_new_main_process(testbed: Testbed, settings: tuple[str, ...]) -> None:
    service(testbed, *settings)
    testbed.systemctl("start", UNIT)
    old = main_pid(testbed)
    outcome = try_restart(testbed)
    assert (outcome.worked, outcome.reason) == (True, ""), outcome
    assert outcome.before.main_pid == old
    assert outcome.after is not None
    assert outcome.after.main_pid == main_pid(testbed) not in (0, old)


def test_a_unit_is_named_without_its_suffix(testbed: Testbed) -> None:
    service(testbed, f"ExecStart={STAYS}")
    assert testbed.call(restart, UNIT.removesuffix(".service"), DEADLINE_S).worked


def test_a_hung_unit_that_ignores_sigterm_is_restarted(testbed: Testbed) -> None:
    service(testbed, "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'", "TimeoutStopSec=1")
    testbed.systemctl("start", UNIT)
    assert try_restart(testbed).worked


@pytest.mark.parametrize("remains", ["yes", "no"])
def test_a_oneshot_unit(testbed: Testbed, remains: str) -> None:
    service(testbed, "Type=oneshot", f"RemainAfterExit={remains}", "ExecStart=/bin/true")
    assert try_restart(testbed).worked


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("ExecStart=/bin/false",), "exit-code"),
        (("ExecStart=/bin/sh -c 'sleep 0.2; exit 3'",), "exit-code"),
        (("ExecStart=/bin/sh -c 'kill -SEGV $$$$'", "LimitCORE=0"), "signal"),
        (("ExecStart=/no/such/program",), "exit-code"),
        (("Type=exec", "ExecStart=/no/such/program"), "exit-code"),
        (("ExecStart=/bin/true",), "died-again"),
        (("ExecStart=/bin/false", "Restart=always", "RestartSec=50ms"), "exit-code"),
        (("Type=oneshot", "ExecStart=/bin/false"), "exit-code"),
        (("Type=notify", f"ExecStart={STAYS}", "TimeoutStartSec=300ms"), "timeout"),
        (("Type=forking", "ExecStart=/bin/sleep infinity", "TimeoutStartSec=300ms"), "timeout"),
        (("User=no-such-user", f"ExecStart={STAYS}"), "exit-code"),
        (("Nonsense",), "bad-setting"),
    ],
)
def test_a_unit_that_does_not_come_up(testbed: Testbed, settings: tuple[str, ...], reason: str) -> None:
    service(testbed, *settings)
    outcome = try_restart(testbed)
    assert (outcome.worked, outcome.reason) == (False, reason), outcome
    assert UNIT in outcome.detail


def test_the_start_limit_is_named_and_reset_before_the_next_try(testbed: Testbed) -> None:
    limited(testbed, f"ExecStart={STAYS}")
    assert [try_restart(testbed).reason for _ in range(3)] == ["", "", "start-limit-hit"]
    again = try_restart(testbed)
    assert (again.worked, again.reset) == (True, True)


def test_the_start_limit_of_a_crash_loop_is_reset_though_systemd_shows_another_result(testbed: Testbed) -> None:
    limited(testbed, "ExecStart=/bin/sh -c 'test -e /run/cured && exec sleep infinity'", "Restart=on-failure")
    testbed.systemctl("start", UNIT)
    while testbed.show(UNIT, "ActiveState") != "failed":
        time.sleep(0.05)
    assert testbed.systemctl("start", UNIT, check=False).returncode != 0  # at its limit
    assert testbed.show(UNIT, "Result") == "exit-code"
    testbed.write("/run/cured", "")
    outcome = try_restart(testbed)
    assert (outcome.worked, outcome.reset) == (True, True)


def test_a_start_limit_hit_by_a_unit_that_failed_before_is_recognised(testbed: Testbed) -> None:
    limited(testbed, "ExecStart=/bin/false", "Restart=always", "RestartSec=1h", burst=1)
    testbed.systemctl("start", UNIT)
    while testbed.show(UNIT, "SubState") != "auto-restart":
        time.sleep(0.05)
    outcome = try_restart(testbed)
    assert (outcome.worked, outcome.reason) == (False, "start-limit-hit"), outcome


def test_a_stop_that_hangs_ends_at_our_deadline_and_the_job_goes_on(testbed: Testbed) -> None:
    service(testbed, f"ExecStart={STAYS}", "ExecStop=/bin/sleep 600", "TimeoutStopSec=60")
    testbed.systemctl("start", UNIT)
    outcome = try_restart(testbed, 0.5)
    assert (outcome.worked, outcome.reason) == (False, "systemctl-timeout")
    assert outcome.seconds < 0.5 + 1
    assert outcome.after is not None
    assert f"its job {outcome.after.job} is still running" in outcome.detail


def test_a_masked_unit(testbed: Testbed) -> None:
    service(testbed, f"ExecStart={STAYS}")
    testbed.systemctl("mask", "--runtime", UNIT, check=False)
    testbed.run(["ln", "-sf", "/dev/null", f"/run/systemd/system/{UNIT}"])
    testbed.systemctl("daemon-reload")
    outcome = try_restart(testbed)
    assert (outcome.worked, outcome.reason) == (False, "masked")
    assert "systemctl unmask" in outcome.detail


def test_a_unit_whose_dependency_fails(testbed: Testbed) -> None:
    bad = "wd-dependency.service"
    try:
        testbed.unit(bad, "[Service]\nType=oneshot\nExecStart=/bin/false\n")
        testbed.unit(UNIT, f"[Unit]\nRequires={bad}\nAfter={bad}\n[Service]\nExecStart={STAYS}\n")
        outcome = try_restart(testbed)
        assert (outcome.worked, outcome.reason) == (False, "systemctl-failed"), outcome
        assert "dependency" in outcome.detail
    finally:
        testbed.remove_unit(bad)


def test_a_unit_that_does_not_exist(testbed: Testbed) -> None:
    with pytest.raises(UsageError, match=r"no unit 'wd-none\.service'") as caught:
        testbed.call(restart, "wd-none", DEADLINE_S)
    assert "systemctl list-units" in caught.value.hint


def test_systemd_itself_hangs(testbed: Testbed) -> None:
    service(testbed, f"ExecStart={STAYS}")
    os.kill(testbed.init_pid, signal.SIGSTOP)
    try:
        with pytest.raises(SystemdFailed, match="did not answer"):
            testbed.call(systemd.show, UNIT, 0.5)
        running = testbed.call(systemd.running, 0.5)
        assert not running
        assert "did not end within 0.5 s" in running.detail
    finally:
        os.kill(testbed.init_pid, signal.SIGCONT)
    assert testbed.call(systemd.show, UNIT).id == UNIT


def test_systemd_answers(testbed: Testbed) -> None:
    assert testbed.call(systemd.running)
    assert testbed.call(systemd.supports_filter_paths)
    assert testbed.call(systemd.version) >= systemd.FILTER_PATHS_SINCE


def test_what_is_known_of_a_running_unit(testbed: Testbed) -> None:
    service(testbed, f"ExecStart={STAYS}")
    testbed.systemctl("start", UNIT)
    state = testbed.call(systemd.show, "wd-agent")
    assert (state.id, state.load_state, state.active_state) == (UNIT, "loaded", "active")
    assert state.control_group == f"/system.slice/{UNIT}"
    assert state.fragment_path == f"/run/systemd/system/{UNIT}"
    assert len(state.invocation_id) == 32
    assert state.job == 0
    assert unit_restart.SETTLE_S > 0


PEERS = f"""
self = "immune"
restart_timeout = "1s"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9103/"
unit = "{UNIT}"
"""


def restart_by_order(lease_s: float) -> Outcome:
    """As a watcher does once it has begun an order of that lease; runs inside."""
    journal = Journal.in_memory()
    mesh = LocalCoordinator(journal)
    settings = config.parse(PEERS, Path("config.toml"), {})
    order = mesh.claim(OrderRequest("shield", Action.RESTART, "immune", "x", 0, clock.now_s(), lease_s), clock.moment())
    assert isinstance(order, Order)
    assert mesh.begin(order, clock.moment())
    return HostActions(settings, place.configured(settings, journal), mesh).restart(order)


@pytest.mark.parametrize("fails", [False, True], ids=["active", "failed"])
def test_an_order_whose_time_ran_out_while_systemd_was_asked_changes_nothing(testbed: Testbed, fails: bool) -> None:
    service(testbed, "ExecStart=/bin/false" if fails else f"ExecStart={STAYS}")
    testbed.systemctl("start", UNIT)
    before = testbed.call(systemd.query, UNIT)
    os.kill(testbed.init_pid, signal.SIGSTOP)
    threading.Timer(4.0, os.kill, (testbed.init_pid, signal.SIGCONT)).start()
    outcome = testbed.call(restart_by_order, 0.5)
    assert (outcome.failed, outcome.begun) == (True, False), outcome
    assert "its time was up" in outcome.detail
    after = testbed.call(systemd.query, UNIT)
    assert (after.active_state, after.invocation_id) == (before.active_state, before.invocation_id)
