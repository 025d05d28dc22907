"""Standing still while we work, and for good: nobody stays frozen by mistake, and nobody's freezing is undone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from watchdog.errors import KernelRefused
from watchdog.kernel import freezer
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import freeze
from watchdog.kernel.layers.base import FROZEN
from watchdog.kernel.layers.freeze import MARK, WORKING, Freeze

pytestmark = pytest.mark.kernel

LAYER = Freeze()


class Stopped(Exception):
    """Something went wrong in the middle of the work."""


def marks(cgroup: Cgroup) -> list[str]:
    return os.listxattr(cgroup.path)


def test_it_stands_still_while_we_work_and_runs_again(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target_of: TargetOf
) -> None:
    cgroup = scratch_cgroup()
    inside = agent(run_in_cgroup, cgroup)
    target = target_of(cgroup)
    with freeze.standing_still(target) as trouble:
        freeze.await_still(target)
        assert freezer.is_frozen(cgroup)
        assert freeze.mark_of(cgroup) == WORKING
    assert trouble == []
    assert marks(cgroup) == []
    assert inside.run("1 + 1") == 2
    assert LAYER.gaps(target) == []


def test_it_runs_again_whatever_happens(scratch_cgroup: MakeCgroup, target_of: TargetOf) -> None:
    cgroup = scratch_cgroup()
    with pytest.raises(Stopped), freeze.standing_still(target_of(cgroup)):
        raise Stopped
    assert not freezer.is_told_to_freeze(cgroup)
    assert marks(cgroup) == []


def test_what_others_froze_stays_frozen(scratch_cgroup: MakeCgroup, target_of: TargetOf) -> None:
    for level in ("network", FROZEN):
        cgroup = scratch_cgroup(level)
        freezer.freeze(cgroup)
        target = target_of(cgroup, level=level)
        with freeze.standing_still(target):
            LAYER.attach(target)
            assert marks(cgroup) == []
        assert LAYER.gaps(target) == []
        LAYER.detach(target)
        assert freezer.is_frozen(cgroup)
        freezer.thaw(cgroup)


def test_level_frozen_stays_until_its_release(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target_of: TargetOf
) -> None:
    cgroup = scratch_cgroup()
    inside = agent(run_in_cgroup, cgroup)
    target = target_of(cgroup, level=FROZEN)
    assert LAYER.gaps(target) == [f"{cgroup.path} is not frozen"]
    for _ in range(2):
        with freeze.standing_still(target):
            LAYER.attach(target)
        assert freezer.is_frozen(cgroup)
        assert LAYER.gaps(target) == []
    for _ in range(2):
        LAYER.detach(target)
        assert not freezer.is_told_to_freeze(cgroup)
    assert marks(cgroup) == []
    assert inside.run("1 + 1") == 2


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("level", ["network", FROZEN])
def test_what_a_dead_process_left_frozen_is_found_and_ended(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, frozen: bool, level: str
) -> None:
    """Killed after the mark, and after the freezing."""
    top = scratch_cgroup()
    cgroup, target = scratch_cgroup("child", top), None
    os.setxattr(cgroup.path, MARK, WORKING.encode())
    if frozen:
        freezer.freeze(cgroup)
    target = target_of(cgroup, level=level)
    assert list(freeze.find_frozen(top)) == [cgroup]
    if level == "network":
        assert LAYER.gaps(target) == [f"{cgroup.path} was left frozen"]
    with freeze.standing_still(target):
        LAYER.attach(target)
    assert freezer.is_told_to_freeze(cgroup) is (level == FROZEN)
    assert LAYER.gaps(target) == []
    LAYER.detach(target)
    assert list(freeze.find_frozen(top)) == []
    assert not freezer.is_told_to_freeze(cgroup)


def test_we_never_freeze_ourselves(scratch_cgroup: MakeCgroup, target_of: TargetOf, v2_root: Path) -> None:
    cgroup = scratch_cgroup()
    child = scratch_cgroup("child", cgroup)
    (child.path / "cgroup.procs").write_text(str(os.getpid()))
    try:
        with freeze.standing_still(target_of(cgroup)) as trouble:
            assert not freezer.is_told_to_freeze(cgroup)
        assert len(trouble) == 1
        assert "cannot freeze itself" in trouble[0]
        with pytest.raises(KernelRefused, match="cannot freeze itself"):
            LAYER.attach(target_of(cgroup, level=FROZEN))
        assert marks(cgroup) == []
    finally:
        (v2_root / "cgroup.procs").write_text(str(os.getpid()))


def test_a_cgroup_that_is_gone_or_goes(scratch_cgroup: MakeCgroup, target_of: TargetOf) -> None:
    cgroup = scratch_cgroup()
    target = target_of(cgroup, level=FROZEN)
    with freeze.standing_still(target):
        cgroup.path.rmdir()
        LAYER.attach(target)
    assert LAYER.gaps(target) == []
    with freeze.standing_still(target) as trouble:
        assert trouble == []
    LAYER.detach(target)


def test_a_child_that_is_frozen_by_others_stays_so(scratch_cgroup: MakeCgroup, target_of: TargetOf) -> None:
    cgroup = scratch_cgroup()
    child = scratch_cgroup("child", cgroup)
    freezer.freeze(child)
    with freeze.standing_still(target_of(cgroup)):
        pass
    assert freezer.is_told_to_freeze(child)
    freezer.thaw(child)
