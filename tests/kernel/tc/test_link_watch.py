"""What the kernel tells of links and filters, as it happens."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import pytest

from tests.kernel.netns import Netns
from tests.kernel.tc.bed import Agent, add_links, place_of, tc
from watchdog.kernel import netns
from watchdog.kernel.layers.tc import Tc
from watchdog.kernel.link_watch import Change, LinkEvent, LinkWatch, parse

pytestmark = pytest.mark.kernel

SOON_S = 2.0
QUIET_S = 0.05

FLOOD = 3000
"""Changes of one link: more than the buffer has room for."""


def heard(watch: LinkWatch, timeout_s: float) -> list[LinkEvent]:
    """What there is to hear, within that time."""
    return watch.news() or (select.select(watch.filenos(), [], [], timeout_s) and watch.news())


def drained(watch: LinkWatch) -> None:
    while heard(watch, QUIET_S):
        pass


def test_links_that_come_and_go(new_netns: Callable[[], Netns]) -> None:
    space, other = new_netns(), new_netns()
    places = {place.inode: place for place in (place_of(space), place_of(other))}
    with LinkWatch() as watch:
        watch.follow(places)
        assert {(event.inode, event.change) for event in heard(watch, 0)} == {(inode, Change.LOOK) for inode in places}
        drained(watch)
        assert heard(watch, QUIET_S) == []
        add_links(space, ["vc", "vd"])
        indexes = [index for index, name in netns.links(place_of(space)).items() if name in {"vc", "vd"}]
        came = [LinkEvent(place_of(space).inode, Change.LINK_CAME, index) for index in indexes]
        assert sorted(heard(watch, SOON_S), key=lambda event: event.index) == sorted(
            came, key=lambda event: event.index
        )
        space.ip("link", "set", "vc", "up")
        assert heard(watch, QUIET_S) == []
        space.ip("link", "del", "vc")
        assert {event.change for event in heard(watch, SOON_S)} == {Change.LINK_WENT}


def test_filters_that_somebody_takes_or_adds(agent: Agent) -> None:
    near = agent.veth.near
    Tc().attach(agent.target)
    with LinkWatch() as watch:
        watch.follow({place_of(near).inode: place_of(near)})
        drained(watch)
        Tc().attach(agent.target)
        assert heard(watch, QUIET_S) == []
        for line in (
            "filter add dev va egress protocol ip prio 9 u32 match ip dport 9 0xffff flowid 1:1",
            "filter del dev va egress prio 1",
            "qdisc del dev va clsact",
        ):
            tc(near, line)
            [event, *_] = heard(watch, SOON_S)
            assert (event.change, event.index) == (Change.FILTERS_CHANGED, 2)
            drained(watch)


def test_more_than_can_be_told_says_look(new_netns: Callable[[], Netns]) -> None:
    space = new_netns()
    with LinkWatch() as watch:
        watch.follow({place_of(space).inode: place_of(space)})
        drained(watch)
        space.run("sh", "-c", f"for i in $(seq {FLOOD}); do echo link set lo mtu $((i + 1000)); done | ip -batch -")
        assert Change.LOOK in {event.change for event in heard(watch, SOON_S)}
        drained(watch)
        add_links(space, ["vc", "vd"])
        assert {event.change for event in heard(watch, SOON_S)} == {Change.LINK_CAME}


def test_a_namespace_that_is_let_go_of_ends(new_netns: Callable[[], Netns]) -> None:
    """While it is followed it lives, with its links; afterwards it does not."""
    space, other = new_netns(), new_netns()
    space.ip("link", "add", "vc", "type", "veth", "peer", "name", "vd", "netns", str(other.pid))
    with LinkWatch() as watch:
        watch.follow({place_of(space).inode: place_of(space)})
        space.close()
        time.sleep(QUIET_S)
        assert "vd" in netns.links(place_of(other)).values()
        watch.follow({})
        deadline_s = time.monotonic() + SOON_S
        while "vd" in netns.links(place_of(other)).values():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def test_a_namespace_that_is_gone_is_left_out(new_netns: Callable[[], Netns]) -> None:
    space = new_netns()
    place = place_of(space)
    space.close()
    with LinkWatch() as watch:
        watch.follow({place.inode: place})
        assert heard(watch, 0) == []


@pytest.mark.parametrize("data", [b"", b"\x00" * 16, b"\xff" * 40, b"\x20\x00\x00\x00\x10\x00" + b"\x00" * 4])
def test_what_is_no_message_is_no_news(data: bytes) -> None:
    assert list(parse(data, set())) == []
