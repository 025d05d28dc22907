"""Packets written by hand, for sockets that take them so. Addresses are text; everything returned is bytes."""

from __future__ import annotations

import hashlib
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
ETHERTYPE_EXPERIMENT = 0x88B5
"""IEEE 802 local experimental: no protocol stack takes it."""

ECHO_REQUEST_V4, ECHO_REQUEST_V6 = 8, 128

GROUPS_V4, GROUPS_V6 = bytes([239]), bytes([0xFF, 0x15])
"""What the addresses of multicast groups for private use begin with: RFC 2365; RFC 4291 (transient, site-local)."""

HOPS = 8
UDP_HEADER_BYTES = 8
IPV4_HEADER_BYTES = 20
VERSION_AND_LENGTH = 0x45
WORD_MASK = 0xFFFF
WORD_BITS = 16


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    """A frame without padding."""
    return destination + source + struct.pack("!H", ethertype) + payload


def udp_in_ipv4(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """A UDP datagram (without checksum, which IPv4 allows) from and to the same port, in its IPv4 packet."""
    datagram = struct.pack("!HHHH", port, port, UDP_HEADER_BYTES + len(payload), 0) + payload
    length = IPV4_HEADER_BYTES + len(datagram)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    start = struct.pack("!BBHHHBB", VERSION_AND_LENGTH, 0, length, 0, 0, HOPS, socket.IPPROTO_UDP)
    checksum = internet_checksum(start + bytes(2) + addresses)
    return start + struct.pack("!H", checksum) + addresses + datagram


def echo_request(kind: int, payload: bytes) -> bytes:
    """An ICMP echo request; the kernel puts in the checksum where `kind` is ECHO_REQUEST_V6."""
    unsummed = struct.pack("!BBHHH", kind, 0, 0, 1, 1) + payload
    checksum = internet_checksum(unsummed) if kind == ECHO_REQUEST_V4 else 0
    return unsummed[:2] + struct.pack("!H", checksum) + unsummed[4:]


def group_v4(token: bytes) -> IPv4Address:
    """A multicast group of the token's own."""
    return IPv4Address(GROUPS_V4 + _filling(token, 4 - len(GROUPS_V4)))


def group_v6(token: bytes) -> IPv6Address:
    """The same for IPv6."""
    return IPv6Address(GROUPS_V6 + _filling(token, 16 - len(GROUPS_V6)))


def _filling(token: bytes, size_bytes: int) -> bytes:
    return hashlib.sha256(token).digest()[:size_bytes]


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > WORD_MASK:
        total = (total & WORD_MASK) + (total >> WORD_BITS)
    return WORD_MASK - total
