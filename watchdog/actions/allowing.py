"""What an isolated target may still reach: from what was asked for to the kernel, and back to whether it is so."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

from watchdog import allowlist, config
from watchdog.actions import programs
from watchdog.actions.ownership import port_of
from watchdog.actions.place import Place
from watchdog.allowlist import ICMP, TCP, UDP, Entry
from watchdog.clock import Moment
from watchdog.errors import UsageError, WatchdogError
from watchdog.host import ports
from watchdog.intents import Allowed, Intent, Until
from watchdog.kernel import allow, cgroups
from watchdog.kernel.allow import Rule, Way
from watchdog.kernel.programs import ALLOW_MAP
from watchdog.kernel.slots import Slot
from watchdog.status import published

NS_PER_S = 1_000_000_000
OVER_NS = 1
"""Long ago, and not FOREVER_NS."""

LOOKUP_S = 2.0
"""For the name in an endpoint; a numeric one needs none."""

IP_PROTOCOLS = {TCP: (6, 6), UDP: (17, 17), ICMP: (1, 58)}
"""By IPv4 and by IPv6."""

Default = Callable[[], tuple[Allowed, ...]]
"""What is allowed where nobody says: asked when an isolation begins."""


def nothing() -> tuple[Allowed, ...]:
    """The default of defaults: not even DNS, not even loopback."""
    return ()


def given(texts: Iterable[str], option: str, at: Moment) -> tuple[Allowed, ...]:
    """Entries as an operator wrote them. Raises UsageError with everything that is wrong with them."""
    entries, problems = allowlist.parse_all(texts)
    if problems:
        raise UsageError("; ".join(f"{option} {problem}" for problem in problems))
    return tuple(_allowed(entry, at) for entry in entries)


def configured(settings: config.Config, peer: str, at: Moment) -> tuple[Allowed, ...]:
    """What the configuration allows; a watcher's way to the heartbeat where that is wanted and known."""
    found = given(settings.isolation.allow, "isolation.allow", at)
    known = settings.peer(peer)
    if settings.isolation.allow_heartbeat and known is not None:
        try:
            return (*found, *heartbeat(known))
        except UsageError:
            return found  # nobody stays open, or cut off less, because a name cannot be looked up
    return found


def _allowed(entry: Entry, at: Moment) -> Allowed:
    until = None
    if entry.span_s is not None:
        until = Until(at.utc + timedelta(seconds=entry.span_s), at.s + entry.span_s, at.boot)
    return Allowed(str(entry), until)


def heartbeat(peer: config.Peer) -> tuple[Allowed, ...]:
    """The way of this host's watchers to the peer's endpoint, from the address that this host asks it from.

    Raises UsageError where its name cannot be looked up, or where there is no way to it.
    """
    ways = {(_source(each[0], each[4][:2]), not ports.is_local(each[4][0])) for each in _addresses(peer)}
    found = [
        Allowed(str(Entry(ip_network(source), port_of(peer.endpoint), TCP)), inward=True, far=far)
        for source, far in sorted(ways)
        if source
    ]
    if not found:
        raise UsageError(f"this host has no way to the heartbeat of {peer.name} at {peer.endpoint}")
    return tuple(found)


def _addresses(peer: config.Peer) -> list[tuple[Any, ...]]:
    from watchdog.probe.exchange import Missed
    from watchdog.probe.resolver import Resolver

    try:
        return Resolver().addresses(urlsplit(peer.endpoint).hostname or "", port_of(peer.endpoint), LOOKUP_S)
    except (Missed, TimeoutError) as error:
        raise UsageError(
            f"the heartbeat of {peer.name} cannot be let through: {error or 'its name was not found in time'}",
            hint="write its endpoint with an address",
        ) from error


def _source(family: int, address: tuple[str, int]) -> str:
    """The address that the kernel sends from to that one; empty where it knows no way. Nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(address)
        except OSError:
            return ""
        source: str = asking.getsockname()[0]
        return source


# In the kernel


def rules(allowed: Sequence[Allowed]) -> list[Rule]:
    """What each entry means in the kernel: TCP and UDP where no protocol is named."""
    return [rule for each in allowed for rule in _rules(each)]


def _rules(allowed: Allowed) -> Iterator[Rule]:
    entry = allowlist.parse(allowed.entry)
    until_ns = max(OVER_NS, int(allowed.until.s * NS_PER_S)) if allowed.until else allow.FOREVER_NS
    way = Way.FAR if allowed.far else Way.INWARD if allowed.inward else Way.OUTWARD
    for name in (entry.protocol,) if entry.protocol else (TCP, UDP):
        protocol = IP_PROTOCOLS[name][isinstance(entry.network, IPv6Network)]
        yield Rule(entry.network, protocol, entry.port or 0, way, until_ns)


def on_this_boot(allowed: Sequence[Allowed], at: Moment) -> tuple[Allowed, ...]:
    """The same after a reboot: what is left of the time of each, by the wall clock."""
    return tuple(replace(each, until=_on_this_boot(each.until, at)) for each in allowed)


def _on_this_boot(until: Until | None, at: Moment) -> Until | None:
    if until is None or until.boot == at.boot:
        return until
    return Until(until.utc, max(0.0, at.s + (until.utc - at.utc).total_seconds()), at.boot)


def put_in_force(intent: Intent, slot: Slot, place: Place) -> str:
    """Exchange the kernel's list for the intent's where it is another; why that was not possible, or "".

    A failure keeps nobody from being cut off: less passes then than was meant, not more.
    """
    try:
        allow.install(slot.maps[ALLOW_MAP], compiled(intent, place))
    except WatchdogError as error:
        return error.one_line()
    return ""


def let_watchers_in(intent: Intent, place: Place) -> str:
    """Watchers begin anew, each time in another cgroup: the list says who they are now. With the lock held.

    Why that was not possible, or "": nothing else of an isolation waits for it.
    """
    map_id = allow.place_of(programs.ids(intent.held_by).values())
    if not any(each.inward for each in intent.why.allow or ()) or map_id is None or gap(intent):
        return ""
    try:
        allow.install(map_id, compiled(intent, place))
    except WatchdogError as error:
        return f"the watchers are not let in: {error.one_line()}"
    return ""


def gap(intent: Intent) -> str:
    """What is wrong with what passes; "" where it is what was meant. Who watches is seen to by every sweep."""
    wanted = allow.compiled(rules(intent.why.allow or ()))
    map_id = allow.place_of(programs.ids(intent.held_by).values())
    if map_id is None or allow.without_watchers(allow.installed(map_id)) == wanted:
        return "" if map_id is not None or not wanted else "its programs are of a version without allow-lists"
    return "the allow-list in the kernel is not the one that is meant"


def let_in(intent: Intent, place: Place) -> tuple[str, ...] | None:
    """The cgroups whose sockets may ask for its heartbeat over loopback now; None where no heartbeat is allowed."""
    map_id = allow.place_of(programs.ids(intent.held_by).values())
    if map_id is None or not any(each.inward for each in intent.why.allow or ()):
        return None
    found = (cgroups.by_id(each, place.root) for each in allow.watchers_in(allow.installed(map_id)))
    return tuple(sorted(str(cgroup.path) for cgroup in found if cgroup is not None))


def compiled(intent: Intent, place: Place) -> dict[bytes, int]:
    """The list as the kernel is to have it."""
    allowed = intent.why.allow or ()
    return allow.compiled(rules(allowed), _watchers(place) if any(each.inward for each in allowed) else ())


def _watchers(place: Place) -> set[int]:
    """The cgroups of this host's watchers, by id: a socket is of the cgroup in which it was made."""
    found = set()
    for pid in published.pids(place.run):
        with suppress(WatchdogError):  # it has ended meanwhile
            found.add(cgroups.of_pid(pid, place.root).inode)
    return found
