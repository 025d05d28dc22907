"""The network of a bed: a veth between two of its namespaces, TUN interfaces, and what the kernel is told there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from watchdog.errors import HostCannot, KernelRefused, WatchdogError
from watchdog.host import command
from watchdog.paths.actor import Actor, Script, must
from watchdog.paths.row_maker import (
    AGENT_MAC,
    AGENT_V4,
    AGENT_V6,
    DEVICE,
    FAR_DEVICE,
    GUEST_NETWORK,
    PEER_ICMP4,
    PEER_ICMP6,
    PEER_MAC,
    PEER_V4,
    PEER_V6,
    QUEUES,
    TUN_NEW,
    TUN_OLD,
    bound,
)

READY_TIMEOUT_S = 30.0
LINK_TIMEOUT_S = 5.0
LINK_RETRY_S = 0.02
COMMAND_TIMEOUT_S = 10.0
LINK_CHECK_PORT = 9


def connect(actors: Mapping[str, Actor]) -> None:
    """The veth, its addresses and neighbours, the TUN interfaces, forwarding."""
    mate, peer = actors["mate"], actors["peer"]
    near_mac, far_mac = AGENT_MAC.hex(":"), PEER_MAC.hex(":")
    _ip(
        mate,
        "link set lo up",
        f"link add {DEVICE} address {near_mac} numtxqueues {QUEUES} numrxqueues {QUEUES} type veth "
        f"peer name {FAR_DEVICE} address {far_mac} netns {peer.pid}",
        *_addressed(DEVICE, AGENT_V4, AGENT_V6, far_mac, PEER_V4, PEER_V6),
    )
    _ip(
        peer,
        "link set lo up",
        *_addressed(FAR_DEVICE, PEER_V4, PEER_V6, near_mac, AGENT_V4, AGENT_V6),
        f"route add {GUEST_NETWORK} via {AGENT_V4}",
    )
    _ip(actors["native"], "link set lo up")
    _allow_forwarding(mate)
    with suppress(WatchdogError):  # no TUN on this host: its rows say so
        _ip(mate, *(line for device in (TUN_NEW, TUN_OLD) for line in _tun(device)))
    _await_link(mate, peer)
    _listen_for_pings(peer)


def _addressed(device: str, v4: str, v6: str, other_mac: str, other_v4: str, other_v6: str) -> list[str]:
    """Without the neighbours written down the first IPv6 packet can wait a second."""
    neighbours = [f"neigh replace {other} lladdr {other_mac} dev {device}" for other in (other_v4, other_v6)]
    return [
        f"addr add {v4}/24 dev {device}",
        f"addr add {v6}/64 dev {device} nodad",
        f"link set {device} up",
        *(f"{line} nud permanent" for line in neighbours),
    ]


def _tun(device: str) -> list[str]:
    """Owned by root: a TUN interface without an owner is anybody's."""
    return [f"tuntap add dev {device} mode tun user 0", f"link set {device} up"]


def _allow_forwarding(mate: Actor) -> None:
    """Also a ping without privilege, which many distributions allow."""
    settings = {
        "ipv4/ip_forward": "1",
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        "ipv4/ping_group_range": "0 2147483647",
    }
    script: Script = [["write", f"/proc/sys/net/{name}", value] for name, value in settings.items()]
    must(mate, script, time.monotonic() + READY_TIMEOUT_S)


def _ip(actor: Actor, *lines: str) -> None:
    """Run ip(8) in an actor's namespace."""
    argv = ["nsenter", f"--net={actor.netns}", "ip", "-batch", "-"]
    done = command.run(argv, COMMAND_TIMEOUT_S, input="\n".join(lines) + "\n")
    if done.status != 0:
        raise HostCannot(
            f"cannot prepare a scratch network namespace: {done.last_error_line() or done.ending()}",
            hint="this needs root, iproute2 and a kernel with veth",
        )


def _await_link(mate: Actor, peer: Actor) -> None:
    """A veth carries nothing for a moment after both its ends are up."""
    deadline_s = time.monotonic() + LINK_TIMEOUT_S
    to4, to6 = [PEER_V4, LINK_CHECK_PORT], [PEER_V6, LINK_CHECK_PORT]
    must(peer, [*bound("check4", "udp4", to4), *bound("check6", "udp6", to6)], deadline_s)
    must(mate, [["make", "check4", "udp4"], ["make", "check6", "udp6"]], deadline_s)
    wanted = {name: (name, "data", b"check".hex()) for name in ("check4", "check6")}
    while time.monotonic() < deadline_s:
        mate.run([["send", "check4", b"check".hex(), to4], ["send", "check6", b"check".hex(), to6]], deadline_s)
        peer.tell({"do": "await", "within_s": LINK_RETRY_S, "for": wanted}, deadline_s)
        if set((peer.hear(deadline_s) or {}).values()) == {"ok"}:
            return
    raise KernelRefused("a veth between scratch namespaces carries nothing", hint="does a firewall drop it?")


def _listen_for_pings(peer: Actor) -> None:
    script: Script = [["make", PEER_ICMP4, "icmp4"], ["make", PEER_ICMP6, "icmp6"]]
    must(peer, script, time.monotonic() + READY_TIMEOUT_S)
