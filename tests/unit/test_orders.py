"""A watcher's orders on this host, as far as they need no kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from watchdog import config
from watchdog.actions.orders import HostActions
from watchdog.errors import HostCannot
from watchdog.kernel import tc
from watchdog.mesh.coordinator import Order
from watchdog.model import Action

CONFIG = """
self = "immune"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/"
restart = ["/bin/true"]
"""
RESTART = Order(1, "shield", 1, Action.RESTART, "immune", "3 misses", 100.0, "boot")


@pytest.fixture
def actions() -> HostActions:
    nobody = cast("Any", None)
    return HostActions(config.parse(CONFIG, Path("config.toml"), {}), nobody, nobody)


def test_a_restart_has_ready_what_an_isolation_imports(actions: HostActions) -> None:
    tc.load.cache_clear()
    assert not actions.restart(RESTART).failed
    assert tc.load.cache_info().currsize == 1


def test_a_restart_works_where_nobody_can_be_isolated(actions: HostActions, monkeypatch: pytest.MonkeyPatch) -> None:
    tc.load.cache_clear()
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    assert not actions.restart(RESTART).failed


def test_a_watcher_that_isolates_nobody_knows_that_it_could_and_imports_nothing() -> None:
    code = "import sys; from watchdog import daemon; daemon.tc.check(); print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_host_without_pyroute2_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tc, "find_spec", lambda _: None)
    with pytest.raises(HostCannot, match="pyroute2 is not installed"):
        tc.check()
