"""Packets written by hand, for sockets that take them so. Addresses are text; everything returned is bytes."""

from __future__ import annotations

import socket
import struct

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_EXPERIMENT = 0x88B5
"""IEEE 802 local experimental: no protocol stack takes it."""

ECHO_REQUEST_V4, ECHO_REQUEST_V6 = 8, 128

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


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > WORD_MASK:
        total = (total & WORD_MASK) + (total >> WORD_BITS)
    return WORD_MASK - total
