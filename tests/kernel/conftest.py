"""Scratch cgroups, pins, namespaces and processes for tests on the real kernel; nothing of them stays behind."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

import pytest

from tests.kernel.ends import Ends
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import Host
from tests.kernel.netns import Netns, VethPair, join
from watchdog.errors import WatchdogError
from watchdog.kernel import bpffs, builder, cgroups, common, gate, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.layers import sequence
from watchdog.kernel.layers.base import NETWORK, Target
from watchdog.kernel.slots import Slot

REQUIRED = "WATCHDOG_KERNEL_TESTS"
"""Set to 1, what is missing is a failure and not a skip."""

READY_SLOTS = 4
REMOVE_TIMEOUT_S = 2.0

_serial = itertools.count()


class MakeCgroup(Protocol):
    """A new cgroup below `parent`, or below the v2 root."""

    def __call__(self, name: str = ..., parent: Cgroup | None = None) -> Cgroup: ...


class RunInside(Protocol):
    """A process that is in `cgroup` (and `netns`) before it makes any socket."""

    def __call__(self, cgroup: Cgroup, netns: Netns | None = None) -> Inside: ...


class TargetOf(Protocol):
    """What an isolation of these cgroups works on, with a free slot."""

    def __call__(self, *inside: Cgroup, level: str = ..., of: Slot = ...) -> Target: ...


def skip_or_fail(reason: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def v2_root() -> Path:
    """Where cgroup v2 is mounted, from mountinfo."""
    if os.geteuid() != 0:
        skip_or_fail("kernel tests need root")
    try:
        return cgroups.find_v2_root()
    except WatchdogError as error:
        skip_or_fail(error.one_line())
        raise


@pytest.fixture
def scratch_cgroup(v2_root: Path) -> Iterator[MakeCgroup]:
    """Makes cgroups; at the end kills what is inside them and removes them, deepest first."""
    made: list[Path] = []

    def make(name: str = "agent", parent: Cgroup | None = None) -> Cgroup:
        path = parent.path / name if parent else v2_root / f"wd-test-{os.getpid()}-{next(_serial)}-{name}"
        path.mkdir()
        made.append(path)
        return cgroups.resolve(path, v2_root)

    yield make
    for path in reversed(made):
        remove_cgroup(path)


def remove_cgroup(top: Path) -> None:
    """Kill everything inside (cgroup.kill), then remove the tree; what is gone already is fine."""
    with suppress(OSError):
        (top / "cgroup.kill").write_text("1")
    deadline_s = time.monotonic() + REMOVE_TIMEOUT_S
    for folder, _, _ in os.walk(top, topdown=False):
        _remove_one(Path(folder), deadline_s)


def _remove_one(path: Path, deadline_s: float) -> None:
    while True:
        try:
            return path.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.005)


@pytest.fixture
def pins(v2_root: Path, tmp_path: Path) -> Iterator[Path]:
    """An empty pin directory on a bpffs of its own."""
    path = tmp_path / "pins"
    bpffs.prepare(path)
    yield path
    bpffs.unmount(path)


@pytest.fixture(scope="session")
def built_pins(v2_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pin directory with READY_SLOTS slots, compiled once for all tests."""
    path = tmp_path_factory.mktemp("built") / "pins"
    try:
        builder.ensure_slots(path, path.with_name("lock"), READY_SLOTS)
    except WatchdogError as error:
        bpffs.unmount(path)
        skip_or_fail(error.one_line())
    yield path
    bpffs.unmount(path)


@pytest.fixture
def host(built_pins: Path, tmp_path: Path, scratch_cgroup: MakeCgroup) -> Iterator[Host]:
    """A host of scratch directories. Its cgroups go first (scratch_cgroup), and with them what is attached."""
    scratch = Host(tmp_path, built_pins)
    yield scratch
    scratch.close()
    builder.ensure_slots(built_pins, built_pins.with_name("lock"), READY_SLOTS)  # the test may have removed its pins


@pytest.fixture
def two_slots(built_pins: Path) -> tuple[Slot, Slot]:
    """Two free slots that count from 0; the test's cgroups take with them what stays attached."""
    first, second = slots.list_slots(built_pins)[:2]
    for slot in (first, second):
        slots.zero(slot)
    return first, second


@pytest.fixture
def slot(two_slots: tuple[Slot, Slot]) -> Slot:
    """One free slot that counts from 0."""
    return two_slots[0]


@pytest.fixture
def run_in_cgroup() -> Iterator[RunInside]:
    """Starts processes inside cgroups and kills them at the end."""
    with ExitStack() as started:

        def start(cgroup: Cgroup, netns: Netns | None = None) -> Inside:
            inside = Inside(cgroup.path, netns.prefix if netns else ())
            started.callback(inside.close)
            return inside

        yield start


@pytest.fixture
def new_netns(v2_root: Path) -> Iterator[Callable[[], Netns]]:
    """Makes network namespaces, gone at the end with all that is in them."""
    for command in ("ip", "unshare", "nsenter"):
        if shutil.which(command) is None:
            skip_or_fail(f"network namespaces for tests need the command {command}")
    with ExitStack() as made:

        def make() -> Netns:
            netns = Netns()
            made.callback(netns.close)
            return netns

        yield make


@pytest.fixture
def veth(new_netns: Callable[[], Netns]) -> VethPair:
    """Two namespaces joined by a veth with both families."""
    return join(new_netns(), new_netns())


@pytest.fixture
def isolate(slot: Slot) -> Iterator[Callable[[Cgroup], Slot]]:
    """Attaches the slot to cgroups, and detaches it from all of them at the end."""
    with ExitStack() as attached:

        def attach(cgroup: Cgroup) -> Slot:
            gate.attach(cgroup, slot)
            attached.callback(gate.detach, cgroup, slot.program_ids)
            return slot

        yield attach


@pytest.fixture
def common_set(built_pins: Path) -> Common:
    """The common programs, compiled once for all tests."""
    found = common.find(built_pins)
    assert found is not None
    return found


@pytest.fixture
def target_of(slot: Slot, common_set: Common, v2_root: Path) -> Iterator[TargetOf]:
    """Makes targets of cgroups; what still holds one at the end is taken off."""
    made: list[Target] = []

    def target(*inside: Cgroup, level: str = NETWORK, of: Slot = slot) -> Target:
        made.append(Target(inside, of, common_set, v2_root, level=level))
        return made[-1]

    yield target
    for each in reversed(made):
        sequence.free(each)


@pytest.fixture(params=["loopback", "veth"])
def ends(request: pytest.FixtureRequest, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> Ends:
    cgroup, outside = scratch_cgroup("agent"), scratch_cgroup("peer")
    if request.param == "loopback":
        local = {4: "127.0.0.1", 6: "::1"}
        return Ends(cgroup, outside, run_in_cgroup(cgroup), run_in_cgroup(outside), local, local)
    veth: VethPair = request.getfixturevalue("veth")
    agent, peer = run_in_cgroup(cgroup, veth.near), run_in_cgroup(outside, veth.far)
    return Ends(cgroup, outside, agent, peer, {4: veth.near_v4, 6: veth.near_v6}, {4: veth.far_v4, 6: veth.far_v6})
