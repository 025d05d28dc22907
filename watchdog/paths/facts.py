"""What is true of one agent, found out by looking: what its processes may do, what they have open, where they live."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import WatchdogError
from watchdog.kernel import cgroups, credentials, diag, moves, netlink, netns, sockets, splicing, tracing
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.credentials import Credentials
from watchdog.kernel.sockets import AF_XDP, Scan
from watchdog.paths.words import Facts, Holding, Need, needs_met

VSOCK_DEVICE = Path("/dev/vsock")
VSOCK_LOOPBACK = Path("/sys/module/vsock_loopback")
GET_LOCAL_CID, NO_CID = 0x7B9, 0xFFFFFFFF
"""IOCTL_VM_SOCKETS_GET_LOCAL_CID and VMADDR_CID_ANY, <linux/vm_sockets.h>."""

JOURNAL = tuple(Path(f"/run/systemd/journal/{name}") for name in ("stdout", "dev-log", "socket"))
"""Where every unit's output goes. What is written there reaches the log and nobody else. Known by its files, which only
root can make there: in a mount namespace of its own anybody has something of that name."""

PEERS_AT_MOST = 5
"""How many connections are named."""

PROTOCOLS = Path("/proc/net/protocols")
_WITH_A_PATH = "TCP UDP UDP-Lite UDPLITE PING RAW MPTCP SCTP DCCP L2TP/IP UNIX UNIX-STREAM PACKET XDP NETLINK AF_VSOCK"
_HARMLESS = "ALG KEY"
"""They talk to the kernel, and to nobody else."""
KNOWN_PROTOCOLS = frozenset(f"{_WITH_A_PATH} {_HARMLESS}".split())


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found."""

    facts: Facts
    runs: bool
    """Whether there is any process."""
    unix_peers: tuple[str, ...] = ()
    """What its unix connections lead to outside, by name; "" for a socket that has none."""
    unix_addresses: tuple[str, ...] = ()
    """Where others can make a unix connection to it, or send it datagrams; "" for what is not known."""

    @property
    def is_privileged(self) -> bool:
        """Whether it may do what only freezing stops: leave its cgroup, or take programs or filters off."""
        return self.facts.may is None or bool(self.facts.may & {Need.CGROUP_WRITE, Need.SYS_ADMIN, Need.NET_ADMIN})


def look(targets: Collection[Cgroup], found: Scan, journal: Collection[Path] = JOURNAL) -> Looked:
    """Look at the processes in the cgroups and below; `found` is what they have open (scanning.scan)."""
    pids = {pid for cgroup in targets for pid in cgroups.processes(cgroup)}
    visible = pids - {cgroups.OTHER_NAMESPACE}
    threads = [each for pid in visible for each in credentials.of_threads(pid)]
    listed, held = _unix_listed(found, visible), _held(found)
    peers, addresses = _unix_peers(found, listed, _files(journal)), _unix_addresses(found, listed)
    rings = {*found.rings, *found.mapped_rings}
    unbound: dict[Holding, Collection[object]] = {
        Holding.UNIX: peers,
        Holding.LISTENING: addresses,
        Holding.RING: rings,
    }
    spaces = netns.of_processes(visible).keys() - netns.hosts_own().keys()
    may = _may(threads, moves.doors(targets)) if pids == visible else None
    facts = Facts(
        may=may,
        given=_given(threads) if pids == visible else None,
        holds=_open_ones({**held, **unbound}) if not found.unseen else None,
        abroad=_abroad(held, spaces) if spaces and not found.unseen else None,
        traces=_traces(threads, targets) if pids == visible else None,
        own_netns=_has_own(spaces, visible) if pids == visible else None,
        spliced=_has_splicing(),
        vsock=has_vsock(),
        netlink=_reaches_netlink(found, visible, may) if not found.unseen else None,
        others=other_families(),
    )
    return Looked(facts, bool(pids), tuple(sorted(peers)), tuple(sorted(addresses)))


def has_vsock() -> bool:
    """Whether vsock leads anywhere: to a hypervisor or to guests, or back to this host."""
    if VSOCK_LOOPBACK.exists():
        return True
    with suppress(OSError), VSOCK_DEVICE.open("rb") as device:
        (cid,) = struct.unpack("=I", fcntl.ioctl(device, GET_LOCAL_CID, bytes(4)))
        return bool(cid != NO_CID)
    return False


def other_families() -> frozenset[str] | None:
    """The protocols of socket families that no path tells of, as far as the kernel has loaded them."""
    with suppress(OSError):
        return parse_protocols(PROTOCOLS.read_text(errors="replace"))
    return None


def parse_protocols(text: str) -> frozenset[str]:
    """Those of other families in /proc/net/protocols, its first column."""
    names = {line.split()[0] for line in text.splitlines()[1:] if line.strip()}
    return frozenset(name for name in names if name.removesuffix("v6") not in KNOWN_PROTOCOLS)


def _may(threads: Collection[Credentials], doors: Collection[os.stat_result]) -> frozenset[Need]:
    leave = {Need.CGROUP_WRITE for each in threads if any(map(each.may_write, doors))}
    return frozenset(need for each in threads for need in needs_met(each.capabilities)) | leave


def _given(threads: Collection[Credentials]) -> frozenset[Need]:
    """Who is root there may leave its cgroup, whatever the bounding set is."""
    leave = {Need.CGROUP_WRITE for each in threads if not each.no_new_privs}
    return frozenset(need for each in threads for need in needs_met(each.given_by_programs)) | leave


def _traces(threads: Collection[Credentials], targets: Collection[Cgroup]) -> bool | None:
    """A visitor of ours in its cgroup is nobody outside."""
    own = {pid for cgroup in targets for each in cgroups.tree(cgroup) for pid in cgroups.own_processes(each)}
    return tracing.may_trace_others(threads, own)


def _reaches_netlink(found: Scan, pids: Collection[int], may: frozenset[Need] | None) -> bool | None:
    """Whether a netlink socket takes messages of it, where it is; None where that is not known. Its own one for
    messages between processes counts: others may send to it, or have it, too."""
    spaces = netns.of_processes(pids)
    held = {each.netns for each in found.of_family(socket.AF_NETLINK)}
    if may is None or Need.SYS_ADMIN in may or not held <= spaces.keys():
        return True
    with suppress(OSError, WatchdogError):
        listed = [each for place in spaces.values() for each in netlink.listed_in(place)]
        others = [each for each in listed if each.inode not in found.sockets]
        between = any(each.protocol == netlink.USERSOCK for each in listed)
        return between or (Need.NET_ADMIN in may and bool(others))
    return None


def _has_splicing() -> bool | None:
    with suppress(WatchdogError):
        return splicing.is_loaded()
    return None


def _held(found: Scan) -> dict[Holding, list[int]]:
    """What it has open that is in a network namespace, each by that."""
    listed = found.sockets.values()
    raw = [each for each in listed if each.family in sockets.INTERNET and each.type == socket.SOCK_RAW]
    by_kind = {
        Holding.RAW: raw,
        Holding.PACKET: found.of_family(socket.AF_PACKET),
        Holding.XDP: found.of_family(AF_XDP),
        Holding.VSOCK: found.of_family(socket.AF_VSOCK),
        Holding.ELSEWHERE: found.elsewhere(),
    }
    held = {holding: [each.netns for each in kind] for holding, kind in by_kind.items()}
    return {**held, Holding.TUN: [*found.tuns.values()]}


def _open_ones(held: Mapping[Holding, Collection[object]]) -> frozenset[Holding]:
    return frozenset(holding for holding, each in held.items() if each)


def _abroad(held: Mapping[Holding, Sequence[int]], own: Collection[int]) -> frozenset[Holding]:
    return frozenset(holding for holding, spaces in held.items() if not {*spaces} <= {*own})


def _unix_listed(found: Scan, pids: Collection[int]) -> dict[int, diag.UnixSocket]:
    """Its unix sockets and those around them, by inode. One that is not listed is one of which nothing is known: where
    nobody lives in its network namespace any more, too."""
    listed: dict[int, diag.UnixSocket] = {}
    wanted = {each.netns for each in found.of_family(socket.AF_UNIX)}
    ways_in = netns.hosts_own() if wanted else {}
    if not wanted <= ways_in.keys():
        ways_in |= netns.of_processes(pids)
    if not wanted <= ways_in.keys():
        ways_in |= netns.all_visible()
    for place in (ways_in[each] for each in wanted & ways_in.keys()):
        with suppress(OSError, WatchdogError):
            listed |= diag.unix_sockets(place)
    return listed


def _files(paths: Iterable[Path]) -> set[bytes]:
    found = set()
    for path in paths:
        with suppress(OSError):
            found.add(diag.file_at(path))
    return found


def _unix_peers(found: Scan, listed: Mapping[int, diag.UnixSocket], journal: Collection[bytes]) -> set[str]:
    """The names of what is at the other end of its unix connections, where that is not itself or the journal."""
    held = {each.inode for each in found.of_family(socket.AF_UNIX)}
    peers = {peer for inode in held if inode in listed and (peer := listed[inode].peer) is not None}
    outside = [listed.get(peer) for peer in peers - held]
    names = {"" if each is None else each.name for each in outside if each is None or each.file not in journal}
    return names | ({""} if held - listed.keys() else set())


def _unix_addresses(found: Scan, listed: Mapping[int, diag.UnixSocket]) -> set[str]:
    """Where others can reach a unix socket of its own."""
    held = [listed.get(each.inode) for each in found.of_family(socket.AF_UNIX)]
    return {"" if each is None else each.name for each in held if each is None or each.is_reachable}


def _has_own(spaces: Iterable[int], pids: Collection[int]) -> bool:
    return any(not netns.strangers(inode, pids) for inode in spaces)
