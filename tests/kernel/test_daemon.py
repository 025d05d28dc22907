"""What a whole watcher tells people of this host, and that it starts where it cannot do everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup
from tests.kernel.isolation_bed import WHY, Host, overwrite_root_page
from tests.kernel.test_waiting import stopped_with_the_lock
from tests.unit.agents import Agent, agents, eventually
from watchdog import clock, config
from watchdog.config import for_watcher
from watchdog.daemon import Daemon
from watchdog.intents import Until
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import Hook

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
    assert told(host) == [(f"intent/{intent.id}/{state}", state, "INC-7") for state in ("FIRING", "RESOLVED")]
    assert [each["kind"] for each in host.place.journal.trail(newest=1)] == ["repair"]


@pytest.mark.parametrize("stopped", [False, True])
def test_an_isolation_that_ended_by_itself_is_tried_from_inside(
    host: Host, agent: Cgroup, daemon: Daemon, stopped: bool
) -> None:
    host.isolate(agent, why=replace(WHY, until=over()))
    daemon.keeper.sweep()
    if stopped:
        program = foreign.load("other_fw", 0, hook=Hook.EGRESS)
        foreign.attach(program, agent.path, Hook.EGRESS, foreign.MULTI)
        os.close(program)
    daemon.inspector.turn()
    bodies = [json.loads(row["body"])["data"] for row in host.place.journal.read("SELECT body FROM event ORDER BY seq")]
    reasons = [each["reason"] for each in bodies if "tried from inside these are stopped still" in each["reason"]]
    assert len(reasons) == stopped
    daemon.inspector.turn()
    assert len(told(host)) == 2 + stopped


def start_and_stop(host: Host, pins: Path) -> None:
    settings = for_watcher(config.parse(CONFIG, host.config, host.environment), None)
    started = Daemon(settings, None, replace(host.place, pins=pins))
    started.start()
    started.stop()


def test_that_a_host_cannot_isolate_is_told_once_until_it_can_and_then_anew(host: Host) -> None:
    nowhere = Path("no/absolute/path")
    for pins in (nowhere, nowhere, host.pins, host.pins, nowhere):
        start_and_stop(host, pins)
    assert told(host) == [
        ("immune (host)/1/not-ready", "FIRING", ""),
        ("immune (host)/1/not-ready/RESOLVED", "RESOLVED", ""),
        ("immune (host)/2/not-ready", "FIRING", ""),
    ]
    bodies = [json.loads(row["body"])["data"] for row in host.place.journal.read("SELECT body FROM event ORDER BY seq")]
    assert [(each["peer_name"], each["severity"], each["episode"]) for each in bodies] == [
        ("immune (host)", "CRITICAL", 1),
        ("immune (host)", "CRITICAL", 1),
        ("immune (host)", "CRITICAL", 2),
    ]


def test_a_restart_that_would_run_nothing_is_warned_of(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    text = f'{CONFIG}restart = ["/nowhere/restart"]\n'
    started = Daemon(for_watcher(config.parse(text, host.config, host.environment), None), None, host.place)
    started.start()
    started.stop()
    assert "peer 'shield'.restart: cannot find the program /nowhere/restart: " in caplog.text


def asked(daemon: Daemon, path: str) -> tuple[int, str]:
    answer = requests.get(f"http://127.0.0.1:{daemon.server.port}{path}", timeout=5.0)
    return answer.status_code, answer.text


def test_it_says_that_it_is_well_until_its_loop_stands_still(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watchdog.daemon.LOOP_LATE_S", 1.5)
    settings = for_watcher(config.parse(CONFIG, host.config, host.environment), None)
    started = Daemon(settings, None, host.place)
    started.start()
    try:
        eventually(lambda: asked(started, "/healthz")[0] == HTTPStatus.OK)
        assert "watchdog_mesh_healthy" in asked(started, "/metrics")[1]
        assert [each["name"] for each in json.loads(asked(started, "/")[1])["peers"]] == ["shield"]
        started.monitor.stop()
        eventually(lambda: asked(started, "/healthz")[0] == HTTPStatus.SERVICE_UNAVAILABLE)
    finally:
        started.stop()


# Without its journal

LOCKERS = {
    "for writing": 'journal.execute("BEGIN EXCLUSIVE")',
    "for all": 'journal.execute("PRAGMA locking_mode = EXCLUSIVE"); journal.execute("BEGIN EXCLUSIVE")',
}
LOCKER = """
import sqlite3, sys
journal = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
{}
print("locked", flush=True)
sys.stdin.read()
"""
START_S = 60.0
"""A lock is waited for 5 s, more than once; and a machine may be busy."""


@pytest.fixture
def peer() -> Iterator[Agent]:
    with agents("shield") as made:
        yield made["shield"]


@contextmanager
def running(host: Host, peer: Agent) -> Iterator[subprocess.Popen[str]]:
    """`run`, as systemd runs it."""
    host.configure(
        'interval = "500ms"\ntimeout = "200ms"\n' + CONFIG.replace("http://127.0.0.1:9/healthz", peer.endpoint)
    )
    command = [sys.executable, "-m", "watchdog", "run"]
    watcher = subprocess.Popen(command, env=host.environment, cwd=host.folder, stderr=subprocess.PIPE, text=True)
    try:
        yield watcher
    finally:
        watcher.terminate()
        watcher.communicate(timeout=START_S)


def test_whom_a_watcher_waits_for_is_in_its_log_when_that_one_is_stopped(host: Host, peer: Agent) -> None:
    with stopped_with_the_lock(host) as holder, running(host, peer) as watcher:
        assert watcher.stderr is not None
        patience = threading.Timer(START_S, watcher.kill)
        patience.start()
        said = next((line for line in watcher.stderr if "waiting for" in line), "")
        patience.cancel()
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(START_S) == 0
    assert f"waiting for process {holder.pid} (watchdog-mesh isolate shield), which is stopped; let it go on: " in said


def published(host: Host) -> dict[str, Any]:
    path = host.run_dir / "watcher-immune.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"watcher": {}, "peers": []}
    return document


def probes_without(host: Host, trouble: str) -> bool:
    said = published(host)
    return trouble in said["watcher"].get("reason", "") and bool(said["peers"][0]["last_seen"])


def is_well(host: Host) -> bool:
    return bool(published(host)["watcher"].get("reason") == "")


def began_and_ended(host: Host) -> bool:
    return [state for key, state, _ in told(host) if "self-doubt" in key or "resolved" in key] == ["FIRING", "RESOLVED"]


def test_damage_deep_inside_keeps_no_watcher_from_starting(host: Host, peer: Agent) -> None:
    with host.place.journal.transaction() as tx:
        tx.execute("INSERT INTO standing (watcher, peer, body) VALUES ('immune', 'shield', '{}')")
    host.close()
    overwrite_root_page(host.state / "journal.db", "standing")
    with running(host, peer) as watcher:
        eventually(lambda: list(host.state.glob("journal.db.damaged-*")) and is_well(host), START_S)
        assert watcher.poll() is None


@pytest.mark.parametrize("how", LOCKERS)
def test_a_watcher_starts_and_probes_while_the_journal_is_locked(host: Host, peer: Agent, how: str) -> None:
    path = str(host.place.journal.path)
    host.close()
    pipe = subprocess.PIPE
    locker = subprocess.Popen(
        [sys.executable, "-c", LOCKER.format(LOCKERS[how]), path], stdin=pipe, stdout=pipe, text=True
    )
    try:
        assert locker.stdout is not None
        assert locker.stdout.readline() == "locked\n"
        with running(host, peer) as watcher:
            eventually(lambda: probes_without(host, "database is locked"), START_S)
            locker.kill()
            eventually(lambda: is_well(host), START_S)
            assert watcher.poll() is None
    finally:
        locker.kill()
        locker.communicate()


def test_a_watcher_starts_and_probes_where_the_disk_has_no_room_for_a_journal(
    host: Host, agent: Cgroup, peer: Agent
) -> None:
    """What is cut off is adopted as soon as there is a journal to adopt it in."""
    host.isolate(agent)
    host.close()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", host.state], check=True)
    try:
        ballast = host.state / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        with running(host, peer) as watcher:
            eventually(lambda: probes_without(host, "disk is full"), START_S)
            assert [path.name for path in host.state.iterdir()] == ["ballast"]
            ballast.unlink()
            eventually(lambda: is_well(host) and began_and_ended(host), START_S)
            eventually(lambda: [each.where.cgroup for each in host.place.intents.in_force()] == [str(agent.path)])
            assert watcher.poll() is None
    finally:
        host.close()
        subprocess.run(["umount", host.state], check=True)


def test_a_watcher_starts_and_probes_where_its_journal_has_no_directory(host: Host, peer: Agent) -> None:
    host.close()
    host.state.write_text("a file")
    with running(host, peer) as watcher:
        eventually(lambda: probes_without(host, "cannot make the journal"), START_S)
        host.state.unlink()
        eventually(lambda: is_well(host), START_S)
        assert watcher.poll() is None
