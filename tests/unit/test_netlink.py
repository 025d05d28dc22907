"""Which netlink sockets others can send to."""

from __future__ import annotations

from watchdog.kernel import netlink
from watchdog.kernel.netlink import NetlinkSocket

LISTED = """sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000779f0633 0   0          00000000 0        0        0     2        0        4
0000000097f4d5db 0   1234       00000000 0        0        0     2        0        562
00000000bd1ebc4a 2   4294963197 00000001 0        0        0     2        0        564
0000000097f4d5dc 15  0          00000002 0        0        0     2        0        565
"""


def test_those_with_an_address_are_read() -> None:
    assert netlink.parse(LISTED) == [NetlinkSocket(0, 562), NetlinkSocket(2, 564), NetlinkSocket(15, 565)]
    assert netlink.parse("") == []
