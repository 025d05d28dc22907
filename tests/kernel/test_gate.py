"""Attaching and detaching: idempotent, beside others' programs, undone by anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.foreign import EXCLUSIVE, MULTI, OVERRIDE
from watchdog.errors import KernelRefused
from watchdog.kernel import cgroups, gate, hooks, libbpf, slots
from watchdog.kernel.cgroups import Cgroup, CgroupGone
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import GATE, Hook
from watchdog.kernel.slots import Slot

pytestmark = pytest.mark.kernel

SEND = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"

Isolate = Callable[[Cgroup], Slot]


def attached_ids(cgroup: Cgroup) -> dict[Hook, list[int]]:
    return {hook: [info.id for info in view.programs] for hook, view in gate.query(cgroup).items()}


@pytest.fixture
def loaded() -> Iterator[Callable[..., int]]:
    """Loads foreign programs; their descriptors are closed at the end."""
    fds: list[int] = []

    def load(*arguments: object, **named: object) -> int:
        fds.append(foreign.load(*arguments, **named))  # type: ignore[arg-type]
        return fds[-1]

    yield load
    for fd in fds:
        os.close(fd)


def test_attach_and_detach_are_idempotent(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    cgroup = scratch_cgroup()
    assert not gate.holds(cgroup, slot)
    assert gate.attach(cgroup, slot)
    assert not gate.attach(cgroup, slot)
    assert gate.holds(cgroup, slot)
    wanted = {
        Hook.INGRESS: [slot.programs["wd_ingress"], slot.programs["wd_guard_in"]],
        Hook.EGRESS: [slot.programs["wd_egress"], slot.programs["wd_guard_out"]],
    }
    assert attached_ids(cgroup) == wanted
    assert gate.detach(cgroup, slot.program_ids)
    assert not gate.detach(cgroup, slot.program_ids)
    assert attached_ids(cgroup) == {Hook.INGRESS: [], Hook.EGRESS: []}


@pytest.mark.parametrize("half", GATE, ids=lambda program: program.name)
def test_half_an_isolation_is_completed_and_undone(scratch_cgroup: MakeCgroup, slot: Slot, half: object) -> None:
    cgroup = scratch_cgroup()
    for _ in range(2):
        with cgroups.opened(cgroup) as cgroup_fd, libbpf.prog_by_id(slot.programs[half.name]) as fd:  # type: ignore[attr-defined]
            libbpf.prog_attach(fd, cgroup_fd, half.hook)  # type: ignore[attr-defined]
        assert not gate.holds(cgroup, slot)
        assert gate.attach(cgroup, slot)
        assert gate.holds(cgroup, slot)
        assert gate.detach(cgroup, slot.program_ids)


@pytest.mark.parametrize(
    ("gone", "stops"),
    [
        ((), True),
        (("wd_guard_in", "wd_guard_out"), True),  # as after a restart of the unit: its drop-in's pair alone
        (("wd_ingress", "wd_egress"), True),  # as within a daemon-reload
        (("wd_ingress", "wd_guard_out"), True),
        (("wd_egress", "wd_guard_out"), False),
        (("wd_ingress", "wd_guard_in", "wd_egress", "wd_guard_out"), False),
    ],
)
def test_one_program_at_each_hook_stops_and_all_are_wanted(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, slot: Slot, gone: tuple[str, ...], stops: bool
) -> None:
    cgroup = scratch_cgroup()
    gate.attach(cgroup, slot)
    gate.detach(cgroup, [slot.programs[name] for name in gone])
    assert gate.stops(cgroup, slot) is stops
    assert {program.name for program in gate.missing(cgroup, slot)} == set(gone)
    assert gate.holds(cgroup, slot) is (not gone)
    assert ("is filtered, but" in gate.gap(cgroup, slot)) is bool(stops and gone)
    assert (run_in_cgroup(cgroup).outcome(SEND) == "EPERM") is stops


def test_query_tells_ours_from_others_and_what_is_inherited(
    scratch_cgroup: MakeCgroup, slot: Slot, isolate: Isolate, loaded: Callable[..., int]
) -> None:
    cgroup = scratch_cgroup()
    child = scratch_cgroup("child", cgroup)
    isolate(cgroup)
    foreign.attach(loaded("wd_like"), child.path, Hook.INGRESS, MULTI)
    view = gate.query(child)[Hook.INGRESS]
    assert [info.name for info in view.programs] == ["wd_like"]
    assert view.ours == ()
    assert [info.name for info in view.foreign] == ["wd_like"]
    assert {info.name for info in view.effective} == {"wd_like", "wd_ingress", "wd_guard_in"}
    own = gate.query(cgroup)[Hook.EGRESS]
    assert [(i.name, i.id) for i in own.ours] == [(n, slot.programs[n]) for n in ("wd_egress", "wd_guard_out")]
    assert own.flags == MULTI


def test_an_impostor_of_our_name_is_not_ours(scratch_cgroup: MakeCgroup, loaded: Callable[..., int]) -> None:
    cgroup = scratch_cgroup()
    foreign.attach(loaded("wd_ingress"), cgroup.path, Hook.INGRESS, MULTI)
    assert gate.query(cgroup)[Hook.INGRESS].ours == ()
    assert list(gate.find_attached(cgroup)) == []


def test_shared_foreign_programs_stay_as_they_were(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, slot: Slot, loaded: Callable[..., int]
) -> None:
    cgroup = scratch_cgroup()
    for name, hook in (("other_a", Hook.INGRESS), ("other_b", Hook.EGRESS), ("other_c", Hook.EGRESS)):
        foreign.attach(loaded(name), cgroup.path, hook, MULTI)
    before = foreign.snapshot(cgroup.path)
    gate.attach(cgroup, slot)
    assert [row for row in foreign.snapshot(cgroup.path) if row[2].id not in slot.program_ids] == before
    assert run_in_cgroup(cgroup).outcome(SEND) == "EPERM"
    gate.detach(cgroup, slot.program_ids)
    assert foreign.snapshot(cgroup.path) == before


@pytest.mark.parametrize("flags", [EXCLUSIVE, OVERRIDE])
@pytest.mark.parametrize("hook", [Hook.INGRESS, Hook.EGRESS])
def test_a_foreign_program_that_shares_with_nobody_is_named_and_stays(
    scratch_cgroup: MakeCgroup, slot: Slot, loaded: Callable[..., int], flags: int, hook: Hook
) -> None:
    cgroup = scratch_cgroup()
    foreign.attach(loaded("other_fw"), cgroup.path, hook, flags)
    before = foreign.snapshot(cgroup.path)
    with pytest.raises(
        KernelRefused, match=rf"other_fw \(BPF program {before[0][2].id}, {hook.name.lower()}\)"
    ) as raised:
        gate.attach(cgroup, slot)
    assert str(cgroup.path) in raised.value.message
    assert "bpftool prog show id" in raised.value.hint
    assert foreign.snapshot(cgroup.path) == before  # neither of ours stayed


def test_an_exclusive_program_further_up_is_named_with_its_place(
    scratch_cgroup: MakeCgroup, slot: Slot, loaded: Callable[..., int]
) -> None:
    parent = scratch_cgroup("parent")
    cgroup = scratch_cgroup("child", parent)
    foreign.attach(loaded("other_fw"), parent.path, Hook.EGRESS, EXCLUSIVE)
    with pytest.raises(KernelRefused, match=rf"other_fw .* holds {parent.path} without"):
        gate.attach(cgroup, slot)
    assert foreign.snapshot(cgroup.path) == []


def test_an_overridable_program_further_up_is_no_obstacle(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, slot: Slot, loaded: Callable[..., int]
) -> None:
    parent = scratch_cgroup("parent")
    cgroup = scratch_cgroup("child", parent)
    foreign.attach(loaded("other_fw"), parent.path, Hook.EGRESS, OVERRIDE)
    before = foreign.snapshot(parent.path)
    gate.attach(cgroup, slot)
    assert run_in_cgroup(cgroup).outcome(SEND) == "EPERM"
    gate.detach(cgroup, slot.program_ids)
    assert foreign.snapshot(parent.path) == before


def test_a_child_that_attaches_a_pass_program_stays_isolated(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, isolate: Isolate, loaded: Callable[..., int]
) -> None:
    cgroup = scratch_cgroup()
    child = scratch_cgroup("child", cgroup)
    isolate(cgroup)
    for flags in (EXCLUSIVE, OVERRIDE, MULTI):
        fd = loaded("pass_all")
        foreign.attach(fd, child.path, Hook.EGRESS, flags)
        assert run_in_cgroup(child).outcome(SEND) == "EPERM"
        foreign.detach(fd, child.path, Hook.EGRESS)


def test_detach_touches_only_the_ids_it_was_given(scratch_cgroup: MakeCgroup, two_slots: tuple[Slot, Slot]) -> None:
    cgroup, (first, second) = scratch_cgroup(), two_slots
    gate.attach(cgroup, first)
    gate.attach(cgroup, second)
    gate.detach(cgroup, first.program_ids)
    assert not gate.holds(cgroup, first)
    assert gate.holds(cgroup, second)
    gate.detach(cgroup, second.program_ids)


def test_one_slot_can_hold_many_cgroups(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    first, second = scratch_cgroup("first"), scratch_cgroup("second")
    gate.attach(first, slot)
    gate.attach(second, slot)
    gate.detach(first, slot.program_ids)
    assert gate.holds(second, slot)


def test_detach_says_so_when_a_link_keeps_the_program(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    cgroup = scratch_cgroup()
    with libbpf.prog_by_id(slot.programs["wd_egress"]) as fd:
        link_fd = foreign.link(fd, cgroup.path, Hook.EGRESS)
    try:
        with pytest.raises(KernelRefused, match="by a bpf link"):
            gate.detach(cgroup, slot.program_ids)
    finally:
        os.close(link_fd)
    assert not gate.detach(cgroup, slot.program_ids)


def test_a_removed_cgroup_refuses_attach_and_needs_no_detach(v2_root: Path, slot: Slot) -> None:
    path = v2_root / f"wd-test-{os.getpid()}-gone"
    path.mkdir()
    cgroup = cgroups.resolve(path, v2_root)
    path.rmdir()
    with pytest.raises(CgroupGone, match="is gone"):
        gate.attach(cgroup, slot)
    assert not gate.detach(cgroup, slot.program_ids)
    assert not gate.holds(cgroup, slot)


def test_a_cgroup_that_goes_while_it_is_open_is_gone(scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()

    def query_while_it_goes() -> None:
        with hooks.opened(cgroup) as fd:
            cgroup.path.rmdir()
            libbpf.prog_query(fd, Hook.EGRESS)

    with pytest.raises(CgroupGone, match="went while"):
        query_while_it_goes()


def test_a_new_cgroup_at_the_old_path_is_another_one(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    old = scratch_cgroup()
    gate.attach(old, slot)
    old.path.rmdir()
    old.path.mkdir()
    new = cgroups.recreated(old)
    assert new is not None
    assert new != old
    with pytest.raises(CgroupGone, match="created anew"):
        gate.attach(old, slot)
    assert not gate.holds(old, slot)
    assert not gate.holds(new, slot)
    assert gate.attach(new, slot)
    assert not gate.detach(old, slot.program_ids)
    assert gate.holds(new, slot)


def test_find_attached_walks_the_tree(scratch_cgroup: MakeCgroup, two_slots: tuple[Slot, Slot]) -> None:
    top = scratch_cgroup("top")
    first, second = scratch_cgroup("first", top), scratch_cgroup("second", top)
    gate.attach(first, two_slots[0])
    gate.attach(second, two_slots[1])
    found = {(each.cgroup, each.hook, each.program_id) for each in gate.find_attached(top)}
    wanted = zip((first, second), two_slots, strict=True)
    assert found == {(c, p.hook, s.programs[p.name]) for c, s in wanted for p in GATE}


@pytest.mark.parametrize("stop_after", range(len(GATE) + 1))
def test_what_a_killed_process_attached_is_adopted(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, slot: Slot, stop_after: int
) -> None:
    """Killed before, between and after the two attachments; then found, completed and undone by ids alone."""
    cgroup = scratch_cgroup()
    begun = [(int(program.hook), slot.programs[program.name]) for program in GATE[:stop_after]]
    code = f"""
        import os, signal
        from pathlib import Path
        from watchdog.kernel import cgroups, libbpf
        cgroup = cgroups.resolve({str(cgroup.path)!r})
        with cgroups.opened(cgroup) as fd:
            for hook, program in {begun!r}:
                with libbpf.prog_by_id(program) as prog:
                    libbpf.prog_attach(prog, fd, hook)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    found = [each.program_id for each in gate.find_attached(cgroup)]
    assert sorted(found) == sorted(program for _, program in begun)
    assert gate.attach(cgroup, slot) is (stop_after < len(GATE))
    assert run_in_cgroup(cgroup).outcome(SEND) == "EPERM"
    assert gate.detach(cgroup, [each.program_id for each in gate.find_attached(cgroup)])
    assert run_in_cgroup(cgroup).outcome(SEND) == "pass"


def test_a_program_that_is_gone_cannot_be_attached(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    cgroup = scratch_cgroup()
    missing = Slot(slot.path, {**slot.programs, "wd_egress": 2**31}, slot.maps)
    with pytest.raises(BpfRefused, match="cannot open BPF program"):
        gate.attach(cgroup, missing)
    assert attached_ids(cgroup) == {Hook.INGRESS: [], Hook.EGRESS: []}
    assert slots.counters_of_programs([2**31]) is None
