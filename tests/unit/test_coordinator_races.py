"""Real processes race for the same orders, and one that was stopped past its lease comes too late."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from tests.unit.meshes import MANY_PROCESSES, MeshOfKind
from watchdog.clock import moment
from watchdog.mesh.coordinator import Order, OrderRequest
from watchdog.model import Action

RACERS, ROUNDS = 16, 200
PATIENCE_S = 120.0
LEASE_S = 0.3
RESTART = OrderRequest("shield", Action.RESTART, "", "3 misses", known_token=0, round_s=0.0, lease_s=60.0)

Start = Callable[..., BaseProcess]

fork = multiprocessing.get_context("fork")


@pytest.fixture(params=MANY_PROCESSES)
def mesh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MeshOfKind]:
    with MANY_PROCESSES[request.param](tmp_path / "state") as made:
        yield made


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes, and ends them with the test."""
    started: list[BaseProcess] = []

    def begin(target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = fork.Process(target=target, args=arguments)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def race(number: int, mesh: MeshOfKind, barrier: Barrier, results: Connection) -> None:
    """Every round: know the newest order, wait for the others, ask for the next; who got it carries it out."""
    coordinator = mesh.connect()
    won = []
    for turn in range(ROUNDS):
        known = coordinator.record("shield", moment()).token
        barrier.wait(PATIENCE_S)
        order = coordinator.claim(replace(RESTART, watcher=f"watcher-{number}", known_token=known), moment())
        if isinstance(order, Order):
            won.append((turn, order.token, coordinator.begin(order, moment())))
            coordinator.finish(order.token, moment(), failed=True, outcome="it did not help")
        barrier.wait(PATIENCE_S)
    results.send(won)
    results.close()


def test_sixteen_processes_race_for_two_hundred_orders(mesh: MeshOfKind, start: Start) -> None:
    mesh.connect()
    barrier = fork.Barrier(RACERS)
    ends = []
    for number in range(RACERS):
        mine, theirs = fork.Pipe(duplex=False)
        start(race, number, mesh, barrier, theirs)
        theirs.close()
        ends.append(mine)
    won = sorted(win for end in ends for win in end.recv())
    assert [turn for turn, _, _ in won] == list(range(ROUNDS)), "exactly one winner a round"
    tokens = [token for _, token, _ in won]
    assert tokens == sorted(set(tokens)), "tokens grow"
    assert all(begun for _, _, begun in won)
    assert mesh.connect().record("shield", moment()).restart_count == ROUNDS


def hold(mesh: MeshOfKind, results: Connection) -> None:
    """Get an order with a short lease, be stopped, and try to act on it."""
    coordinator = mesh.connect()
    order = coordinator.claim(replace(RESTART, watcher="stopped", lease_s=LEASE_S), moment())
    assert isinstance(order, Order)
    results.send(order.token)
    os.kill(os.getpid(), signal.SIGSTOP)
    results.send(coordinator.begin(order, moment()))


@pytest.mark.parametrize("overtaken", [True, False])
def test_who_was_stopped_past_its_lease_does_nothing_late(mesh: MeshOfKind, start: Start, overtaken: bool) -> None:
    coordinator = mesh.connect()
    mine, theirs = fork.Pipe(duplex=False)
    stopped = start(hold, mesh, theirs)
    token = mine.recv()
    assert stopped.pid is not None
    _, status = os.waitpid(stopped.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(LEASE_S)
    if overtaken:
        newer = coordinator.claim(replace(RESTART, watcher="awake", known_token=token), moment())
        assert isinstance(newer, Order)
        assert coordinator.begin(newer, moment())
    os.kill(stopped.pid, signal.SIGCONT)
    assert mine.recv() is False
    assert coordinator.record("shield", moment()).restart_count == (1 if overtaken else 0)
