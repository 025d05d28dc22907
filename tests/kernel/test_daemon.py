"""What a whole watcher tells people of this host, and that it starts where it cannot do everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import WHY, Host
from watchdog import clock, config
from watchdog.config import for_watcher
from watchdog.daemon import Daemon
from watchdog.intents import Until
from watchdog.kernel.cgroups import Cgroup

pytestmark = pytest.mark.kernel

CONFIG = """
self = "immune"
[status]
listen = "127.0.0.1:0"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/healthz"
"""


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.fixture
def daemon(host: Host) -> Iterator[Daemon]:
    """Not started: what its keeper finds is told all the same."""
    with ExitStack() as opened:
        settings = config.parse(CONFIG, host.config, host.environment)
        made = Daemon(for_watcher(settings, None), None, host.place)
        opened.callback(made.monitor.stop)
        yield made


def told(host: Host) -> list[tuple[str, str, str]]:
    """Every event there is: key, state, incident."""
    rows = host.place.journal.read("SELECT key, body FROM event ORDER BY seq")
    data: list[dict[str, Any]] = [json.loads(row["body"])["data"] for row in rows]
    return [(row["key"], each["state"], each.get("incident", "")) for row, each in zip(rows, data, strict=True)]


def over() -> Until:
    at = clock.moment()
    return Until(at.utc - timedelta(seconds=1), at.s - 1, at.boot)


def test_an_isolation_whose_time_is_over_is_told_as_a_release_is(host: Host, agent: Cgroup, daemon: Daemon) -> None:
    intent = host.isolate(agent, why=replace(WHY, until=over())).intent
    daemon.keeper.sweep()
    assert told(host) == [(f"intent/{intent.id}/RESOLVED", "RESOLVED", "INC-7")]
    assert [each["kind"] for each in host.place.journal.trail(newest=1)] == ["repair"]
