"""An agent in a cgroup and a peer outside of it, and what they do to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.kernel.inside import Inside, InsideError
from watchdog.kernel.cgroups import Cgroup

DROP_S = 0.3
"""How long nothing has to arrive; short enough that no SYN is repeated (1 s)."""

PASS_S = 3.0
"""How long something may take on a busy machine; over as soon as it is there."""

RESUME_S = 5.0

UDP_HEADERS_BYTES = {4: 20 + 8, 6: 40 + 8}


@dataclass(frozen=True)
class Ends:
    """An agent in a cgroup and a peer outside of it, each with its address per family."""

    cgroup: Cgroup
    outside: Cgroup
    """The peer's."""
    agent: Inside
    peer: Inside
    agent_address: dict[int, str]
    peer_address: dict[int, str]


def bind(inside: Inside, name: str, family: int, address: str, kind: str) -> int:
    """Bind (and for TCP listen) a socket called `name`; its port."""
    domain = "AF_INET" if family == 4 else "AF_INET6"
    inside.run(f"{name} = socket.socket(socket.{domain}, socket.SOCK_{kind}); {name}.bind(('{address}', 0))")
    inside.run(f"{name}.settimeout({PASS_S})")
    if kind == "STREAM":
        inside.run(f"{name}.listen()")
    port: int = inside.run(f"{name}.getsockname()[1]")
    return port


def connect(inside: Inside, address: str, port: int, wait_s: float = PASS_S) -> str:
    return inside.outcome(f"c = socket.create_connection(('{address}', {port}), timeout={wait_s})")


def received(inside: Inside, name: str, wait_s: float = PASS_S) -> str:
    """The data that a socket gets, or "TimeoutError"."""
    try:
        data: str = inside.run(f"{name}.settimeout({wait_s}); {name}.recv(99).decode()")
    except InsideError as error:
        return error.name
    return data


def send_udp(inside: Inside, family: int, address: str, port: int, payload: str = "x") -> str:
    domain = "AF_INET" if family == 4 else "AF_INET6"
    return inside.outcome(
        f"u = socket.socket(socket.{domain}, socket.SOCK_DGRAM); u.sendto(b'{payload}', ('{address}', {port}))"
    )


def udp_both_ways(ends: Ends, family: int) -> Callable[[float], list[str]]:
    """Sends a datagram each way: how the agent's call ended, what the peer got in that time, what the agent got."""
    inward = bind(ends.agent, "s", family, ends.agent_address[family], "DGRAM")
    outward = bind(ends.peer, "s", family, ends.peer_address[family], "DGRAM")

    def exchange(wait_s: float) -> list[str]:
        sent = send_udp(ends.agent, family, ends.peer_address[family], outward)
        assert send_udp(ends.peer, family, ends.agent_address[family], inward) == "pass"
        return [sent, received(ends.peer, "s", wait_s), received(ends.agent, "s", wait_s)]

    return exchange
