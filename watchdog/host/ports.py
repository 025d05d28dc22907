"""Who owns the socket that answers at an address of this host: which one listens, and who has it open."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from watchdog.host import processes
from watchdog.host.listeners import ANY_PORT, ListeningSocket, listening, plain
from watchdog.host.processes import PROC, Process, describe

CACHE_LIMIT = 8192
DESCRIBED = 3


class Owner(StrEnum):
    """Whose the answering socket is."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class OwnerCheck:
    """Whether a port is answered from inside a cgroup, with the reason for people."""

    owner: Owner
    detail: str


_known_holders: dict[int, tuple[Process, str]] = {}
"""Socket inode -> a process that held it, and the descriptor: checked by one readlink instead of a scan."""
_scanning = threading.Lock()
"""A watcher with many peers asks for all of them at once when it starts, and one scan answers all."""


def owner_in_cgroup(port: int, address: str, cgroup: str) -> OwnerCheck:
    """Whether the socket that answers at ADDRESS:PORT belongs to a process in a cgroup, or below it.

    `address` is the numeric one the heartbeat was answered from, `cgroup` a path below the v2 root. Unknown,
    with the reason, for what another network namespace or another host answers. A socket held by several
    processes (workers, socket activation) is inside if one of them is; several sockets sharing the port
    (SO_REUSEPORT) are inside if all of them are.
    """
    where = f"{address}:{port}"
    sockets = answering(port, address)
    if isinstance(sockets, str):
        return OwnerCheck(Owner.UNKNOWN, sockets)
    for answers in sockets:
        if _known_inside(answers.inode, cgroup):
            continue
        with _scanning:
            if _known_inside(answers.inode, cgroup):
                continue
            found = _scan_for(answers.inode)
        inside = [pid for pid in found if processes.is_below(processes.cgroup_of(pid), cgroup)]
        if not found:
            return OwnerCheck(Owner.UNKNOWN, f"the socket at {where} is held by no process that can be seen from here")
        if not inside:
            listed = "; ".join(describe(pid) for pid in sorted(found)[:DESCRIBED])
            return OwnerCheck(Owner.OUTSIDE, f"{where} is answered by {listed}, not from {cgroup}")
        _remember(answers.inode, inside[0], found[inside[0]])
    return OwnerCheck(Owner.INSIDE, f"{where} is answered from {cgroup}")


def answering(port: int, address: str) -> list[ListeningSocket] | str:
    """The sockets of this network namespace that take connections to ADDRESS:PORT; or why there is none.

    The kernel's order (inet_lookup_listener): bound to this address, to all v4 addresses, to all addresses.
    """
    try:
        wanted = plain(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return f"{address} is no numeric address"
    if not is_local(address):
        return f"{address} is no address of this network namespace"
    candidates = listening(port)
    for bound in (wanted, ipaddress.IPv4Address(0), ipaddress.IPv6Address(0)):
        found = [each for each in candidates if each.address == bound]
        if found and (bound == wanted or bound.version in (wanted.version, 6)):
            return found
    return f"nothing in this network namespace listens on {address}:{port}"


def is_local(address: str) -> bool:
    """Ask the kernel: only an address of this namespace can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def holders(inodes: Iterable[int]) -> dict[int, str]:
    """The processes that hold one of the sockets, each with the descriptor it was seen at."""
    return {pid: at for held in _scan(inodes).values() for pid, at in held.items()}


def _scan_for(inode: int) -> dict[int, str]:
    """Its holders. Who holds any other socket that listens is remembered by the way: it costs no more."""
    held = _scan({inode, *(each.inode for each in listening(ANY_PORT))})
    found = held.pop(inode, {})
    for other, holding in held.items():
        if other not in _known_holders:
            pid = max(holding)  # a service, rather than the systemd that opened it for the service
            _remember(other, pid, holding[pid])
    return found


def _scan(inodes: Iterable[int]) -> dict[int, dict[int, str]]:
    """Socket inode -> the processes that hold it, each with the descriptor it was seen at."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, dict[int, str]] = {}
    for pid in processes.pids() if wanted else ():
        folder = f"{PROC}/{pid}/fd"
        try:
            names = os.listdir(folder)  # noqa: PTH208 -- thousands of descriptors within 20 ms
        except OSError:  # it ended meanwhile, or is hidden from us
            continue
        for name in names:
            if (inode := wanted.get(_link(f"{folder}/{name}"))) is not None:
                found.setdefault(inode, {}).setdefault(pid, name)
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 -- see above
    except OSError:
        return ""


def _known_inside(inode: int, cgroup: str) -> bool:
    known = _known_holders.get(inode)
    if known is None:
        return False
    process, at = known
    holds = processes.still_same(process) and _link(f"{PROC}/{process.pid}/fd/{at}") == f"socket:[{inode}]"
    return holds and processes.is_below(processes.cgroup_of(process.pid), cgroup)


def _remember(inode: int, pid: int, at: str) -> None:
    process = processes.of_pid(pid)
    if process is not None:
        if len(_known_holders) >= CACHE_LIMIT:
            _known_holders.clear()
        _known_holders[inode] = (process, at)


def listener(port: int, address: str) -> dict[int, str | None]:
    """The processes that own the answering socket, each with its cgroup; empty when there is none here."""
    sockets = answering(port, address)
    if isinstance(sockets, str):
        return {}
    return {pid: processes.cgroup_of(pid) for pid in holders(each.inode for each in sockets)}
