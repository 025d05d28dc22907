"""Allow-lists in the kernel: what passes, what does not, and that nothing else passes while one is exchanged."""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.ends import DROP_S, PASS_S, UDP_HEADERS_BYTES, Ends, bind, connect, received, send_udp
from tests.kernel.inside import Inside
from watchdog.errors import KernelRefused
from watchdog.kernel import allow, libbpf, slots
from watchdog.kernel.allow import Rule, Way
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import ALLOW_MAP
from watchdog.kernel.slots import Slot, Traffic

pytestmark = pytest.mark.kernel

both_families = pytest.mark.parametrize("family", [4, 6])

TCP, UDP, ICMP = 6, 17, {4: 1, 6: 58}
HOST_BITS = {4: 32, 6: 128}
LOCAL = {4: "127.0.0.1", 6: "::1"}
ELSEWHERE = {4: "198.51.100.0/24", 6: "2001:db8:1::/48"}
BRIEF_S = 0.4
SWAPS = 300
MANY = 10_000

Isolate = Callable[[Cgroup], Slot]


def rule(address: str, protocol: int, port: int = 0, way: Way = Way.OUTWARD, until_s: float = 0) -> Rule:
    return Rule(ipaddress.ip_network(address), protocol, port, way, int(until_s * 1e9))


def let(slot: Slot, *rules: Rule, watchers: Sequence[Cgroup] = ()) -> bool:
    return allow.install(slot.maps[ALLOW_MAP], allow.compiled(rules, [each.inode for each in watchers]))


def other(slot: Slot, family: int) -> Rule:
    """An entry that has nothing to do with what is tried, so that the list is never empty."""
    return rule(ELSEWHERE[family], TCP)


# --- what passes


@both_families
@pytest.mark.parametrize(
    ("protocol", "port_offset", "passes"),
    [(UDP, 0, True), (UDP, None, True), (UDP, 1, False), (TCP, 0, False), (TCP, None, False)],
)
def test_udp_passes_both_ways_where_address_protocol_and_port_fit(
    ends: Ends, family: int, isolate: Isolate, protocol: int, port_offset: int | None, passes: bool
) -> None:
    outward = bind(ends.peer, "s", family, ends.peer_address[family], "DGRAM")
    port = 0 if port_offset is None else outward + port_offset
    let(isolate(ends.cgroup), rule(ends.peer_address[family], protocol, port), rule(ELSEWHERE[family], protocol))
    sent = send_udp(ends.agent, family, ends.peer_address[family], outward, "question")
    assert sent == ("pass" if passes else "EPERM")
    assert received(ends.peer, "s", PASS_S if passes else DROP_S) == ("question" if passes else "TimeoutError")
    ends.peer.run(f"s.sendto(b'answer', ({ends.agent_address[family]!r}, {ends.agent.run('u.getsockname()[1]')}))")
    assert received(ends.agent, "u", PASS_S if passes else DROP_S) == ("answer" if passes else "TimeoutError")


@both_families
@pytest.mark.parametrize(("fits", "outcome"), [(True, "pass"), (False, "TimeoutError")])
def test_tcp_outward(ends: Ends, family: int, isolate: Isolate, fits: bool, outcome: str) -> None:
    port = bind(ends.peer, "s", family, ends.peer_address[family], "STREAM")
    slot = isolate(ends.cgroup)
    let(slot, other(slot, family), rule(ends.peer_address[family], TCP, port if fits else port ^ 1))
    assert connect(ends.agent, ends.peer_address[family], port, PASS_S if fits else DROP_S) == outcome
    if fits:
        ends.peer.run("c = s.accept()[0]; c.send(b'from the peer')")
        assert received(ends.agent, "c") == "from the peer"
        ends.agent.run("c.send(b'from the agent')")
        assert received(ends.peer, "c") == "from the agent"


@both_families
@pytest.mark.parametrize("port_of_source", [True, False])
def test_nobody_who_is_listed_may_begin_a_connection_to_the_agent(
    ends: Ends, family: int, isolate: Isolate, port_of_source: bool
) -> None:
    """Not even from the very port that the agent may talk to."""
    port = bind(ends.agent, "s", family, ends.agent_address[family], "STREAM")
    domain, source = ("AF_INET", 0) if family == 4 else ("AF_INET6", 0)
    ends.peer.run(f"k = socket.socket(socket.{domain}); k.bind(({ends.peer_address[family]!r}, {source}))")
    ends.peer.run(f"k.settimeout({DROP_S})")
    source = ends.peer.run("k.getsockname()[1]")
    slot = isolate(ends.cgroup)
    let(slot, rule(ends.peer_address[family], TCP, source if port_of_source else 0))
    assert ends.peer.outcome(f"k.connect(({ends.agent_address[family]!r}, {port}))") == "TimeoutError"
    assert slots.counters(slot).ingress.packets == 1


@both_families
@pytest.mark.parametrize(("listed", "passes"), [(True, True), (False, False)])
def test_an_established_connection_goes_on_where_it_is_listed(
    ends: Ends, family: int, isolate: Isolate, listed: bool, passes: bool
) -> None:
    port = bind(ends.peer, "s", family, ends.peer_address[family], "STREAM")
    assert connect(ends.agent, ends.peer_address[family], port) == "pass"
    ends.peer.run("c = s.accept()[0]")
    slot = isolate(ends.cgroup)
    let(slot, other(slot, family), *([rule(ends.peer_address[family], TCP, port)] if listed else []))
    for sender, receiver in ((ends.agent, ends.peer), (ends.peer, ends.agent)):
        sender.run("c.send(b'more')")
        assert received(receiver, "c", PASS_S if passes else DROP_S) == ("more" if passes else "TimeoutError")


@both_families
def test_icmp_passes_only_where_it_is_named(ends: Ends, family: int, isolate: Isolate) -> None:
    raw = "AF_INET, socket.SOCK_RAW, 1" if family == 4 else "AF_INET6, socket.SOCK_RAW, 58"
    echo_request = [8, 0, 0xF7, 0xFD, 0, 1, 0, 1] if family == 4 else [128, 0, 0, 0, 0, 1, 0, 1]
    slot = isolate(ends.cgroup)
    ends.agent.run(f"r = socket.socket(socket.{raw})")
    send = f"r.sendto(bytes({echo_request}), ({ends.peer_address[family]!r}, 0))"
    let(slot, rule(ends.peer_address[family], TCP), rule(ends.peer_address[family], UDP))
    assert ends.agent.outcome(send) == "EPERM"
    let(slot, rule(ends.peer_address[family], ICMP[family]))
    assert ends.agent.outcome(send) == "pass"
    assert ends.agent.run(f"r.settimeout({PASS_S}); len(r.recv(99)) > 0")


@both_families
def test_what_passed_is_counted_and_what_was_dropped_apart(ends: Ends, family: int, isolate: Isolate) -> None:
    address, outward = ends.peer_address[family], bind(ends.peer, "s", family, ends.peer_address[family], "DGRAM")
    slot = isolate(ends.cgroup)
    let(slot, rule(address, UDP, outward))
    for _ in range(3):
        assert send_udp(ends.agent, family, address, outward, "x" * 50) == "pass"
    for _ in range(2):
        assert send_udp(ends.agent, family, address, outward ^ 1, "x" * 10) == "EPERM"
    size = UDP_HEADERS_BYTES[family]
    seen = slots.counters(slot)
    assert (seen.allowed_out, seen.egress) == (Traffic(3, 3 * (50 + size)), Traffic(2, 2 * (10 + size)))


# --- the way in: the heartbeat


def way_in(ends: Ends, family: int) -> Way:
    """From the peer to the agent."""
    return Way.INWARD if ends.peer_address[family] == LOCAL[family] else Way.FAR


@both_families
def test_the_way_in_opens_one_port_and_only_for_who_is_listed(ends: Ends, family: int, isolate: Isolate) -> None:
    address, way = ends.agent_address[family], way_in(ends, family)
    port, closed = (bind(ends.agent, name, family, address, "STREAM") for name in ("s", "closed"))
    slot = isolate(ends.cgroup)
    let(slot, rule(ends.peer_address[family], TCP, port, way), watchers=[ends.outside])
    assert connect(ends.peer, address, port) == "pass"
    ends.agent.run("c = s.accept()[0]; c.send(b'I am well')")
    assert received(ends.peer, "c") == "I am well"
    assert connect(ends.peer, address, closed, DROP_S) == "TimeoutError"
    other_way = Way.FAR if way is Way.INWARD else Way.INWARD
    for closed_to in (rule(ELSEWHERE[family], TCP, port, way), rule(ends.peer_address[family], TCP, port, other_way)):
        let(slot, closed_to, watchers=[ends.outside])
        assert connect(ends.peer, address, port, DROP_S) == "TimeoutError"


@dataclass(frozen=True)
class Asked:
    """An agent, and two with a connection to it: `c` of theirs, `w` and `x` of the agent."""

    agent: Inside
    watcher: Inside
    stranger: Inside
    port: int
    slot: Slot


@pytest.fixture
def asked(
    request: pytest.FixtureRequest, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate
) -> Asked:
    """The agent is isolated, and its port is open for the watcher."""
    family = request.getfixturevalue("family")
    cgroup, *others = (scratch_cgroup(name) for name in ("agent", "watcher", "stranger"))
    agent, watcher, stranger = (run_in_cgroup(each) for each in (cgroup, *others))
    port = bind(agent, "s", family, LOCAL[family], "STREAM")
    for inside, name in ((watcher, "w"), (stranger, "x")):
        assert connect(inside, LOCAL[family], port) == "pass"
        agent.run(f"{name} = s.accept()[0]")
    slot = isolate(cgroup)
    let(slot, rule(f"{LOCAL[family]}", TCP, port, Way.INWARD), watchers=others[:1])
    return Asked(agent, watcher, stranger, port, slot)


@both_families
def test_on_this_host_the_way_in_is_the_watchers_alone(asked: Asked, family: int) -> None:
    """Both are at the same address; a connection from before the isolation is no way in either."""
    for inside, name, arrives in ((asked.watcher, "w", True), (asked.stranger, "x", False)):
        wait_s = PASS_S if arrives else DROP_S
        inside.run("c.send(b'how are you')")
        assert received(asked.agent, name, wait_s) == ("how are you" if arrives else "TimeoutError")
        asked.agent.run(f"{name}.send(b'I am well')")
        assert received(inside, "c", wait_s) == ("I am well" if arrives else "TimeoutError")
        assert connect(inside, LOCAL[family], asked.port, wait_s) == ("pass" if arrives else "TimeoutError")


@both_families
@pytest.mark.parametrize("first", ["watcher", "agent", "reset"])
def test_a_watcher_s_connection_ends_as_any_other(asked: Asked, family: int, first: str) -> None:
    """Its last packets come from, and go to, sockets that are nobody's any more."""
    if first == "reset":
        asked.watcher.run("c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); c.close()")
        assert received(asked.agent, "w") == "ECONNRESET"
    elif first == "watcher":
        asked.watcher.run("c.close()")
        assert received(asked.agent, "w") == ""
        asked.agent.run("w.close()")
    else:
        asked.agent.run("w.close()")
        assert received(asked.watcher, "c") == ""
        asked.watcher.run("c.close()")
    time.sleep(DROP_S)
    seen = slots.counters(asked.slot)
    assert (seen.ingress.packets, seen.egress.packets) == (0, 0)


@both_families
def test_a_watcher_that_began_anew_is_let_in_when_it_is_known(
    asked: Asked, family: int, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    again = scratch_cgroup("again")
    inside = run_in_cgroup(again)
    assert connect(inside, LOCAL[family], asked.port, DROP_S) == "TimeoutError"
    let(asked.slot, rule(f"{LOCAL[family]}", TCP, asked.port, Way.INWARD), watchers=[again])
    assert connect(inside, LOCAL[family], asked.port) == "pass"
    assert connect(asked.watcher, LOCAL[family], asked.port, DROP_S) == "TimeoutError"


@both_families
def test_the_way_in_is_no_way_out(ends: Ends, family: int, isolate: Isolate) -> None:
    """A connection that the agent begins from its own heartbeat port stays where it is."""
    domain = "AF_INET" if family == 4 else "AF_INET6"
    target = bind(ends.peer, "s", family, ends.peer_address[family], "STREAM")
    ends.agent.run(f"k = socket.socket(socket.{domain}); k.bind(({ends.agent_address[family]!r}, 0))")
    ends.agent.run(f"k.settimeout({DROP_S})")
    slot = isolate(ends.cgroup)
    port = ends.agent.run("k.getsockname()[1]")
    let(slot, rule(ends.peer_address[family], TCP, port, way_in(ends, family)), watchers=[ends.outside])
    assert ends.agent.outcome(f"k.connect(({ends.peer_address[family]!r}, {target}))") == "TimeoutError"
    assert slots.counters(slot).egress.packets == 1


# --- what cannot be judged


PACKETS = """
echo = {4: bytes([8, 0, 0xF7, 0xFD, 0, 1, 0, 1]), 6: bytes([128, 0, 0, 0, 0, 1, 0, 1])}
udp = struct.pack(">HHHH", 1000, 9, 12, 0) + b"data"

def v4(flags=0, options=b"", carried=echo[4], protocol=1):
    words = 0x40 | 5 + len(options) // 4
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack(">BBHHHBBH", words, 0, 0, 7, flags, 64, protocol, 0) + addresses + options + carried

def v6(next_header=58, extension=b"", carried=echo[6]):
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    whole = extension + carried
    return struct.pack(">IHBB", 6 << 28, len(whole), next_header, 64) + addresses + whole
"""

RAW_OUTCOMES = {
    "v4()": "pass",
    "v4(flags=0x4000)": "pass",  # not to be split
    "v4(flags=0x2000)": "EPERM",  # more fragments follow
    "v4(flags=0x0010)": "EPERM",  # a later fragment
    "v4(options=bytes([1, 1, 1, 0]))": "EPERM",
    "v4(carried=echo[4][:7])": "EPERM",
    "v4(protocol=17, carried=udp)": "EPERM",  # another protocol than the socket's
    "v4(protocol=6, carried=bytes(20))": "EPERM",
    "v4(protocol=58, carried=echo[6])": "EPERM",  # ICMPv6 in IPv4
    "v4(protocol=4, carried=v4())": "EPERM",  # a tunnel
    "v6()": "pass",
    "v6(0, bytes([58, 0, 1, 4, 0, 0, 0, 0]))": "EPERM",  # hop-by-hop options
    "v6(60, bytes([58, 0, 1, 4, 0, 0, 0, 0]))": "EPERM",  # destination options
    "v6(43, bytes([58, 0, 4, 0, 0, 0, 0, 0]))": "EPERM",  # routing
    "v6(44, bytes([58, 0, 0, 1, 0, 0, 0, 7]))": "EPERM",  # the first fragment
    "v6(44, bytes([58, 0, 0, 0, 0, 0, 0, 7]))": "EPERM",  # a fragment that is all there is
    "v6(carried=echo[6][:7])": "EPERM",
    "v6(17, carried=udp)": "EPERM",
    "v6(1, carried=echo[4])": "EPERM",  # ICMP in IPv6
    "v6(59, carried=b'')": "EPERM",  # nothing follows
}


def let_everything(ends: Ends, slot: Slot) -> None:
    let(slot, *(rule(a, protocol) for a in ends.peer_address.values() for protocol in (TCP, UDP, *ICMP.values())))


def test_packets_that_hide_something_are_dropped(ends: Ends, isolate: Isolate) -> None:
    """To addresses that everything is allowed to."""
    let_everything(ends, isolate(ends.cgroup))
    for family, domain, protocol, header_included in ((4, "AF_INET", 1, "0, 3"), (6, "AF_INET6", 58, "41, 36")):
        ends.agent.run(f"r{family} = socket.socket(socket.{domain}, socket.SOCK_RAW, {protocol})")
        ends.agent.run(f"r{family}.setsockopt({header_included}, 1)")
    outcomes = {}
    for packet in RAW_OUTCOMES:
        family = int(packet[1])
        ends.agent.run(f"source, target = {ends.agent_address[family]!r}, {ends.peer_address[family]!r}\n{PACKETS}")
        outcomes[packet] = ends.agent.outcome(f"r{family}.sendto({packet}, (target, 0))")
    assert outcomes == RAW_OUTCOMES


@both_families
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_raw_sockets_speak_for_no_other(ends: Ends, isolate: Isolate, family: int, protocol: int) -> None:
    """With IP_HDRINCL the header may name who is listed, and the frame goes to whom sendto names."""
    let_everything(ends, isolate(ends.cgroup))
    domain = "AF_INET" if family == 4 else "AF_INET6"
    ends.agent.run(f"r = socket.socket(socket.{domain}, socket.SOCK_RAW, {protocol})")
    assert ends.agent.outcome(f"r.sendto(bytes(20), ({ends.peer_address[family]!r}, 0))") == "EPERM"


@pytest.mark.parametrize(
    ("family", "option"),
    [(4, "0, 4, bytes([1, 1, 1, 0])"), (6, "41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0])")],
    ids=["IP_OPTIONS", "IPV6_DSTOPTS"],
)
def test_options_of_ordinary_sockets_are_dropped(ends: Ends, isolate: Isolate, family: int, option: str) -> None:
    let_everything(ends, isolate(ends.cgroup))
    assert send_udp(ends.agent, family, ends.peer_address[family], 9) == "pass"
    ends.agent.run(f"u.setsockopt({option})")
    assert ends.agent.outcome(f"u.sendto(b'x', ({ends.peer_address[family]!r}, 9))") == "EPERM"


@both_families
def test_what_the_kernel_splits_and_joins_passes_whole(ends: Ends, family: int, isolate: Isolate) -> None:
    outward = bind(ends.peer, "s", family, ends.peer_address[family], "DGRAM")
    slot = isolate(ends.cgroup)
    let(slot, rule(ends.peer_address[family], UDP, outward))
    assert send_udp(ends.agent, family, ends.peer_address[family], outward, "x" * 8000) == "pass"
    assert ends.peer.run("len(s.recv(9999))") == 8000
    ends.peer.run(f"s.sendto(b'y' * 8000, ({ends.agent_address[family]!r}, {ends.agent.run('u.getsockname()[1]')}))")
    assert ends.agent.run(f"u.settimeout({PASS_S}); len(u.recv(9999))") == 8000


def test_a_mapped_address_is_the_ipv4_address(ends: Ends, isolate: Isolate) -> None:
    """An IPv6 socket that talks IPv4 sends IPv4, and is judged as such."""
    slot = isolate(ends.cgroup)
    let(slot, rule(ends.peer_address[4], UDP, 9))
    ends.agent.run("m = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); m.setsockopt(41, 26, 0)")
    assert ends.agent.outcome(f"m.sendto(b'x', ('::ffff:{ends.peer_address[4]}', 9))") == "pass"
    assert ends.agent.outcome(f"m.sendto(b'x', ('::ffff:{ends.peer_address[4]}', 10))") == "EPERM"


# --- time


@both_families
def test_an_entry_ends_by_itself(ends: Ends, family: int, isolate: Isolate) -> None:
    address = ends.peer_address[family]
    slot = isolate(ends.cgroup)
    now_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    let(slot, rule(address, UDP, 9, until_s=now_s + BRIEF_S), rule(address, UDP, 10))
    assert send_udp(ends.agent, family, address, 9) == "pass"
    time.sleep(BRIEF_S)
    assert send_udp(ends.agent, family, address, 9) == "EPERM"
    assert send_udp(ends.agent, family, address, 10) == "pass"


@both_families
def test_a_narrow_entry_that_is_over_does_not_hide_a_wide_one(ends: Ends, family: int, isolate: Isolate) -> None:
    address = ends.peer_address[family]
    wide = str(ipaddress.ip_network(f"{address}/{HOST_BITS[family] - 8}", strict=False))
    let(isolate(ends.cgroup), rule(address, UDP, 9, until_s=1), rule(wide, UDP, 9))
    assert send_udp(ends.agent, family, address, 9) == "pass"


# --- exchange


@both_families
def test_a_list_is_exchanged_under_traffic_without_a_leak_and_without_a_gap(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate, family: int
) -> None:
    """What both lists have passes every time, what neither has never does."""
    cgroup = scratch_cgroup()
    agent, peer = run_in_cgroup(cgroup), run_in_cgroup(scratch_cgroup("peer"))
    address = {4: "127.0.0.1", 6: "::1"}[family]
    both, first, neither = (bind(peer, name, family, address, "DGRAM") for name in ("both", "first", "neither"))
    slot = isolate(cgroup)
    lists = [[rule(address, UDP, both), rule(address, UDP, first)], [rule(address, UDP, both)]]
    let(slot, *lists[1])
    domain = "AF_INET" if family == 4 else "AF_INET6"
    agent.run(f"u = socket.socket(socket.{domain}, socket.SOCK_DGRAM); import select, sys")
    agent.tell(
        "refused, sent = [0, 0], 0\n"
        "while not select.select([sys.stdin], [], [], 0)[0]:\n"
        "    sent += 1\n"
        f"    for n, port in enumerate(({both}, {neither})):\n"
        f"        try: u.sendto(b'x', ({address!r}, port))\n"
        "        except PermissionError: refused[n] += 1\n"
    )
    for n in range(SWAPS):
        assert let(slot, *lists[n % 2])
    agent.tell("0")
    agent.hear()
    agent.hear()
    sent, refused = agent.run("[sent, refused]")
    assert sent > SWAPS
    assert refused == [0, sent]
    assert received(peer, "neither", DROP_S) == "TimeoutError"
    assert slots.counters(slot).allowed_out.packets == sent


@both_families
def test_no_list_means_nothing_passes(ends: Ends, family: int, isolate: Isolate) -> None:
    slot = isolate(ends.cgroup)
    assert not let(slot)
    assert let(slot, rule(ends.peer_address[family], UDP))
    assert not let(slot, rule(ends.peer_address[family], UDP))
    assert send_udp(ends.agent, family, ends.peer_address[family], 9) == "pass"
    assert let(slot)
    assert allow.installed(slot.maps[ALLOW_MAP]) == {}
    assert send_udp(ends.agent, family, ends.peer_address[family], 9) == "EPERM"


@both_families
def test_ten_thousand_entries(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate, family: int
) -> None:
    base = int(ipaddress.ip_address({4: "198.18.0.0", 6: "2001:db8::"}[family]))
    step = {4: 1, 6: 1 << 64}[family]
    narrow = HOST_BITS[family] if family == 4 else 64
    networks = [ipaddress.ip_network((base + n * step, narrow)) for n in range(MANY)]
    local = {4: "127.0.0.1", 6: "::1"}[family]
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup)
    slot = isolate(cgroup)
    wanted = allow.compiled([Rule(n, protocol, 443) for n in networks for protocol in (TCP, UDP)])
    assert allow.install(slot.maps[ALLOW_MAP], wanted)
    assert allow.installed(slot.maps[ALLOW_MAP]) == wanted
    assert len(wanted) == 2 * MANY
    assert send_udp(agent, family, local, 443) == "EPERM"
    more = wanted | allow.compiled([rule(local, UDP, 443)])
    assert allow.install(slot.maps[ALLOW_MAP], more)
    assert send_udp(agent, family, local, 443) == "pass"


@both_families
def test_a_list_can_be_exchanged_and_not_edited(ends: Ends, family: int, isolate: Isolate) -> None:
    slot = isolate(ends.cgroup)
    let(slot, other(slot, family))
    (key,) = allow.compiled([rule(ends.peer_address[family], UDP)])
    with libbpf.map_by_id(slot.maps[ALLOW_MAP]) as place:
        (inner,) = struct.unpack("=I", libbpf.map_lookup(place, bytes(4), 4) or b"")
    with libbpf.map_by_id(inner) as trie, pytest.raises(BpfRefused) as refused:
        libbpf.map_update(trie, key, bytes(8))
    assert refused.value.code == errno.EPERM
    assert send_udp(ends.agent, family, ends.peer_address[family], 9) == "EPERM"


@both_families
def test_a_list_that_is_too_long_leaves_the_one_before(slot: Slot, family: int) -> None:
    let(slot, other(slot, family))
    before = allow.installed(slot.maps[ALLOW_MAP])
    too_many = {os.urandom(allow.KEY_BYTES): 0 for _ in range(allow.MAX_KEYS + 1)}
    with pytest.raises(KernelRefused, match="too long: at most 65536"):
        allow.install(slot.maps[ALLOW_MAP], too_many)
    with pytest.raises(BpfRefused):
        allow.install(slot.maps[ALLOW_MAP], {b"\xff" * allow.KEY_BYTES: 0})  # more bits than there are
    assert allow.installed(slot.maps[ALLOW_MAP]) == before
    slots.zero(slot)
    assert allow.installed(slot.maps[ALLOW_MAP]) == {}
