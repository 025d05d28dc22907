"""The TCP sockets of this network namespace that listen: from sock_diag(7), else from /proc/net/tcp*.

sock_diag walks the listening sockets only (0.1 ms); reading /proc/net/tcp walks the hash table of all
connections too (5 ms and more a table, however idle the host), and is for kernels without tcp_diag.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from watchdog.host.processes import PROC

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TABLES = ("tcp", "tcp6")
LISTEN = "0A"
"""TCP_LISTEN (net/tcp_states.h) as /proc/net/tcp writes it."""
LISTEN_BIT = 1 << int(LISTEN, 16)
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
REQUEST_DUMP = 0x301
"""NLM_F_REQUEST | NLM_F_DUMP (linux/netlink.h)."""
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port id."""
REQUEST = struct.Struct("=BBBxI2s46x")
"""struct inet_diag_req_v2: family, protocol, extensions, states, source port; every address."""
ANSWER = struct.Struct("=BBxx2s2x16s16x28xI")
"""struct inet_diag_msg: family, state, source port, source address, inode; with what lies between."""
ALIGNMENT = 4
RECEIVE_BYTES = 64 * 1024
TIMEOUT_S = 1.0
ANY_PORT = 0


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One socket; a v4-mapped address is told as v4."""

    address: Address
    port: int
    inode: int


def listening(port: int) -> list[ListeningSocket]:
    """Every socket that listens on the port; with ANY_PORT every one that listens."""
    try:
        return [each for family in (socket.AF_INET, socket.AF_INET6) for each in from_sock_diag(family, port)]
    except OSError:
        return list(from_proc(port))


def from_sock_diag(family: int, port: int) -> Iterator[ListeningSocket]:
    """Ask the kernel for the listening sockets of one port; OSError where it cannot answer."""
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, LISTEN_BIT, struct.pack("!H", port))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(TIMEOUT_S)
        kernel.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + request)
        while True:
            for kind, body in _messages(kernel.recv(RECEIVE_BYTES)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                yield _parse_answer(body)


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    while len(datagram) >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(datagram)
        yield kind, datagram[HEADER.size : length]
        datagram = datagram[-(-length // ALIGNMENT) * ALIGNMENT :]


def _parse_answer(body: bytes) -> ListeningSocket:
    family, _, port, raw, inode = ANSWER.unpack_from(body)
    address = ipaddress.ip_address(raw[:4] if family == socket.AF_INET else raw)
    return ListeningSocket(plain(address), struct.unpack("!H", port)[0], inode)


def from_proc(port: int) -> Iterator[ListeningSocket]:
    """Read the tables of proc_net_tcp(5), which every kernel has."""
    for table in TABLES:
        try:
            with (PROC / "net" / table).open() as lines:
                yield from _listening_in(lines, port)
        except FileNotFoundError:  # a kernel without IPv6
            continue


def _listening_in(lines: Iterable[str], port: int) -> Iterator[ListeningSocket]:
    rows = iter(lines)
    next(rows, None)
    for row in rows:
        local, _, state, *rest = row.split()[1:]
        if state != LISTEN:
            return  # listening sockets come first
        address, _, number = local.rpartition(":")
        if port in (ANY_PORT, int(number, 16)):
            yield ListeningSocket(plain(_parse_hex(address)), int(number, 16), int(rest[5]))


def _parse_hex(text: str) -> Address:
    """Words of 32 bits, each in the machine's own byte order."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return ipaddress.ip_address(raw)


def plain(address: Address) -> Address:
    """::ffff:192.0.2.1 is 192.0.2.1."""
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
