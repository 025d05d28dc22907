"""A place to try every path: cgroups, network namespaces and processes of our own, joined by a veth.

    namespace "agent":  the agents (root and not), isolated; their mate, not isolated      va 192.0.2.1
    namespace "peer":   the peer, across the veth                                           vb 192.0.2.2
    namespace "native": the native, for agents that enter another namespace, and who hands sockets of it over

Nothing of the host's own is touched: everything is below one scratch cgroup and inside these namespaces, and all of it
is gone at the end. Whatever holds a namespace is one of its processes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.scratch import make, scratch_folder, scratch_tree
from watchdog.paths import rows
from watchdog.paths.actor import Actor, must
from watchdog.paths.bed_network import READY_TIMEOUT_S, connect
from watchdog.paths.play import Phase, Play, Row, Tried
from watchdog.paths.row_maker import DEVICE, FAR_DEVICE, Who
from watchdog.paths.words import Facts, Holding, Need

PREFIX = cgroups.BED_PREFIX

UNPRIVILEGED_UID = 61001
"""Nobody's: neither a distribution nor systemd gives it out (60578-61183 is free, see its UIDS-GIDS document)."""


ARRIVES_S = 0.4
"""Longer than anything takes that arrives (TCP repeats what was lost after 0.2 s), shorter than a SYN's repetition."""
RESUMES_S = 8.0
"""Established TCP goes on within 1 to 6 s of a release, at its next repetition."""

ROOT, USER = "root", "user"
_PORTS = {ROOT: 10000, USER: 20000}
_INSIDERS = ("", ".child", ".migrant", ".newcomer", ".abroad")
_OUTSIDERS = ("mate", "peer", "native")

FACTS = {
    ROOT: Facts(
        may=frozenset(Need),
        holds=frozenset(Holding) - {Holding.RING},
        abroad=frozenset(),
        traces=True,
        spliced=False,
        own_netns=True,
        netlink=True,
    ),
    USER: Facts(
        may=frozenset(),
        holds=frozenset({Holding.UNIX, Holding.LISTENING, Holding.ELSEWHERE}),
        abroad=frozenset(),
        traces=True,
        spliced=False,
        own_netns=True,
        netlink=True,
    ),
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
        folder = undo.enter_context(scratch_folder(PREFIX))
        actors = _started(undo)
        subject = _placed(top, actors)
        connect(actors)
        _become_user(actors)
        play = Play(actors, _all_rows(folder, actors, top))
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
    return Subject(cgroups.resolve(agent), top, near, DEVICE, far, FAR_DEVICE)


def _become_user(actors: dict[str, Actor]) -> None:
    for each in _INSIDERS:
        must(
            actors[USER + each],
            [["become", UNPRIVILEGED_UID, UNPRIVILEGED_UID], ["keep_only", 0]],
            time.monotonic() + READY_TIMEOUT_S,
        )


def _all_rows(folder: Path, actors: dict[str, Actor], top: Cgroup) -> list[Row]:
    elsewhere = str(top.path / "elsewhere/cgroup.procs")
    native = str(actors["native"].netns)
    return [row for who in (ROOT, USER) for row in rows.rows_of(Who(who, _PORTS[who], str(folder), native, elsewhere))]
