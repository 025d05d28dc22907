"""The ways out of a network namespace, link by link: which of them end in a veth whose other end can be cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from watchdog.kernel import netns, tc
from watchdog.kernel.netns import Netns, NetnsGone
from watchdog.kernel.tc import Door
from watchdog.kernel.tc_messages import Link

VETH = "veth"

_TUNNELS = "ipip sit gre gretap erspan ip6tnl ip6gre ip6gretap ip6erspan ip_vti ip6_vti vxlan geneve"

STACKED = frozenset(f"bridge bond team vlan vrf dummy ifb nlmon macvlan macvtap ipvlan {VETH} {_TUNNELS}".split())
"""Kinds of links that lead nowhere but over others of their namespace, unless the kernel names another for them."""

HOSTS_LINK = "it is in the host's own network namespace, whose links are not to be touched"


@dataclass
class Ends:
    """What can be cut, and what stands against it."""

    found: dict[int, tuple[Netns, dict[int, str]]] = field(default_factory=dict)
    """By namespace inode: the links to cut there, index to name."""
    problems: list[str] = field(default_factory=list)
    """Ways out that stay open, a sentence each."""

    def by_place(self) -> Iterator[tuple[Netns, Mapping[int, str]]]:
        """The links to cut, namespace by namespace."""
        yield from self.found.values()


def ends_of(spaces: Mapping[int, Netns], pids: Collection[int], *, in_host: bool, named: str = "") -> Ends:
    """The other ends of the ways out of these namespaces, in which nobody but these processes may live.

    `in_host`: whether an end in one of the host's own namespaces may be cut. `named`: a veth there that an operator
    has named, for the way out whose other end is not found or may not be cut.
    """
    ends = Ends()
    for place in spaces.values():
        try:
            if others := netns.strangers(place.inode, pids):
                ends.problems.append(f"{place} cannot be cut off: {netns.listed(others)} would be cut off with it")
            else:
                _look_around(place, spaces, in_host, named, ends)
        except NetnsGone:
            continue
    return ends


def leads_out(link: Link) -> bool:
    """Whether frames can leave the namespace by this link itself."""
    if link.is_loopback:
        return False
    return link.other_nsid is not None or link.kind not in STACKED


def _look_around(place: Netns, own: Mapping[int, Netns], in_host: bool, named: str, ends: Ends) -> None:
    with tc.opened(place) as door:
        ways = [link for link in door.links() if leads_out(link)]
        neighbours = _neighbours(door, {link.other_nsid for link in ways if link.kind == VETH})
    for link in ways:
        other = neighbours.get(link.other_nsid) if link.other_nsid is not None else None
        if other is not None and other.inode in own:
            continue  # from one namespace of its own to another
        problem = _why_not(link, other, in_host) or _note_end(place, link, other, ends)
        if problem and not _note_named(place, link, named, ends):
            ends.problems.append(f"{link.name} in {place} stays open: {problem}")


def _why_not(link: Link, other: Netns | None, in_host: bool) -> str:
    if link.kind != VETH:
        return f"{link.kind or 'hardware'} has no other end that could be cut"
    if other is None:
        return "the namespace of its other end cannot be found"
    return "" if in_host or other.inode not in netns.hosts_own() else HOSTS_LINK


def _note_end(place: Netns, link: Link, other: Netns | None, ends: Ends) -> str:
    """Remember the other end, once it has said itself that this link is its other end."""
    assert other is not None
    with netns.opened(place) as fd, tc.opened(other) as door:
        found = next((each for each in door.links() if each.index == link.other_index), None)
        back = door.number_of(fd)  # listing the links may be what gives us a number there
    if found is None or (found.kind, found.other_index, found.other_nsid) != (VETH, link.index, back):
        return "its other end is not where it says"
    ends.found.setdefault(other.inode, (other, {}))[1][found.index] = found.name
    return ""


def _note_named(place: Netns, link: Link, named: str, ends: Ends) -> bool:
    """Whether the named veth of the host may be this link's other end; it is remembered then.

    Veths of many namespaces have the same index: where the host has a number for this one, that has to be right, too.
    """
    for host in netns.hosts_own().values() if named and link.kind == VETH else ():
        with suppress(NetnsGone), netns.opened(place) as fd, tc.opened(host) as door:
            there = [
                each for each in door.links() if (each.name, each.kind, each.other_index) == (named, VETH, link.index)
            ]
            number = door.number_of(fd)
            for each in there:
                if number in {None, each.other_nsid}:
                    ends.found.setdefault(host.inode, (host, {}))[1][each.index] = each.name
                    return True
    return False


def _neighbours(door: Door, wanted: Collection[int | None]) -> dict[int, Netns]:
    """The namespaces that this one calls by these numbers. The host's own first, where most veths lead."""
    found: dict[int, Netns] = {}
    for other in _hosts_own_first() if wanted else ():
        with suppress(NetnsGone), netns.opened(other) as fd:
            number = door.number_of(fd)
            if number in wanted and number is not None:
                found[number] = other
        if len(found) == len(wanted):
            break
    return found


def _hosts_own_first() -> Iterator[Netns]:
    hosts = netns.hosts_own()
    yield from hosts.values()
    yield from (place for inode, place in netns.all_visible().items() if inode not in hosts)
