"""Rows of sockets and processes that are elsewhere than they seem, and of other processes that help."""

from __future__ import annotations

from watchdog.paths.actor import Script
from watchdog.paths.play import Expect, Phase, Row, Step
from watchdog.paths.row_maker import (
    AGENT_V4,
    DIAL_S,
    IPV4,
    LOOPBACK_V4,
    PEER_V4,
    TAKE_S,
    RowMaker,
    bound,
    calls,
    established,
    joins,
    listening,
    unix_link,
)


def child(r: RowMaker) -> list[Row]:
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
        calls(r, "E7b", r.child, "peer", "tcp4", PEER_V4),
    ]


def migrant(r: RowMaker) -> list[Row]:
    """It leaves by itself each time; the bed takes it back in between."""
    leave: Script = [["write", r.who.elsewhere, "0"]]
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
        calls(r, "E8c", r.migrant, "peer", "tcp4", PEER_V4, before=leave),
    ]


def newcomer(r: RowMaker) -> list[Row]:
    """The bed moves it in after the preparation."""
    udp, listener = r.name("E9c"), r.name("E9d")
    at_newcomer = [AGENT_V4, r.port("E9d")]
    return [
        established(r, "E9a", r.newcomer, "peer", PEER_V4, sender=r.newcomer),
        established(r, "E9b", r.newcomer, "peer", PEER_V4, sender="peer"),
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
        joins(r, "E9e", r.newcomer, family=IPV4, is_old=True),
    ]


def passed(r: RowMaker) -> list[Row]:
    """Over a unix connection that the agent has had since before. What is passed in is of another network namespace:
    nothing in the agent's stops it."""
    return [_passed_tcp(r), _passed_udp(r), _passed_listener(r), _passed_out(r)]


def _passed_tcp(r: RowMaker) -> Row:
    name, link, at, to = r.name("E10a"), r.name("E10a") + ".link", r.name("E10a") + ".server", _abroad(r, "E10a")
    return r.row(
        "E10a",
        lambda _, token: (
            Step("native", [["make", name, "tcp4"], ["dial", name, to, DIAL_S], ["pass_over", name, link]]),
            Step(r.agent, [["take", name, link, TAKE_S], ["send", name, token.hex()]]),
        ),
        Expect("native", at, "accepted"),
        (*unix_link(r, "E10a", "native"), Step("native", listening(at, "tcp4", to))),
    )


def _passed_udp(r: RowMaker) -> Row:
    name, link, at, to = r.name("E10b"), r.name("E10b") + ".link", r.name("E10b") + ".server", _abroad(r, "E10b")
    return r.row(
        "E10b",
        lambda _, token: (
            Step("native", [["make", name, "udp4"], ["pass_over", name, link]]),
            Step(r.agent, [["take", name, link, TAKE_S], ["send", name, token.hex(), to]]),
        ),
        r.hears("native", "E10b", ".server"),
        (*unix_link(r, "E10b", "native"), Step("native", bound(at, "udp4", to))),
    )


def _passed_listener(r: RowMaker) -> Row:
    name, link = r.name("E10c"), r.name("E10c") + ".link"

    def fire(phase: Phase, token: bytes) -> tuple[Step, ...]:
        to = _abroad(r, "E10c", phase.number)  # the agent may still have the last one
        return (
            Step("native", [*listening(name, "tcp4", to), ["pass_over", name, link], ["close", name]]),
            Step(r.agent, [["take", name, link, TAKE_S]]),
            Step("native", [["make", name, "tcp4"], ["dial", name, to, DIAL_S], ["send", name, token.hex()]]),
        )

    return r.row("E10c", fire, Expect(r.agent, name, "accepted"), unix_link(r, "E10c", "native"))


def _abroad(r: RowMaker, path: str, number: int = 0) -> list[str | int]:
    """Loopback of the native's network namespace."""
    return [LOOPBACK_V4, r.port(path) + number]


def _passed_out(r: RowMaker) -> Row:
    name, link, to = r.name("E10d"), r.name("E10d") + ".link", [PEER_V4, r.port("E10d")]
    return r.row(
        "E10d",
        lambda _, token: (
            Step(r.agent, [["pass_over", name, link]]),
            Step("mate", [["take", name, link, TAKE_S], ["send", name, token.hex()]]),
        ),
        r.hears("peer", "E10d"),
        (
            *unix_link(r, "E10d"),
            r.udp_at_peer("E10d"),
            Step(r.agent, [["make", name, "udp4"], ["connect", name, to]]),
        ),
    )


def abroad(r: RowMaker) -> list[Row]:
    enter: Script = [["enter_netns", r.who.native_netns]]
    udp, to = r.name("E11a"), [LOOPBACK_V4, r.port("E11a")]
    return [
        r.row(
            "E11a",
            lambda _, token: (Step(r.abroad, [*enter, ["make", udp, "udp4"], ["send", udp, token.hex(), to]]),),
            r.hears("native", "E11a"),
            (Step("native", bound(udp, "udp4", to)),),
        ),
        calls(r, "E11b", r.abroad, "native", "tcp4", LOOPBACK_V4, before=enter),
    ]


def unix(r: RowMaker) -> list[Row]:
    def place(path: str) -> str:
        return f"{r.who.folder}/{r.who.name}-{path}"

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
            unix_link(r, "E16a"),
        ),
        streams("E16b", place("E16b")),
        streams("E16c", f"@watchdog-{r.who.folder}-{r.who.name}"),
        datagrams("E16d", connected=True),
        datagrams("E16e", connected=False),
        _called(r),
    ]


def _called(r: RowMaker) -> Row:
    name, at, place = r.name("E16f"), r.name("E16f") + ".at", f"@watchdog-{r.who.folder}-{r.who.name}-E16f"
    return r.row(
        "E16f",
        lambda _, token: (
            Step("mate", [["make", name, "unix_stream"], ["dial", name, place, DIAL_S]]),
            Step(r.agent, [["accept", at, name, DIAL_S], ["send", name, token.hex()]]),
        ),
        Expect("mate", name, "data"),
        (Step(r.agent, listening(at, "unix_stream", place)),),
    )
