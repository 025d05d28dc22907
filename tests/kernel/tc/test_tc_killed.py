"""A process that is killed at any step of either layer leaves nothing that the next one does not put right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.kernel.netns import Netns
from tests.kernel.tc.bed import Agent, add_links, filtered, snapshot, tc
from tests.kernel.tc.worker import LAYERS, killed_at
from watchdog.kernel import tc_maps
from watchdog.kernel.layers.base import Layer, Target
from watchdog.kernel.programs import TC_DROP, TC_EGRESS

pytestmark = pytest.mark.kernel

FEWEST_STEPS, MOST_STEPS = 4, 100


@pytest.fixture(params=["tc", "host_end"])
def layer(request: pytest.FixtureRequest) -> Layer:
    return LAYERS[request.param]


@pytest.fixture
def spaces(agent: Agent) -> tuple[Netns, Netns]:
    """With other tools' clsacts on some of the links, and one isolated namespace."""
    near, far = agent.veth.near, agent.veth.far
    add_links(near, ["vc", "vd"])
    tc(near, "qdisc add dev vc clsact")
    far.ip("link", "set", "vb", "up")
    agent.alone()
    return near, far


def end(layer: Layer, target: Target) -> None:
    layer.detach(target)
    assert not tc_maps.has_begun(TC_EGRESS, tc_maps.COUNT_MAP, target.isolation_id)
    assert not tc_maps.has_begun(TC_DROP, tc_maps.CUT_MAP, target.isolation_id)
    assert not {each.inode for each in target.cgroups} & tc_maps.enlisted()


def gets_out(agent: Agent, layer: Layer) -> bool:
    return agent.old.got_through() if layer.name == "tc" else agent.reaches_peer()


def killed_everywhere(action: Callable[[], object]) -> Iterator[int]:
    """Each step in turn: a child is killed there, and the caller sees what it left."""
    for step in range(1, MOST_STEPS):
        killed = killed_at(step, action)
        yield step
        if not killed:
            assert step > FEWEST_STEPS
            return
    pytest.fail("it does not end")


def test_killed_while_attaching(agent: Agent, layer: Layer, spaces: tuple[Netns, Netns]) -> None:
    before = snapshot(*spaces)
    for step in killed_everywhere(lambda: layer.attach(agent.target)):
        if step % 2:
            layer.attach(agent.target)
            assert layer.gaps(agent.target) == []
            assert not gets_out(agent, layer)
        end(layer, agent.target)
        assert snapshot(*spaces) == before
    assert gets_out(agent, layer)


def test_killed_while_detaching(agent: Agent, layer: Layer, spaces: tuple[Netns, Netns]) -> None:
    before = snapshot(*spaces)
    layer.attach(agent.target)
    for step in killed_everywhere(lambda: layer.detach(agent.target)):
        end(layer, agent.target)
        assert snapshot(*spaces) == before
        assert filtered(spaces[0]) == []
        layer.attach(agent.target)
        assert layer.gaps(agent.target) == [], step
    end(layer, agent.target)
    assert gets_out(agent, layer)
