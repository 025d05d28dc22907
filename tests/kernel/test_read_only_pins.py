"""A bpffs that is mounted read-only: pins cannot be opened, programs can, and what is isolated is looked after."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.agents import USER, agent
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import WHY, Answer, Host, await_freed, moment, ours_at
from watchdog.actions import holding
from watchdog.actions.reconcile import Repair, reconcile
from watchdog.intents import State
from watchdog.keeper import Keeper
from watchdog.kernel import bpffs, freezer, gate
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import GATE

pytestmark = pytest.mark.kernel

OK, FAILED, PARTIAL, HOST_CANNOT = 0, 1, 4, 5
REASON = ("--reason", "a test")


@contextmanager
def read_only(pins: Path) -> Iterator[None]:
    """The bpffs itself, not one mount of it: the kernel then opens no pin on it."""
    subprocess.run(["mount", "-o", "remount,ro", pins], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", pins], check=True, timeout=10)


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> Cgroup:
    made = scratch_cgroup()
    agent(run_in_cgroup, made, USER)
    return made


def is_one_line(answer: Answer) -> bool:
    return answer.err.count("\n") == 1 and answer.err.startswith("watchdog-mesh: ")


def closed(host: Host) -> tuple[str, str]:
    why = f"cannot be opened: {host.pins} is mounted read-only"
    return f"the pins of its programs {why}", f"the pins of the layers' programs {why}"


def test_what_is_isolated_holds_and_verify_says_what_is_true(host: Host, cgroup: Cgroup) -> None:
    intent = host.isolate(cgroup).intent
    before = holding.verify(intent, host.place)
    with read_only(host.pins):
        seen = host.mesh("verify", "--cgroup", cgroup.path, "--json")
        assert (seen.status, seen.document["holds"]) == (PARTIAL, True)
        assert tuple(seen.document["gaps"]) == closed(host)
        layers = {layer["layer"] for layer in seen.document["layers"] if layer["holds"]}
        assert layers == {each.layer for each in before.standings if each.holds}
        assert seen.document["dropped"] is not None
    assert holding.verify(intent, host.place).gaps == before.gaps == ()


@pytest.mark.parametrize(
    ("asked", "level", "allow"),
    [
        (("--level", "frozen"), "frozen", ["192.0.2.1/32:53/udp"]),
        (("--no-allow",), "network", []),
        (("--allow", "192.0.2.7/32:443/tcp"), "network", ["192.0.2.7/32:443/tcp"]),
    ],
)
def test_what_is_isolated_can_be_frozen_and_allowed_to(
    host: Host, cgroup: Cgroup, asked: tuple[str, ...], level: str, allow: list[str]
) -> None:
    isolated = ("isolate", "--cgroup", cgroup.path, *REASON)
    assert host.mesh(*isolated, "--allow", "192.0.2.1/32:53/udp", "--json").document["gaps"] == []
    with read_only(host.pins):
        answer = host.mesh(*isolated, *asked, "--json")
        assert (answer.status, answer.err) == (PARTIAL, "")
        for said in (answer.document, host.mesh("verify", "--cgroup", cgroup.path, "--json").document):
            assert (said["level"], [each["entry"] for each in said["allow"]]) == (level, allow)
            assert tuple(said["gaps"]) == closed(host)  # also: the kernel's list is the one that is meant
    assert freezer.is_frozen(cgroup) is (level == "frozen")


def test_all_are_repaired_and_it_is_told_once(host: Host, scratch_cgroup: MakeCgroup) -> None:
    cgroups = [scratch_cgroup("one"), scratch_cgroup("two")]
    slots = [host.isolate(each).intent.held_by.ids.values() for each in cgroups]
    told: list[Repair] = []
    keeper = Keeper(host.place, told.append, ready_slots=1)
    with read_only(host.pins):
        for cgroup, ids in zip(cgroups, slots, strict=True):
            gate.detach(cgroup, ids)
        assert host.mesh("reconcile").status == FAILED  # it cannot put the pins right, and says so
        assert [len(ours_at(each)) for each in cgroups] == [len(GATE), len(GATE)]
        for cgroup, ids in zip(cgroups, slots, strict=True):
            gate.detach(cgroup, ids)
        keeper.sweep()
        assert [len(ours_at(each)) for each in cgroups] == [len(GATE), len(GATE)]
        assert {repair.target for repair in told} == {str(each.path) for each in cgroups}
        assert all("bpffs read-only" in repair.kinds for repair in told)
        assert "mount -o remount,rw" in told[0].cause
        keeper.sweep()
        assert len(told) == 2
        assert "cannot be opened" in keeper.views[0].drift
    keeper.sweep()
    assert [view.drift for view in keeper.views] == ["", ""]


def test_one_that_cannot_be_repaired_keeps_nobody_else_from_it(host: Host, scratch_cgroup: MakeCgroup) -> None:
    """Of the first not even the programs are left."""
    gone, other = scratch_cgroup("gone"), scratch_cgroup("other")
    lost, kept = host.isolate(gone).intent, host.isolate(other).intent
    for pin in (host.pins / lost.held_by.slot).iterdir():
        pin.unlink()
    gate.detach(gone, lost.held_by.ids.values())
    for program_id in lost.held_by.ids.values():
        await_freed(program_id)
    with read_only(host.pins):
        gate.detach(other, kept.held_by.ids.values())
        repairs = {repair.target: repair.done for repair in reconcile(host.place, moment())}
        assert len(ours_at(other)) == len(GATE)
        assert "read-only" in repairs[str(gone.path)].lower()
        answer = host.mesh("isolate", "--cgroup", gone.path, *REASON, "--level", "frozen")
        assert answer.status != OK
        assert is_one_line(answer)
        assert "what was asked for is in the journal" in answer.err
    reconcile(host.place, moment())
    assert len(ours_at(gone)) == len(GATE)
    assert holding.verify(host.place.intents.in_force()[0], host.place).intent.why.level == "frozen"


def test_it_is_released(host: Host, cgroup: Cgroup) -> None:
    host.isolate(cgroup, why=WHY)
    with read_only(host.pins):
        answer = host.mesh("release", "--cgroup", cgroup.path, *REASON)
        assert (answer.status, answer.err) == (OK, "")
        assert ours_at(cgroup) == []
    assert host.states() == [State.RELEASED]


@pytest.mark.parametrize("ready", [True, False])
def test_nobody_is_isolated_anew_and_a_dry_run_says_so(
    host: Host, cgroup: Cgroup, tmp_path: Path, *, ready: bool
) -> None:
    pins = host.pins if ready else bpffs.prepare(tmp_path / "empty")
    env = {"WATCHDOG_MESH_BPFFS_DIR": str(pins)}
    with read_only(pins):
        wanted = ("isolate", "--cgroup", cgroup.path, *REASON)
        said, done = host.mesh(*wanted, "--dry-run", env=env), host.mesh(*wanted, env=env)
    assert (said.status, said.err) == (done.status, done.err)
    assert done.status in (FAILED, HOST_CANNOT)
    assert is_one_line(done)
    assert "mount -o remount,rw" in done.err
    assert str(pins) in done.err
    assert (host.intents(), ours_at(cgroup)) == ([], [])
    if not ready:
        bpffs.unmount(pins)


def test_a_dry_run_says_that_the_pins_are_open_to_others(host: Host, cgroup: Cgroup) -> None:
    host.pins.chmod(0o755)
    try:
        wanted = ("isolate", "--cgroup", cgroup.path, *REASON)
        said, done = host.mesh(*wanted, "--dry-run"), host.mesh(*wanted)
    finally:
        host.pins.chmod(0o700)
    assert (said.status, said.err) == (done.status, done.err)
    assert done.status == HOST_CANNOT
    assert "is open to others: mode 0755" in done.err
