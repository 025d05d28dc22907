"""Frames of packet sockets: stopped for the isolated agent, and for nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.netns import Netns
from tests.kernel.tc.bed import (
    BECOME_NOBODY,
    INITIAL,
    OPEN,
    SEND,
    Agent,
    add_links,
    devices,
    filtered,
    frames,
    tc,
    untouched,
)
from tests.kernel.tc.conftest import MakeTarget
from watchdog.kernel import cgroups, netns, tc_maps
from watchdog.kernel import tc as tc_door
from watchdog.kernel.layers.tc import NOT_ALLOWED, Tc, cover_new_links
from watchdog.kernel.programs import TC_EGRESS

pytestmark = pytest.mark.kernel

LAYER = Tc()


def test_frames_of_old_and_new_sockets_are_stopped_and_flow_again(agent: Agent) -> None:
    with untouched(agent.veth.near, agent.veth.far):
        assert agent.old.got_through()
        LAYER.attach(agent.target)
        assert LAYER.gaps(agent.target) == []
        assert filtered(agent.veth.near) == devices(agent.veth.near) == ["lo", "va"]
        assert filtered(agent.veth.far) == []
        assert not agent.old.got_through()
        assert not agent.with_a_new_socket().got_through()
        assert agent.others.got_through()
        LAYER.detach(agent.target)
        assert agent.old.got_through()


def test_loopback_too(agent: Agent) -> None:
    agent.neighbour.run(
        "l = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))\n"
        "l.bind(('lo', 0)); l.settimeout(0.3)"
    )
    agent.process.run(OPEN.format(device="lo"))
    assert agent.process.outcome(SEND.format(payload="one")) == "pass"
    assert agent.neighbour.outcome("l.recv(99)") == "pass"
    LAYER.attach(agent.target)
    assert agent.process.outcome(SEND.format(payload="two")) == "ENOBUFS"
    assert agent.neighbour.outcome("l.recv(99)") == "TimeoutError"


def test_child_cgroups_and_sockets_of_processes_that_left(
    agent: Agent, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    child = scratch_cgroup("child", scratch_cgroup("mid", agent.cgroup))
    below = frames(run_in_cgroup(child, agent.veth.near), agent.peer, agent.veth)
    LAYER.attach(agent.target)
    assert not below.got_through()
    agent.process.move(scratch_cgroup("elsewhere").path)
    assert not agent.old.got_through()
    LAYER.detach(agent.target)
    assert below.got_through()


def test_deeper_than_the_ancestors_that_are_asked(
    agent: Agent, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target: MakeTarget
) -> None:
    deep = agent.cgroup
    for level in range(35):
        deep = scratch_cgroup(str(level), deep)
    below = frames(run_in_cgroup(deep, agent.veth.near), agent.peer, agent.veth)
    LAYER.attach(target(deep, number=1))
    assert not below.got_through()
    assert agent.old.got_through()


def test_internet_sockets_are_left_to_the_cgroup_hooks(agent: Agent) -> None:
    """Else what an allow-list lets pass there would end here."""
    LAYER.attach(agent.target)
    agent.peer.run("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 0)); u.settimeout(1)")
    port = agent.peer.run("u.getsockname()[1]")
    agent.process.run("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    assert agent.process.outcome(f"s.sendto(b'x', ({agent.veth.far_v4!r}, {port}))") == "pass"
    assert agent.peer.outcome("u.recv(9)") == "pass"


@pytest.mark.parametrize(("family", "far"), [("AF_INET", "far_v4"), ("AF_INET6", "far_v6")])
def test_servers_of_others_behind_the_same_link(agent: Agent, family: str, far: str) -> None:
    near = getattr(agent.veth, far.replace("far", "near"))
    agent.neighbour.run(
        f"s = socket.socket(socket.{family}); s.bind(({near!r}, 0)); s.listen(); port = s.getsockname()[1]; port"
    )
    port = agent.neighbour.run("port")
    LAYER.attach(agent.target)
    for _ in range(6):
        agent.peer.run(f"c = socket.create_connection(({near!r}, {port}), timeout=2); c.sendall(b'hello')")
        assert agent.neighbour.run("c, _ = s.accept(); c.sendall(c.recv(9)); c.close(); True")
        assert agent.peer.run("c.recv(9) == b'hello'")


def test_what_is_dropped_is_counted(agent: Agent) -> None:
    LAYER.attach(agent.target)
    for _ in range(3):
        assert not agent.old.got_through()
    assert agent.others.got_through()
    counted = tc_maps.dropped(agent.target.isolation_id)
    assert (counted.packets, counted.bytes) == (3, 3 * 64)
    assert tc_maps.frames(agent.target.isolation_id).frames_out == counted
    LAYER.attach(agent.target)
    assert tc_maps.dropped(agent.target.isolation_id) == counted
    LAYER.detach(agent.target)
    assert tc_maps.dropped(agent.target.isolation_id).packets == 0


# Who needs it


def test_an_agent_that_can_send_no_frames_needs_none(agent: Agent, run_in_cgroup: RunInside) -> None:
    agent.process.run("p.close()")
    agent.process.run(BECOME_NOBODY)
    with untouched(agent.veth.near):
        assert "CAP_NET_RAW" in LAYER.not_applicable(agent.target)
        LAYER.attach(agent.target)
        assert LAYER.gaps(agent.target) == []
        assert filtered(agent.veth.near) == []
        assert not tc_maps.has_begun(TC_EGRESS, tc_maps.COUNT_MAP, agent.target.isolation_id)


def test_an_agent_without_privilege_that_has_a_packet_socket(agent: Agent) -> None:
    agent.process.run(BECOME_NOBODY)
    assert agent.process.outcome("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)") == "EPERM"
    assert LAYER.not_applicable(agent.target) == ""
    assert agent.old.got_through()
    LAYER.attach(agent.target)
    assert not agent.old.got_through()


def test_a_packet_socket_that_was_made_in_another_cgroup(
    agent: Agent, scratch_cgroup: MakeCgroup, target: MakeTarget
) -> None:
    """Held by a process that was moved in, or passed to it: known by its cookie."""
    moved = target(scratch_cgroup("moved"), number=1)
    agent.process.move(moved.cgroups[0].path)
    LAYER.attach(moved)
    assert not agent.old.got_through()
    LAYER.detach(moved)
    assert agent.old.got_through()


def test_a_packet_socket_of_a_namespace_that_its_process_has_left(
    agent: Agent, new_netns: Callable[[], Netns], target: MakeTarget
) -> None:
    """Not seen: only namespaces with a process of the agent, and the host's own, are asked for sockets."""
    other = new_netns()
    agent.process.run(f"import ctypes; ctypes.CDLL(None).setns(os.open({str(other.path)!r}, os.O_RDONLY), 0)")
    LAYER.attach(agent.target)
    assert filtered(other) == ["lo"]
    assert filtered(agent.veth.near) == []


def test_a_unit_that_restarts_for_ever_does_not_fill_the_map(agent: Agent) -> None:
    maps, isolation = agent.target.common.maps, agent.target.isolation_id
    LAYER.attach(agent.target)
    for cgroup_id in range(1, 200):
        tc_maps.enlist(maps, isolation, [cgroup_id, agent.cgroup.inode])
    assert not {1, 100} & tc_maps.enlisted()
    assert {199, 198, agent.cgroup.inode} <= tc_maps.enlisted()
    LAYER.detach(agent.target)
    assert not {199, agent.cgroup.inode} & tc_maps.enlisted()


def test_nothing_runs(scratch_cgroup: MakeCgroup, target: MakeTarget) -> None:
    empty = target(scratch_cgroup())
    assert LAYER.not_applicable(empty) == "nothing of it runs"
    LAYER.attach(empty)
    LAYER.attach(target())
    assert LAYER.gaps(empty) == []


# The host's own links


def test_nothing_is_put_on_the_hosts_links_unless_asked(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target: MakeTarget
) -> None:
    cgroup = scratch_cgroup()
    run_in_cgroup(cgroup)
    here = target(cgroup)
    initial = netns.Netns(INITIAL, netns.OWN)
    before = filters_of(initial)
    assert here.host_links is False
    assert cover_new_links(here) == []
    assert filters_of(initial) == before
    assert LAYER.gaps(here) == [NOT_ALLOWED]
    LAYER.detach(here)
    assert filters_of(initial) == before


def filters_of(place: netns.Netns) -> list[object]:
    with tc_door.opened(place) as door:
        return [(index, door.filters(index)) for index in netns.links(place)] + [door.clsacts()]


# Several namespaces, several agents


def test_every_namespace_of_its_processes_and_threads(
    agent: Agent, new_netns: Callable[[], Netns], run_in_cgroup: RunInside
) -> None:
    second, third = new_netns(), new_netns()
    run_in_cgroup(agent.cgroup, second)
    agent.process.run(
        "import threading, ctypes\n"
        "def stray():\n"
        f"    ctypes.CDLL(None).setns(os.open({str(third.path)!r}, os.O_RDONLY), 0)\n"
        "    ready.set(); time.sleep(60)\n"
        "ready = threading.Event(); threading.Thread(target=stray, daemon=True).start(); ready.wait()"
    )
    spaces = (agent.veth.near, second, third)
    with untouched(*spaces):
        LAYER.attach(agent.target)
        assert [filtered(space) for space in spaces] == [["lo", "va"], ["lo"], ["lo"]]
        LAYER.detach(agent.target)


def test_the_filter_stays_as_long_as_one_isolation_needs_it(agent: Agent, target: MakeTarget) -> None:
    second = target(cgroups.of_pid(agent.neighbour.pid), number=1)
    with untouched(agent.veth.near):
        LAYER.attach(agent.target)
        LAYER.attach(second)
        assert not agent.old.got_through()
        assert not agent.others.got_through()
        LAYER.detach(agent.target)
        assert LAYER.gaps(second) == []
        assert agent.old.got_through()
        assert not agent.others.got_through()
        LAYER.detach(second)
        assert agent.others.got_through()


# What is not ours


OTHERS = (
    "qdisc add dev va root handle 1: htb default 10",
    "class add dev va parent 1: classid 1:10 htb rate 100mbit",
    "filter add dev va parent 1: protocol ip prio 5 u32 match ip dport 9 0xffff flowid 1:10",
    "qdisc add dev va clsact",
    "filter add dev va egress protocol ip prio 1 u32 match ip dport 9 0xffff flowid 1:1",
    "filter add dev va ingress protocol ip prio 7 u32 match ip dport 9 0xffff flowid 1:1",
    "qdisc add dev vc clsact",
    "qdisc add dev vd root tbf rate 1mbit burst 10k latency 50ms",
)


def test_other_tools_keep_what_they_have(agent: Agent) -> None:
    near = agent.veth.near
    near.run("nft", "add", "table", "inet", "others")
    add_links(near, ["vc", "vd", "ve", "vf"])
    tc(near, *OTHERS)
    with untouched(near, agent.veth.far):
        LAYER.attach(agent.target)
        [gap] = LAYER.gaps(agent.target)
        assert gap.startswith("va in ")
        assert "another tool's u32 filter" in gap
        assert not agent.old.got_through()
        LAYER.detach(agent.target)
        assert "clsact" in near.run("tc", "qdisc", "show", "dev", "vc")
    assert agent.old.got_through()
