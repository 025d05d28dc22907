"""Rows of what goes past the sockets of TCP and UDP: packet and AF_XDP sockets, TUN, other families, bpf()."""

from __future__ import annotations

from typing import Any

from watchdog.paths.actor import Script
from watchdog.paths.play import Row, Step
from watchdog.paths.row_maker import (
    AGENT_V4,
    ALL_PROTOCOLS,
    DEVICE,
    GUEST_V4,
    QUEUES,
    TUN_NEW,
    TUN_OLD,
    RowMaker,
    bound,
    datagram,
    frame_of,
)


def packet(r: RowMaker) -> list[Row]:
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


def _frames(r: RowMaker, path: str, *, new: Script = (), old: Script = ()) -> Row:
    at_agent = (Step(r.agent, old),) if old else ()
    return r.row(
        path,
        lambda _, token: (Step(r.agent, [*new, ["send", r.name(path), frame_of(r, path, token)]]),),
        r.hears("peer", path),
        (r.udp_at_peer(path), *at_agent),
    )


def families(r: RowMaker) -> list[Row]:
    def only(path: str, *script: list[Any]) -> Row:
        return r.row(path, lambda _, __: (Step(r.agent, script),), None)

    message, to = r.name("E12c"), [r.port("E12c"), 0]
    return [
        only("E12a", ["make", r.name("E12a"), "vsock"]),
        only("E12b", ["make", r.name("E12b"), "xdp"]),
        r.row(
            "E12c",
            lambda _, token: (Step(r.agent, [["make", message, "usersock"], ["send", message, token.hex(), to]]),),
            r.hears("mate", "E12c"),
            (Step("mate", bound(message, "usersock", to)),),
        ),
        only("E12h", ["make_other", r.name("E12h")]),
        only("E14", ["ask_bpf"]),
        only("E14b", ["ask_links"]),
    ]


def xdp(r: RowMaker) -> list[Row]:
    def ready(path: str, queue: int) -> Script:
        return [["make", r.name(path), "xdp"], ["xdp_bind", r.name(path), DEVICE, queue]]

    new, old = r.name("E12d"), r.name("E12e")
    return [
        r.row(
            "E12d",
            lambda phase, token: (
                Step(
                    r.agent,
                    [*ready("E12d", 1 + phase.number % (QUEUES - 1)), ["xdp_send", new, frame_of(r, "E12d", token)]],
                ),
            ),
            r.hears("peer", "E12d"),
            (r.udp_at_peer("E12d"),),
        ),
        r.row(
            "E12e",
            lambda _, token: (Step(r.agent, [["xdp_send", old, frame_of(r, "E12e", token)]]),),
            r.hears("peer", "E12e"),
            (r.udp_at_peer("E12e"), Step(r.agent, ready("E12e", 0))),
        ),
    ]


def tun(r: RowMaker) -> list[Row]:
    def attached(path: str, device: str) -> Script:
        return [["tun_open", r.name(path)], ["tun_attach", r.name(path), device]]

    def packet(path: str, token: bytes) -> list[str]:
        return ["tun_send", r.name(path), datagram(r, path, token, GUEST_V4).hex()]

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
