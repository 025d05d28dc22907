"""What a mesh in trouble still knows after an end of its processes, a step of the clock or a reboot: everything."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.watching import DOWN, INTERVAL_S, Bench
from watchdog.intents import Intents
from watchdog.mesh.coordinator import Order, Silence
from watchdog.model import Action
from watchdog.outbox import Outbox
from watchdog.webhook import Receiver

HOUR_S = 3600.0
SILENT = {"shield": DOWN}
MISSES = 5
SILENCED_S = 1800.0


def no_more_than_a_new_process(bench: Bench) -> None:
    """Ended and started again, by an upgrade or a kill."""


def clock_on(bench: Bench) -> None:
    bench.wall_step_s += HOUR_S


def clock_back(bench: Bench) -> None:
    bench.wall_step_s -= HOUR_S


def reboot(bench: Bench) -> None:
    """The boot's clock begins anew; the wall clock goes on."""
    bench.wall_step_s += bench.now_s - 12.0
    bench.boot, bench.now_s = "another boot", 12.0


def reboot_an_hour_back(bench: Bench) -> None:
    reboot(bench)
    clock_back(bench)


HAPPENED = [no_more_than_a_new_process, clock_on, clock_back, reboot, reboot_an_hour_back]
Happen = Callable[[Bench], None]


class Trouble:
    """shield was restarted once and is silent, scribe is silenced, scout is isolated."""

    def __init__(self) -> None:
        self.bench = Bench(peers=("shield", "sidecar", "scribe", "scout"), names=("immune",))
        self.outbox = Outbox(self.bench.journal, [Receiver("architect", "https://soc.example/hook")], host="host")
        self.bench._publish = self.outbox.publish  # type: ignore[method-assign]
        self.bench.start()
        self.bench.isolate("scout")
        self.bench.round()
        self.bench.rounds(MISSES, SILENT)
        until = self.bench.at().utc + timedelta(seconds=SILENCED_S)
        self.bench.mesh.silence(Silence("scribe", until, "upgrade", "root"), self.bench.at())

    def known(self) -> dict[str, Any]:
        bench = self.bench
        record = bench.mesh.record("shield", bench.at())
        watcher = bench.watchers["immune"]
        return {
            "standings": {name: peer.standing for name, peer in watcher.peers.items()},
            "last_seen": watcher.peers["shield"].last_seen,
            "doubt": (watcher.doubt.reason, watcher.doubt.deaf),
            "budget": record.restart_count,
            "token": record.token,
            "episode": (record.episode, record.episode_open),
            "intents": Intents(bench.journal).in_force(),
            "outbox": self.outbox.line("architect"),
            "trail": bench.journal.trail(),
            "broken": bench.journal.broken_records(),
        }


@pytest.fixture
def trouble() -> Trouble:
    return Trouble()


@pytest.mark.parametrize("happen", HAPPENED)
def test_everything_is_as_it_was(trouble: Trouble, happen: Happen) -> None:
    before = trouble.known()
    assert before["standings"]["shield"].missed_count == MISSES
    assert (before["budget"], before["token"], len(before["intents"])) == (1, 1, 1)
    assert len(before["outbox"]) >= 2
    happen(trouble.bench)
    trouble.bench.start()
    assert trouble.known() == before


@pytest.mark.parametrize("happen", HAPPENED)
def test_the_first_tick_acts_on_nobody_and_the_ladder_goes_on(trouble: Trouble, happen: Happen) -> None:
    bench = trouble.bench
    happen(bench)
    bench.start()
    assert bench.round(SILENT) == []
    orders = bench.rounds(3, SILENT)
    assert [(order.action, order.token) for order in orders] == [(Action.RESTART, 2)]
    assert bench.mesh.record("shield", bench.at()).restart_count == 2


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_clock_step_in_the_middle_is_a_reason_to_doubt_and_loses_nothing(trouble: Trouble, step_s: float) -> None:
    bench = trouble.bench
    before = trouble.known()
    bench.wall_step_s += step_s
    assert bench.round(SILENT, clock_jump_s=step_s) == []
    assert bench.doubts()
    after = trouble.known()
    assert (after["budget"], after["token"], after["intents"]) == (before["budget"], before["token"], before["intents"])
    assert after["standings"]["shield"].missed_count == MISSES + 1
    assert [order.action for order in bench.rounds(3, SILENT)] == [Action.RESTART], "it goes on when the doubt is over"


@pytest.mark.parametrize(
    ("happen", "left_s"),
    [
        (no_more_than_a_new_process, SILENCED_S),
        (clock_on, SILENCED_S),
        (clock_back, SILENCED_S),
        (reboot, SILENCED_S),
        (reboot_an_hour_back, SILENCED_S + HOUR_S),  # the wall clock is all that is left, and says so
    ],
)
def test_a_silence_lasts_as_long_as_it_was_meant_to(trouble: Trouble, happen: Happen, left_s: float) -> None:
    bench = trouble.bench
    happen(bench)
    bench.now_s += left_s - 1.0
    assert "scribe" in bench.mesh.silences(bench.at())
    bench.now_s += 2.0
    assert "scribe" not in bench.mesh.silences(bench.at())


@pytest.mark.parametrize("happen", HAPPENED)
def test_an_order_given_before_is_carried_out_once_or_not_at_all(happen: Happen) -> None:
    """After a reboot nobody knows how old it is, and nothing is done late."""
    bench = Bench()
    bench.round()
    orders: list[Order] = []
    while not orders:
        orders = bench.round(SILENT, carry_out=False, passes_s=0.0)
        bench.now_s += 0.0 if orders else INTERVAL_S
    happen(bench)
    begun = [bench.watcher.may_begin(orders[0], bench.at()) for _ in range(2)]
    assert begun == [bench.boot == "boot", False]
