"""Slots without their pins: counting and pinning again what is still attached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from watchdog.kernel import bpffs, builder, gate, slots
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import GATE
from watchdog.kernel.slots import Slot, Traffic

pytestmark = pytest.mark.kernel

SEND = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"


def gate_of(slot: Slot) -> Slot:
    """The slot without its shadow, which is attached nowhere and goes with its pins."""
    return replace(slot, programs={each.name: slot.programs[each.name] for each in GATE})


def test_a_missing_pin_is_put_back_in_place(pins: Path, tmp_path: Path, scratch_cgroup: MakeCgroup) -> None:
    [slot] = builder.ensure_slots(pins, tmp_path / "lock", 1)
    cgroup = scratch_cgroup()
    gate.attach(cgroup, slot)
    (slot.path / "wd_egress").unlink()
    (slot.path / "wd_count").unlink()
    assert slots.list_slots(pins) == []
    assert slots.repin(slot.path, slot.program_ids) == slot
    assert slots.repin(slot.path, slot.program_ids) == slot
    assert slots.list_slots(pins) == [slot]


def test_pins_that_went_with_their_bpffs_are_put_back(
    pins: Path, tmp_path: Path, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    """Unmounting loses every pin and no attachment: it drops, counts and can be pinned again elsewhere."""
    [slot] = builder.ensure_slots(pins, tmp_path / "lock", 1)
    cgroup = scratch_cgroup()
    gate.attach(cgroup, slot)
    bpffs.unmount(pins)
    agent = run_in_cgroup(cgroup)
    assert agent.outcome(SEND) == "EPERM"
    attached = [each.program_id for each in gate.find_attached(cgroup)]
    seen = slots.counters_of_programs(attached)
    assert seen is not None
    assert seen.egress == Traffic(1, 29)

    bpffs.prepare(pins)
    assert slots.list_slots(pins) == []
    assert slots.repin(slot.path, attached) == gate_of(slot)
    assert agent.outcome(SEND) == "EPERM"
    assert slots.counters(slots.list_slots(pins)[0]).egress == Traffic(2, 58)


def test_a_wrong_pin_is_replaced(built_pins: Path, pins: Path, two_slots: tuple[Slot, Slot]) -> None:
    first, second = two_slots
    path = pins / "slot-0"
    slots.repin(path, second.program_ids)
    assert slots.repin(path, first.program_ids).programs == first.programs


def test_programs_that_are_gone_cannot_be_pinned_again(pins: Path) -> None:
    with pytest.raises(BpfRefused, match=f"cannot open BPF program {2**31}"):
        slots.repin(pins / "slot-0", [2**31])


def test_program_ids_of_whatever_is_pinned(two_slots: tuple[Slot, Slot], pins: Path) -> None:
    slot = two_slots[0]
    assert set(slots.pinned_programs(slot.path)) == set(slot.program_ids)
    assert slots.pinned_programs(slot.path)[slot.programs["wd_egress"]] == slot.path / "wd_egress"
    assert slots.pinned_programs(pins / "nothing") == {}


def test_slots_of_a_directory_that_is_none(tmp_path: Path) -> None:
    assert slots.list_slots(tmp_path / "missing") == []
    slots.remove(tmp_path / "missing")
