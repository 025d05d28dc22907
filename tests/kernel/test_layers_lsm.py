"""BPF LSM, its life: attached while somebody is held, by links that any process finds; honest where there is none.

What it refuses is in test_layers_lsm_refusals.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.lsm_bed import LAYER, lsm_or_skip
from watchdog.kernel import btf, builder, common, libbpf, lsm, lsm_links, lsm_maps
from watchdog.kernel.builder import BuildInputs
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.lsm import Lsm
from watchdog.kernel.programs import INGRESS, LSM
from watchdog.kernel.slots import Slot
from watchdog.kernel.sources import source_dir, source_key

pytestmark = pytest.mark.kernel

NAMES = sorted(LSM.names)

AT_THE_BEGINNING = {("file", "f_mode"), ("inode", "i_mode")}
"""Members that may be the first of their structure."""

NEW_SOCKET = "socket.socket(INET, DGRAM).close()"


@pytest.fixture
def usable(common_set: Common) -> None:
    """Skips where BPF LSM does not work; see lsm_or_skip."""
    lsm_or_skip(common_set)


def links(target: Target) -> list[str]:
    """The pinned links of the target's version."""
    folder = target.common.path.with_name(lsm.FOLDER)
    return sorted(pin.name for pin in folder.iterdir()) if folder.exists() else []


def known(target: Target) -> set[int]:
    """The cgroups that its programs know."""
    return set(lsm_maps.entries(target.common.maps))


# --- on every host


def test_a_kernel_that_refuses_is_quoted(common_set: Common, target_of: TargetOf, scratch_cgroup: MakeCgroup) -> None:
    refused = common_set.why_missing(LSM.programs)
    if not refused:
        pytest.skip("this kernel takes BPF LSM programs")
    assert refused == "the kernel refuses BPF LSM programs: EPERM (Operation not permitted)"
    assert LAYER.missing(common_set) == refused
    target = target_of(scratch_cgroup())
    LAYER.attach(target)
    assert LAYER.gaps(target) == []  # what is missing is no drift
    assert links(target) == []
    LAYER.detach(target)


def test_programs_that_nobody_would_call_are_not_attached(
    target_of: TargetOf, scratch_cgroup: MakeCgroup, tmp_path: Path
) -> None:
    listed = tmp_path / "lsm"
    listed.write_text("lockdown,capability,yama\n")
    layer, target = Lsm(listed=listed), target_of(scratch_cgroup())
    layer.attach(target)
    assert layer.missing(target.common) != ""
    assert layer.gaps(target) == []
    assert links(target) == []


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("lockdown,capability,landlock,yama,apparmor,bpf", ""),
        ("bpf\n", ""),
        (
            "lockdown,capability,landlock,yama,apparmor\n",
            "bpf is not in lsm=: the security modules in force are lockdown, capability, landlock, yama, apparmor "
            "(boot with lsm=lockdown,landlock,yama,apparmor,bpf)",
        ),
    ],
)
def test_in_force_is_what_securityfs_lists(tmp_path: Path, listed: str, said: str) -> None:
    (tmp_path / "lsm").write_text(listed)
    initial = Path("/proc/self/ns/cgroup").stat().st_ino == lsm.INITIAL_CGROUP_NAMESPACE
    assert lsm.why_not_in_force(tmp_path / "lsm") == said or not initial


def test_what_cannot_be_told_is_not_claimed(tmp_path: Path) -> None:
    assert "cannot tell which security modules are in force" in lsm.why_not_in_force(tmp_path / "lsm")
    (tmp_path / "lsm").write_text("bpf")
    (tmp_path / "namespace").touch()
    assert "cgroup namespace" in lsm.why_not_in_force(tmp_path / "lsm", tmp_path / "namespace")


def test_members_are_where_this_kernel_says() -> None:
    offsets = dict(zip(btf.MEMBERS, btf.member_offsets(), strict=True))
    assert len(offsets) == lsm_maps.MEMBER_OFFSETS.size // 4
    assert offsets["sock_common", "skc_family"] == 16  # behind addresses, a hash and ports, on every kernel since 3.13
    assert all(0 < offset < 65536 for member, offset in offsets.items() if member not in AT_THE_BEGINNING)


# --- where it works


@pytest.mark.usefixtures("usable")
def test_attached_while_somebody_is_held_and_no_longer(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    one, other = scratch_cgroup("one"), scratch_cgroup("other")
    first, second = target_of(one), replace(target_of(other), slot=_renumbered(target_of(other)))
    in_one, in_other = agent(run_in_cgroup, one), agent(run_in_cgroup, other)
    assert links(first) == []
    for _ in range(2):
        LAYER.attach(first)
        assert LAYER.gaps(first) == []
        assert links(first) == NAMES
    LAYER.attach(second)
    assert (in_one.outcome(NEW_SOCKET), in_other.outcome(NEW_SOCKET)) == ("EPERM", "EPERM")
    LAYER.detach(first)
    assert (in_one.outcome(NEW_SOCKET), in_other.outcome(NEW_SOCKET)) == ("pass", "EPERM")
    assert links(first) == NAMES
    for _ in range(2):
        LAYER.detach(second)
        assert (in_one.outcome(NEW_SOCKET), in_other.outcome(NEW_SOCKET)) == ("pass", "pass")
        assert links(first) == []
    assert LAYER.gaps(second) != []


def _renumbered(target: Target) -> Slot:
    """A slot of another isolation."""
    programs = {**target.slot.programs, INGRESS.name: target.slot.programs[INGRESS.name] + 1}
    return replace(target.slot, programs=programs)


@pytest.mark.usefixtures("usable")
def test_child_cgroups_are_held_and_parents_and_neighbours_are_not(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    parent = scratch_cgroup("parent")
    held, beside = scratch_cgroup("held", parent), scratch_cgroup("beside", parent)
    deeper = scratch_cgroup("deeper", scratch_cgroup("deep", held))
    insiders = {each.path.name: agent(run_in_cgroup, each) for each in (parent, held, beside, deeper)}
    LAYER.attach(target_of(held))
    seen = {name: inside.outcome(NEW_SOCKET) for name, inside in insiders.items()}
    assert seen == {parent.path.name: "pass", "held": "EPERM", "beside": "pass", "deeper": "EPERM"}


@pytest.mark.usefixtures("usable")
def test_a_link_that_was_removed_is_a_gap_and_put_back(scratch_cgroup: MakeCgroup, target_of: TargetOf) -> None:
    target = target_of(scratch_cgroup())
    LAYER.attach(target)
    target.common.path.with_name(lsm.FOLDER).joinpath("wd_lsm_bpf").unlink()
    assert LAYER.gaps(target) == ["not attached: wd_lsm_bpf"]
    LAYER.attach(target)
    assert LAYER.gaps(target) == []


@pytest.mark.usefixtures("usable")
def test_a_cgroup_made_anew_is_a_gap_and_the_old_one_is_forgotten(
    scratch_cgroup: MakeCgroup, target_of: TargetOf
) -> None:
    cgroup = scratch_cgroup()
    target = target_of(cgroup)
    LAYER.attach(target)
    cgroup.path.rmdir()
    LAYER.attach(target)
    cgroup.path.mkdir()
    anew = replace(target, cgroups=(Cgroup(cgroup.path, cgroup.path.stat().st_ino, cgroup.root),))
    assert LAYER.gaps(anew) == [f"the LSM programs do not know {cgroup.path}"]
    LAYER.attach(anew)
    assert LAYER.gaps(anew) == []
    assert known(anew) == {anew.cgroups[0].inode}
    LAYER.detach(replace(anew, cgroups=()))  # by the isolation alone
    assert known(anew) == set()
    assert links(anew) == []


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("stop_after", range(4))
def test_whatever_was_begun_is_finished_or_undone(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, stop_after: int
) -> None:
    """As if killed: after the cgroup was enlisted and some of the programs were attached."""
    target = target_of(scratch_cgroup())
    entry = lsm_maps.Isolated(lsm_maps.depth_of(target.cgroups[0]), target.isolation_id)
    lsm_maps.enlist(target.common.maps, {target.cgroups[0].inode: entry})
    folder = target.common.path.with_name(lsm.FOLDER)
    if stop_after:
        folder.mkdir(mode=0o700)
    for name in NAMES[: max(stop_after - 1, 0)]:
        _link(target, folder / name)
    if stop_after % 2:
        LAYER.attach(target)
        assert LAYER.gaps(target) == []
    LAYER.detach(target)
    assert (known(target), links(target)) == (set(), [])


def _link(target: Target, pin: Path) -> None:
    with libbpf.prog_by_id(target.common.programs[pin.name]) as fd:
        lsm_links.attach(fd, pin)


@pytest.mark.usefixtures("usable")
def test_after_an_upgrade_what_the_version_before_holds_is_released(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside, built_pins: Path, tmp_path: Path
) -> None:
    sources = Path(shutil.copytree(source_dir(), tmp_path / "sources"))
    (sources / "wd.h").write_text((sources / "wd.h").read_text() + "/* an older version */\n")
    builder.ensure_slots(built_pins, tmp_path / "lock", 0, inputs=BuildInputs(sources=sources))
    older = common.find(built_pins, source_key(sources))
    assert older is not None
    target = target_of(scratch_cgroup())
    inside = agent(run_in_cgroup, target.cgroups[0])
    LAYER.attach(replace(target, common=older))
    assert inside.outcome(NEW_SOCKET) == "EPERM"
    LAYER.detach(target)
    assert inside.outcome(NEW_SOCKET) == "pass"
    assert links(replace(target, common=older)) == []


@pytest.mark.usefixtures("usable")
def test_common_programs_made_anew_take_over(
    scratch_cgroup: MakeCgroup, slot: Slot, common_set: Common, built_pins: Path, tmp_path: Path
) -> None:
    """Their pins were lost: what is attached keeps its maps, and who is held in them stays held."""
    cgroup = scratch_cgroup()
    target = Target((cgroup,), slot, common_set, cgroup.root)
    LAYER.attach(target)
    (target.common.path / LSM.names[0]).unlink()
    builder.ensure_slots(built_pins, tmp_path / "lock", 0)
    anew = common.find(built_pins)
    assert anew is not None
    assert anew.programs["wd_lsm_bpf"] != target.common.programs["wd_lsm_bpf"]
    moved = replace(target, common=anew, cgroups=(scratch_cgroup("another"),))
    assert LAYER.gaps(moved) != []
    LAYER.attach(moved)
    assert LAYER.gaps(moved) == []
    assert known(moved) == {target.cgroups[0].inode, moved.cgroups[0].inode}
    LAYER.detach(moved)
    assert links(moved) == []
