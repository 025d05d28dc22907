"""io_uring: what the kernel goes on with for a frozen agent, and instances that no descriptor shows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.kernel.agents import USER, agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import Host
from tests.kernel.uring import with_ring
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import whose
from watchdog.paths import facts
from watchdog.paths.words import Holding

pytestmark = pytest.mark.kernel

PARTIAL = 4
BEGINS_S = 3
"""When the chain sends: the agent is frozen by then."""
ARRIVES_S = 10.0
WORKS_ON = "only lsm would stop it, and io_uring carries out what it was asked for, frozen or not"


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup()


@pytest.fixture
def inside(cgroup: Cgroup, run_in_cgroup: RunInside) -> Inside:
    return with_ring(agent(run_in_cgroup, cgroup, USER))


@pytest.fixture
def peer(inside: Inside) -> Iterator[socket.socket]:
    """The other end of a unix connection that the agent has, `out`."""
    name = f"\0wd-test-{inside.pid}"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(name)
        server.listen()
        inside.run(f"out = socket.socket(UNIX); out.connect({name!r})")
        with closing(server.accept()[0]) as made:
            made.settimeout(ARRIVES_S)
            yield made


def test_a_frozen_agent_with_io_uring_is_cut_off_in_part(
    host: Host, cgroup: Cgroup, inside: Inside, peer: socket.socket
) -> None:
    """It sends while it is frozen, which the verdict says."""
    inside.run(f"ring.submit(ring.wait({BEGINS_S}), ring.send(out.fileno(), b'frozen'))")
    answer = host.mesh("isolate", "--cgroup", str(cgroup.path), "--reason", "x", "--level", "frozen", "--json")
    paths = {each["path"]: each for each in answer.document["paths"]}
    assert (answer.status, paths["E16a"]["coverage"], paths["E16a"]["why"]) == (PARTIAL, "not covered", WORKS_ON)
    assert "io_uring instance" in answer.document["agent"]["holds"]
    assert peer.recv(16) == b"frozen"
    assert "frozen 1" in (cgroup.path / "cgroup.events").read_text()


def test_a_ring_without_a_descriptor_is_seen_where_it_is_mapped(
    cgroup: Cgroup, inside: Inside, target_of: TargetOf
) -> None:
    """Another one that has a descriptor hides nothing (Linux 5.12 and later)."""
    inside.run("made = socket.socket(INET, DGRAM); ring.register_file(made.fileno()); made.close()")
    target = target_of(cgroup)
    assert set(whose.look(target).unseen) == {f"process {inside.pid} has 1 files registered with io_uring"}
    inside.run("ring.hide(); decoy = Ring()")
    found = whose.look(target)
    assert found.unseen == [f"process {inside.pid} has io_uring without a descriptor: its files are not known"]
    assert facts.look(target.cgroups, found).facts.holds is None


def test_a_ring_with_a_descriptor_hides_nothing(cgroup: Cgroup, inside: Inside, target_of: TargetOf) -> None:
    target = target_of(cgroup)
    found = whose.look(target)
    assert found.unseen == []
    assert facts.look(target.cgroups, found).facts.holds == frozenset({Holding.RING})
    assert inside.run("ring.fd > 0")
