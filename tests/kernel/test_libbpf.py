"""The door to libbpf: errors in words, lists that grow, descriptors that go."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup
from watchdog.kernel import cgroups, gate, libbpf, slots
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import COUNT_MAP, Hook
from watchdog.kernel.slots import Slot

pytestmark = pytest.mark.kernel


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_longer_list_than_there_is_room_for(scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()
    fds = [foreign.load(f"p{number}") for number in range(5)]
    for fd in fds:
        foreign.attach(fd, cgroup.path, Hook.EGRESS, foreign.MULTI)
    with cgroups.opened(cgroup) as cgroup_fd:
        seen = libbpf.prog_query(cgroup_fd, Hook.EGRESS, room=1)
        assert seen == libbpf.prog_query(cgroup_fd, Hook.EGRESS)
    assert list(seen.ids) == [libbpf.prog_info(fd).id for fd in fds]
    assert seen.flags == foreign.MULTI
    for fd in fds:
        os.close(fd)


def test_info_is_what_the_kernel_says(slot: Slot) -> None:
    with libbpf.obj_get(slot.path / "wd_egress") as fd:
        info = libbpf.prog_info(fd)
        assert libbpf.is_program(fd)
    fields = Path("/proc/self/fdinfo")
    with libbpf.prog_by_id(info.id) as fd:
        told = dict(line.split(":\t", 1) for line in (fields / str(fd)).read_text().splitlines() if ":\t" in line)
    assert (told["prog_tag"], int(told["prog_id"])) == (info.tag, info.id)
    with libbpf.obj_get(slot.path / COUNT_MAP) as fd:
        assert not libbpf.is_program(fd)
        told = dict(line.split(":\t", 1) for line in (fields / str(fd)).read_text().splitlines() if ":\t" in line)
        seen = libbpf.map_info(fd)
    assert [int(told[name]) for name in ("map_type", "key_size", "value_size", "max_entries", "map_id")] == [
        seen.type,
        seen.key_bytes,
        seen.value_bytes,
        seen.max_entries,
        seen.id,
    ]


@pytest.mark.parametrize(
    ("operation", "code", "words"),
    [
        (
            lambda pins: libbpf.obj_get(pins / "missing").__enter__(),
            errno.ENOENT,
            "cannot open the pin .*/missing: No such",
        ),
        (lambda _: libbpf.prog_by_id(2**31).__enter__(), errno.ENOENT, "cannot open BPF program 2147483648: No such"),
        (lambda _: libbpf.map_by_id(2**31).__enter__(), errno.ENOENT, "cannot open BPF map 2147483648: No such"),
        (lambda _: libbpf.prog_query(0, 9999), errno.EINVAL, "cannot query hook 9999 of "),
    ],
)
def test_refusals_name_operation_object_and_reason(pins: Path, operation: object, code: int, words: str) -> None:
    with pytest.raises(BpfRefused, match=words) as raised:
        operation(pins)  # type: ignore[operator]
    assert raised.value.code == code
    assert raised.value.hint


def test_attaching_twice_names_the_program_and_the_cgroup(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    cgroup = scratch_cgroup()
    gate.attach(cgroup, slot)
    with cgroups.opened(cgroup) as cgroup_fd, libbpf.prog_by_id(slot.programs["wd_egress"]) as fd:
        with pytest.raises(BpfRefused, match=rf"wd_egress \(BPF program \d+\) to {cgroup.path} \(hook 1\)") as raised:
            libbpf.prog_attach(fd, cgroup_fd, Hook.EGRESS)
        assert raised.value.code == errno.EINVAL
        assert libbpf.prog_detach(fd, cgroup_fd, Hook.EGRESS)
        assert not libbpf.prog_detach(fd, cgroup_fd, Hook.EGRESS)


def test_a_pin_is_not_overwritten(pins: Path, slot: Slot) -> None:
    with libbpf.prog_by_id(slot.programs["wd_egress"]) as fd:
        libbpf.obj_pin(fd, pins / "here")
        with pytest.raises(BpfRefused, match=r"cannot pin .*/here: File exists"):
            libbpf.obj_pin(fd, pins / "here")


def test_no_descriptor_stays_open_or_is_inherited(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    with libbpf.prog_by_id(slot.programs["wd_egress"]) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with libbpf.obj_get(slot.path / COUNT_MAP) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    cgroup = scratch_cgroup()
    before = open_descriptors()
    for _ in range(3):
        gate.attach(cgroup, slot)
        gate.query(cgroup)
        slots.counters(slot)
        slots.counters_of_programs(slot.program_ids)
        list(gate.find_attached(cgroup))
        gate.detach(cgroup, slot.program_ids)
        with pytest.raises(BpfRefused):
            slots.slot_at(slot.path.with_name("missing"))
    assert open_descriptors() == before
