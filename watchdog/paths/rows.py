"""How each path of the catalogue is tried in a bed (bed.py): between an agent, its mate in the same network namespace,
a peer across a veth, and a native of a third namespace.

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
GUEST_V4 = "198.51.100.2"
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


class _Rows:
    """Makes the rows of one agent. A socket has the name of its row, at both ends."""

    def __init__(self, who: Who) -> None:
        self._who = who
        self.agent = who.name
        self.child, self.migrant, self.newcomer, self.abroad = (
            f"{who.name}.{each}" for each in ("child", "migrant", "newcomer", "abroad")
        )
        self._ids: list[str] = []

    def port(self, path: str) -> int:
        if path not in self._ids:
            self._ids.append(path)
        return self._who.first_port + PORTS_PER_PATH * self._ids.index(path)

    def name(self, path: str) -> str:
        return f"{self._who.name}/{path}"

    def row(
        self,
        path: str,
        fire: Callable[[Phase, bytes], tuple[Step, ...]],
        expect: Expect | None,
        setup: tuple[Step, ...] = (),
    ) -> Row:
        return Row(path, self._who.name, fire, expect, setup)

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


def rows_of(who: Who) -> list[Row]:
    """Every row for one agent, in the catalogue's order."""
    rows = _Rows(who)
    makers = (_tcp_old, _tcp_new, _udp_out, _udp_in, _raw, _packet, _child, _migrant, _newcomer, _passed, _abroad)
    more = (_families, _xdp, _tun, _inbound, _unix)
    return [row for make in (*makers, *more) for row in make(rows)]


def _tcp_old(r: _Rows) -> list[Row]:
    near, peer_end, mate_end = LOOPBACK_V4, PEER_V4, LOOPBACK_V4
    return [
        _established(r, "E1a", r.agent, "peer", peer_end, sender=r.agent),
        _established(r, "E1b", r.agent, "peer", peer_end, sender="peer"),
        _established(r, "E1c", "peer", r.agent, AGENT_V4, sender=r.agent),
        _established(r, "E1d", "peer", r.agent, AGENT_V4, sender="peer"),
        _established(r, "E1e", r.agent, "mate", mate_end, sender=r.agent),
        _established(r, "E1f", r.agent, "mate", mate_end, sender="mate"),
        _established(r, "E1g", r.agent, r.agent, near, sender=r.agent),
    ]


def _established(r: _Rows, path: str, caller: str, server: str, address: str, sender: str) -> Row:
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


def _tcp_new(r: _Rows) -> list[Row]:
    return [
        _calls(r, "E2a", r.agent, "peer", "tcp4", PEER_V4),
        _calls(r, "E2b", r.agent, "peer", "tcp6", PEER_V6),
        _calls(r, "E2c", r.agent, "mate", "tcp4", LOOPBACK_V4),
        _calls(r, "E2d", r.agent, "peer", "mptcp4", PEER_V4),
    ]


def _calls(r: _Rows, path: str, caller: str, server: str, kind: str, address: str, before: Script = ()) -> Row:
    """A new connection to a port where somebody listens."""
    name, to = r.name(path), [address, r.port(path)]
    calling: Script = [*before, ["make", name, kind], ["connect", name, to]]
    return r.row(
        path,
        lambda _, __: (Step(caller, calling),),
        Expect(caller, name, "connected"),
        (Step(server, listening(name, kind, to)),),
    )


def _udp_out(r: _Rows) -> list[Row]:
    def to(path: str, address: str = PEER_V4) -> list[Any]:
        return [address, r.port(path)]

    connected: Script = [["make", r.name("E3a"), "udp4"], ["connect", r.name("E3a"), to("E3a")]]
    return [
        _sends(r, "E3a", setup=connected),
        _sends(r, "E3b", setup=[["make", r.name("E3b"), "udp4"]], to=to("E3b")),
        _sends(r, "E3c", before=[["make", r.name("E3c"), "udp4"]], to=to("E3c")),
        _sends(r, "E3d", "udp6", before=[["make", r.name("E3d"), "udp6"]], to=to("E3d", PEER_V6)),
        _sends(r, "E3d2", "udp6", setup=[["make", r.name("E3d2"), "udp6"]], to=to("E3d2", PEER_V6)),
        _sends(r, "E3e", before=[["make", r.name("E3e"), "udp4"], ["connect", r.name("E3e"), to("E3e")]]),
        r.row(
            "E3f",
            lambda _, token: (
                Step(
                    r.agent,
                    [["make", r.name("E3f"), "udp4"], ["send", r.name("E3f"), token.hex(), to("E3f", LOOPBACK_V4)]],
                ),
            ),
            r.hears("mate", "E3f"),
            (Step("mate", bound(r.name("E3f"), "udp4", to("E3f", LOOPBACK_V4))),),
        ),
    ]


def _sends(r: _Rows, path: str, kind: str = "udp4", *, setup: Script = (), before: Script = (), to: Any = None) -> Row:
    """The agent's socket, made beforehand or each time, sends to the peer."""
    address = PEER_V6 if kind == "udp6" else PEER_V4
    at_agent = (Step(r.agent, setup),) if setup else ()
    return r.row(
        path,
        lambda _, token: (Step(r.agent, [*before, ["send", r.name(path), token.hex(), to]]),),
        r.hears("peer", path),
        (r.udp_at_peer(path, kind, address), *at_agent),
    )


def _udp_in(r: _Rows) -> list[Row]:
    def from_peer(path: str, token: bytes) -> Step:
        return Step("peer", [["send", r.name(path), token.hex(), [AGENT_V4, r.port(path)]]])

    def unbound(path: str) -> Step:
        return Step("peer", [["make", r.name(path), "udp4"]])

    def at_agent(path: str) -> Script:
        return bound(r.name(path), "udp4", [AGENT_V4, r.port(path)])

    tcp = r.name("E3h") + ".tcp"
    return [
        r.row(
            "E3g",
            lambda _, token: (from_peer("E3g", token),),
            r.hears(r.agent, "E3g"),
            (Step(r.agent, at_agent("E3g")), unbound("E3g")),
        ),
        r.row(
            "E3h",
            lambda _, token: (
                Step(r.agent, [*at_agent("E3h"), *listening(tcp, "tcp4", [AGENT_V4, r.port("E3h")])]),
                from_peer("E3h", token),
            ),
            r.hears(r.agent, "E3h"),
            (unbound("E3h"),),
        ),
    ]


def _raw(r: _Rows) -> list[Row]:
    def echo(path: str, kind: int, address: str, token: bytes) -> Script:
        return [["send", r.name(path), frames.echo_request(kind, token).hex(), [address, 0]]]

    def make(path: str, kind: str) -> Script:
        return [["make", r.name(path), kind]]

    v4, v6 = frames.ECHO_REQUEST_V4, frames.ECHO_REQUEST_V6
    own_header = r.name("E4c")
    return [
        r.row(
            "E4a",
            lambda _, token: (Step(r.agent, [*make("E4a", "icmp4"), *echo("E4a", v4, PEER_V4, token)]),),
            Expect("peer", PEER_ICMP4, "data"),
        ),
        r.row(
            "E4b",
            lambda _, token: (Step(r.agent, echo("E4b", v4, PEER_V4, token)),),
            Expect("peer", PEER_ICMP4, "data"),
            (Step(r.agent, make("E4b", "icmp4")),),
        ),
        r.row(
            "E4c",
            lambda _, token: (
                Step(
                    r.agent,
                    [*make("E4c", "ip4"), ["send", own_header, _datagram(r, "E4c", token).hex(), [PEER_V4, 0]]],
                ),
            ),
            r.hears("peer", "E4c"),
            (r.udp_at_peer("E4c"),),
        ),
        r.row(
            "E4d",
            lambda _, token: (Step(r.agent, [*make("E4d", "icmp6"), *echo("E4d", v6, PEER_V6, token)]),),
            Expect("peer", PEER_ICMP6, "data"),
        ),
        r.row(
            "E15d",
            lambda _, token: (Step(r.agent, [*make("E15d", "ping4"), *echo("E15d", v4, PEER_V4, token)]),),
            Expect("peer", PEER_ICMP4, "data"),
        ),
    ]


def _datagram(r: _Rows, path: str, token: bytes, source: str = AGENT_V4) -> bytes:
    return frames.udp_in_ipv4(source, PEER_V4, r.port(path), token)


def _frame(r: _Rows, path: str, token: bytes) -> str:
    packet = _datagram(r, path, token)
    return frames.ethernet(PEER_MAC, AGENT_MAC, frames.ETHERTYPE_IPV4, packet).hex()


def _packet(r: _Rows) -> list[Row]:
    def made(path: str, *, bypass: bool = False) -> Script:
        past = [["bypass", r.name(path)]] if bypass else []
        return [["make", r.name(path), "packet"], *past, ["bind", r.name(path), [DEVICE, 0]]]

    sniffer = r.name("E5c")
    return [
        _frames(r, "E5a", new=made("E5a")),
        _frames(r, "E5b", old=made("E5b")),
        r.row(
            "E5c",
            lambda _, token: (
                Step(r.agent, bound(sniffer, "packet", [DEVICE, ALL_PROTOCOLS])),
                Step("peer", [["send", sniffer, token.hex(), [AGENT_V4, r.port("E5c")]]]),
            ),
            r.hears(r.agent, "E5c"),
            (
                Step("mate", bound(sniffer, "udp4", [AGENT_V4, r.port("E5c")])),
                Step("peer", [["make", sniffer, "udp4"]]),
            ),
        ),
        _frames(r, "E6a", new=made("E6a", bypass=True)),
        _frames(r, "E6b", old=made("E6b", bypass=True)),
    ]


def _frames(r: _Rows, path: str, *, new: Script = (), old: Script = ()) -> Row:
    at_agent = (Step(r.agent, old),) if old else ()
    return r.row(
        path,
        lambda _, token: (Step(r.agent, [*new, ["send", r.name(path), _frame(r, path, token)]]),),
        r.hears("peer", path),
        (r.udp_at_peer(path), *at_agent),
    )


def _child(r: _Rows) -> list[Row]:
    udp = r.name("E7a")
    return [
        r.row(
            "E7a",
            lambda _, token: (
                Step(r.child, [["make", udp, "udp4"], ["send", udp, token.hex(), [PEER_V4, r.port("E7a")]]]),
            ),
            r.hears("peer", "E7a"),
            (r.udp_at_peer("E7a"),),
        ),
        _calls(r, "E7b", r.child, "peer", "tcp4", PEER_V4),
    ]


def _migrant(r: _Rows) -> list[Row]:
    """It leaves by itself each time; the bed takes it back in between."""
    leave: Script = [["write", r._who.elsewhere, "0"]]
    old, new = r.name("E8a"), r.name("E8b")
    return [
        r.row(
            "E8a",
            lambda _, token: (Step(r.migrant, [*leave, ["send", old, token.hex(), [PEER_V4, r.port("E8a")]]]),),
            r.hears("peer", "E8a"),
            (r.udp_at_peer("E8a"), Step(r.migrant, [["make", old, "udp4"]])),
        ),
        r.row(
            "E8b",
            lambda _, token: (
                Step(r.migrant, [*leave, ["make", new, "udp4"], ["send", new, token.hex(), [PEER_V4, r.port("E8b")]]]),
            ),
            r.hears("peer", "E8b"),
            (r.udp_at_peer("E8b"),),
        ),
        _calls(r, "E8c", r.migrant, "peer", "tcp4", PEER_V4, before=leave),
    ]


def _newcomer(r: _Rows) -> list[Row]:
    """The bed moves it in after the preparation."""
    udp, listener = r.name("E9c"), r.name("E9d")
    at_newcomer = [AGENT_V4, r.port("E9d")]
    return [
        _established(r, "E9a", r.newcomer, "peer", PEER_V4, sender=r.newcomer),
        _established(r, "E9b", r.newcomer, "peer", PEER_V4, sender="peer"),
        r.row(
            "E9c",
            lambda _, token: (Step(r.newcomer, [["send", udp, token.hex(), [PEER_V4, r.port("E9c")]]]),),
            r.hears("peer", "E9c"),
            (r.udp_at_peer("E9c"), Step(r.newcomer, [["make", udp, "udp4"]])),
        ),
        r.row(
            "E9d",
            lambda _, __: (Step("peer", [["make", listener, "tcp4"], ["connect", listener, at_newcomer]]),),
            Expect("peer", listener, "connected"),
            (Step(r.newcomer, listening(listener, "tcp4", at_newcomer)),),
        ),
    ]


def _passed(r: _Rows) -> list[Row]:
    """Over a unix connection that the agent and its mate have had since before."""
    return [_passed_tcp(r), _passed_udp(r), _passed_listener(r), _passed_out(r)]


def _unix_link(r: _Rows, path: str) -> tuple[Step, ...]:
    """A connection between agent and mate, called ".link" at both ends."""
    listener, link, place = r.name(path) + ".at", r.name(path) + ".link", f"{r._who.folder}/{r._who.name}-{path}"
    return (
        Step("mate", listening(listener, "unix_stream", place)),
        Step(r.agent, [["make", link, "unix_stream"], ["dial", link, place, DIAL_S]]),
        Step("mate", [["accept", listener, link, DIAL_S]]),
    )


def _passed_tcp(r: _Rows) -> Row:
    name, link, to = r.name("E10a"), r.name("E10a") + ".link", [PEER_V4, r.port("E10a")]
    return r.row(
        "E10a",
        lambda _, token: (
            Step("mate", [["make", name, "tcp4"], ["dial", name, to, DIAL_S], ["pass_over", name, link]]),
            Step(r.agent, [["take", name, link, TAKE_S], ["send", name, token.hex()]]),
        ),
        Expect("peer", name, "accepted"),
        (*_unix_link(r, "E10a"), Step("peer", listening(name, "tcp4", to))),
    )


def _passed_udp(r: _Rows) -> Row:
    name, link, to = r.name("E10b"), r.name("E10b") + ".link", [PEER_V4, r.port("E10b")]
    return r.row(
        "E10b",
        lambda _, token: (
            Step("mate", [["make", name, "udp4"], ["pass_over", name, link]]),
            Step(r.agent, [["take", name, link, TAKE_S], ["send", name, token.hex(), to]]),
        ),
        r.hears("peer", "E10b"),
        (*_unix_link(r, "E10b"), r.udp_at_peer("E10b")),
    )


def _passed_listener(r: _Rows) -> Row:
    name, link = r.name("E10c"), r.name("E10c") + ".link"

    def fire(phase: Phase, token: bytes) -> tuple[Step, ...]:
        to = [AGENT_V4, r.port("E10c") + phase.number]  # the agent may still have the last one
        return (
            Step("mate", [*listening(name, "tcp4", to), ["pass_over", name, link], ["close", name]]),
            Step(r.agent, [["take", name, link, TAKE_S]]),
            Step("peer", [["make", name, "tcp4"], ["dial", name, to, DIAL_S], ["send", name, token.hex()]]),
        )

    return r.row("E10c", fire, Expect(r.agent, name, "accepted"), _unix_link(r, "E10c"))


def _passed_out(r: _Rows) -> Row:
    name, link, to = r.name("E10d"), r.name("E10d") + ".link", [PEER_V4, r.port("E10d")]
    return r.row(
        "E10d",
        lambda _, token: (
            Step(r.agent, [["pass_over", name, link]]),
            Step("mate", [["take", name, link, TAKE_S], ["send", name, token.hex()]]),
        ),
        r.hears("peer", "E10d"),
        (
            *_unix_link(r, "E10d"),
            r.udp_at_peer("E10d"),
            Step(r.agent, [["make", name, "udp4"], ["connect", name, to]]),
        ),
    )


def _abroad(r: _Rows) -> list[Row]:
    enter: Script = [["enter_netns", r._who.native_netns]]
    udp, to = r.name("E11a"), [LOOPBACK_V4, r.port("E11a")]
    return [
        r.row(
            "E11a",
            lambda _, token: (Step(r.abroad, [*enter, ["make", udp, "udp4"], ["send", udp, token.hex(), to]]),),
            r.hears("native", "E11a"),
            (Step("native", bound(udp, "udp4", to)),),
        ),
        _calls(r, "E11b", r.abroad, "native", "tcp4", LOOPBACK_V4, before=enter),
    ]


def _families(r: _Rows) -> list[Row]:
    def only(path: str, *script: list[Any]) -> Row:
        return r.row(path, lambda _, __: (Step(r.agent, script),), None)

    return [
        only("E12a", ["make", r.name("E12a"), "vsock"]),
        only("E12b", ["make", r.name("E12b"), "xdp"]),
        only("E12c", ["make", r.name("E12c"), "netlink"]),
        only("E14", ["ask_bpf"]),
    ]


def _xdp(r: _Rows) -> list[Row]:
    def ready(path: str, queue: int) -> Script:
        return [["make", r.name(path), "xdp"], ["xdp_bind", r.name(path), DEVICE, queue]]

    new, old = r.name("E12d"), r.name("E12e")
    return [
        r.row(
            "E12d",
            lambda phase, token: (
                Step(
                    r.agent,
                    [*ready("E12d", 1 + phase.number % (QUEUES - 1)), ["xdp_send", new, _frame(r, "E12d", token)]],
                ),
            ),
            r.hears("peer", "E12d"),
            (r.udp_at_peer("E12d"),),
        ),
        r.row(
            "E12e",
            lambda _, token: (Step(r.agent, [["xdp_send", old, _frame(r, "E12e", token)]]),),
            r.hears("peer", "E12e"),
            (r.udp_at_peer("E12e"), Step(r.agent, ready("E12e", 0))),
        ),
    ]


def _tun(r: _Rows) -> list[Row]:
    def attached(path: str, device: str) -> Script:
        return [["tun_open", r.name(path)], ["tun_attach", r.name(path), device]]

    def packet(path: str, token: bytes) -> list[str]:
        return ["tun_send", r.name(path), _datagram(r, path, token, GUEST_V4).hex()]

    return [
        r.row(
            "E12f",
            lambda _, token: (Step(r.agent, [*attached("E12f", TUN_NEW), packet("E12f", token)]),),
            r.hears("peer", "E12f"),
            (r.udp_at_peer("E12f"),),
        ),
        r.row(
            "E12g",
            lambda _, token: (Step(r.agent, [packet("E12g", token)]),),
            r.hears("peer", "E12g"),
            (r.udp_at_peer("E12g"), Step(r.agent, attached("E12g", TUN_OLD))),
        ),
    ]


def _inbound(r: _Rows) -> list[Row]:
    def call(path: str) -> Step:
        name = r.name(path)
        return Step("peer", [["make", name, "tcp4"], ["connect", name, [AGENT_V4, r.port(path)]]])

    ping = frames.ECHO_REQUEST_V4
    return [
        r.row(
            "E15a",
            lambda _, __: (call("E15a"),),
            Expect("peer", r.name("E15a"), "connected"),
            (Step(r.agent, listening(r.name("E15a"), "tcp4", [AGENT_V4, r.port("E15a")])),),
        ),
        r.row("E15b", lambda _, __: (call("E15b"),), Expect("peer", r.name("E15b"), "refused")),
        r.row(
            "E15c",
            lambda _, token: (
                Step("peer", [["send", PEER_ICMP4, frames.echo_request(ping, token).hex(), [AGENT_V4, 0]]]),
            ),
            Expect("peer", PEER_ICMP4, "data"),
        ),
    ]


def _unix(r: _Rows) -> list[Row]:
    def place(path: str) -> str:
        return f"{r._who.folder}/{r._who.name}-{path}"

    def streams(path: str, to: str) -> Row:
        name = r.name(path)
        return r.row(
            path,
            lambda _, token: (
                Step(r.agent, [["make", name, "unix_stream"], ["connect", name, to], ["send", name, token.hex()]]),
            ),
            Expect("mate", name, "accepted"),
            (Step("mate", listening(name, "unix_stream", to)),),
        )

    def datagrams(path: str, *, connected: bool) -> Row:
        name, to = r.name(path), place(path)
        sending = [["connect", name, to], ["send", name]] if connected else [["send", name]]
        after: list[str] = [] if connected else [to]
        return r.row(
            path,
            lambda _, token: (
                Step(r.agent, [["make", name, "unix_dgram"], *sending[:-1], [*sending[-1], token.hex(), *after]]),
            ),
            r.hears("mate", path),
            (Step("mate", bound(name, "unix_dgram", to)),),
        )

    link = r.name("E16a") + ".link"
    return [
        r.row(
            "E16a",
            lambda _, token: (Step(r.agent, [["send", link, token.hex()]]),),
            Expect("mate", link, "data"),
            _unix_link(r, "E16a"),
        ),
        streams("E16b", place("E16b")),
        streams("E16c", f"@watchdog-{r._who.folder}-{r._who.name}"),
        datagrams("E16d", connected=True),
        datagrams("E16e", connected=False),
    ]
