"""Whether the socket that answered a heartbeat is the peer's own: asked of this kernel after every good answer."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from watchdog.config import Config
from watchdog.errors import WatchdogError
from watchdog.host import ports, systemd
from watchdog.probe.target import Ownership, OwnerVerdict, Target

QUERY_TIMEOUT_S = 2.0
LOCALHOST = "127.0.0.1"
DEFAULT_PORTS = {"http": 80, "https": 443}


class Ownerships:
    """Remembers each unit's cgroup, so that systemd is asked again only before somebody is accused."""

    def __init__(self, settings: Config) -> None:
        self._units = {peer.name: peer.unit for peer in settings.peers if peer.unit}
        self._cgroups: dict[str, str] = {}

    def check(self, target: Target) -> OwnerVerdict | None:
        """None where there is nothing to compare with: no unit, another host, a name instead of an address."""
        unit, address = self._units.get(target.name), numeric_host(target.endpoint)
        if unit is None or address is None:
            return None
        found = self._compare(target, address, self._cgroup(unit, anew=False))
        if found is not None and found.ownership is Ownership.OUTSIDE:
            found = self._compare(target, address, self._cgroup(unit, anew=True))
        return found

    @staticmethod
    def _compare(target: Target, address: str, cgroup: str) -> OwnerVerdict | None:
        if not cgroup:
            return None
        owner = ports.owner_in_cgroup(port_of(target.endpoint), address, cgroup)
        return OwnerVerdict(Ownership(owner.owner.value), owner.detail)

    def _cgroup(self, unit: str, *, anew: bool) -> str:
        if anew or not self._cgroups.get(unit):
            try:
                self._cgroups[unit] = systemd.query(unit, QUERY_TIMEOUT_S).control_group
            except WatchdogError:
                return ""  # nobody is accused on the word of a systemd that does not answer
        return self._cgroups[unit]


def numeric_host(endpoint: str) -> str | None:
    """The address in an endpoint; None for a name, which may stand for other hosts."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return LOCALHOST
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def port_of(endpoint: str) -> int:
    """The port an endpoint is asked at."""
    parts = urlsplit(endpoint)
    return parts.port or DEFAULT_PORTS[parts.scheme]
