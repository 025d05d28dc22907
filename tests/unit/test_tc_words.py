"""What the kernel writes about packet sockets and links, read without a kernel."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.kernel.link_watch import Change, parse
from watchdog.kernel.packet_sockets import parse_listed
from watchdog.kernel.tc_plan import Handle

LISTED = (
    "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
    "0000000000000000 3      3    0003   2     1 0      0      2105\n"
    "0000000000000000 3      2    88cc   0     0 0      101    77123\n"
)

NEWLINK, DELLINK, NEWQDISC, DELQDISC, NEWTFILTER, DELTFILTER = 16, 17, 36, 37, 44, 45
AF_BRIDGE = 7


@pytest.mark.parametrize(("text", "inodes"), [(LISTED, {2105, 77123}), (LISTED.splitlines()[0], set()), ("", set())])
def test_the_list_of_packet_sockets(text: str, inodes: set[int]) -> None:
    assert parse_listed(text) == inodes


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def link(kind: int, index: int, family: int = 0) -> bytes:
    return message(kind, struct.pack("=BxHiII", family, 1, index, 0, 0))


def filters(kind: int, index: int, handle: int = 1) -> bytes:
    return message(kind, struct.pack("=BxxxiIII", 0, index, handle, 0xFFFFFFF3, 0))


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (link(NEWLINK, 7), [(Change.LINK_CAME, 7)]),
        (link(NEWLINK, 7) + link(NEWLINK, 7), [(Change.LINK_CAME, 7)]),
        (link(NEWLINK, 2), []),
        (link(DELLINK, 2) + link(NEWLINK, 2), [(Change.LINK_WENT, 2), (Change.LINK_CAME, 2)]),
        (link(NEWLINK, 7, AF_BRIDGE) + link(DELLINK, 2, AF_BRIDGE), []),
        (filters(NEWQDISC, 2), []),
        (filters(DELQDISC, 2), [(Change.FILTERS_CHANGED, 2)]),
        (filters(DELTFILTER, 2, Handle.EGRESS), [(Change.FILTERS_CHANGED, 2)]),
        (filters(NEWTFILTER, 2, Handle.EGRESS) + filters(NEWTFILTER, 2, Handle.DROP), []),
        (filters(NEWTFILTER, 2, 1), [(Change.FILTERS_CHANGED, 2)]),
    ],
)
def test_what_is_news(data: bytes, changes: list[tuple[Change, int]]) -> None:
    assert list(parse(data, {2})) == changes


@given(st.lists(st.one_of(st.binary(max_size=64), st.sampled_from([link(NEWLINK, 7), filters(DELQDISC, 2)]))))
def test_whatever_is_read_ends(parts: list[bytes]) -> None:
    assert all(isinstance(change, Change) for change, _ in parse(b"".join(parts), set()))
