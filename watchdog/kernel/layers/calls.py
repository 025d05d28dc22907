"""Refusals of internet sockets, connections, ports and datagrams, at once; not with an allow-list.

A call says too little for that: which datagram of an open socket goes where, and who answers whom, is judged packet by
packet. What an allow-list does not name then runs into silence instead of EPERM.
"""

from __future__ import annotations

from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.hooked import Hooked
from watchdog.kernel.layers.host_end import allows
from watchdog.kernel.programs import CALLS


class Calls(Hooked):
    """sock_create, connect, bind and sendmsg, for both families."""

    def __init__(self) -> None:
        super().__init__("calls", CALLS)

    def not_applicable(self, target: Target) -> str:
        """Why calls are let through, where they are."""
        return "it has an allow-list, which is judged packet by packet" if allows(target) else ""

    def attach(self, target: Target) -> None:
        """Refuse them; where an allow-list has come since, refuse them no longer."""
        if allows(target):
            self.detach(target)
        else:
            super().attach(target)
