"""Who was talked to: what is dropped becomes flows, exact, bounded, and readable by anybody at any time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.ends import DROP_S, UDP_HEADERS_BYTES, Ends, bind, connect, received, send_udp
from watchdog.kernel import flows, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.flows import Flow
from watchdog.kernel.programs import Hook
from watchdog.kernel.slots import Slot

pytestmark = pytest.mark.kernel

TCP, UDP, ICMP = 6, 17, {4: 1, 6: 58}
RING_EVENTS = 1023
"""As many fit into WD_RING_PAGES of 4 KiB."""

Isolate = Callable[[Cgroup], Slot]


def only(slot: Slot) -> Flow:
    (flow,) = flows.read(slot.maps).listed
    return flow


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("family", [4, 6])
def test_what_leaves_is_one_flow_whatever_port_it_comes_from(ends: Ends, family: int, isolate: Isolate) -> None:
    slot = isolate(ends.cgroup)
    begun_s = now_s()
    for size in (10, 20, 30):  # a socket each
        assert send_udp(ends.agent, family, ends.peer_address[family], 53, "x" * size) == "EPERM"
    flow = only(slot)
    assert begun_s < flow.first_s < flow.last_s < now_s()
    assert flow == Flow(
        direction=Hook.EGRESS,
        protocol=UDP,
        source=ends.agent_address[family],
        destination=ends.peer_address[family],
        port=53,
        source_port=ends.agent.run("u.getsockname()[1]"),
        first_s=flow.first_s,
        last_s=flow.last_s,
        packets=3,
        bytes=60 + 3 * UDP_HEADERS_BYTES[family],
    )


@pytest.mark.parametrize("family", [4, 6])
def test_what_arrives_is_a_flow_of_its_own(ends: Ends, family: int, isolate: Isolate) -> None:
    port = bind(ends.agent, "s", family, ends.agent_address[family], "DGRAM")
    slot = isolate(ends.cgroup)
    send_udp(ends.peer, family, ends.agent_address[family], port)
    assert received(ends.agent, "s", DROP_S) == "TimeoutError"
    flow = only(slot)
    assert (flow.direction, flow.source, flow.destination) == (
        Hook.INGRESS,
        ends.peer_address[family],
        ends.agent_address[family],
    )
    assert (flow.port, flow.source_port, flow.packets) == (port, ends.peer.run("u.getsockname()[1]"), 1)


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_and_what_has_no_ports(ends: Ends, family: int, isolate: Isolate) -> None:
    slot = isolate(ends.cgroup)
    assert connect(ends.agent, ends.peer_address[family], 443, DROP_S) == "TimeoutError"
    domain = "AF_INET" if family == 4 else "AF_INET6"
    for protocol in (ICMP[family], 253):
        ends.agent.run(f"r = socket.socket(socket.{domain}, socket.SOCK_RAW, {protocol})")
        assert ends.agent.outcome(f"r.sendto(bytes(8), ({ends.peer_address[family]!r}, 0))") == "EPERM"
    seen = flows.read(slot.maps)
    assert {(flow.protocol, flow.port, flow.packets) for flow in seen.listed} == {
        (TCP, 443, 1),
        (ICMP[family], 0, 1),
        (253, 0, 1),
    }
    assert seen.seen == 3
    assert seen.packets == slots.counters(slot).egress.packets


def test_the_busiest_is_the_first_and_reading_changes_nothing(ends: Ends, isolate: Isolate) -> None:
    slot = isolate(ends.cgroup)
    for port, times in ((1, 2), (2, 5), (3, 1)):
        for _ in range(times):
            send_udp(ends.agent, 4, ends.peer_address[4], port)
    first = flows.read(slot.maps)
    assert [(flow.port, flow.packets) for flow in first.listed] == [(2, 5), (1, 2), (3, 1)]
    assert flows.read(slot.maps) == first


def send_to_many(agent: object, ports: int) -> None:
    agent.run(  # type: ignore[attr-defined]
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for n in range({ports}):\n"
        "    try: u.sendto(b'x', (f'127.0.{n >> 12}.1', 1 + n % 4096))\n"
        "    except PermissionError: pass\n"
    )


def test_the_first_and_the_last_of_too_many_are_known_and_the_rest_is_counted(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate
) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup)
    slot = isolate(cgroup)
    many = 3 * flows.MAX_FLOWS
    send_to_many(agent, many)
    seen = flows.read(slot.maps)
    assert seen.seen == many == slots.counters(slot).egress.packets
    assert (seen.lost, seen.events_lost) == (0, many - RING_EVENTS)
    forgotten = [flow for flow in seen.listed if not flow.is_whole]
    assert len(forgotten) == RING_EVENTS
    assert len(seen.listed) - len(forgotten) <= flows.MAX_FLOWS
    known = {(flow.destination, flow.port) for flow in seen.listed}
    assert {("127.0.0.1", 1 + n) for n in range(RING_EVENTS)} <= known
    assert {("127.0.2.1", 1 + n) for n in range(flows.MAX_FLOWS - 100, flows.MAX_FLOWS)} <= known
    assert seen.packets < many


def test_a_slot_begins_anew(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup)
    slot = isolate(cgroup)
    send_to_many(agent, 5000)
    slots.zero(slot)
    assert flows.read(slot.maps) == flows.Flows((), 0)
    send_to_many(agent, 2)
    assert [(flow.port, flow.packets, flow.is_whole) for flow in flows.read(slot.maps).listed] == [
        (2, 1, True),
        (1, 1, True),
    ]


def test_flows_of_many_senders_add_up(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate) -> None:
    cgroup = scratch_cgroup()
    senders = [run_in_cgroup(cgroup) for _ in range(4)]
    slot = isolate(cgroup)
    for sender in senders:
        sender.tell(
            "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "for n in range(5000):\n"
            "    try: u.sendto(b'x', ('127.0.0.1', 1 + n % 7))\n"
            "    except PermissionError: pass\n"
        )
    for sender in senders:
        sender.hear()
    seen = flows.read(slot.maps)
    assert (seen.seen, len(seen.listed), seen.packets) == (7, 7, 20_000)
    assert sum(flow.bytes for flow in seen.listed) == 20_000 * (UDP_HEADERS_BYTES[4] + 1)
