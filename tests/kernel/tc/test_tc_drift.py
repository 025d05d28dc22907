"""What others do to the links of an isolated agent: found, repaired, and given back at the end as it is then."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup, RunInside, skip_or_fail
from tests.kernel.netns import Netns
from tests.kernel.tc.bed import (
    OPEN,
    Agent,
    add_links,
    devices,
    filtered,
    place_of,
    target_of,
    tc,
    untouched,
    without,
)
from tests.kernel.tc.conftest import MakeTarget
from tests.kernel.tc.worker import at_step
from watchdog.errors import KernelRefused
from watchdog.kernel import bpffs, builder, cgroups, libbpf, netns, tc_maps
from watchdog.kernel import tc as tc_door
from watchdog.kernel.layers.tc import Tc, cover_new_links
from watchdog.kernel.tc_plan import TcHook

pytestmark = pytest.mark.kernel

LAYER = Tc()

SCHED_CLS = 3
TC_ACT_OK, TC_ACT_SHOT = 0, 2


@pytest.fixture
def others_program(pins: Path) -> Path:
    """The pin of a program that lets everything pass, and nobody after it be asked."""
    return pinned(pins / "other_cls", TC_ACT_OK)


@pytest.fixture
def others_drop(pins: Path) -> Path:
    return pinned(pins / "other_drop", TC_ACT_SHOT)


def pinned(path: Path, verdict: int) -> Path:
    fd = foreign.load(path.name, verdict, kind=SCHED_CLS)
    libbpf.obj_pin(fd, path)
    os.close(fd)
    return path


# Somebody takes ours away


@pytest.mark.parametrize(
    "loss",
    [
        "qdisc del dev va clsact",
        "filter del dev va egress",
        "filter del dev va egress prio 1",
        "filter del dev va egress prio 1 handle 0x57440001 bpf",
    ],
)
def test_a_lost_filter_is_found_and_put_back(agent: Agent, loss: str) -> None:
    with untouched(agent.veth.near):
        LAYER.attach(agent.target)
        tc(agent.veth.near, loss)
        assert agent.old.got_through()
        [gap] = LAYER.gaps(agent.target)
        assert gap == f"va in {place_of_its_process(agent)}: no filter of ours"
        assert cover_new_links(agent.target) == [f"va in {place_of_its_process(agent)}"]
        assert LAYER.gaps(agent.target) == []
        assert not agent.old.got_through()
        tc(agent.veth.near, *(["qdisc del dev va clsact"] if loss.startswith("filter") else []))
        LAYER.detach(agent.target)


def place_of_its_process(agent: Agent) -> netns.Netns:
    [place] = netns.of_processes([agent.process.pid]).values()
    return place


def test_a_clsact_that_somebody_made_in_the_place_of_ours_stays(agent: Agent) -> None:
    near = agent.veth.near
    LAYER.attach(agent.target)
    tc(near, "qdisc del dev va clsact", "qdisc add dev va clsact")
    LAYER.attach(agent.target)
    assert not agent.old.got_through()
    LAYER.detach(agent.target)
    assert "clsact" in near.run("tc", "qdisc", "show", "dev", "va")
    assert "clsact" not in near.run("tc", "qdisc", "show", "dev", "lo")


def test_a_clsact_of_ours_stays_when_somebody_else_is_on_it(agent: Agent, others_program: Path) -> None:
    near = agent.veth.near
    LAYER.attach(agent.target)
    tc(near, f"filter add dev va ingress prio 1 handle 7 bpf da pinned {others_program}")
    LAYER.detach(agent.target)
    assert filtered(near) == []
    shown = near.run("tc", "filter", "show", "dev", "va", "ingress")
    assert "handle 0x7 other_cls" in shown


# Others beside ours


def test_the_same_prio_and_another_handle(agent: Agent, others_program: Path) -> None:
    """It was there before and says that everything may pass: ours runs before it."""
    near = agent.veth.near
    tc(
        near,
        "qdisc add dev va clsact",
        f"filter add dev va egress prio 1 handle 1 bpf da pinned {others_program}",
        f"filter add dev va egress prio 9 handle 1 bpf da pinned {others_program}",
    )
    with untouched(near):
        LAYER.attach(agent.target)
        assert LAYER.gaps(agent.target) == []
        assert not agent.old.got_through()
        assert agent.others.got_through()
        LAYER.detach(agent.target)


def test_who_comes_later_and_gets_in_front_is_found_and_overtaken(agent: Agent, others_program: Path) -> None:
    near = agent.veth.near
    LAYER.attach(agent.target)
    tc(near, f"filter add dev va egress prio 1 handle 1 bpf da pinned {others_program}")
    assert agent.old.got_through()
    [gap] = LAYER.gaps(agent.target)
    assert "another tool's bpf filter other_cls" in gap
    assert gap.endswith("(prio 1, egress) decides before ours")
    LAYER.attach(agent.target)
    assert LAYER.gaps(agent.target) == []
    assert not agent.old.got_through()
    LAYER.detach(agent.target)
    assert "handle 0x1 other_cls" in near.run("tc", "filter", "show", "dev", "va", "egress")


def test_a_tcx_program_is_before_every_filter_and_that_is_said(agent: Agent) -> None:
    """Linux 6.6 and later: what it lets pass no filter sees, and none can be put before it."""
    near = place_of(agent.veth.near)
    LAYER.attach(agent.target)
    assert LAYER.gaps(agent.target) == []
    program = foreign.load("other_tcx", TC_ACT_OK, kind=SCHED_CLS)
    [index] = [index for index, name in netns.links(near).items() if name == "va"]
    try:
        link = netns.inside(near, lambda: foreign.link_tcx(program, index, TcHook.EGRESS.tcx))
    except OSError as error:
        skip_or_fail(f"the kernel has no tcx: {error.strerror}")
        raise
    finally:
        os.close(program)
    assert agent.old.got_through()
    [gap] = LAYER.gaps(agent.target)
    assert gap.startswith("va in ")
    assert "another tool's tcx program other_tcx (BPF program" in gap
    os.close(link)
    assert LAYER.gaps(agent.target) == []
    assert not agent.old.got_through()


def test_filters_behind_ours_see_the_frames_of_everybody_else(agent: Agent, others_drop: Path) -> None:
    near = agent.veth.near
    tc(near, "qdisc add dev va clsact")
    LAYER.attach(agent.target)
    assert agent.others.got_through()
    tc(near, f"filter add dev va egress prio 2 handle 1 bpf da pinned {others_drop}")
    assert not agent.others.got_through()


def test_an_ingress_qdisc_leaves_no_place_and_is_named(agent: Agent) -> None:
    near = agent.veth.near
    tc(near, "qdisc add dev va ingress")
    with untouched(near):
        with pytest.raises(KernelRefused, match=r"no filter on va in .*: another tool's ingress qdisc") as raised:
            LAYER.attach(agent.target)
        assert "tc filter show dev va" in raised.value.hint
        assert filtered(near) == ["lo"]
        assert len(LAYER.gaps(agent.target)) == 1
        LAYER.detach(agent.target)


def test_a_filter_of_somebody_else_at_our_address_is_not_replaced(agent: Agent, others_program: Path) -> None:
    near = agent.veth.near
    tc(
        near,
        "qdisc add dev va clsact",
        f"filter add dev va egress prio 1 handle 0x57440001 bpf da pinned {others_program}",
    )
    with untouched(near):
        with pytest.raises(KernelRefused, match="has our handle"):
            LAYER.attach(agent.target)
        LAYER.detach(agent.target)


# Links and namespaces that come and go


def test_links_that_come_later(agent: Agent) -> None:
    near = agent.veth.near
    LAYER.attach(agent.target)
    add_links(near, ["vc", "vd"])
    assert len(LAYER.gaps(agent.target)) == 2
    assert len(cover_new_links(agent.target)) == 2
    assert cover_new_links(agent.target) == []
    assert filtered(near) == ["lo", "va", "vd", "vc"]
    agent.process.run(OPEN.format(device="vc"))
    near.ip("link", "set", "vc", "up")
    near.ip("link", "set", "vd", "up")
    assert agent.process.outcome("p.send(b'x' * 60)") == "ENOBUFS"


def test_a_link_that_is_renamed_and_set_down_keeps_its_filter(agent: Agent) -> None:
    near = agent.veth.near
    LAYER.attach(agent.target)
    near.ip("link", "set", "va", "down")
    near.ip("link", "set", "va", "name", "renamed")
    near.ip("link", "set", "renamed", "up")
    assert LAYER.gaps(agent.target) == []
    with_new = filtered(near)
    assert with_new == ["lo", "renamed"]


def test_a_link_that_was_in_another_namespace_meanwhile(agent: Agent, new_netns: Callable[[], Netns]) -> None:
    near, other = agent.veth.near, new_netns()
    add_links(near, ["vc", "vd"])
    LAYER.attach(agent.target)
    near.ip("link", "set", "vc", "netns", str(other.pid))
    assert LAYER.gaps(agent.target) == []
    other.ip("link", "set", "vc", "netns", str(near.pid))
    [gap] = LAYER.gaps(agent.target)
    assert gap.startswith("vc in ")
    LAYER.attach(agent.target)
    assert LAYER.gaps(agent.target) == []


@pytest.mark.parametrize("step", range(1, 10))
def test_a_link_that_goes_midway(agent: Agent, step: int) -> None:
    near = agent.veth.near
    add_links(near, ["vc", "vd"])
    with at_step(step, lambda: near.ip("link", "del", "vc")):
        LAYER.attach(agent.target)
    assert LAYER.gaps(agent.target) == []
    assert not agent.old.got_through()
    add_links(near, ["vc", "vd"])
    LAYER.attach(agent.target)
    with at_step(step, lambda: near.ip("link", "del", "vc")):
        LAYER.detach(agent.target)
    assert filtered(near) == []


@pytest.mark.parametrize("step", range(1, 9))
def test_somebody_elses_clsact_that_comes_or_goes_midway(agent: Agent, step: int) -> None:
    near = agent.veth.near
    there = step % 2
    tc(near, *(["qdisc add dev va clsact"] if there else []))
    with at_step(step, lambda: tc(near, f"qdisc {'del' if there else 'add'} dev va clsact")):
        LAYER.attach(agent.target)
    assert LAYER.gaps(agent.target) == []
    assert not agent.old.got_through()
    LAYER.detach(agent.target)
    assert filtered(near) == []


@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_an_agent_that_ends_midway(
    agent: Agent,
    step: int,
    scratch_cgroup: MakeCgroup,
    run_in_cgroup: RunInside,
    new_netns: Callable[[], Netns],
    target: MakeTarget,
) -> None:
    space, cgroup = new_netns(), scratch_cgroup("short-lived")
    process, here = run_in_cgroup(cgroup, space), target(cgroup, number=1)

    def end() -> None:
        process.close()
        space.close()

    with at_step(step, end):
        LAYER.attach(here)
    assert LAYER.gaps(here) == []
    LAYER.detach(here)


def test_fifty_links(agent: Agent) -> None:
    near = agent.veth.near
    add_links(near, [f"l{number}" for number in range(48)])
    with untouched(near):
        LAYER.attach(agent.target)
        assert filtered(near) == devices(near)
        assert len(devices(near)) == 50
        assert LAYER.gaps(agent.target) == []
        LAYER.detach(agent.target)


# Versions, pins


def test_another_versions_filters_are_replaced_with_all_they_know(
    agent: Agent, tmp_path: Path, target: MakeTarget
) -> None:
    """An upgrade while two agents are isolated: the new version isolates one anew, and the other stays isolated."""
    old_pins = tmp_path / "old"
    builder.ensure_slots(old_pins, tmp_path / "lock", 2)
    first = target_of(old_pins, agent.cgroup)
    second = target_of(old_pins, cgroups.of_pid(agent.neighbour.pid), number=1)
    LAYER.attach(first)
    LAYER.attach(second)
    bpffs.unmount(old_pins)
    assert not agent.old.got_through()
    upgraded, beside = (replace(each, common=agent.target.common) for each in (first, second))
    assert LAYER.gaps(upgraded) == []
    LAYER.attach(upgraded)
    assert used_programs(agent.veth.near) == {agent.target.common.programs["wd_tc_egress"]}
    assert LAYER.gaps(beside) == []
    assert not agent.old.got_through()
    assert not agent.others.got_through()
    assert tc_maps.dropped(upgraded.isolation_id).packets == 2
    LAYER.detach(beside)
    assert agent.others.got_through()
    LAYER.detach(upgraded)
    assert agent.old.got_through()
    assert filtered(agent.veth.near) == []
    assert "clsact" not in agent.veth.near.run("tc", "qdisc", "show")


def used_programs(space: Netns) -> set[int]:
    with tc_door.opened(place_of(space)) as door:
        return {each.program_id for index in netns.links(door.place) for each in door.filters(index)}


def test_the_kernel_does_not_take_the_program(agent: Agent) -> None:
    lacking = without(agent.target, "wd_tc_egress")
    with pytest.raises(KernelRefused, match="refused to load wd_tc_egress"):
        LAYER.attach(lacking)
    assert LAYER.missing(lacking.common) == "the kernel refused to load wd_tc_egress"
    assert LAYER.gaps(lacking) == []
    LAYER.detach(lacking)
