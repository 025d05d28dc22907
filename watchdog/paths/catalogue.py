"""Every known path as data, and what is to be said of it.

An id is a family's number and a letter. Which layers stop a path was measured with each layer alone, on Linux 6.18,
lsm on 6.1, in a virtual machine. What tests/kernel/test_evasion.py sees has to agree: it fails where a path is stopped
that is said to be open as well.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from watchdog.paths.words import (
    Coverage,
    Direction,
    Facts,
    Holding,
    Layer,
    Made,
    Need,
    TrafficPath,
    Verdict,
    listed,
    parse_layers,
)

_OUT, _IN = Direction.OUT, Direction.IN
_OLD, _NEW, _MOVED, _PASSED = Made.BEFORE, Made.AFTER, Made.ELSEWHERE, Made.PASSED

_SPLICED: dict[str, Any] = {"spliced": True}
_RAW: dict[str, Any] = {"needs": Need.NET_RAW, "refused_with": frozenset({"EPERM"})}
_ADMIN: dict[str, Any] = {"needs": Need.NET_ADMIN, "refused_with": frozenset({"EPERM", "EACCES"})}
"""EACCES: /dev/net/tun is root's alone where no udev rule has opened it to everybody."""
_SYSTEM: dict[str, Any] = {"needs": Need.SYS_ADMIN, "refused_with": frozenset({"EPERM", "EACCES"})}
_REACHED: dict[str, Any] = {"holding": (Holding.UNIX, Holding.LISTENING)}
_PASSED_IN: dict[str, Any] = {**_REACHED, "taken": True, "scanned": Layer.COOKIES}
_LEAVE: dict[str, Any] = {"needs": Need.CGROUP_WRITE, "refused_with": frozenset({"EACCES"})}


def _path(path_id: str, title: str, direction: Direction, made: Made, stopped_by: str, **more: Any) -> TrafficPath:
    return TrafficPath(path_id, title, direction, made, parse_layers(stopped_by), **more)


# Freezing is not claimed where the kernel goes on by itself: it sends what is buffered, completes handshakes, and takes
# in data; and nowhere where the agent has io_uring (outruns_freezing). tc is for what passes no other hook: the frames
# of packet sockets.
CATALOGUE: tuple[TrafficPath, ...] = (
    _path("E1a", "TCP connection it made: sending", _OUT, _OLD, "packets host_end lsm", **_SPLICED),
    _path("E1b", "TCP connection it made: receiving", _IN, _OLD, "packets host_end lsm", **_SPLICED),
    _path("E1c", "TCP connection it accepted: sending", _OUT, _OLD, "packets host_end lsm", **_SPLICED),
    _path("E1d", "TCP connection it accepted: receiving", _IN, _OLD, "packets host_end lsm", **_SPLICED),
    _path("E1e", "TCP connection over loopback: sending", _OUT, _OLD, "packets lsm", **_SPLICED),
    _path("E1f", "TCP connection over loopback: receiving", _IN, _OLD, "packets lsm", **_SPLICED),
    _path("E1g", "TCP connection over loopback within itself", _OUT, _OLD, "packets lsm", **_SPLICED),
    _path("E2a", "new TCP connection, IPv4", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E2b", "new TCP connection, IPv6", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E2c", "new TCP connection over loopback", _OUT, _NEW, "packets calls lsm freeze"),
    _path("E2d", "new multipath TCP connection", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E3a", "connected UDP socket", _OUT, _OLD, "packets host_end lsm freeze"),
    _path("E3b", "unconnected UDP socket, IPv4", _OUT, _OLD, "packets calls host_end lsm freeze"),
    _path("E3c", "new unconnected UDP socket, IPv4", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E3d", "new unconnected UDP socket, IPv6", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E3d2", "unconnected UDP socket, IPv6", _OUT, _OLD, "packets calls host_end lsm freeze"),
    _path("E3e", "new connected UDP socket", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E3f", "new UDP socket over loopback", _OUT, _NEW, "packets calls lsm freeze"),
    _path("E3g", "UDP socket: receiving", _IN, _OLD, "packets host_end lsm", **_SPLICED),
    _path("E3h", "new bound port, reached from outside", _IN, _NEW, "packets calls host_end lsm freeze"),
    _path("E4a", "new raw socket: ICMP", _OUT, _NEW, "packets host_end lsm freeze", **_RAW),
    _path("E4b", "raw socket: ICMP", _OUT, _OLD, "packets host_end lsm freeze", holding=(Holding.RAW,), **_RAW),
    _path("E4c", "new raw socket: IP header of its own", _OUT, _NEW, "packets host_end lsm freeze", **_RAW),
    _path("E4d", "new raw socket: ICMPv6", _OUT, _NEW, "packets host_end lsm freeze", **_RAW),
    _path("E5a", "new packet socket: sending frames", _OUT, _NEW, "tc host_end lsm freeze", **_RAW),
    _path(
        "E5b", "packet socket: sending frames", _OUT, _OLD, "tc host_end lsm freeze", holding=(Holding.PACKET,), **_RAW
    ),
    _path("E5c", "new packet socket: reading others' frames", _IN, _NEW, "host_end lsm freeze", **_RAW),
    _path("E6a", "new packet socket past the queueing layer", _OUT, _NEW, "options host_end lsm freeze", **_RAW),
    _path(
        "E6b",
        "packet socket past the queueing layer",
        _OUT,
        _OLD,
        "descriptors+tc host_end lsm freeze",
        holding=(Holding.PACKET,),
        **_RAW,
    ),
    _path("E7a", "new UDP socket in a child cgroup", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path("E7b", "new TCP connection in a child cgroup", _OUT, _NEW, "packets calls host_end lsm freeze"),
    _path(
        "E8a",
        "process that moved out: UDP socket",
        _OUT,
        _OLD,
        "packets calls host_end lsm freeze",
        **_LEAVE,
    ),
    _path("E8b", "process that moved out: new UDP socket", _OUT, _NEW, "host_end lsm freeze", **_LEAVE),
    _path("E8c", "process that moved out: new TCP connection", _OUT, _NEW, "host_end lsm freeze", **_LEAVE),
    _path(
        "E9a",
        "TCP from elsewhere: sending",
        _OUT,
        _MOVED,
        "cookies host_end lsm",
        holding=(Holding.ELSEWHERE,),
        **_SPLICED,
    ),
    _path(
        "E9b",
        "TCP from elsewhere: receiving",
        _IN,
        _MOVED,
        "cookies host_end lsm",
        holding=(Holding.ELSEWHERE,),
        **_SPLICED,
    ),
    _path("E9c", "UDP from elsewhere", _OUT, _MOVED, "cookies host_end lsm freeze", holding=(Holding.ELSEWHERE,)),
    _path("E9d", "listening TCP from elsewhere", _IN, _MOVED, "cookies host_end", holding=(Holding.ELSEWHERE,)),
    _path(
        "E9e",
        "multicast membership on a socket from elsewhere: the kernel's report",
        _OUT,
        _MOVED,
        "host_end lsm freeze",
        holding=(Holding.ELSEWHERE,),
    ),
    _path("E10a", "TCP connection passed in, or taken", _OUT, _PASSED, "lsm freeze", **_PASSED_IN),
    _path("E10b", "UDP socket passed in, or taken", _OUT, _PASSED, "lsm freeze", **_PASSED_IN),
    _path("E10c", "listening TCP passed in, or taken", _IN, _PASSED, "lsm freeze", **_PASSED_IN),
    _path(
        "E10d",
        "UDP socket of its own, used by a process outside",
        _OUT,
        _OLD,
        "packets host_end lsm freeze",
        **_REACHED,
    ),
    _path("E11a", "new UDP socket in another network namespace", _OUT, _NEW, "packets calls lsm freeze", **_SYSTEM),
    _path("E11b", "new TCP connection in another network namespace", _OUT, _NEW, "packets calls lsm freeze", **_SYSTEM),
    _path("E12a", "vsock, new or open, to the hypervisor or other guests", _OUT, _NEW, "lsm freeze", needs_vsock=True),
    _path(
        "E12b",
        "new AF_XDP socket, not set up",
        _OUT,
        _NEW,
        "lsm freeze",
        harmless="it carries nothing before it is set up (E12d)",
        **_RAW,
    ),
    _path(
        "E12c",
        "netlink message to another process, by a new socket or an open one",
        _OUT,
        _NEW,
        "lsm freeze",
        needs_netlink=True,
    ),
    _path("E12d", "new AF_XDP socket: sending frames", _OUT, _NEW, "options host_end lsm freeze", **_RAW),
    _path("E12e", "AF_XDP socket: sending frames", _OUT, _OLD, "host_end freeze", holding=(Holding.XDP,), **_RAW),
    _path(
        "E12f", "new TUN or tap descriptor: packets to be forwarded", _OUT, _NEW, "devices host_end freeze", **_ADMIN
    ),
    _path(
        "E12g",
        "TUN or tap descriptor: packets to be forwarded, frames",
        _OUT,
        _OLD,
        "host_end freeze",
        holding=(Holding.TUN,),
        **_ADMIN,
    ),
    _path("E12h", "socket of another family", _OUT, _NEW, "lsm freeze", needs_others=True),
    _path("E14", "BPF: taking our programs off", _OUT, _NEW, "lsm freeze", **_SYSTEM),
    _path("E14b", "rtnetlink: taking our filters off links", _OUT, _NEW, "host_end lsm freeze", **_ADMIN),
    _path("E15a", "TCP connection to its listening port", _IN, _OLD, "packets host_end"),
    _path("E15b", "closed port: the kernel's refusal", _OUT, Made.KERNEL, "host_end", kernel_answers=True),
    _path("E15c", "ping: the kernel's answer", _OUT, Made.KERNEL, "host_end", kernel_answers=True),
    _path("E15d", "ping of its own, without privilege", _OUT, _NEW, "packets host_end lsm freeze"),
    _path("E15e", "new multicast membership, IPv4: the kernel's report", _OUT, _NEW, "options host_end lsm freeze"),
    _path("E15f", "new multicast membership, IPv6: the kernel's report", _OUT, _NEW, "options host_end lsm freeze"),
    _path("E16a", "unix connection", _OUT, _OLD, "lsm freeze", holding=(Holding.UNIX,)),
    _path("E16b", "new unix connection by path", _OUT, _NEW, "unix lsm freeze"),
    _path("E16c", "new unix connection by abstract name", _OUT, _NEW, "unix lsm freeze"),
    _path("E16d", "new connected unix datagram socket", _OUT, _NEW, "unix lsm freeze"),
    _path("E16e", "new unconnected unix datagram socket", _OUT, _NEW, "unix lsm freeze"),
    _path(
        "E16f",
        "unix connection made to it from outside: answering",
        _OUT,
        _OLD,
        "lsm freeze",
        holding=(Holding.LISTENING,),
    ),
)

SPLICED = "as a program of another tool (sk_msg, sk_skb) may pass its data from socket to socket"
LOOKS_AT_PACKETS = frozenset({Layer.PACKETS, Layer.COOKIES, Layer.HOST_END})

WORKS_ON = "carries out what it was asked for, frozen or not"

_BY_ID = {path.id: path for path in CATALOGUE}


def find(path_id: str) -> TrafficPath:
    """The path of an id; KeyError where there is none."""
    return _BY_ID[path_id]


def verdict(path: TrafficPath, layers: Collection[Layer], facts: Facts) -> Verdict:
    """What holds of one path for an agent under the layers that hold now."""
    inapplicable = _why_not_applicable(path, facts)
    if inapplicable:
        return Verdict(path.id, path.title, Coverage.NOT_APPLICABLE, inapplicable)
    stopped_by = _alternatives(path, facts)
    holding = [alternative for alternative in stopped_by if alternative <= set(layers)]
    if holding:
        return Verdict(path.id, path.title, Coverage.COVERED, f"by {listed(set().union(*holding))}")
    until = " before the next scan finds it" if path.scanned in layers else ""
    works_on = f", and io_uring {WORKS_ON}" if Layer.FREEZE in layers and outruns_freezing(facts) else ""
    spliced = f", {SPLICED}" if _is_spliced(path, facts) else ""
    why = f"{_in_words(stopped_by)} would stop it{until}{works_on}{spliced}"
    return Verdict(path.id, path.title, Coverage.NOT_COVERED, why)


def verdicts(layers: Collection[Layer], facts: Facts) -> list[Verdict]:
    """The whole catalogue, in its order."""
    return [verdict(path, layers, facts) for path in CATALOGUE]


def outruns_freezing(facts: Facts) -> bool:
    """A frozen process that waits in the kernel still does the work of its io_uring, seen on Linux 6.18: a chain of
    timeouts and sends asked for before goes on, and a chain can begin with a new socket."""
    return facts.holds is None or Holding.RING in facts.holds


def _why_not_applicable(path: TrafficPath, facts: Facts) -> str:
    if path.harmless:
        return path.harmless
    if path.kernel_answers and facts.own_netns is False:
        return "it shares its network namespace: that answer is the host's"
    if path.needs_vsock and facts.vsock is False:
        return "this host has no vsock transport"
    if path.needs_netlink and facts.netlink is False:
        return "no process has a netlink socket there that takes messages of it"
    if path.needs_others and facts.others is not None and not facts.others:
        return "this kernel has loaded none of another family"
    if path.holding:
        none = facts.holds is not None and facts.holds.isdisjoint(path.holding)
        if not none or (path.taken and facts.traces is not False):
            return ""
        nor = ", and may trace no process outside" if path.taken else ""
        return f"it has no {' and no '.join(path.holding)} open{nor}"
    if path.needs is not None and facts.may is not None and path.needs not in facts.may:
        never = facts.given is not None and path.needs not in facts.given
        return f"it lacks {path.needs}, {'and can be given none' if never else 'unless a setuid program gives it that'}"
    return ""


def _alternatives(path: TrafficPath, facts: Facts) -> frozenset[frozenset[Layer]]:
    """What stops it for this agent. The filters on links know packet sockets that were made elsewhere by their cookies,
    and none that could not be looked at."""
    useless = {Layer.FREEZE} if outruns_freezing(facts) else set()
    useless |= {Layer.HOST_END} if _passes_host_end(path, facts) else set()
    useless |= LOOKS_AT_PACKETS if _is_spliced(path, facts) else set()
    useless |= {Layer.TC} if path.holding and facts.holds is None else set()
    return frozenset(each for each in path.stopped_by if useless.isdisjoint(each))


def _is_spliced(path: TrafficPath, facts: Facts) -> bool:
    """What goes from socket to socket by another tool's sockmap is no packet, and passes all that looks at packets."""
    return path.spliced and facts.spliced is not False


def _passes_host_end(path: TrafficPath, facts: Facts) -> bool:
    """The host end is that of its own network namespace, and nothing that is in another one passes there: what is open
    there, or is made by who can go there."""
    can_go = facts.may is None or Need.SYS_ADMIN in facts.may
    is_abroad = bool(path.holding) and (facts.abroad is None or not facts.abroad.isdisjoint(path.holding))
    return is_abroad or (path.made is Made.AFTER and can_go)


def _in_words(alternatives: Collection[frozenset[Layer]]) -> str:
    """In the layers' order, the simplest first."""
    if not alternatives:
        return "nothing"
    order = list(Layer)
    ranked = sorted(alternatives, key=lambda alternative: (len(alternative), min(map(order.index, alternative))))
    return f"only {' or '.join(listed(alternative) for alternative in ranked)}"
