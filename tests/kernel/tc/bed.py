"""Frames between two namespaces, other tools' qdiscs and filters, and what the kernel shows of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.kernel.inside import Inside
from tests.kernel.netns import Netns, VethPair
from watchdog.kernel import common, netns, slots
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Target
from watchdog.kernel.tc_plan import FIRST_PRIO, Filter, Handle, TcHook

HTB_COUNTS = re.compile(r" direct_packets_stat \d+")
"""A counter that tc shows without being asked for any."""
ETHERTYPE = 0x88B5
"""IEEE 802: for local experiments."""

NOBODY = 61001

INITIAL = netns.OWN.stat().st_ino

OPEN = "p = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); p.bind(({device!r}, 0))"
SEND = "p.send(bytes.fromhex('ffffffffffff' + '020000000001' + '88b5') + {payload!r}.encode().ljust(50, b'.'))"
LISTEN = (
    f"r = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons({ETHERTYPE})); r.bind(({{device!r}}, 0)); "
    "r.settimeout(0.3)"
)
BECOME_NOBODY = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"


def place_of(space: Netns) -> netns.Netns:
    """The namespace as the product names it."""
    return netns.Netns(space.path.stat().st_ino, space.path)


def egress(programs: Common) -> Filter:
    """The filter that the tc layer wants on a link."""
    program_id = programs.programs["wd_tc_egress"]
    return Filter(TcHook.EGRESS, FIRST_PRIO, Handle.EGRESS, name="wd_tc_egress", program_id=program_id)


def target_of(pins: Path, *cgroups: Cgroup, number: int = 0) -> Target:
    """An isolation with the slot of that number. It may not touch the host's links."""
    programs = common.find(pins)
    assert programs is not None
    root = cgroups[0].root if cgroups else Path("/nowhere")
    return Target(cgroups, slots.list_slots(pins)[number], programs, root)


def without(target: Target, *programs: str) -> Target:
    """The same on a kernel that took all but these programs."""
    missing = {name: f"the kernel refused to load {name}" for name in programs}
    rest = {name: found for name, found in target.common.programs.items() if name not in missing}
    return replace(target, common=replace(target.common, programs=rest, missing=missing))


def snapshot(*spaces: Netns) -> list[str]:
    """Every qdisc, filter and nft rule of these namespaces, as text. No counters, and no addresses of objects."""
    return [text for space in spaces for text in _snapshot(space)]


def _snapshot(space: Netns) -> Iterator[str]:
    yield HTB_COUNTS.sub("", space.run("tc", "qdisc", "show"))
    yield space.run("nft", "list", "ruleset")
    for device in devices(space):
        for side in ("ingress", "egress", "root"):
            shown = space.run("tc", "filter", "show", "dev", device, *([] if side == "root" else [side]))
            yield f"{device} {side}\n{shown}"


def devices(space: Netns) -> list[str]:
    return [name for _, name in sorted(netns.links(place_of(space)).items())]


def filtered(space: Netns, side: str = "egress") -> list[str]:
    """The links with a filter of ours on one side."""
    return [name for name in devices(space) if "wd_tc_" in space.run("tc", "filter", "show", "dev", name, side)]


@contextmanager
def untouched(*spaces: Netns) -> Iterator[None]:
    """What is there is the same at the end."""
    before = snapshot(*spaces)
    yield
    assert snapshot(*spaces) == before


@dataclass
class Ends:
    """Somebody who sends frames, and the peer who should see them."""

    sender: Inside
    peer: Inside
    count: int = 0

    def got_through(self) -> bool:
        """Whether one frame arrives, and only then the send is a success."""
        self.count += 1
        payload = f"{self.sender.pid}-{self.count}"
        sent = self.sender.outcome(SEND.format(payload=payload))
        arrived = self.peer.run(
            "seen = []\n"
            "try:\n"
            f"    while not seen or {payload!r}.encode() not in seen[-1]: seen.append(r.recv(999))\n"
            "except TimeoutError: pass\n"
            f"any({payload!r}.encode() in frame for frame in seen)"
        )
        assert (sent, arrived) in {("pass", True), ("ENOBUFS", False)}
        return bool(arrived)


def frames(sender: Inside, peer: Inside, pair: VethPair, *, device: str = "", listen_on: str = "vb") -> Ends:
    """Packet sockets on both sides of a veth, opened now."""
    sender.run(OPEN.format(device=device or pair.device))
    peer.run(LISTEN.format(device=listen_on))
    return Ends(sender, peer)


class Agent:
    """An agent near a veth, a neighbour beside it, and the world at the far end."""

    def __init__(self, target: Target, process: Inside, neighbour: Inside, peer: Inside, veth: VethPair) -> None:
        self.target, self.process, self.neighbour, self.peer, self.veth = target, process, neighbour, peer, veth
        self.old = frames(process, peer, veth)
        self.others = frames(neighbour, peer, veth)

    @property
    def cgroup(self) -> Cgroup:
        return self.target.cgroups[0]

    def reaches_peer(self) -> bool:
        """Whether a datagram of the agent gets to the peer's application. (A packet socket at the host end is ahead of
        the filter there, and sees what is dropped.)"""
        self.peer.run("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 0)); u.settimeout(0.3)")
        port = self.peer.run("u.getsockname()[1]")
        send = f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ({self.veth.far_v4!r}, {port}))"
        assert self.process.outcome(send) == "pass"
        return self.peer.outcome("u.recv(9)") == "pass"

    def alone(self) -> None:
        """Nobody else in its namespace: whoever keeps it becomes the agent's, the neighbour goes."""
        (self.cgroup.path / "cgroup.procs").write_text(str(self.veth.near.pid))
        self.neighbour.close()

    def with_a_new_socket(self) -> Ends:
        self.process.run(OPEN.format(device=self.veth.device))
        return self.old


def tc(space: Netns, *lines: str) -> None:
    """Another tool at work: one tc command a line."""
    for line in lines:
        space.run("tc", *line.split())


def add_links(space: Netns, names: Sequence[str]) -> None:
    """Links that lead nowhere: veths with both ends here."""
    for first, second in zip(names[::2], names[1::2], strict=True):
        space.ip("link", "add", first, "type", "veth", "peer", "name", second)
