"""What an isolated cgroup's sockets can and cannot do: both families and protocols, new and established."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.ends import (
    DROP_S,
    PASS_S,
    RESUME_S,
    UDP_HEADERS_BYTES,
    Ends,
    bind,
    connect,
    received,
    send_udp,
    udp_both_ways,
)
from tests.kernel.netns import Netns
from watchdog.kernel import gate, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.slots import Slot, Traffic

pytestmark = pytest.mark.kernel


Isolate = Callable[[Cgroup], Slot]


@pytest.mark.parametrize("family", [4, 6])
def test_udp_is_dropped_both_ways_and_passes_again(ends: Ends, family: int, isolate: Isolate) -> None:
    exchange = udp_both_ways(ends, family)
    assert exchange(PASS_S) == ["pass", "x", "x"]
    slot = isolate(ends.cgroup)
    assert exchange(DROP_S) == ["EPERM", "TimeoutError", "TimeoutError"]
    gate.detach(ends.cgroup, slot.program_ids)
    assert exchange(PASS_S) == ["pass", "x", "x"]


@pytest.mark.parametrize("family", [4, 6])
def test_new_tcp_is_dropped_both_ways_and_passes_again(ends: Ends, family: int, isolate: Isolate) -> None:
    inward = bind(ends.agent, "s", family, ends.agent_address[family], "STREAM")
    outward = bind(ends.peer, "s", family, ends.peer_address[family], "STREAM")

    def connect_both_ways(wait_s: float) -> list[str]:
        return [
            connect(ends.agent, ends.peer_address[family], outward, wait_s),
            connect(ends.peer, ends.agent_address[family], inward, wait_s),
        ]

    assert connect_both_ways(PASS_S) == ["pass", "pass"]
    slot = isolate(ends.cgroup)
    assert connect_both_ways(DROP_S) == ["TimeoutError", "TimeoutError"]
    gate.detach(ends.cgroup, slot.program_ids)
    assert connect_both_ways(PASS_S) == ["pass", "pass"]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("client", ["agent", "peer"])
def test_established_tcp_stops_and_resumes_unbroken(ends: Ends, family: int, client: str, isolate: Isolate) -> None:
    server = ends.peer if client == "agent" else ends.agent
    caller = ends.agent if client == "agent" else ends.peer
    address = (ends.peer_address if client == "agent" else ends.agent_address)[family]
    port = bind(server, "s", family, address, "STREAM")
    assert connect(caller, address, port) == "pass"
    server.run("c = s.accept()[0]")

    slot = isolate(ends.cgroup)
    for sender, receiver in ((caller, server), (server, caller)):
        assert sender.outcome("c.send(b'while isolated')") == "pass"  # into the buffer, no further
        assert received(receiver, "c", DROP_S) == "TimeoutError"

    gate.detach(ends.cgroup, slot.program_ids)
    for receiver in (server, caller):
        assert received(receiver, "c", RESUME_S) == "while isolated"


@pytest.mark.parametrize("family", [4, 6])
def test_counters_are_exact(ends: Ends, family: int, isolate: Isolate) -> None:
    header_bytes = UDP_HEADERS_BYTES[family]
    inward = bind(ends.agent, "s", family, ends.agent_address[family], "DGRAM")
    slot = isolate(ends.cgroup)
    for _ in range(7):
        assert send_udp(ends.agent, family, ends.peer_address[family], 9, "x" * 100) == "EPERM"
    for _ in range(3):
        assert send_udp(ends.peer, family, ends.agent_address[family], inward, "x" * 10) == "pass"
    assert received(ends.agent, "s", DROP_S) == "TimeoutError"

    wanted = (Traffic(3, 3 * (10 + header_bytes)), Traffic(7, 7 * (100 + header_bytes)))
    seen = slots.counters(slot)
    assert (seen.ingress, seen.egress) == wanted
    assert slots.counters_of_programs(slot.program_ids) == seen


def test_zero_starts_the_counters_anew(ends: Ends, isolate: Isolate) -> None:
    slot = isolate(ends.cgroup)
    send_udp(ends.agent, 4, ends.peer_address[4], 9)
    assert slots.counters(slot).egress.packets == 1
    slots.zero(slot)
    assert slots.counters(slot) == slots.Counters(Traffic(0, 0), Traffic(0, 0))


def test_no_increment_is_lost_when_many_processes_send(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate
) -> None:
    cgroup = scratch_cgroup()
    senders = [run_in_cgroup(cgroup) for _ in range(4)]
    slot = isolate(cgroup)
    for sender in senders:
        sender.tell(
            "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "for _ in range(5000):\n"
            "    try: u.sendto(b'x', ('127.0.0.1', 9))\n"
            "    except PermissionError: pass\n"
        )
    for sender in senders:
        sender.hear()
    assert slots.counters(slot).egress == Traffic(4 * 5000, 4 * 5000 * (UDP_HEADERS_BYTES[4] + 1))


def test_child_cgroups_are_isolated_too(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate) -> None:
    cgroup = scratch_cgroup()
    before = run_in_cgroup(scratch_cgroup("before", cgroup))
    slot = isolate(cgroup)
    after = run_in_cgroup(scratch_cgroup("after", cgroup))
    for child in (before, after):
        assert send_udp(child, 4, "127.0.0.1", 9) == "EPERM"
        assert send_udp(child, 6, "::1", 9) == "EPERM"
    assert slots.counters(slot).egress.packets == 4


def test_neighbours_are_left_alone(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate) -> None:
    parent = scratch_cgroup()
    isolate(scratch_cgroup("agent", parent))
    for place in (parent, scratch_cgroup("sibling", parent)):
        assert send_udp(run_in_cgroup(place), 4, "127.0.0.1", 9) == "pass"


def test_old_sockets_stay_isolated_when_their_process_leaves(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate
) -> None:
    cgroup, elsewhere = scratch_cgroup(), scratch_cgroup("elsewhere")
    agent = run_in_cgroup(cgroup)
    agent.run("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    isolate(cgroup)
    agent.move(elsewhere.path)
    assert agent.outcome("u.sendto(b'x', ('127.0.0.1', 9))") == "EPERM"


def test_a_socket_made_in_another_network_namespace_is_isolated(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns], isolate: Isolate
) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup, new_netns())
    isolate(cgroup)
    assert send_udp(agent, 4, "127.0.0.1", 9) == "EPERM"


@pytest.mark.parametrize("family", [4, 6])
def test_raw_sockets_are_isolated(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate, family: int
) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup)
    domain, protocol, address = (
        ("AF_INET", "IPPROTO_ICMP", "127.0.0.1") if family == 4 else ("AF_INET6", "IPPROTO_ICMPV6", "::1")
    )
    echo_request = 8 if family == 4 else 128
    agent.run(f"r = socket.socket(socket.{domain}, socket.SOCK_RAW, socket.{protocol})")
    send = f"r.sendto(bytes([{echo_request}, 0, 0, 0, 0, 1, 0, 1]), ('{address}', 0))"
    assert agent.outcome(send) == "pass"
    isolate(cgroup)
    assert agent.outcome(send) == "EPERM"
