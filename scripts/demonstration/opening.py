"""First chapter: three agents, three watchers, and everybody talks to everybody."""

from __future__ import annotations

from scripts.demonstration import stage as stages
from scripts.demonstration.pace import Stuck
from scripts.demonstration.play import NAMES, SHIELD, SIDECAR, WORDS, Play
from scripts.demonstration.talk import FAR, LOOPBACK
from scripts.demonstration.traffic import OUTSIDE, PATIENCE_S

START_LIMIT_S = 30.0
"""The programs are compiled within it: seconds, and more on a machine that has much else to do."""


def start_agents(play: Play) -> None:
    """Each alone in its cgroup. Every one keeps connections to the outside, immune to sidecar as well."""
    dials = [(OUTSIDE, family, FAR[family], play.outside.ports[f"tcp {family}"]) for family in play.families]
    for name in reversed(NAMES):
        member = play.members[name]
        member.start(play.mesh.agents[name].port, play.families, dials)
        play.say(name, f"process {member.pid} in the cgroup {member.cgroup}")
        if play.processes_in(name) != [member.pid]:
            raise Stuck(f"{member.cgroup} holds {play.processes_in(name)}, not process {member.pid} alone")
        if name == SIDECAR:
            ports = member.facts()["ports"]
            dials += [(SIDECAR, family, LOOPBACK[family], ports[f"tcp {family}"]) for family in play.families]
    play.pids.append(play.processes_in(SHIELD)[0])


def start_watchers(play: Play) -> None:
    """They compile the programs that an isolation needs, before any does."""
    play.mesh.start_watchers()
    play.say("mesh", "three watchers start; the first has the BPF programs compiled")
    play.until_healthy(START_LIMIT_S)
    ready = stages.ready_programs(play.stage)
    if not ready:
        raise Stuck("no BPF programs are ready, so nobody can be isolated: watchdog-mesh doctor says why")
    play.say("mesh", f"every watcher finds its peers HEALTHY; {ready} BPF programs are ready")


def all_pass(play: Play, family: str) -> None:
    """TCP and UDP between every two of the agents and the outside, and within each."""
    pairs = [*play.traffic.pairs_with(SHIELD), *play.traffic.pairs_without(SHIELD)]
    crossing = play.traffic.cross(pairs, [family], PATIENCE_S)
    crossing.check_all_passed()
    play.say("traffic", f"{WORDS[family]}: {crossing.in_words('pass')}: the three agents over loopback, and outside")
