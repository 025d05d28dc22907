"""Whether the socket that answered a heartbeat is the peer's own: asked of this kernel after every good answer."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from watchdog.config import Config
from watchdog.errors import WatchdogError
from watchdog.host import ports, processes, systemd
from watchdog.probe.target import Ownership, OwnerVerdict, Target

QUERY_TIMEOUT_S = 2.0
LOCALHOST = "127.0.0.1"
SYSTEMD_PID = 1
"""It holds the socket of a unit that is to be started by a connection."""
DEFAULT_PORTS = {"http": 80, "https": 443}


class Ownerships:
    """Remembers each unit's cgroup, so that systemd is asked again only before somebody is accused."""

    def __init__(self, settings: Config) -> None:
        self._units = {peer.name: peer.unit for peer in settings.peers if peer.unit}
        self._cgroups: dict[str, str] = {}

    def check(self, target: Target, address: str | None) -> OwnerVerdict | None:
        """Whose the socket at that address is, or at the endpoint's own where nothing was asked.

        None where there is nothing to compare with: no unit, another host, a name that stands for nobody knows whom.
        """
        unit, address = self._units.get(target.name), address or numeric_host(target.endpoint)
        if unit is None or address is None:
            return None
        if known := self._cgroups.get(unit):
            found = _compare(target, address, known)
            if found.ownership is not Ownership.OUTSIDE:
                return found
        cgroup = self._ask(unit)
        if cgroup:
            return _compare(target, address, cgroup)
        return None if cgroup is None else self._in_place_of_the_dead(unit, target, address)

    def _in_place_of_the_dead(self, unit: str, target: Target, address: str) -> OwnerVerdict | None:
        """A unit without processes answers nobody: whoever does is not it."""
        found = {pid for pid in ports.listener(port_of(target.endpoint), address) if pid != SYSTEMD_PID}
        if not found or self._ask(unit) != "":  # it has come up meanwhile
            return None
        listed = "; ".join(processes.describe(pid) for pid in sorted(found)[: ports.DESCRIBED])
        at = f"{address}:{port_of(target.endpoint)}"
        return OwnerVerdict(Ownership.OUTSIDE, f"{at} is answered by {listed}, and {unit} has no process")

    def _ask(self, unit: str) -> str | None:
        """The unit's cgroup; "" while it has no process. None where systemd does not say, or knows no such unit:
        nobody is accused on the word of a systemd that does not answer."""
        try:
            state = systemd.query(unit, QUERY_TIMEOUT_S)
        except WatchdogError:
            return None
        self._cgroups[unit] = state.control_group
        return None if state.load_state == systemd.NOT_FOUND else state.control_group


def _compare(target: Target, address: str, cgroup: str) -> OwnerVerdict:
    owner = ports.owner_in_cgroup(port_of(target.endpoint), address, cgroup)
    return OwnerVerdict(Ownership(owner.owner.value), owner.detail)


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
