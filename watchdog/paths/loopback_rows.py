"""The paths that can be tried on any host without touching anything of it: over loopback, to sockets of our own.

Each row is tried by a process inside the agent's cgroup and, as a control, by the one outside: only what arrives from
outside and not from inside was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.kernel import visitor
from watchdog.paths import frames
from watchdog.paths.actor import Script
from watchdog.paths.play import Expect, LateStep, Phase, Row, Step

INSIDE, OUTSIDE = "inside", "outside"

ADDRESSES = {4: "127.0.0.1", 6: "::1"}
GROUPS = {4: "233.252.0.1", 6: "ff3e:40:2001:db8::1"}
"""For documentation (RFC 6676). None of them is joined: the kernel would report that on the link."""
ANY_PORT = 0
DEVICE = "lo"
DEVICE_MAC = bytes(6)
DIAL_S = 0.3

_PORTED = [*(f"{path} IPv{family}" for path in ("E2c", "E3e", "E3f", "E3h", "E15a") for family in ADDRESSES)]
_PORTED += ["E2d IPv4", "E4c ", "E9a ", "E9c ", "E9d "]
_ROWS = [f"{who}/{row}" for who in (INSIDE, OUTSIDE) for row in _PORTED]
"""The rows with an internet socket that waits, by the names that `Scene.name` gives them."""

_PACKET = Path("/proc/net/packet")
LOADED_IF = {
    "E5a": _PACKET,
    "E5c": _PACKET,
    "E6a": _PACKET,
    "E12a": Path("/sys/class/misc/vsock"),
    "E12f": Path("/sys/class/misc/tun"),
}
"""What is there once the kernel has it: otherwise making the socket would have it load a module."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Who tries, and where the sockets are."""

    who: str
    """INSIDE or OUTSIDE: both have the same rows."""
    folder: str
    """For unix sockets."""
    ports: Mapping[str, Mapping[str, int]]
    """What each actor has bound, by its name and the socket's; filled as the rows are prepared."""

    def name(self, path: str, label: str = "") -> str:
        """The sockets of a row have its name, at both ends; those that wait end in ".at"."""
        return f"{self.who}/{path} {label}"

    def to(self, actor: str, name: str, family: int) -> list[Any]:
        """Where an actor's socket is bound."""
        return [ADDRESSES[family], self.ports[actor].get(name, 0)]


def rows_of(scene: Scene) -> list[Row]:
    """All rows that one of both tries."""
    internet = [row for family in ADDRESSES for row in _internet(scene, family)]
    rows = [*internet, *_raw(scene), *_frames(scene), *_sockets(scene), *_unix(scene)]
    return [row for row in rows if row.path not in LOADED_IF or LOADED_IF[row.path].exists()]


def _bound(name: str, kind: str, family: int) -> Script:
    return [["make", name, kind], ["bind_near", name, ADDRESSES[family], _ports(name)]]


def _ports(name: str) -> list[int]:
    """Of a socket that waits: one row, one port; where another host's process has it, the next, and any at last."""
    row = name.removesuffix(".at")
    first = _ROWS.index(row) if row in _ROWS else 0
    return [*visitor.PORTS[first:], *visitor.PORTS[:first], ANY_PORT]


def _listening(name: str, kind: str, family: int) -> Script:
    return [*_bound(name, kind, family), ["listen", name]]


def _internet(s: Scene, family: int) -> list[Row]:
    label = f"IPv{family}"
    rows = [
        _call(s, "E2c", f"tcp{family}", family, label),
        _datagram(s, "E3f", family, label, connected=False),
        _datagram(s, "E3e", family, label, connected=True),
        _datagram_in(s, family, label),
        _call_in(s, family, label),
    ]
    return rows if family != min(ADDRESSES) else [*rows, _call(s, "E2d", "mptcp4", family, label)]


def _call(s: Scene, path: str, kind: str, family: int, label: str) -> Row:
    name = s.name(path, label)
    at = name + ".at"
    return Row(
        path,
        s.who,
        lambda _, __: (Step(s.who, [["make", name, kind], ["connect", name, s.to(OUTSIDE, at, family)]]),),
        Expect(s.who, name, "connected"),
        (Step(OUTSIDE, _listening(at, kind, family)),),
        label,
    )


def _datagram(s: Scene, path: str, family: int, label: str, *, connected: bool) -> Row:
    name = s.name(path, label)
    at = name + ".at"

    def fire(_: Phase, token: bytes) -> tuple[LateStep, ...]:
        to = s.to(OUTSIDE, at, family)
        sending = (
            [["connect", name, to], ["send", name, token.hex()]] if connected else [["send", name, token.hex(), to]]
        )
        return (Step(s.who, [["make", name, f"udp{family}"], *sending]),)

    return Row(
        path, s.who, fire, Expect(OUTSIDE, at, "data"), (Step(OUTSIDE, _bound(at, f"udp{family}", family)),), label
    )


def _datagram_in(s: Scene, family: int, label: str) -> Row:
    name = s.name("E3h", label)
    at, kind = name + ".at", f"udp{family}"
    return Row(
        "E3h",
        s.who,
        lambda _, token: (
            Step(s.who, _bound(at, kind, family)),
            lambda: Step(OUTSIDE, [["make", name, kind], ["send", name, token.hex(), s.to(s.who, at, family)]]),
        ),
        Expect(s.who, at, "data"),
        label=label,
    )


def _call_in(s: Scene, family: int, label: str) -> Row:
    name = s.name("E15a", label)
    at, kind = name + ".at", f"tcp{family}"
    return Row(
        "E15a",
        s.who,
        lambda _, __: (
            Step(s.who, _listening(at, kind, family)),
            lambda: Step(OUTSIDE, [["make", name, kind], ["connect", name, s.to(s.who, at, family)]]),
        ),
        Expect(OUTSIDE, name, "connected"),
        label=label,
    )


def _raw(s: Scene) -> list[Row]:
    own_header = s.name("E4c")

    def by_hand(_: Phase, token: bytes) -> tuple[LateStep, ...]:
        address, port = s.to(OUTSIDE, own_header + ".at", 4)
        packet = frames.udp_in_ipv4(address, address, port, token)
        return (Step(s.who, [["make", own_header, "ip4"], ["send", own_header, packet.hex(), [address, 0]]]),)

    return [
        _echo(s, "E4a", "icmp4", 4, "icmp4"),
        _echo(s, "E4d", "icmp6", 6, "icmp6"),
        _echo(s, "E15d", "ping4", 4, "icmp4"),
        Row(
            "E4c",
            s.who,
            by_hand,
            Expect(OUTSIDE, own_header + ".at", "data"),
            (Step(OUTSIDE, _bound(own_header + ".at", "udp4", 4)),),
        ),
    ]


def _echo(s: Scene, path: str, kind: str, family: int, heard_by: str) -> Row:
    """An echo request, heard by a raw socket outside."""
    name = s.name(path)
    request = frames.ECHO_REQUEST_V4 if heard_by == "icmp4" else frames.ECHO_REQUEST_V6
    return Row(
        path,
        s.who,
        lambda _, token: (
            Step(
                s.who,
                [
                    ["make", name, kind],
                    ["send", name, frames.echo_request(request, token).hex(), [ADDRESSES[family], 0]],
                ],
            ),
        ),
        Expect(OUTSIDE, name + ".at", "data"),
        (Step(OUTSIDE, [["make", name + ".at", heard_by]]),),
    )


def _frames(s: Scene) -> list[Row]:
    """Frames on lo that no protocol stack takes, so that nobody but our sockets ever sees them."""
    kind = frames.ETHERTYPE_EXPERIMENT
    hearing = [DEVICE, kind]

    def frame(token: bytes) -> str:
        return frames.ethernet(DEVICE_MAC, DEVICE_MAC, kind, token).hex()

    def bound(name: str, to: list[Any], *more: list[Any]) -> Script:
        return [["make", name, "packet"], *more, ["bind", name, to]]

    def out(path: str, *options: list[Any]) -> Row:
        name = s.name(path)
        return Row(
            path,
            s.who,
            lambda _, token: (Step(s.who, [*bound(name, [DEVICE, 0], *options), ["send", name, frame(token)]]),),
            Expect(OUTSIDE, name + ".at", "data"),
            (Step(OUTSIDE, bound(name + ".at", hearing)),),
        )

    sniffer = s.name("E5c")
    return [
        out("E5a"),
        out("E6a", ["bypass", s.name("E6a")]),
        Row(
            "E5c",
            s.who,
            lambda _, token: (
                Step(s.who, bound(sniffer + ".at", hearing)),
                Step(OUTSIDE, [*bound(sniffer, [DEVICE, 0]), ["send", sniffer, frame(token)]]),
            ),
            Expect(s.who, sniffer + ".at", "data"),
        ),
    ]


def _sockets(s: Scene) -> list[Row]:
    """Where making it, or the first step of its use, is all that can be tried without touching anything."""

    def only(path: str, *script: list[Any]) -> Row:
        return Row(path, s.who, lambda _, __: (Step(s.who, script),), None)

    xdp = s.name("E12d")
    return [
        only("E12a", ["make", s.name("E12a"), "vsock"]),
        only("E12d", ["make", xdp, "xdp"], ["xdp_memory", xdp]),
        only("E12f", ["tun_open", s.name("E12f")], ["tun_may", s.name("E12f")]),
        only("E14", ["ask_bpf"]),
        only("E15e", ["make", s.name("E15e"), "udp4"], ["join_may", s.name("E15e"), GROUPS[4], DEVICE]),
        only("E15f", ["make", s.name("E15f"), "udp6"], ["join_may", s.name("E15f"), GROUPS[6], DEVICE]),
    ]


def _unix(s: Scene) -> list[Row]:
    def place(path: str) -> str:
        return f"{s.folder}/{s.who}-{path}"

    def row(path: str, kind: str, to: str, *, connected: bool = True) -> Row:
        name = s.name(path)
        stream = kind == "unix_stream"
        making: Script = [["make", name, kind], *([["connect", name, to]] if connected else [])]
        after: list[str] = [] if connected else [to]
        at: Script = [["make", name + ".at", kind], ["bind", name + ".at", to]]
        return Row(
            path,
            s.who,
            lambda _, token: (Step(s.who, [*making, ["send", name, token.hex(), *after]]),),
            Expect(OUTSIDE, name + ".at", "accepted" if stream else "data"),
            (Step(OUTSIDE, [*at, *([["listen", name + ".at"]] if stream else [])]),),
        )

    return [
        row("E16b", "unix_stream", place("E16b")),
        row("E16c", "unix_stream", f"@watchdog{place('E16c')}"),
        row("E16d", "unix_dgram", place("E16d")),
        row("E16e", "unix_dgram", place("E16e"), connected=False),
    ]


def rows_from_elsewhere(s: Scene) -> list[Row]:
    """Rows whose sockets are made before the process is moved in: prepare them before that."""
    udp, call, listener = s.name("E9c"), s.name("E9a"), s.name("E9d")

    def dialled() -> Step:
        return Step(s.who, [["make", call, "tcp4"], ["dial", call, s.to(OUTSIDE, call + ".at", 4), DIAL_S]])

    return [
        Row(
            "E9a",
            s.who,
            lambda _, token: (Step(s.who, [["send", call, token.hex()]]),),
            Expect(OUTSIDE, call + ".at", "accepted"),
            (Step(OUTSIDE, _listening(call + ".at", "tcp4", 4)), dialled),
        ),
        Row(
            "E9c",
            s.who,
            lambda _, token: (Step(s.who, [["send", udp, token.hex(), s.to(OUTSIDE, udp + ".at", 4)]]),),
            Expect(OUTSIDE, udp + ".at", "data"),
            (Step(OUTSIDE, _bound(udp + ".at", "udp4", 4)), Step(s.who, [["make", udp, "udp4"]])),
        ),
        Row(
            "E9d",
            s.who,
            lambda _, __: (
                Step(OUTSIDE, [["make", listener, "tcp4"], ["connect", listener, s.to(s.who, listener + ".at", 4)]]),
            ),
            Expect(OUTSIDE, listener, "connected"),
            (Step(s.who, _listening(listener + ".at", "tcp4", 4)),),
        ),
    ]
