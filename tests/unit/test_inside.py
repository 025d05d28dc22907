"""Verification from inside, the part that decides: when to look, and what of what was found is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from watchdog.actions import inside
from watchdog.cli import report
from watchdog.clock import Moment
from watchdog.intents import Allowed, Inside, Intent, State, Where, Why, With
from watchdog.kernel import memory, visitor
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.flows import Flow
from watchdog.kernel.layers.sequence import LAYERS, Standing
from watchdog.kernel.programs import Hook
from watchdog.kernel.visitor_traffic import is_flow
from watchdog.paths import loopback_rows
from watchdog.paths.loopback_rows import INSIDE, OUTSIDE, Scene
from watchdog.paths.play import Phase, Step
from watchdog.paths.probe import Finding, Outcome
from watchdog.paths.words import Layer

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = Moment(1000.0, AT, "boot")
GOT_THROUGH, STOPPED, UNTRIED = Outcome.GOT_THROUGH, Outcome.STOPPED, Outcome.UNTRIED
PACKETS = {Layer.PACKETS, Layer.CALLS}


def finding(path: str, outcome: Outcome = GOT_THROUGH, label: str = "") -> Finding:
    return Finding(path, label, path, outcome)


def looked(s: float = 990.0, boot: str = "boot", why_not: str = "", wrong: tuple[str, ...] = ()) -> Inside:
    return Inside(AT, s, boot, tried=20, stopped=15, untried=2, wrong=wrong, why_not=why_not, took_s=0.4)


def intent(state: State = State.ISOLATED, seen: Inside | None = None, where: Where | None = None) -> Intent:
    return Intent(1, state, where or Where("/c", 7), Why("it lies"), With(), AT, AT, inside=seen)


@pytest.mark.parametrize(
    ("state", "seen", "is_due"),
    [
        (State.ISOLATED, None, True),
        (State.ISOLATED, looked(NOW.s - 59), False),
        (State.ISOLATED, looked(NOW.s - 60), True),
        (State.ISOLATED, looked(NOW.s - 1, boot="the last one"), True),
        (State.ISOLATED, looked(NOW.s - 1, why_not="it is frozen"), False),
        (State.ISOLATING, None, False),
        (State.RELEASING, None, False),
        (State.RELEASED, None, False),
        (State.SHADOW, None, False),
    ],
)
def test_when_to_look(state: State, seen: Inside | None, is_due: bool) -> None:
    assert inside.is_due(intent(state, seen), NOW) is is_due


def test_what_nothing_of_ours_holds_is_not_looked_at() -> None:
    assert not inside.is_due(intent(where=Where("", 0, peer="shield")), NOW)


@pytest.mark.parametrize(
    ("found", "allow", "is_open"),
    [
        (finding("E2c", label="IPv4"), (), True),
        (finding("E2c", STOPPED, "IPv4"), (), False),
        (finding("E2c", UNTRIED, "IPv4"), (), False),
        (finding("E12a"), (), False),
        (finding("E5a"), (), False),
        (finding("E2c", label="IPv4"), ("127.0.0.0/8",), False),
        (finding("E2c", label="IPv6"), ("127.0.0.0/8",), True),
        (finding("E2c", label="IPv4"), ("127.0.0.1/32:80/tcp",), True),
        (finding("E2c", label="IPv4"), ("192.0.2.0/24",), True),
        (finding("E4a"), ("127.0.0.1/32:*/icmp",), False),
        (finding("E4d"), ("::1/128",), False),
        (finding("E16b"), ("127.0.0.0/8",), False),
    ],
)
def test_what_is_an_opening(found: Finding, allow: tuple[str, ...], is_open: bool) -> None:
    said = inside.open_of([found], PACKETS, [Allowed(entry) for entry in allow])
    assert said == ([found] if is_open else [])


def test_a_layer_with_a_gap_is_meant_to_hold_all_the_same() -> None:
    standings = [
        Standing("packets", gaps=("it is not attached",)),
        Standing("calls"),
        Standing("unix", missing="no such hook"),
        Standing("tc", not_applicable="it lacks CAP_NET_RAW"),
        Standing("host_end"),
        Standing("freeze"),
    ]
    assert inside.meant(standings) == PACKETS
    links = [Standing("packets"), Standing("tc")]
    assert inside.meant(links) == {Layer.PACKETS, Layer.TC}
    assert inside.meant(links, at_home=False) == {Layer.PACKETS}
    assert inside.meant([Standing("packets"), Standing("tc", gaps=("a link is not to be touched",))]) == {Layer.PACKETS}
    assert {each.name for each in LAYERS} <= {each.value for each in Layer}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (None, "not verified from inside yet"),
        (looked(), "verified from inside (03:04:05): 20 tries, 15 stopped: all is stopped that is said to be covered"),
        (looked(why_not="it is frozen"), "NOT verified from inside (03:04:05): it is frozen"),
        (
            looked(wrong=("new TCP connection",)),
            "NOT as it should be, tried from inside (03:04:05): all is stopped that is said to be covered but new TCP "
            "connection",
        ),
    ],
)
def test_what_people_are_told(seen: Inside | None, said: str) -> None:
    assert report.inside_in_words(seen) == [said]


@pytest.mark.parametrize(
    ("seen", "passed"), [(looked(), True), (looked(wrong=("x",)), False), (looked(why_not="frozen"), None)]
)
def test_what_passes(seen: Inside, passed: bool | None) -> None:
    assert seen.passed is passed


@pytest.mark.parametrize(
    ("limit", "current", "inactive", "is_short"),
    [
        ("max", 500, 0, False),
        ("1000", 900, 0, False),
        ("1000", 901, 0, True),
        ("1000", 1000, 100, False),
        ("1000", 1200, 0, True),
        (None, 0, 0, False),
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_where_memory_is_short_nothing_is_tried(
    tmp_path: Path, limit: str | None, current: int, inactive: int, is_short: bool, above: bool
) -> None:
    agent = tmp_path / "system.slice/agent.service"
    agent.mkdir(parents=True)
    if limit is not None:
        limited = agent.parent if above else agent
        (limited / "memory.max").write_text(f"{limit}\n")
        (limited / "memory.current").write_text(f"{current}\n")
        (limited / "memory.stat").write_text(f"anon 3\ninactive_file {inactive}\n")
    assert bool(memory.shortage(Cgroup(agent, 7, tmp_path), 100)) is is_short


def test_every_socket_that_waits_has_a_port_of_its_own() -> None:
    """Always the same, so that the tries of a year are a few flows; and known, so that they are nobody's."""
    ports = []
    for who in (INSIDE, OUTSIDE):
        scene = Scene(who, "/nowhere", {INSIDE: {}, OUTSIDE: {}})
        for row in [*loopback_rows.rows_of(scene), *loopback_rows.rows_from_elsewhere(scene)]:
            steps = [*row.setup, *(row.fire(Phase(1, 0.1), b"t"))]
            scripts = [step if isinstance(step, Step) else step() for step in steps]
            ports += [word[3][0] for step in scripts for word in step.script if word[0] == "bind_near"]
            assert all(
                word[0] != "bind" or isinstance(word[2], str) or word[2][0] == "lo"
                for s in scripts
                for word in s.script
            )
    assert len(ports) == len(set(ports))
    assert set(ports) <= set(visitor.PORTS)


@pytest.mark.parametrize(
    ("protocol", "destination", "port", "ours"),
    [
        (6, "127.0.0.1", visitor.PORTS[0], True),
        (17, "::1", visitor.PORTS[-1], True),
        (1, "127.0.0.1", 0, True),
        (58, "::1", 0, True),
        (6, "127.0.0.1", 443, False),
        (6, "192.0.2.1", visitor.PORTS[0], False),
        (1, "192.0.2.1", 0, False),
    ],
)
def test_whose_flow_it_is(protocol: int, destination: str, port: int, ours: bool) -> None:
    flow = Flow(Hook.EGRESS, protocol, "127.0.0.1", destination, port, 40000, 1.0, 2.0, 3, 180)
    assert is_flow(flow) is ours
