"""What every chapter of the story has at hand."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from scripts.demonstration.company import Member
from scripts.demonstration.mesh import Mesh, Place, free_ports
from scripts.demonstration.news import EVERYTHING, News
from scripts.demonstration.pace import Failed, Pace
from scripts.demonstration.receiver import Event, Receivers
from scripts.demonstration.screen import Screen
from scripts.demonstration.stage import Stage
from scripts.demonstration.talk import FAMILIES, Talker, missing
from scripts.demonstration.traffic import Traffic
from watchdog.kernel import netns
from watchdog.kernel.netns import Netns

NAMES = ("immune", "sidecar", "shield")
IMMUNE, SIDECAR, SHIELD = NAMES
ARCHITECT = "architect"
WORDS = {"v4": "IPv4", "v6": "IPv6"}
CHANGE_LIMIT_S = 15.0
"""How long anything may take that the ladder, a receiver or an agent does by itself."""
SILENT_FOR_S = 0.3
LINES_WANTED = 3
"""Lines of a stream that prove it."""

Streams = dict[str, dict[str, Any]]
"""Connections by whom they lead to."""


class Play:
    """The agents, the talker outside, the receivers and the mesh, and what the chapters remember of them."""

    def __init__(self, stage: Stage, screen: Screen, pace: Pace, network_outside: Netns) -> None:
        self.stage, self.screen, self.pace = stage, screen, pace
        self.lacking = {family: missing(family) for family in FAMILIES}
        self.families = [family for family, why in self.lacking.items() if not why]
        self.told = Receivers(stage.room, EVERYTHING, ARCHITECT)
        self.outside = netns.inside(network_outside, lambda: Talker(self.families))
        self.members = {name: Member(stage, name, pace) for name in NAMES}
        self.shield = self.members[SHIELD]
        self.traffic = Traffic(self.outside, network_outside, self.members.values())
        self.mesh = Mesh(stage, screen, pace, self._places(), self.told)
        self.news = News(screen, self.mesh, self.told, self.shield)
        self.pids: list[int] = []
        """Of shield, the newest last."""
        self.streams: Streams = {}
        """Of shield, as they were before it was isolated."""
        self.dropped: dict[str, int] = {}
        self.released_s = 0.0
        pace.news = self._tell

    def say(self, who: str, text: str) -> None:
        """One line for the audience."""
        self.screen.say(who, text)

    def until_healthy(self, limit_s: float = CHANGE_LIMIT_S) -> None:
        """Wait until every watcher has heard all its peers and finds them well."""
        for watcher in NAMES:
            self.pace.until(
                f"the watcher of {watcher} finds its peers HEALTHY",
                partial(self._finds_all_healthy, watcher),
                limit_s,
            )

    def shield_answers(self) -> bool:
        """Whether it answers a heartbeat of ours in time."""
        connection = http.client.HTTPConnection("127.0.0.1", self.mesh.agents[SHIELD].port, timeout=SILENT_FOR_S)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def is_believed(self, status: str) -> bool:
        """Whether a watcher finds shield so."""
        return any(believed == status for believed, _ in self.news.believed.values())

    def events(self, receiver: str = EVERYTHING, **wanted: str) -> list[Event]:
        """The signed events about shield that say these things."""
        return [
            each for each in list(self.told.events) if each.receiver == receiver and each.is_about(SHIELD, **wanted)
        ]

    def event(self, what: str, receiver: str = EVERYTHING, **wanted: str) -> Event:
        """Wait for one."""
        return self.pace.until(f"{what} arrives", lambda: self.events(receiver, **wanted), CHANGE_LIMIT_S)[0]

    def streams_of(self, name: str) -> Streams:
        """The connections that an agent keeps."""
        streams = self.members[name].facts()["streams"]
        return {f"{stream['to']} over {WORDS[stream['family']]}": stream for stream in streams}

    def check_same(self, streams: Streams) -> None:
        """Raises Failed when shield's connections are not those it had before it was isolated, or have ended."""
        for to, stream in streams.items():
            if stream["ended"]:
                raise Failed(f"the connection to {to} has ended: {stream['ended']}")
            if any(stream[key] != self.streams[to][key] for key in ("name", "port")):
                raise Failed(f"the connection to {to} is another one than before")

    def processes_in(self, name: str) -> list[int]:
        """What runs in an agent's cgroup."""
        return sorted(int(line) for line in (self.members[name].cgroup / "cgroup.procs").read_text().split())

    def _places(self) -> Iterable[Place]:
        ports = iter(free_ports(2 * len(NAMES)))
        restart = [
            sys.executable,
            "-m",
            f"{__package__}.restart",
            str(self.shield.room),
            str(self.shield.cgroup),
        ]
        for name, member in self.members.items():
            place = Place(name, member.cgroup, next(ports), next(ports))
            yield replace(place, restart=restart) if name == SHIELD else place

    def _finds_all_healthy(self, watcher: str) -> bool:
        seen = self.mesh.seen_by(watcher)
        healthy = {name for name, peer in seen.items() if peer["last_seen"] and peer["status"] == "HEALTHY"}
        return healthy == set(NAMES) - {watcher}

    def _tell(self) -> None:
        self.mesh.check_watchers()
        self.news.tell()
