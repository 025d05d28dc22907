"""The proof that `doctor` shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup
from watchdog.kernel import gate, selftest
from watchdog.kernel.programs import Hook
from watchdog.kernel.slots import Slot

pytestmark = pytest.mark.kernel


def test_all_checks_pass_and_nothing_stays(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    parent = scratch_cgroup()
    checks = selftest.prove(slot, parent.path)
    assert [check.name for check in checks] == [
        "passes before",
        "attach",
        "drops while attached",
        "counts",
        "detach",
        "passes again",
    ]
    assert all(check.ok for check in checks), checks
    assert "tcp v6 out" in checks[0].detail
    assert [path for path in parent.path.iterdir() if path.is_dir()] == []
    assert list(gate.find_attached(parent)) == []


def test_a_check_that_fails_says_so_and_nothing_stays(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    parent = scratch_cgroup()
    fd = foreign.load("other_fw", verdict=0)
    foreign.attach(fd, parent.path, Hook.EGRESS, foreign.MULTI)
    checks = selftest.prove(slot, parent.path)
    assert [(check.name, check.ok) for check in checks] == [("passes before", False)]
    assert "udp v4 out" in checks[0].detail
    foreign.detach(fd, parent.path, Hook.EGRESS)
    foreign.attach(fd, parent.path, Hook.EGRESS, foreign.EXCLUSIVE)
    foreign.detach(fd, parent.path, Hook.EGRESS)
    os.close(fd)
    assert [path for path in parent.path.iterdir() if path.is_dir()] == []


def test_a_program_in_the_way_is_named(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    parent = scratch_cgroup()
    fd = foreign.load("other_fw")
    foreign.attach(fd, parent.path, Hook.EGRESS, foreign.EXCLUSIVE)
    checks = selftest.prove(slot, parent.path)
    os.close(fd)
    assert [check.ok for check in checks] == [True, False]
    assert "other_fw" in checks[-1].detail
    assert checks[-1].remedy


def test_leftovers_of_a_killed_self_test_are_removed(scratch_cgroup: MakeCgroup, slot: Slot) -> None:
    parent = scratch_cgroup()
    (parent.path / f"{selftest.SCRATCH_PREFIX}{2**22 + 1}").mkdir()
    assert all(check.ok for check in selftest.prove(slot, parent.path))
    assert [path for path in parent.path.iterdir() if path.is_dir()] == []


def test_a_place_where_no_cgroup_can_be_made(tmp_path: Path, v2_root: Path, slot: Slot) -> None:
    [check] = selftest.prove(slot, v2_root / "missing")
    assert not check.ok
    assert "scratch cgroup" in check.detail
    assert check.remedy
