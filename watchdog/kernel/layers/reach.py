"""Where the frames of a target can go: the network namespaces it is in, and those its packet sockets send into."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from watchdog import aside
from watchdog.kernel import cgroups, netns, packet_sockets, taps
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.once import once
from watchdog.kernel.netns import Netns


@dataclass(frozen=True, slots=True)
class Reach:
    """What was found out by looking at the processes of some cgroups."""

    pids: frozenset[int]
    """Of this PID namespace."""
    spaces: Mapping[int, Netns]
    """Where its processes are, by inode, and where its packet sockets send."""
    cookies: frozenset[int]
    """Of the packet sockets it holds, whoever made them."""
    sends_frames: bool
    """Whether a process has a packet socket or may open one, or has a tap: opened in the cgroup, it sends frames
    that the filters know."""
    unseen: tuple[str, ...]
    """What could not be looked at, a sentence each."""

    @property
    def own_spaces(self) -> dict[int, Netns]:
        """Those that are not the host's."""
        hosts = netns.hosts_own()
        return {inode: place for inode, place in self.spaces.items() if inode not in hosts}


def reach_of(targets: Collection[Cgroup]) -> Reach:
    """Look at every process in the cgroups and below; what goes midway is left out."""
    return once(("reach", *targets), lambda: _reach_of(targets))


def _reach_of(targets: Collection[Cgroup]) -> Reach:
    listed = frozenset(pid for cgroup in targets for pid in cgroups.processes(cgroup))
    pids = listed - {cgroups.OTHER_NAMESPACE}
    spaces = netns.of_processes(pids)
    open_ones = packet_sockets.open_ones(pids, (spaces | netns.hosts_own()).values()) if pids else []
    unseen = ["it has a process in a PID namespace that cannot be seen from here"] if pids != listed else []
    if any(each.cookie is None for each in open_ones):
        unseen.append(f"its packet sockets could not be looked at: {aside.HANGS}")
    return Reach(
        pids=pids,
        spaces=spaces | {each.place.inode: each.place for each in open_ones},
        cookies=frozenset(each.cookie for each in open_ones if each.cookie),
        sends_frames=pids != listed or bool(open_ones) or packet_sockets.may_be_opened(pids) or taps.are_held(pids),
        unseen=tuple(unseen),
    )
