"""What was counted as dropped, or remembered as refused, of our own tries from inside: no agent's doing."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import replace

from watchdog.kernel import flows, hooks, libbpf
from watchdog.kernel.flows import Flow
from watchdog.kernel.programs import FLOWS_MAP, Hook
from watchdog.kernel.slots import Counters, Traffic
from watchdog.kernel.tried import Tried
from watchdog.kernel.visitor import PORTS

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
TCP, UDP = 6, 17
ICMP = {4: 1, 6: 58}
"""Echo requests have no port: those to the loopback address count as ours."""

_ADDRESS_BYTES = 16


def is_flow(flow: Flow) -> bool:
    """Whether a flow is our own try's."""
    with_port = flow.protocol in {TCP, UDP} and flow.port in PORTS
    return flow.destination in LOOPBACK.values() and (with_port or flow.protocol in ICMP.values())


def is_tried(call: Tried) -> bool:
    """Whether a refused call was our own try's."""
    return call.address in LOOPBACK.values() and call.port in PORTS


def without(counted: Counters | None, program_ids: Collection[int]) -> Counters | None:
    """What a slot's programs dropped, less our own tries as far as their flows are known."""
    if counted is None or not counted.egress.packets + counted.ingress.packets:
        return counted
    own = {way: _dropped(program_ids, way) for way in (Hook.INGRESS, Hook.EGRESS)}
    return replace(
        counted,
        ingress=_less(counted.ingress, own[Hook.INGRESS]),
        egress=_less(counted.egress, own[Hook.EGRESS]),
    )


def without_flows(counted: Counters, listed: Collection[Flow]) -> Counters:
    """The same of what is counted beside a slot, by the flows that were listed of it."""
    own = {way: [flow for flow in listed if flow.direction is way and is_flow(flow)] for way in Hook}
    sums = {way: Traffic(sum(f.packets for f in found), sum(f.bytes for f in found)) for way, found in own.items()}
    return replace(
        counted,
        ingress=_less(counted.ingress, sums[Hook.INGRESS]),
        egress=_less(counted.egress, sums[Hook.EGRESS]),
    )


def _less(all_of_it: Traffic, own: Traffic) -> Traffic:
    return Traffic(max(0, all_of_it.packets - own.packets), max(0, all_of_it.bytes - own.bytes))


def _dropped(program_ids: Collection[int], way: Hook) -> Traffic:
    packets = size_bytes = 0
    for map_id in hooks.maps_of(program_ids, FLOWS_MAP):
        with libbpf.map_by_id(map_id) as fd:
            for key in _keys(way):
                value = libbpf.map_lookup(fd, key, flows.VALUE.size)
                if value is not None:
                    _, _, more, more_bytes, _ = flows.VALUE.unpack(value)
                    packets, size_bytes = packets + more, size_bytes + more_bytes
    return Traffic(packets, size_bytes)


def _keys(way: Hook) -> Iterator[bytes]:
    """All flows there can be of our tries, in one direction."""
    for family, text in LOOPBACK.items():
        address = ipaddress.ip_address(text).packed.ljust(_ADDRESS_BYTES, b"\0")
        for protocol, port in [(ICMP[family], 0), *((each, port) for each in (TCP, UDP) for port in PORTS)]:
            yield flows.KEY.pack(way, family, protocol, port.to_bytes(2, "big"), address, address)
