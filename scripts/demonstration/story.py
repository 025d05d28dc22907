"""The story, step by step. Every step is a check of its own: it returns when it came out, and raises what did not."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from demonstration import stage as stages
from demonstration.company import Member
from demonstration.mesh import Mesh, Place, free_ports
from demonstration.news import News
from demonstration.pace import Failed, Pace, Stuck
from demonstration.receiver import Event, Receivers
from demonstration.screen import Screen
from demonstration.stage import Stage
from demonstration.talk import FAMILIES, Talker, missing
from demonstration.traffic import OUTSIDE, PATIENCE_S, SILENCE_S, Traffic
from watchdog.webhook import BadSignature

NAMES = ("immune", "sidecar", "shield")
IMMUNE, SIDECAR, SHIELD = NAMES
OTHERS = (IMMUNE, SIDECAR)
RESTARTS = 3
WORDS = {"v4": "IPv4", "v6": "IPv6"}
START_LIMIT_S = 20.0
CHANGE_LIMIT_S = 15.0
RESUME_LIMIT_S = 15.0
SILENT_FOR_S = 0.3
LINES_WANTED = 3
"""Lines of a stream that prove it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table. `chapter` begins a new part of the story; `skip` says why the step cannot be; `always`
    is for what is done however the story ended."""

    name: str
    play: Callable[[], None]
    chapter: str = ""
    skip: str = ""
    always: bool = False


class Story:
    """What the steps share."""

    def __init__(self, stage: Stage, screen: Screen, pace: Pace) -> None:
        self._stage, self._screen, self._pace = stage, screen, pace
        self._lacking = {family: missing(family) for family in FAMILIES}
        self._families = [family for family, why in self._lacking.items() if not why]
        self._told = Receivers(stage.room, "duty", "architect")
        self._outside = Talker(self._families)
        self._members = {name: Member(stage, name, pace) for name in NAMES}
        self._shield = self._members[SHIELD]
        self._traffic = Traffic(self._outside, self._members.values())
        ports = free_ports(2 * len(NAMES))
        places = [
            Place(name, self._members[name].cgroup, *ports[2 * number : 2 * number + 2])
            for number, name in enumerate(NAMES)
        ]
        restart = [sys.executable, "-m", "demonstration.restart", str(self._shield.room), str(self._shield.cgroup)]
        places[-1] = replace(places[-1], restart=restart)
        self.mesh = Mesh(stage, screen, pace, places, self._told)
        self._news = News(screen, self.mesh, self._told, self._shield)
        self._pids: list[int] = []
        self._dropped: dict[str, int] = {}
        self._streams: dict[str, dict[str, Any]] = {}
        self._programs: list[int] = []
        pace.news = self._news.tell

    def steps(self) -> Iterator[Step]:
        """All of it, in order."""
        yield Step("Three agents run, each in a cgroup of its own", self._start_agents, "Setting the stage")
        yield Step("Three watchers find everybody HEALTHY", self._start_watchers)
        yield from self._by_family("Everybody reaches everybody", self._all_pass)
        yield Step(
            "shield goes silent: a miss, DEGRADED, MEDIUM", self._fall_silent, "shield goes silent: its rules are damaged"
        )
        for number in range(1, RESTARTS + 1):
            yield Step(f"Restart {number} of {RESTARTS}, HIGH: a new process, as silent", partial(self._restart, number))
        yield Step("Until now the new shield's traffic passes", self._still_open)
        yield Step("shield is isolated, CRITICAL", self._isolated, "Three restarts did not help: shield is cut off")
        yield Step("The architect has it, signed", self._signed)
        yield Step("The kernel says that it holds", self._verified)
        yield from self._by_family("Nothing gets out of shield, in, or around in it", self._none_pass)
        yield Step("Its established connections stand still", self._stand_still)
        yield Step("What it sent and was sent is counted", self._counted)
        yield from self._by_family("immune and sidecar talk on", self._others_pass)
        yield Step("Their established connections talk on", self._others_stream)
        yield Step("Repaired, shield stays cut off", self._repaired, "Repaired and released")
        yield Step("An operator releases it", self._released)
        yield from self._by_family("Everybody reaches everybody again", self._all_pass)
        yield Step("The established connections go on, no line lost", self._resumed)
        yield Step("shield is HEALTHY, RESOLVED arrives", self._resolved)
        yield Step("The watchers end when told to", self.mesh.stop_watchers, "The end")
        yield Step("Nothing is left behind", self._nothing_left, always=True)

    def _by_family(self, name: str, play: Callable[[str], None]) -> Iterator[Step]:
        for family in FAMILIES:
            yield Step(f"{name}, {WORDS[family]}", partial(play, family), skip=self._lacking[family])

    # Setting the stage

    def _start_agents(self) -> None:
        outside = [(OUTSIDE, family, self._outside.ports[f"tcp {family}"]) for family in self._families]
        dials = outside
        for name in reversed(NAMES):
            member = self._members[name]
            member.start(self.mesh.agents[name].port, self._families, dials)
            self._screen.say(name, f"process {member.pid} in the cgroup {member.cgroup}")
            if name == SIDECAR:  # immune keeps a connection to it as well
                ports = member.facts()["ports"]
                dials = [*outside, *((SIDECAR, family, ports[f"tcp {family}"]) for family in self._families)]
        inside = {name: (member.cgroup / "cgroup.procs").read_text().split() for name, member in self._members.items()}
        if any(pids != [str(self._members[name].pid)] for name, pids in inside.items()):
            raise Stuck(f"the cgroups hold other processes than the agents': {inside}")
        self._remember_pid()

    def _start_watchers(self) -> None:
        self._screen.say("mesh", "three watchers start, and have the BPF programs compiled")
        self.mesh.start_watchers()
        for name in NAMES:
            peers = {peer for peer in NAMES if peer != name}
            self._pace.until(
                f"the watcher of {name} finds {' and '.join(sorted(peers))} HEALTHY",
                lambda name=name, peers=peers: self._all_healthy(name, peers),
                START_LIMIT_S,
            )
            self._screen.say(name, f"its watcher finds {' and '.join(sorted(peers))} HEALTHY")
        self._programs = stages.pinned_program_ids(self._stage)

    def _all_healthy(self, watcher: str, peers: set[str]) -> bool:
        seen = self.mesh.seen_by(watcher)
        return set(seen) == peers and all(p["last_seen"] and p["status"] == "HEALTHY" for p in seen.values())

    # The ladder

    def _fall_silent(self) -> None:
        if not self._answers():
            raise Stuck("shield did not answer before")
        self._shield.damage()
        self._screen.say(SHIELD, "its rules are damaged now, and its loop hangs on them")
        self._event("the first MEDIUM event", action="alert", severity="MEDIUM", state="FIRING")
        self._pace.until("a watcher finds shield DEGRADED", lambda: self._is_believed("DEGRADED"), CHANGE_LIMIT_S)

    def _restart(self, number: int) -> None:
        self._pace.until(
            f"restart {number} is ordered",
            lambda: len(self._events(action="restart", severity="HIGH", state="FIRING")) >= number,
            CHANGE_LIMIT_S,
        )
        old = self._pids[-1]
        new = self._pace.until("a new process runs", lambda: self._shield.pid not in (old, None), CHANGE_LIMIT_S)
        assert new
        self._remember_pid()
        inside = (self._shield.cgroup / "cgroup.procs").read_text().split()
        if inside != [str(self._pids[-1])]:
            raise Failed(f"the cgroup of shield holds {inside}, not its new process {self._pids[-1]} alone")
        if self._answers():
            raise Failed("the new process answers, though its rules are damaged")
        self._screen.say(SHIELD, f"process {old} is gone; process {self._pids[-1]} reads the same rules, as silent")

    def _remember_pid(self) -> None:
        pid = self._shield.pid
        assert pid is not None, "it was just seen"
        self._pids.append(pid)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.mesh.agents[SHIELD].port, timeout=SILENT_FOR_S)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _still_open(self) -> None:
        crossing = self._traffic.cross(self._traffic.pairs_with(SHIELD), self._families, PATIENCE_S)
        crossing.check_all_passed()
        self._pace.until("shield's connections are established", lambda: self._established(SHIELD), CHANGE_LIMIT_S)
        self._streams = self._streams_of(SHIELD)
        if self._is_believed("ISOLATED"):
            raise Failed("shield was isolated before this could be seen")
        ports = " and ".join(str(stream["port"]) for stream in self._streams.values())
        tried = f"{len(crossing.tried)} of {len(crossing.tried)} tries from, to and within shield pass"
        self._screen.say(SHIELD, f"{tried}; it keeps connections to outside from the ports {ports}")

    # Cut off

    def _isolated(self) -> None:
        self._event("the CRITICAL event", action="alert_architect", severity="CRITICAL", state="FIRING")
        for name in OTHERS:
            self._pace.until(
                f"{name} finds shield ISOLATED",
                lambda name=name: self._news.believed[name][0] == "ISOLATED",
                CHANGE_LIMIT_S,
            )

    def _signed(self) -> None:
        event = self._event(
            "the architect's event", "architect", action="alert_architect", severity="CRITICAL", state="FIRING"
        )
        self._told.check(event)
        try:
            self._told.check(replace(event, body=event.body.replace(b"CRITICAL", b"MEDIUM")))
        except BadSignature:
            pass
        else:
            raise Failed("a changed event was taken for a signed one")
        if mild := [e.data["severity"] for e in self._events("architect") if e.data["severity"] != "CRITICAL"]:
            raise Failed(f"the architect wants CRITICAL events only, and got {mild}")
        if self._told.refused:
            raise Failed(f"an event came with a bad signature: {self._told.refused[0]}")
        self._screen.say("architect", f"{event.id}: its HMAC-SHA256 signature is good; the same, changed, is refused")

    def _verified(self) -> None:
        self._dropped = self._verify(aloud=True)

    def _verify(self, *, aloud: bool) -> dict[str, int]:
        """Packets dropped by direction. Raises Failed when the isolation does not hold."""
        done = self.mesh.run("verify", SHIELD, aloud=aloud)
        if done.status or not done.document["holds"] or done.document["gaps"]:
            raise Failed(f"the isolation does not hold whole: {done.document}")
        dropped = {way: done.document["dropped"][way]["packets"] for way in ("egress", "ingress")}
        if aloud:
            self._screen.say("kernel", f"{done.document['cgroup']} is filtered both ways")
        return dropped

    def _none_pass(self, family: str) -> None:
        crossing = self._traffic.cross(self._traffic.pairs_with(SHIELD), [family], SILENCE_S)
        crossing.check_none_passed()
        tried = len(crossing.tried)
        self._screen.say(SHIELD, f"{WORDS[family]}: {tried} of {tried} TCP and UDP tries are stopped")

    def _stand_still(self) -> None:
        before = self._streams_of(SHIELD)
        heard_before = dict(self._outside.streams)
        self._pace.rest(SILENCE_S)
        for key, stream in self._streams_of(SHIELD).items():
            if stream["port"] != self._streams[key]["port"] or stream["name"] != self._streams[key]["name"]:
                raise Failed(f"it is another connection than before: {stream}")
            name = stream["name"]
            if stream["echoed"] != before[key]["echoed"] or self._outside.streams[name] != heard_before[name]:
                raise Failed(f"a line came through: {stream}")
            if stream["ended"] or stream["sent"] <= before[key]["sent"]:
                raise Failed(f"it is not tried any more: {stream}")
            waiting = stream["sent"] - stream["echoed"]
            self._screen.say(SHIELD, f"{key}: open, {waiting} lines wait to be sent, none comes through")

    def _counted(self) -> None:
        now = self._verify(aloud=False)
        grown = {way: now[way] - self._dropped[way] for way in now}
        if min(grown.values()) <= 0:
            raise Failed(f"packets were dropped and not counted: {grown}")
        self._screen.say(
            "kernel",
            f"{grown['egress']} more packets out and {grown['ingress']} in were dropped and counted; "
            f"{now['egress']} and {now['ingress']} in all",
        )

    def _others_pass(self, family: str) -> None:
        crossing = self._traffic.cross(self._traffic.pairs_without(SHIELD), [family], PATIENCE_S)
        crossing.check_all_passed()
        tried = len(crossing.tried)
        self._screen.say("others", f"{WORDS[family]}: {tried} of {tried} TCP and UDP tries pass, outside as well")

    def _others_stream(self) -> None:
        for name in OTHERS:
            before = self._streams_of(name)
            self._pace.until(
                f"the established connections of {name} go on",
                lambda name=name, before=before: all(
                    stream["echoed"] >= before[key]["echoed"] + LINES_WANTED
                    for key, stream in self._streams_of(name).items()
                ),
                CHANGE_LIMIT_S,
            )
            self._screen.say(name, f"its connections to {', '.join(before)} go on")

    # Back

    def _repaired(self) -> None:
        turns = self._shield.facts()["turns"]
        self._shield.repair()
        self._pace.until("shield's loop turns again", lambda: self._shield.facts()["turns"] > turns, CHANGE_LIMIT_S)
        if self._answers():
            raise Failed("shield answers, though it is isolated")
        self._verify(aloud=False)
        self._screen.say(SHIELD, "its rules are repaired and its loop runs; no restart, and nothing reaches it")

    def _released(self) -> None:
        done = self.mesh.run("release", SHIELD, "--reason", "rules repaired")
        if done.status or not done.document["holds"]:
            raise Stuck(f"the release failed: {done.document}")
        if self.mesh.run("verify", SHIELD, aloud=False).document["holds"]:
            raise Stuck("the kernel says that it is isolated still")
        dropped = done.document["dropped"]
        self._screen.say(
            "kernel",
            f"free: {dropped['egress']['packets']} packets out and {dropped['ingress']['packets']} in were dropped",
        )

    def _all_pass(self, family: str) -> None:
        pairs = {*self._traffic.pairs_with(SHIELD), *self._traffic.pairs_without(SHIELD)}
        crossing = self._traffic.cross(pairs, [family], PATIENCE_S)
        crossing.check_all_passed()
        tried = len(crossing.tried)
        self._screen.say("traffic", f"{WORDS[family]}: {tried} of {tried} TCP and UDP tries pass")

    def _resumed(self) -> None:
        began_s = time.monotonic()
        wanted = {key: stream["sent"] for key, stream in self._streams_of(SHIELD).items()}
        streams = self._pace.until(
            "the established connections go on",
            lambda: self._caught_up(wanted),
            RESUME_LIMIT_S,
        )
        for key, stream in streams.items():
            if stream["port"] != self._streams[key]["port"] or stream["name"] != self._streams[key]["name"]:
                raise Failed(f"it is another connection than before: {stream}")
        after = f"{time.monotonic() - began_s:.1f} s later"
        numbers = " and ".join(str(stream["echoed"]) for stream in streams.values())
        self._screen.say(SHIELD, f"{after} the same connections go on: lines 1 to {numbers}, none lost")

    def _caught_up(self, wanted: dict[str, int]) -> dict[str, dict[str, Any]] | None:
        streams = self._streams_of(SHIELD)
        if ended := [stream for stream in streams.values() if stream["ended"]]:
            raise Failed(f"a connection did not survive: {ended[0]}")
        return streams if all(stream["echoed"] >= wanted[key] for key, stream in streams.items()) else None

    def _resolved(self) -> None:
        for name in NAMES:
            peers = {peer for peer in NAMES if peer != name}
            self._pace.until(
                f"the watcher of {name} finds {' and '.join(sorted(peers))} HEALTHY",
                lambda name=name, peers=peers: self._all_healthy(name, peers),
                CHANGE_LIMIT_S,
            )
        self._event("the watchers' RESOLVED", state="RESOLVED", reason="answers again")
        self._event("the architect's RESOLVED", "architect", state="RESOLVED", reason="answers again")

    def _nothing_left(self) -> None:
        stages.clear(self._stage)
        stages.until(lambda: not stages.left(self._stage, self._programs))
        if left := stages.left(self._stage, self._programs):
            raise Failed(f"left behind: {', '.join(left)}")
        self._screen.say("host", "no process, cgroup, mount, BPF program or file of the demo is left")

    # Asking

    def _events(self, receiver: str = "duty", **wanted: str) -> list[Event]:
        return [e for e in list(self._told.events) if e.receiver == receiver and e.is_about(SHIELD, **wanted)]

    def _event(self, what: str, receiver: str = "duty", **wanted: str) -> Event:
        return self._pace.until(f"{what} arrives", lambda: self._events(receiver, **wanted), CHANGE_LIMIT_S)[0]

    def _is_believed(self, status: str) -> bool:
        return any(believed[0] == status for believed in self._news.believed.values())

    def _streams_of(self, name: str) -> dict[str, dict[str, Any]]:
        return {
            f"{stream['to']} over {WORDS[stream['family']]}": stream for stream in self._members[name].facts()["streams"]
        }

    def _established(self, name: str) -> bool:
        return all(stream["echoed"] >= LINES_WANTED for stream in self._streams_of(name).values())
