"""The far end of an agent's own veth: nothing passes, and nobody else is cut off."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.netns import Netns
from tests.kernel.tc.bed import Agent, add_links, filtered, tc, untouched, without
from tests.kernel.tc.conftest import MakeTarget
from tests.kernel.tc.worker import at_step, work
from watchdog.errors import KernelRefused
from watchdog.kernel import hooks, libbpf, netns, tc_maps, veth
from watchdog.kernel.layers.base import Layer, Target
from watchdog.kernel.layers.host_end import HostEnd
from watchdog.kernel.layers.tc import NOT_ALLOWED, Tc
from watchdog.kernel.programs import ALLOW_MAP, INGRESS, TC_DROP
from watchdog.kernel.tc_messages import Link
from watchdog.kernel.veth import HOSTS_LINK

pytestmark = pytest.mark.kernel

LAYER = HostEnd()

REFUSED, SILENT = "ConnectionRefusedError", "TimeoutError"


@pytest.fixture
def alone(agent: Agent) -> Agent:
    """With nobody else in its namespace."""
    agent.alone()
    return agent


def closed_port(agent: Agent) -> str:
    """What the peer hears from a port of the agent's namespace where nobody listens: the kernel's own refusal."""
    call = f"socket.create_connection(({agent.veth.near_v4!r}, 1), timeout=0.3)"
    word = agent.peer.outcome(call)
    return {"ECONNREFUSED": REFUSED}.get(word, word)


def test_everything_stops_in_both_directions_and_flows_again(alone: Agent) -> None:
    alone.process.run("s = socket.socket(); s.bind(('', 0)); s.listen(); port = s.getsockname()[1]")
    port = alone.process.run("port")
    alone.peer.run(f"c = socket.create_connection(({alone.veth.near_v4!r}, {port}), timeout=2); c.settimeout(0.3)")
    alone.process.run("a, _ = s.accept(); a.settimeout(0.3)")
    assert alone.reaches_peer()
    assert closed_port(alone) == REFUSED
    with untouched(alone.veth.near, alone.veth.far):
        LAYER.attach(alone.target)
        assert LAYER.gaps(alone.target) == []
        assert filtered(alone.veth.far, "ingress") == filtered(alone.veth.far, "egress") == ["vb"]
        assert filtered(alone.veth.near) == filtered(alone.veth.near, "ingress") == []
        assert not alone.reaches_peer()
        assert closed_port(alone) == SILENT
        for one, other in ((alone.process, "a"), (alone.peer, "c")):
            assert one.outcome(f"{other}.send(b'while cut')") == "pass"
            assert one.outcome(f"{other}.recv(9)") == SILENT
        LAYER.detach(alone.target)
    alone.process.run("a.settimeout(8)")
    assert alone.process.run("a.recv(9) == b'while cut'")
    assert alone.reaches_peer()
    assert closed_port(alone) == REFUSED


def test_what_goes_past_the_queueing_layer_and_what_left_the_cgroup(alone: Agent, scratch_cgroup: MakeCgroup) -> None:
    bypass = "p.setsockopt(263, 20, 1)"
    mac, own = mac_of(alone.veth.far, "vb"), mac_of(alone.veth.near, "va")
    alone.peer.run("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 4321)); u.settimeout(0.3)")
    datagram = udp_frame(mac, own, alone.veth.near_v4, alone.veth.far_v4, 4321)
    alone.process.run(bypass)
    send = f"p.send(bytes.fromhex({datagram.hex()!r}))"
    assert alone.process.outcome(send) == "pass"
    assert alone.peer.outcome("u.recv(9)") == "pass"
    LAYER.attach(alone.target)
    assert alone.process.outcome(send) == "pass"
    assert alone.peer.outcome("u.recv(9)") == SILENT
    counted = tc_maps.cut(alone.target.isolation_id).egress
    assert counted.packets >= 1
    assert counted.bytes >= len(datagram)
    alone.process.move(scratch_cgroup("elsewhere").path)
    assert not alone.reaches_peer()


MEMBERSHIPS = """
LINK = struct.pack('=I', socket.if_nametoindex('va'))
def changed(change, last):
    four, six = bytes([239, 1, 1, last]) + bytes(4) + LINK, bytes([0xFF, 0x15, *bytes(13), last]) + LINK
    members[0].setsockopt(0, {'join': 35, 'leave': 36}[change], four)
    members[1].setsockopt(41, {'join': 20, 'leave': 21}[change], six)
members = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
"""
REPORTED = """
LINK = struct.pack('=I', socket.if_nametoindex('vb'))
heard = [socket.socket(socket.AF_INET, socket.SOCK_RAW, 2), socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)]
heard[0].setsockopt(0, 35, socket.inet_aton('224.0.0.22') + bytes(4) + LINK)
heard[1].setsockopt(41, 20, socket.inet_pton(socket.AF_INET6, 'ff02::16') + LINK)
def reported(last):
    return [came(*each) for each in zip(heard, (bytes([239, 1, 1, last]), bytes([0xFF, 0x15, *bytes(13), last])))]
def came(sock, group):
    sock.settimeout(0.6)
    try:
        while group not in sock.recv(999): pass
    except TimeoutError: return False
    return True
"""


def test_what_the_kernel_reports_of_its_memberships_arrives_nowhere(alone: Agent) -> None:
    """The peer listens as a router does, which knows who is a member."""
    alone.process.run(MEMBERSHIPS)
    alone.peer.run(REPORTED)
    for last, is_cut in ((1, False), (2, True), (3, False)):
        if is_cut:
            LAYER.attach(alone.target)
        for change in ("join", "leave"):
            alone.process.run(f"changed({change!r}, {last})")
            assert alone.peer.run(f"reported({last})") == [not is_cut] * 2, (change, last)
        LAYER.detach(alone.target)


@pytest.mark.parametrize("far_on", [0x10000, 0x10000 - 1])
def test_isolations_whose_numbers_agree_in_16_bits_count_apart(agent: Agent, far_on: int) -> None:
    """A program sees 16 bits of its filter's classid, and a host that runs for long has larger numbers."""
    agent.alone()
    first, second = agent.target, numbered(agent.target, agent.target.isolation_id + far_on)
    try:
        for each in (first, second):
            tc_maps.begin_cut(each.common.maps, each.isolation_id)
        LAYER.attach(second)
        assert LAYER.gaps(second) == []
        assert not agent.reaches_peer()
        assert tc_maps.cut(second.isolation_id).egress.packets >= 1
        assert tc_maps.cut(first.isolation_id).egress.packets == 0
        LAYER.detach(first)
        assert LAYER.gaps(second) == []
    finally:
        LAYER.detach(second)
    assert agent.reaches_peer()


def numbered(target: Target, isolation_id: int) -> Target:
    """The same target for an isolation of another number."""
    programs = {**target.slot.programs, INGRESS.name: isolation_id}
    return replace(target, slot=replace(target.slot, programs=programs), allows=False)


def mac_of(space: Netns, device: str) -> str:
    return space.ip("-o", "link", "show", device).split("link/ether ")[1].split()[0].replace(":", "")


def udp_frame(to_mac: str, from_mac: str, source: str, destination: str, port: int) -> bytes:
    payload = b"past"
    udp = struct.pack("!HHHH", 9, port, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    return bytes.fromhex(to_mac) + bytes.fromhex(from_mac) + b"\x08\x00" + header + udp


# Who would be cut off with it


def test_strangers_in_the_namespace_are_named_and_not_cut_off(agent: Agent) -> None:
    with untouched(agent.veth.near, agent.veth.far):
        LAYER.attach(agent.target)
        [gap] = LAYER.gaps(agent.target)
        assert "would be cut off with it" in gap
        assert f"({agent.neighbour.pid})" in gap
        assert f"sh ({agent.veth.near.pid})" in gap
        assert not tc_maps.has_begun(TC_DROP, tc_maps.CUT_MAP, agent.target.isolation_id)
        LAYER.detach(agent.target)
    agent.alone()
    LAYER.attach(agent.target)
    assert LAYER.gaps(agent.target) == []


def test_a_stranger_who_comes_later_is_named(
    alone: Agent, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    LAYER.attach(alone.target)
    stranger = run_in_cgroup(scratch_cgroup("stranger"), alone.veth.near)
    [gap] = LAYER.gaps(alone.target)
    assert f"({stranger.pid})" in gap
    LAYER.detach(alone.target)
    assert filtered(alone.veth.far, "ingress") == []


def test_other_links_at_the_far_side_are_left_alone(alone: Agent, new_netns: Callable[[], Netns]) -> None:
    third = new_netns()
    alone.veth.far.ip("link", "add", "vx", "type", "veth", "peer", "name", "vy", "netns", str(third.pid))
    alone.veth.far.ip("addr", "add", "198.51.100.1/24", "dev", "vx")
    third.ip("addr", "add", "198.51.100.2/24", "dev", "vy")
    alone.veth.far.ip("link", "set", "vx", "up")
    third.ip("link", "set", "vy", "up")
    LAYER.attach(alone.target)
    assert filtered(alone.veth.far, "ingress") == ["vb"]
    alone.peer.run(
        "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('198.51.100.1', 5005)); u.settimeout(2)"
    )
    third.run("python3", "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('198.51.100.1', 5005))")
    assert alone.peer.outcome("u.recv(9)") == "pass"


# Which ends there are


def test_an_agent_in_the_hosts_own_namespace_has_no_end(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target: MakeTarget
) -> None:
    cgroup = scratch_cgroup()
    run_in_cgroup(cgroup)
    here = target(cgroup)
    assert LAYER.not_applicable(here) == "it has no network namespace of its own"
    LAYER.attach(here)
    assert LAYER.gaps(here) == []
    assert not tc_maps.has_begun(TC_DROP, tc_maps.CUT_MAP, here.isolation_id)


@pytest.mark.parametrize("asked", [False, True])
def test_an_end_in_the_hosts_own_namespace_is_cut_only_when_asked(alone: Agent, asked: bool) -> None:
    """The worker runs in the far namespace, which makes that the host's."""
    far = alone.veth.far
    with untouched(alone.veth.near, far):
        as_the_host(far, alone, LAYER, "attach", asked)
        assert alone.reaches_peer() is not asked
        gaps = as_the_host(far, alone, LAYER, "gaps", asked)
        assert gaps == ([] if asked else [f"va in {first_place(alone)} stays open: {HOSTS_LINK}"])
        as_the_host(far, alone, LAYER, "detach", asked)


@pytest.mark.parametrize(("named", "cut"), [("vb", True), ("v9", False), ("lo", False), ("va", False)])
def test_an_end_in_the_hosts_own_namespace_that_an_operator_names(
    alone: Agent, new_netns: Callable[[], Netns], named: str, cut: bool
) -> None:
    """Only the link that says so itself is cut, whatever is named: v9 is another's, whose veth has the same index."""
    far = alone.veth.far
    new_netns().ip("link", "add", "va", "type", "veth", "peer", "name", "v9", "netns", str(far.pid))
    with untouched(alone.veth.near, far):
        as_the_host(far, alone, LAYER, "attach", False, named)
        assert alone.reaches_peer() is not cut
        gaps = as_the_host(far, alone, LAYER, "gaps", False, named)
        assert gaps == ([] if cut else [f"va in {first_place(alone)} stays open: {HOSTS_LINK}"])
        as_the_host(far, alone, LAYER, "detach", False, named)


@pytest.mark.parametrize("asked", [False, True])
def test_links_of_the_hosts_own_namespace_get_egress_filters_only_when_asked(agent: Agent, asked: bool) -> None:
    near = agent.veth.near
    with untouched(near):
        as_the_host(near, agent, Tc(), "attach", asked)
        assert filtered(near) == (["lo", "va"] if asked else [])
        assert as_the_host(near, agent, Tc(), "gaps", asked) == ([] if asked else [NOT_ALLOWED])
        as_the_host(near, agent, Tc(), "detach", asked)


def as_the_host(space: Netns, agent: Agent, layer: Layer, do: str, asked: bool, named: str = "") -> list[str]:
    """The gaps, as a process sees them that has this for its own namespace."""
    pins = agent.target.slot.path.parent.parent
    settings = {"host_links": asked, "host_end": named}
    answer = work(pins, agent.cgroup, prefix=space.prefix, layer=layer.name, do=do, **settings)
    assert answer["error"] == ""
    gaps: list[str] = answer["gaps"]
    return gaps


def first_place(agent: Agent) -> netns.Netns:
    pids = [int(pid) for pid in (agent.cgroup.path / "cgroup.procs").read_text().split()]
    return next(iter(netns.of_processes(pids).values()))


def test_a_link_between_two_namespaces_of_its_own_is_not_cut(
    alone: Agent, new_netns: Callable[[], Netns], run_in_cgroup: RunInside
) -> None:
    second = new_netns()
    (alone.cgroup.path / "cgroup.procs").write_text(str(second.pid))
    alone.veth.near.ip("link", "add", "vp", "type", "veth", "peer", "name", "vq", "netns", str(second.pid))
    LAYER.attach(alone.target)
    assert LAYER.gaps(alone.target) == []
    assert (filtered(alone.veth.near), filtered(second)) == ([], [])
    assert filtered(alone.veth.far) == ["vb"]


def test_ways_out_that_have_no_other_end_are_named(alone: Agent) -> None:
    near, far = alone.veth.near, alone.veth.far
    add_links(near, ["vc", "vd"])
    near.ip("link", "add", "br0", "type", "bridge")
    near.ip("tuntap", "add", "tap0", "mode", "tap")
    far.ip("link", "add", "mv0", "link", "vb", "type", "macvlan")
    far.ip("link", "set", "mv0", "netns", str(near.pid))
    LAYER.attach(alone.target)
    place = first_place(alone)
    assert sorted(LAYER.gaps(alone.target)) == [
        f"mv0 in {place} stays open: macvlan has no other end that could be cut",
        f"tap0 in {place} stays open: tun has no other end that could be cut",
    ]
    assert filtered(far) == ["vb"]
    near.ip("link", "del", "tap0")


@pytest.mark.parametrize(
    ("kind", "nsid", "loopback", "out"),
    [
        ("", None, True, False),
        ("", None, False, True),
        ("veth", 0, False, True),
        ("veth", None, False, False),
        ("vlan", None, False, False),
        ("vlan", 0, False, True),
        ("macvlan", 3, False, True),
        ("tun", None, False, True),
        ("wireguard", None, False, True),
        ("bridge", None, False, False),
        ("something new", None, False, True),
    ],
)
def test_which_links_lead_out(kind: str, nsid: int | None, loopback: bool, out: bool) -> None:
    assert veth.leads_out(Link(2, "x", kind, 0, nsid, loopback)) is out


# What changes meanwhile


def test_an_end_that_moves_to_a_third_namespace(alone: Agent, new_netns: Callable[[], Netns]) -> None:
    third = new_netns()
    LAYER.attach(alone.target)
    alone.veth.far.ip("link", "set", "vb", "netns", str(third.pid))
    assert LAYER.gaps(alone.target) != []
    LAYER.attach(alone.target)
    assert LAYER.gaps(alone.target) == []
    assert filtered(third, "ingress") == ["vb"]
    LAYER.detach(alone.target)
    assert filtered(third, "ingress") == []
    assert "clsact" not in third.run("tc", "qdisc", "show")


def test_a_veth_that_comes_later(alone: Agent) -> None:
    LAYER.attach(alone.target)
    alone.veth.near.ip("link", "add", "v2", "type", "veth", "peer", "name", "v3", "netns", str(alone.veth.far.pid))
    assert len(LAYER.gaps(alone.target)) == 1
    LAYER.attach(alone.target)
    assert LAYER.gaps(alone.target) == []
    assert filtered(alone.veth.far) == ["vb", "v3"]


@pytest.mark.parametrize("step", range(1, 5))
def test_a_veth_that_goes_midway(alone: Agent, step: int) -> None:
    with at_step(step, lambda: alone.veth.near.ip("link", "del", "va")):
        LAYER.attach(alone.target)
    assert LAYER.gaps(alone.target) == []
    LAYER.detach(alone.target)


def test_somebody_elses_clsact_and_filters_at_the_far_end(alone: Agent) -> None:
    far = alone.veth.far
    tc(
        far,
        "qdisc add dev vb root handle 1: htb",
        "qdisc add dev vb clsact",
        "filter add dev vb ingress protocol ip prio 9 u32 match ip dport 9 0xffff flowid 1:1",
    )
    with untouched(far):
        LAYER.attach(alone.target)
        assert LAYER.gaps(alone.target) == []
        assert not alone.reaches_peer()
        LAYER.detach(alone.target)


def test_two_agents_each_with_its_end(
    alone: Agent,
    new_netns: Callable[[], Netns],
    scratch_cgroup: MakeCgroup,
    run_in_cgroup: RunInside,
    target: MakeTarget,
) -> None:
    second, cgroup = new_netns(), scratch_cgroup("second")
    second.ip("link", "add", "va", "type", "veth", "peer", "name", "v9", "netns", str(alone.veth.far.pid))
    (cgroup.path / "cgroup.procs").write_text(str(second.pid))
    other = target(cgroup, number=1)
    LAYER.attach(alone.target)
    LAYER.attach(other)
    assert sorted(filtered(alone.veth.far)) == ["v9", "vb"]
    LAYER.detach(alone.target)
    assert filtered(alone.veth.far) == ["v9"]
    assert LAYER.gaps(other) == []


def test_both_layers_on_one_link(
    alone: Agent, run_in_cgroup: RunInside, scratch_cgroup: MakeCgroup, target: MakeTarget
) -> None:
    """The far namespace is another agent's: its egress filters and our cut share the clsact, whoever made it."""
    neighbour = target(scratch_cgroup("far-agent"), number=1)
    run_in_cgroup(neighbour.cgroups[0], alone.veth.far)
    with untouched(alone.veth.far):
        Tc().attach(neighbour)
        LAYER.attach(alone.target)
        Tc().detach(neighbour)
        assert LAYER.gaps(alone.target) == []
        LAYER.detach(alone.target)
    with untouched(alone.veth.far):
        Tc().attach(neighbour)
        LAYER.attach(alone.target)
        LAYER.detach(alone.target)
        assert Tc().gaps(neighbour) == []
        Tc().detach(neighbour)


# With an allow-list


@pytest.fixture
def allow_list(alone: Agent) -> Iterator[Callable[[], None]]:
    """Gives the isolation a list, as allowing something does."""
    [outer] = hooks.maps_of(alone.target.slot.program_ids, ALLOW_MAP)
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    options = (ctypes.c_uint32 * 10)(40, 0, 0, 0, 0, 0, 0, 1)  # struct bpf_map_create_opts: map_flags NO_PREALLOC

    def give() -> None:
        with libbpf.map_by_id(outer) as fd:
            inner = library.bpf_map_create(11, b"wd_allow_list", 24, 8, 65536, options)
            assert inner >= 0
            libbpf.map_update(fd, bytes(4), struct.pack("=I", inner))

    yield give
    with libbpf.map_by_id(outer) as fd:
        libbpf.map_delete(fd, bytes(4))


def test_an_allow_list_opens_the_end(alone: Agent, allow_list: Callable[[], None]) -> None:
    LAYER.attach(alone.target)
    assert not alone.reaches_peer()
    allow_list()
    assert LAYER.not_applicable(alone.target) == ""
    assert LAYER.gaps(alone.target) == ["what its allow-list names is cut off"]
    LAYER.attach(alone.target)
    assert "allow-list" in LAYER.not_applicable(alone.target)
    assert LAYER.gaps(alone.target) == []
    assert alone.reaches_peer()


def test_the_kernel_does_not_take_the_programs(alone: Agent) -> None:
    lacking = without(alone.target, *TC_DROP.names)
    with pytest.raises(KernelRefused, match="refused to load wd_tc_drop_in"):
        LAYER.attach(lacking)
    assert LAYER.missing(lacking.common) == "the kernel refused to load wd_tc_drop_in"
    assert LAYER.gaps(lacking) == []
