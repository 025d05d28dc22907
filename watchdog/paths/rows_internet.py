"""Rows of TCP, UDP and ICMP, out and in."""

from __future__ import annotations

from typing import Any

from watchdog.paths import frames
from watchdog.paths.actor import Script
from watchdog.paths.play import Expect, Row, Step
from watchdog.paths.row_maker import (
    AGENT_V4,
    IPV4,
    IPV6,
    LOOPBACK_V4,
    PEER_ICMP4,
    PEER_ICMP6,
    PEER_V4,
    PEER_V6,
    RowMaker,
    bound,
    calls,
    datagram,
    established,
    joins,
    listening,
    sends,
)


def tcp_old(r: RowMaker) -> list[Row]:
    near, peer_end, mate_end = LOOPBACK_V4, PEER_V4, LOOPBACK_V4
    return [
        established(r, "E1a", r.agent, "peer", peer_end, sender=r.agent),
        established(r, "E1b", r.agent, "peer", peer_end, sender="peer"),
        established(r, "E1c", "peer", r.agent, AGENT_V4, sender=r.agent),
        established(r, "E1d", "peer", r.agent, AGENT_V4, sender="peer"),
        established(r, "E1e", r.agent, "mate", mate_end, sender=r.agent),
        established(r, "E1f", r.agent, "mate", mate_end, sender="mate"),
        established(r, "E1g", r.agent, r.agent, near, sender=r.agent),
    ]


def tcp_new(r: RowMaker) -> list[Row]:
    return [
        calls(r, "E2a", r.agent, "peer", "tcp4", PEER_V4),
        calls(r, "E2b", r.agent, "peer", "tcp6", PEER_V6),
        calls(r, "E2c", r.agent, "mate", "tcp4", LOOPBACK_V4),
        calls(r, "E2d", r.agent, "peer", "mptcp4", PEER_V4),
    ]


def udp_out(r: RowMaker) -> list[Row]:
    def to(path: str, address: str = PEER_V4) -> list[Any]:
        return [address, r.port(path)]

    connected: Script = [["make", r.name("E3a"), "udp4"], ["connect", r.name("E3a"), to("E3a")]]
    return [
        sends(r, "E3a", setup=connected),
        sends(r, "E3b", setup=[["make", r.name("E3b"), "udp4"]], to=to("E3b")),
        sends(r, "E3c", before=[["make", r.name("E3c"), "udp4"]], to=to("E3c")),
        sends(r, "E3d", "udp6", before=[["make", r.name("E3d"), "udp6"]], to=to("E3d", PEER_V6)),
        sends(r, "E3d2", "udp6", setup=[["make", r.name("E3d2"), "udp6"]], to=to("E3d2", PEER_V6)),
        sends(r, "E3e", before=[["make", r.name("E3e"), "udp4"], ["connect", r.name("E3e"), to("E3e")]]),
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


def udp_in(r: RowMaker) -> list[Row]:
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


def raw(r: RowMaker) -> list[Row]:
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
                    [*make("E4c", "ip4"), ["send", own_header, datagram(r, "E4c", token).hex(), [PEER_V4, 0]]],
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


def multicast(r: RowMaker) -> list[Row]:
    return [joins(r, "E15e", r.agent, family=IPV4), joins(r, "E15f", r.agent, family=IPV6)]


def inbound(r: RowMaker) -> list[Row]:
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
