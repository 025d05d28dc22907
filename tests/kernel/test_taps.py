"""Taps: an agent that has one open sends frames; it opens no other while it is isolated."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.agents import agent, harmless
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import Host
from tests.kernel.netns import VethPair
from watchdog.kernel import taps
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import devices, whose
from watchdog.kernel.layers.devices import Devices
from watchdog.kernel.programs import TAP_MAJORS_MAP
from watchdog.paths import facts
from watchdog.paths.words import Holding

pytestmark = pytest.mark.kernel

PARTIAL = 4
NUMBERS = "mount -t sysfs none /sys && cat /sys/class/net/mt0/macvtap/tap*/dev"
LISTEN = "r = socket.socket(PACKET, RAW, socket.htons(0x88b5)); r.bind(('vb', 0x88b5)); r.settimeout(0.5)"
SEND = "os.write(tap, bytes(10) + b'\\xff' * 6 + bytes.fromhex('02000000000988b5') + {!r} + bytes(60))"
"""With the header of virtio that a tap wants first."""


@pytest.fixture
def node(veth: VethPair, tmp_path: Path) -> Iterator[Path]:
    """The device of a macvtap on the near end of a veth."""
    try:
        veth.near.ip("link", "add", "link", "va", "name", "mt0", "type", "macvtap", "mode", "bridge")
        veth.near.ip("link", "set", "mt0", "up")
        numbers = veth.near.run("unshare", "--mount", "sh", "-c", NUMBERS).split(":")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no macvtap here: {error.stderr}")
    path = tmp_path / "tap"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(*map(int, numbers)))
    yield path
    path.unlink()


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup()


@pytest.fixture
def inside(cgroup: Cgroup, run_in_cgroup: RunInside, veth: VethPair) -> Inside:
    return agent(run_in_cgroup, cgroup, netns=veth.near)


def opening(node: Path) -> str:
    return f"tap = os.open({str(node)!r}, os.O_RDWR | os.O_NONBLOCK)"


def test_a_tap_that_is_held_counts(
    host: Host,
    cgroup: Cgroup,
    inside: Inside,
    run_in_cgroup: RunInside,
    scratch_cgroup: MakeCgroup,
    veth: VethPair,
    node: Path,
    target_of: TargetOf,
) -> None:
    """One opened in the agent's cgroup is stopped by the filters; the verdict does not rely on it."""
    inside.run(opening(node))
    harmless(inside)
    far = agent(run_in_cgroup, scratch_cgroup("far"), netns=veth.far)
    far.run(LISTEN)
    inside.run(SEND.format(b"before"))
    assert b"before" in bytes.fromhex(far.run("r.recv(99).hex()"))
    target = target_of(cgroup)
    assert facts.look(target.cgroups, whose.look(target)).facts.holds == frozenset({Holding.TUN})
    answer = host.mesh("isolate", "--cgroup", str(cgroup.path), "--reason", "drill", "--json")
    said = {each["path"]: each["coverage"] for each in answer.document["paths"]}
    [tc] = [each for each in answer.document["layers"] if each["layer"] == "tc"]
    assert (answer.status, said["E12g"], tc["holds"]) == (PARTIAL, "not covered", True)
    inside.outcome(SEND.format(b"during"))
    assert far.outcome("r.recv(99)") == "TimeoutError"


def test_opening_a_tap_is_refused(cgroup: Cgroup, inside: Inside, node: Path, target_of: TargetOf) -> None:
    layer, target = Devices(), target_of(cgroup)
    assert inside.outcome(f"{opening(node)}; os.close(tap)") == "pass"
    layer.attach(target)
    assert layer.gaps(target) == []
    assert inside.outcome(opening(node)) == "EPERM"
    layer.detach(target)
    assert inside.outcome(opening(node)) == "pass"


def test_taps_that_are_loaded_later_are_a_gap_until_they_are_refused(
    cgroup: Cgroup, node: Path, target_of: TargetOf
) -> None:
    layer, target = Devices(), target_of(cgroup)
    layer.attach(target)
    taps.refuse(target.common.maps[TAP_MAJORS_MAP], {7})
    assert layer.gaps(target) == [devices.NOT_TOLD]
    layer.attach(target)
    assert layer.gaps(target) == []
    assert taps.refused(target.common.maps[TAP_MAJORS_MAP]) == taps.majors() != frozenset()
