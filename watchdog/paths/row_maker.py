"""What the rows of a bed are made with: its addresses, and the shapes that many rows have.

A row is prepared before the isolation and then tried again and again, each time with another token. What counts is what
arrives, not what the sender is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from watchdog.paths import frames
from watchdog.paths.actor import Script
from watchdog.paths.play import Expect, Phase, Row, Step

AGENT_V4, PEER_V4, LOOPBACK_V4 = "192.0.2.1", "192.0.2.2", "127.0.0.1"
AGENT_V6, PEER_V6 = "2001:db8::1", "2001:db8::2"
GUEST_V4, GUEST_NETWORK = "198.51.100.2", "198.51.100.0/24"
"""Behind the TUN interfaces. All are documentation addresses (RFC 5737, RFC 3849)."""

DEVICE, FAR_DEVICE = "va", "vb"
AGENT_MAC, PEER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
QUEUES = 8
"""Of the agent's device. An AF_XDP socket holds its queue a moment longer than it lives, so each try takes another."""
TUN_NEW, TUN_OLD = "wdt0", "wdt1"

DIAL_S = 0.3
"""For a handshake of two processes that both run; a dropped SYN is repeated after 1 s only."""
TAKE_S = 0.2

PORTS_PER_PATH = 16
IPV4, IPV6 = 4, 6
ALL_PROTOCOLS = 3
"""ETH_P_ALL."""

PEER_ICMP4, PEER_ICMP6 = "icmp4", "icmp6"
"""The peer's raw sockets, which hear every echo request that arrives there."""


@dataclass(frozen=True, slots=True)
class Who:
    """One agent in the bed: its name begins those of its processes, and it has ports of its own."""

    name: str
    first_port: int
    folder: str
    """Where unix sockets are."""
    native_netns: str
    elsewhere: str
    """cgroup.procs of a cgroup that is not isolated."""


class RowMaker:
    """Makes the rows of one agent. A socket has the name of its row, at both ends."""

    def __init__(self, who: Who) -> None:
        self.who = who
        self.agent = who.name
        self.child, self.migrant, self.newcomer, self.abroad = (
            f"{who.name}.{each}" for each in ("child", "migrant", "newcomer", "abroad")
        )
        self._ids: list[str] = []

    def port(self, path: str) -> int:
        if path not in self._ids:
            self._ids.append(path)
        return self.who.first_port + PORTS_PER_PATH * self._ids.index(path)

    def name(self, path: str) -> str:
        return f"{self.who.name}/{path}"

    def row(
        self,
        path: str,
        fire: Callable[[Phase, bytes], tuple[Step, ...]],
        expect: Expect | None,
        setup: tuple[Step, ...] = (),
        arrives: Callable[[bytes], bytes] = bytes,
    ) -> Row:
        return Row(path, self.who.name, fire, expect, setup, arrives=arrives)

    def hears(self, actor: str, path: str, suffix: str = "") -> Expect:
        return Expect(actor, self.name(path) + suffix, "data")

    def udp_at_peer(self, path: str, kind: str = "udp4", address: str = PEER_V4) -> Step:
        return Step("peer", bound(self.name(path), kind, [address, self.port(path)]))


def bound(name: str, kind: str, address: Any) -> Script:
    """A socket bound to an address."""
    return [["make", name, kind], ["bind", name, address]]


def listening(name: str, kind: str, address: Any) -> Script:
    """A socket that listens."""
    return [*bound(name, kind, address), ["listen", name]]


def established(r: RowMaker, path: str, caller: str, server: str, address: str, sender: str) -> Row:
    """A connection between two actors made beforehand: the caller's end has the row's name, the server's ".in"."""
    name, inner = r.name(path), r.name(path) + ".in"
    setup = (
        Step(server, listening(name + ".listen", "tcp4", [address, r.port(path)])),
        Step(caller, [["make", name, "tcp4"], ["dial", name, [address, r.port(path)], DIAL_S]]),
        Step(server, [["accept", name + ".listen", inner, DIAL_S]]),
    )
    from_caller = sender == caller
    sending, hearing = (name, inner) if from_caller else (inner, name)
    return r.row(
        path,
        lambda _, token: (Step(sender, [["send", sending, token.hex()]]),),
        Expect(server if from_caller else caller, hearing, "data"),
        setup,
    )


def calls(r: RowMaker, path: str, caller: str, server: str, kind: str, address: str, before: Script = ()) -> Row:
    """A new connection to a port where somebody listens; the one made before is closed, also where `before` fails."""
    name, to = r.name(path), [address, r.port(path)]
    calling: Script = [["close", name], *before, ["make", name, kind], ["connect", name, to]]
    return r.row(
        path,
        lambda _, __: (Step(caller, calling),),
        Expect(caller, name, "connected"),
        (Step(server, listening(name, kind, to)),),
    )


def sends(
    r: RowMaker, path: str, kind: str = "udp4", *, setup: Script = (), before: Script = (), to: Any = None
) -> Row:
    """The agent's socket, made beforehand or each time, sends to the peer."""
    address = PEER_V6 if kind == "udp6" else PEER_V4
    at_agent = (Step(r.agent, setup),) if setup else ()
    return r.row(
        path,
        lambda _, token: (Step(r.agent, [*before, ["send", r.name(path), token.hex(), to]]),),
        r.hears("peer", path),
        (r.udp_at_peer(path, kind, address), *at_agent),
    )


def joins(r: RowMaker, path: str, actor: str, *, family: int, is_old: bool = False) -> Row:
    """A membership in a group that the token chooses: the kernel reports it to the link, where the peer listens. The
    socket was made beforehand, or is made each time."""
    name, make = r.name(path), [["make", r.name(path), f"udp{family}"]]
    group = frames.group_v4 if family == IPV4 else frames.group_v6
    kind = frames.ETHERTYPE_IPV4 if family == IPV4 else frames.ETHERTYPE_IPV6
    at_actor = (Step(actor, make),) if is_old else ()
    return r.row(
        path,
        lambda _, token: (Step(actor, [*([] if is_old else make), ["join", name, str(group(token)), DEVICE]]),),
        r.hears("peer", path),
        (Step("peer", bound(name, "packet", [FAR_DEVICE, kind])), *at_actor),
        lambda token: group(token).packed,
    )


def unix_link(r: RowMaker, path: str, mate: str = "mate") -> tuple[Step, ...]:
    """A connection between agent and mate, called ".link" at both ends."""
    listener, link, place = r.name(path) + ".at", r.name(path) + ".link", f"{r.who.folder}/{r.who.name}-{path}"
    return (
        Step(mate, listening(listener, "unix_stream", place)),
        Step(r.agent, [["make", link, "unix_stream"], ["dial", link, place, DIAL_S]]),
        Step(mate, [["accept", listener, link, DIAL_S]]),
    )


def datagram(r: RowMaker, path: str, token: bytes, source: str = AGENT_V4) -> bytes:
    return frames.udp_in_ipv4(source, PEER_V4, r.port(path), token)


def frame_of(r: RowMaker, path: str, token: bytes) -> str:
    packet = datagram(r, path, token)
    return frames.ethernet(PEER_MAC, AGENT_MAC, frames.ETHERTYPE_IPV4, packet).hex()
