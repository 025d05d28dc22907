"""The words for paths: a path is one way for traffic to get out of an agent, or into it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Layer(StrEnum):
    """One of our measures on an isolated agent."""

    PACKETS = "packets"
    """cgroup_skb at both hooks of the agent's cgroup."""
    COOKIES = "cookies"
    """cgroup_skb at other cgroups, for sockets of the agent that were made there."""
    CALLS = "calls"
    """connect, bind, sendmsg of the internet families, and multipath TCP."""
    UNIX = "unix"
    """connect and sendmsg of unix sockets."""
    OPTIONS = "options"
    """setsockopt of packet and XDP sockets."""
    DEVICES = "devices"
    """Opening the TUN device and taps."""
    DESCRIPTORS = "descriptors"
    """What is open already, disarmed from outside: PACKET_QDISC_BYPASS off."""
    TC = "tc"
    """Egress filters for the agent's packet sockets, on every link, lo too, of the network namespaces it is in."""
    HOST_END = "host_end"
    """The other end of the agent's own veth, cut in both directions whoever sends."""
    LSM = "lsm"
    """BPF LSM on what the agent's processes ask for: sockets, sends, receives, bpf(), cgroup files."""
    FREEZE = "freeze"
    """No process of the agent runs."""


class Direction(StrEnum):
    """Where the traffic goes, seen from the agent."""

    OUT = "out"
    IN = "in"


class Made(StrEnum):
    """When and by whom the socket (or descriptor) was made."""

    BEFORE = "before the isolation"
    AFTER = "after the isolation"
    ELSEWHERE = "in another cgroup, before the process was moved in"
    PASSED = "by another process, and passed over a unix socket"
    KERNEL = "by the kernel itself"


class Need(StrEnum):
    """What a process must be allowed for a path to be open to it."""

    NET_RAW = "CAP_NET_RAW"
    NET_ADMIN = "CAP_NET_ADMIN"
    SYS_ADMIN = "CAP_SYS_ADMIN"
    CGROUP_WRITE = "write access to another cgroup"


CAPABILITY_BITS = {Need.NET_ADMIN: 12, Need.NET_RAW: 13, Need.SYS_ADMIN: 21}
"""<uapi/linux/capability.h>; the bits of CapPrm in /proc/PID/status."""


class Holding(StrEnum):
    """What a process may have open already."""

    RAW = "raw socket"
    PACKET = "packet socket"
    XDP = "AF_XDP socket"
    TUN = "TUN or tap descriptor"
    """Taps are those of macvtap and ipvtap."""
    VSOCK = "vsock socket"
    """Named, and of no verdict of its own: E12a is of new ones and open ones alike."""
    ELSEWHERE = "socket made in another cgroup"
    UNIX = "unix connection to a process outside"
    LISTENING = "listening unix socket"
    """Also one with an address that takes datagrams from everybody."""
    RING = "io_uring instance"
    """Of no path of its own: the kernel carries out what it was asked for also while the agent is frozen."""


@dataclass(frozen=True, slots=True)
class TrafficPath:
    """One row of the table. Pure data; `watchdog.paths.rows` knows how to try it."""

    id: str
    title: str
    direction: Direction
    made: Made
    stopped_by: frozenset[frozenset[Layer]]
    """Alternatives, each enough by itself; one of several layers needs them all."""
    needs: Need | None = None
    refused_with: frozenset[str] = frozenset()
    """What the kernel answers a process that is not allowed, isolated or not."""
    holding: tuple[Holding, ...] = ()
    """One of these must be open already for this path to be there at all."""
    taken: bool = False
    """It is there as well where the agent may take what a process outside has open, unasked."""
    spliced: bool = False
    """Another tool's program may take its data from one socket to another, past all packets."""
    scanned: Layer | None = None
    """Which layer finds it when it looks again, and stops it then."""
    ended_by: frozenset[Layer] = frozenset()
    """Layers that do to it what no release takes back."""
    kernel_answers: bool = False
    """The network namespace answers, not the agent: its affair only where the namespace is its own."""
    harmless: str = ""
    """Why nothing is carried by it, where nothing is."""
    needs_vsock: bool = False
    needs_netlink: bool = False
    """It is there where a process has a netlink socket that takes messages of the agent."""
    needs_others: bool = False
    """It is there where the kernel has other socket families than those with a path of their own."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about one agent. None is not known, and then a path applies."""

    may: frozenset[Need] | None = None
    given: frozenset[Need] | None = None
    """What a program with privileges of its own could have besides, were it to start one."""
    holds: frozenset[Holding] | None = None
    abroad: frozenset[Holding] | None = None
    """Of which of these something is in a network namespace that is not its own."""
    traces: bool | None = None
    """Whether it may trace a process outside, and so take what that has open (pidfd_getfd)."""
    spliced: bool | None = None
    """Whether this kernel has programs of other tools that pass data from socket to socket (sk_msg, sk_skb)."""
    own_netns: bool | None = None
    """Whether no process but its own lives in its network namespace."""
    vsock: bool | None = None
    """Whether this host has a vsock transport (a hypervisor's, or the loopback one)."""
    netlink: bool | None = None
    """Whether a process has a netlink socket that takes messages of it."""
    others: frozenset[str] | None = None
    """Protocols of other socket families that the kernel has: "TIPC"."""


class Coverage(StrEnum):
    """What is said of a path."""

    COVERED = "covered"
    NOT_COVERED = "not covered"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One path of one agent under the layers that hold."""

    path: str
    title: str
    coverage: Coverage
    why: str
    """By what it is covered, what is missing, or why it does not apply."""


def needs_met(capabilities: int) -> frozenset[Need]:
    """What a thread may do by its capabilities (a bit mask)."""
    return frozenset(need for need, bit in CAPABILITY_BITS.items() if capabilities >> bit & 1)


def parse_layers(text: str) -> frozenset[frozenset[Layer]]:
    """The alternatives of "packets descriptors+tc": packets alone, or descriptors and tc together."""
    return frozenset(frozenset(map(Layer, alternative.split("+"))) for alternative in text.split())


def listed(layers: Collection[Layer]) -> str:
    """Layers in their fixed order, as people read them."""
    return " and ".join(layer for layer in Layer if layer in layers)
