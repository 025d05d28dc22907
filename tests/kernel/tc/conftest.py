"""An agent that can send frames, isolations of it, and everything undone at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.netns import VethPair
from tests.kernel.tc.bed import Agent, target_of
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.host_end import HostEnd
from watchdog.kernel.layers.tc import Tc


class MakeTarget(Protocol):
    """An isolation of these cgroups, with the slot of a number."""

    def __call__(self, *cgroups: Cgroup, number: int = ...) -> Target: ...


@pytest.fixture
def target(built_pins: Path) -> Iterator[MakeTarget]:
    """Makes targets; what is still in force for them at the end is undone."""
    made: list[Target] = []

    def make(*cgroups: Cgroup, number: int = 0) -> Target:
        made.append(target_of(built_pins, *cgroups, number=number))
        return made[-1]

    yield make
    for each in made:
        HostEnd().detach(each)
        Tc().detach(each)


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, veth: VethPair, target: MakeTarget) -> Agent:
    """Root, with a packet socket on the near end; a neighbour beside it, and a peer at the far end."""
    cgroup, beside, far = (scratch_cgroup(name) for name in ("agent", "neighbour", "peer"))
    return Agent(
        target(cgroup),
        run_in_cgroup(cgroup, veth.near),
        run_in_cgroup(beside, veth.near),
        run_in_cgroup(far, veth.far),
        veth,
    )
