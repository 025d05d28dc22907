"""A place to try every path: cgroups, network namespaces and processes of our own, joined by a veth.

    namespace "agent":  the agents (root and not), isolated; their mate, not isolated      va 192.0.2.1
    namespace "peer":   the peer, across the veth                                           vb 192.0.2.2
    namespace "native": the native, for agents that enter another namespace

Nothing of the host's own is touched: everything is below one scratch cgroup and inside these namespaces, and all of it
is gone at the end. Whatever holds a namespace is one of its processes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused, WatchdogError
from watchdog.host import command
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.paths import rows
from watchdog.paths.actor import Actor, Script, must
from watchdog.paths.play import Phase, Play, Row, Tried
from watchdog.paths.rows import Who
from watchdog.paths.scratch import make, scratch_tree
from watchdog.paths.words import Facts, Holding, Need

PREFIX = "watchdog-paths-"

UNPRIVILEGED_UID = 61001
"""Nobody's: neither a distribution nor systemd gives it out (60578-61183 is free, see its UIDS-GIDS document)."""

READY_TIMEOUT_S = 10.0
LINK_TIMEOUT_S = 5.0
LINK_RETRY_S = 0.02
COMMAND_TIMEOUT_S = 10.0

ARRIVES_S = 0.4
"""Longer than anything takes that arrives (TCP repeats what was lost after 0.2 s), shorter than a SYN's repetition."""
RESUMES_S = 8.0
"""Established TCP goes on within 1 to 6 s of a release, at its next repetition."""

ROOT, USER = "root", "user"
_PORTS = {ROOT: 10000, USER: 20000}
_INSIDERS = ("", ".child", ".migrant", ".newcomer", ".abroad")
_OUTSIDERS = ("mate", "peer", "native")
_LINK_CHECK_PORT = 9

FACTS = {
    ROOT: Facts(may=frozenset(Need), holds=frozenset(Holding), own_netns=True),
    USER: Facts(may=frozenset(), holds=frozenset({Holding.UNIX, Holding.ELSEWHERE}), own_netns=True),
}
"""What is true of the two agents of a bed; whether there is vsock is the host's."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What there is to isolate in a bed, and where a layer finds its place."""

    cgroup: Cgroup
    """Of both agents: the non-root one is in its child "user"."""
    parent: Cgroup
    """Below it is everything of the bed, also what must not be isolated."""
    netns: Path
    """The agents' network namespace, shared with their mate."""
    device: str
    far_netns: Path
    """Where the host end of their veth is."""
    far_device: str


class Bed:
    """The running bed."""

    def __init__(self, subject: Subject, actors: dict[str, Actor], play: Play) -> None:
        self.subject, self._actors, self._play = subject, actors, play
        self._phases = 0

    @property
    def rows(self) -> Sequence[Row]:
        """All rows, of both agents."""
        return self._play.rows

    def attempt(self, within_s: float = ARRIVES_S, only: Collection[str] | None = None) -> dict[str, Tried]:
        """Try every row once (or those named), by Row.key. Ends early where everything arrives."""
        self._phases += 1
        tried = self._play.attempt(Phase(self._phases, within_s), only)
        self._take_back()
        return tried

    def _take_back(self) -> None:
        for who in (ROOT, USER):
            self._actors[f"{who}.migrant"].move(_home(self.subject.cgroup.path, who, ".migrant"))


@contextmanager
def opened(parent: Path | None = None) -> Iterator[Bed]:
    """Make a bed below a cgroup (default: the v2 root), ready to be tried. WatchdogError says why there is none."""
    with ExitStack() as undo:
        top = undo.enter_context(scratch_tree(parent or cgroups.find_v2_root(), PREFIX))
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        actors = _started(undo)
        subject = _placed(top, actors)
        _connect(actors)
        _become_user(actors)
        play = Play(actors, _all_rows(folder, actors, top))
        _listen_for_pings(actors["peer"])
        play.setup()
        for who in (ROOT, USER):
            actors[f"{who}.newcomer"].move(_home(subject.cgroup.path, who, ".newcomer"))
        yield Bed(subject, actors, play)


def _started(undo: ExitStack) -> dict[str, Actor]:
    names = [*(who + each for who in (ROOT, USER) for each in _INSIDERS), *_OUTSIDERS]
    actors = {name: undo.enter_context(closing(Actor(name))) for name in names}
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    for name in _OUTSIDERS:
        must(actors[name], [["new_netns"]], deadline_s)
    for name in names:
        if name not in _OUTSIDERS:
            must(actors[name], [["enter_netns", str(actors["mate"].netns)]], deadline_s)
    return actors


def _home(agent: Path, who: str, suffix: str) -> Path:
    """The cgroup of one of the agents' processes."""
    own = agent if who == ROOT else agent / USER
    return own / "child" if suffix == ".child" else own


def _placed(top: Cgroup, actors: dict[str, Actor]) -> Subject:
    """Put everybody into a cgroup; the newcomers have theirs elsewhere still."""
    agent, elsewhere = make(top.path / "agent"), make(top.path / "elsewhere")
    for path in (agent / USER, agent / "child", agent / USER / "child"):
        make(path)
    for name, actor in actors.items():
        who, dot, rest = name.partition(".")
        inside = who in (ROOT, USER) and rest != "newcomer"
        actor.move(_home(agent, who, dot + rest) if inside else elsewhere)
    near, far = actors["mate"].netns, actors["peer"].netns
    return Subject(cgroups.resolve(agent), top, near, rows.DEVICE, far, rows.FAR_DEVICE)


def _connect(actors: dict[str, Actor]) -> None:
    """The veth, its addresses and neighbours, the TUN interfaces, forwarding."""
    mate, peer = actors["mate"], actors["peer"]
    near_mac, far_mac = rows.AGENT_MAC.hex(":"), rows.PEER_MAC.hex(":")
    _ip(
        mate,
        "link set lo up",
        f"link add {rows.DEVICE} address {near_mac} numtxqueues {rows.QUEUES} numrxqueues {rows.QUEUES} type veth "
        f"peer name {rows.FAR_DEVICE} address {far_mac} netns {peer.pid}",
        *_addressed(rows.DEVICE, rows.AGENT_V4, rows.AGENT_V6, far_mac, rows.PEER_V4, rows.PEER_V6),
    )
    _ip(
        peer,
        "link set lo up",
        *_addressed(rows.FAR_DEVICE, rows.PEER_V4, rows.PEER_V6, near_mac, rows.AGENT_V4, rows.AGENT_V6),
        f"route add {rows.GUEST_V4}/24 via {rows.AGENT_V4}".replace(rows.GUEST_V4, _network(rows.GUEST_V4)),
    )
    _ip(actors["native"], "link set lo up")
    _allow_forwarding(mate)
    with suppress(WatchdogError):  # no TUN on this host: its rows say so
        _ip(mate, *(line for device in (rows.TUN_NEW, rows.TUN_OLD) for line in _tun(device)))
    _await_link(mate, peer)


def _addressed(device: str, v4: str, v6: str, other_mac: str, other_v4: str, other_v6: str) -> list[str]:
    """Without the neighbours written down the first IPv6 packet can wait a second."""
    neighbours = [f"neigh replace {other} lladdr {other_mac} dev {device}" for other in (other_v4, other_v6)]
    return [
        f"addr add {v4}/24 dev {device}",
        f"addr add {v6}/64 dev {device} nodad",
        f"link set {device} up",
        *(f"{line} nud permanent" for line in neighbours),
    ]


def _tun(device: str) -> list[str]:
    """Owned by root: a TUN interface without an owner is anybody's."""
    return [f"tuntap add dev {device} mode tun user 0", f"link set {device} up"]


def _network(address: str) -> str:
    return address.rsplit(".", 1)[0] + ".0"


def _allow_forwarding(mate: Actor) -> None:
    """Also a ping without privilege, which many distributions allow."""
    settings = {
        "ipv4/ip_forward": "1",
        "ipv4/conf/all/rp_filter": "0",
        "ipv4/conf/default/rp_filter": "0",
        "ipv4/ping_group_range": "0 2147483647",
    }
    script: Script = [["write", f"/proc/sys/net/{name}", value] for name, value in settings.items()]
    must(mate, script, time.monotonic() + READY_TIMEOUT_S)


def _ip(actor: Actor, *lines: str) -> None:
    """Run ip(8) in an actor's namespace."""
    argv = ["nsenter", f"--net={actor.netns}", "ip", "-batch", "-"]
    done = command.run(argv, COMMAND_TIMEOUT_S, input="\n".join(lines) + "\n")
    if done.status != 0:
        raise HostCannot(
            f"cannot prepare a scratch network namespace: {done.last_error_line() or done.ending()}",
            hint="this needs root, iproute2 and a kernel with veth",
        )


def _await_link(mate: Actor, peer: Actor) -> None:
    """A veth carries nothing for a moment after both its ends are up."""
    deadline_s = time.monotonic() + LINK_TIMEOUT_S
    to4, to6 = [rows.PEER_V4, _LINK_CHECK_PORT], [rows.PEER_V6, _LINK_CHECK_PORT]
    must(peer, [*rows.bound("check4", "udp4", to4), *rows.bound("check6", "udp6", to6)], deadline_s)
    must(mate, [["make", "check4", "udp4"], ["make", "check6", "udp6"]], deadline_s)
    wanted = {name: (name, "data", b"check".hex()) for name in ("check4", "check6")}
    while time.monotonic() < deadline_s:
        mate.run([["send", "check4", b"check".hex(), to4], ["send", "check6", b"check".hex(), to6]], deadline_s)
        peer.tell({"do": "await", "within_s": LINK_RETRY_S, "for": wanted}, deadline_s)
        if set((peer.hear(deadline_s) or {}).values()) == {"ok"}:
            return
    raise KernelRefused("a veth between scratch namespaces carries nothing", hint="does a firewall drop it?")


def _become_user(actors: dict[str, Actor]) -> None:
    for each in _INSIDERS:
        must(
            actors[USER + each],
            [["become", UNPRIVILEGED_UID, UNPRIVILEGED_UID, 0]],
            time.monotonic() + READY_TIMEOUT_S,
        )


def _all_rows(folder: Path, actors: dict[str, Actor], top: Cgroup) -> list[Row]:
    elsewhere = str(top.path / "elsewhere/cgroup.procs")
    native = str(actors["native"].netns)
    return [row for who in (ROOT, USER) for row in rows.rows_of(Who(who, _PORTS[who], str(folder), native, elsewhere))]


def _listen_for_pings(peer: Actor) -> None:
    script: Script = [["make", rows.PEER_ICMP4, "icmp4"], ["make", rows.PEER_ICMP6, "icmp6"]]
    must(peer, script, time.monotonic() + READY_TIMEOUT_S)
