"""A watcher's orders on this host, as far as they need no kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.meshes import START
from watchdog import clock, config
from watchdog.actions import orders
from watchdog.actions.orders import HostActions
from watchdog.errors import HostCannot
from watchdog.journal import Journal
from watchdog.kernel import tc
from watchdog.ladder import OrderState, PeerRecord
from watchdog.mesh.coordinator import Order, OrderRequest
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action

CONFIG = """
self = "immune"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/"
restart = ["/bin/true"]
"""
NO_PLACE = cast("Any", None)


@pytest.fixture
def mesh() -> LocalCoordinator:
    return LocalCoordinator(Journal.in_memory())


@pytest.fixture
def actions(mesh: LocalCoordinator) -> HostActions:
    return HostActions(config.parse(CONFIG, Path("config.toml"), {}), NO_PLACE, mesh)


def begun(mesh: LocalCoordinator) -> Order:
    """A restart that a watcher may carry out."""
    wanted = OrderRequest("shield", Action.RESTART, "immune", "3 misses", 0, clock.now_s(), 60.0)
    order = mesh.claim(wanted, clock.moment())
    assert isinstance(order, Order)
    assert mesh.begin(order, clock.moment())
    return order


def test_a_restart_has_ready_what_an_isolation_imports(actions: HostActions, mesh: LocalCoordinator) -> None:
    tc.load.cache_clear()
    assert not actions.restart(begun(mesh)).failed
    assert tc.load.cache_info().currsize == 1


def test_a_restart_works_where_nobody_can_be_isolated(
    actions: HostActions, mesh: LocalCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tc.load.cache_clear()
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    assert not actions.restart(begun(mesh)).failed


def test_a_restart_that_was_overtaken_does_nothing(actions: HostActions, mesh: LocalCoordinator) -> None:
    order = begun(mesh)
    mesh.finish(order.token, clock.moment(), failed=True, outcome="overtaken")
    outcome = actions.restart(order)
    assert (outcome.failed, outcome.begun) == (True, False)


def test_a_watcher_that_isolates_nobody_knows_that_it_could_and_imports_nothing() -> None:
    code = "import sys; from watchdog import daemon; daemon.tc.check(); print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_host_without_pyroute2_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tc, "find_spec", lambda _: None)
    with pytest.raises(HostCannot, match="pyroute2 is not installed"):
        tc.check()


@pytest.mark.parametrize(
    ("record", "lately"),
    [
        (None, False),
        (PeerRecord(), False),
        (PeerRecord(last_action=Action.RESTART, order=OrderState.FAILED, begun_age_s=1.0), True),
        (PeerRecord(last_action=Action.RESTART, order=OrderState.LAPSED, begun_age_s=1.0), True),
        (PeerRecord(last_action=Action.RESTART, order=OrderState.VOID), False),
        (PeerRecord(last_action=Action.ISOLATE, order=OrderState.FAILED, begun_age_s=1.0), False),
        (PeerRecord(last_action=Action.RESTART, begun_age_s=1.0, isolated_since=START), False),
        (PeerRecord(last_action=Action.RESTART, begun_age_s=1.0 + orders.LONGEST_JOB_S), False),
    ],
)
def test_whose_job_holds_up_a_restart_of_another(record: PeerRecord | None, lately: bool) -> None:
    assert orders._restarted_lately(record) is lately
