"""How each path of the catalogue is tried in a bed (bed.py): between an agent, its mate in the same network namespace,
a peer across a veth, and a native of a third namespace.
"""

from __future__ import annotations

from watchdog.paths import rows_elsewhere, rows_internet, rows_link
from watchdog.paths.play import Row
from watchdog.paths.row_maker import RowMaker, Who

MAKERS = (
    rows_internet.tcp_old,
    rows_internet.tcp_new,
    rows_internet.udp_out,
    rows_internet.udp_in,
    rows_internet.raw,
    rows_link.packet,
    rows_elsewhere.child,
    rows_elsewhere.migrant,
    rows_elsewhere.newcomer,
    rows_elsewhere.passed,
    rows_elsewhere.abroad,
    rows_link.families,
    rows_link.xdp,
    rows_link.tun,
    rows_internet.inbound,
    rows_internet.multicast,
    rows_elsewhere.unix,
)
"""Each makes the rows of one kind for one agent."""


def rows_of(who: Who) -> list[Row]:
    """Every row for one agent."""
    maker = RowMaker(who)
    return [row for make in MAKERS for row in make(maker)]
