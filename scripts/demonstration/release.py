"""Last chapter: repaired, released, and everything as it was; then nothing is left of the demo."""

from __future__ import annotations

import time

from scripts.demonstration import stage as stages
from scripts.demonstration.isolation import still_holds
from scripts.demonstration.pace import Failed, Stuck
from scripts.demonstration.play import ARCHITECT, CHANGE_LIMIT_S, SHIELD, Play, Streams

ANSWERS_AGAIN = {"state": "RESOLVED", "reason": "answers again"}


def repaired(play: Play) -> None:
    """Its loop runs again, without a restart; only a person's release opens it."""
    turns = play.shield.facts()["turns"]
    play.shield.repair()
    play.pace.until("shield's loop turns again", lambda: play.shield.facts()["turns"] > turns, CHANGE_LIMIT_S)
    if play.shield_answers():
        raise Failed("shield answers, though it is isolated")
    still_holds(play)
    play.say(SHIELD, "its rules file is repaired and its loop runs again, and nothing reaches it")


def released(play: Play) -> None:
    """By hand, and verified."""
    done = play.mesh.run("release", SHIELD, "--reason", "rules repaired")
    if done.status or not done.document["holds"]:
        raise Stuck(f"the release failed: {done.document}")
    play.released_s = time.monotonic()
    if play.mesh.run("verify", SHIELD, aloud=False).document["holds"]:
        raise Stuck("the kernel says that it is isolated still")
    out, inward = (done.document["dropped"][way]["packets"] for way in ("egress", "ingress"))
    play.say("kernel", f"shield is free; {out} packets out and {inward} in were dropped meanwhile")


def resumed(play: Play) -> None:
    """The very connections of before, with every line that was said meanwhile."""
    wanted = {to: stream["sent"] for to, stream in play.streams_of(SHIELD).items()}
    streams = play.pace.until("shield's connections go on", lambda: _caught_up(play, wanted), CHANGE_LIMIT_S)
    after_s = time.monotonic() - play.released_s
    numbers = " and ".join(str(stream["echoed"]) for stream in streams.values())
    play.say(SHIELD, f"{after_s:.1f} s after the release its connections go on: lines 1 to {numbers}, none lost")


def _caught_up(play: Play, wanted: dict[str, int]) -> Streams | None:
    streams = play.streams_of(SHIELD)
    play.check_same(streams)
    return streams if all(stream["echoed"] >= wanted[to] for to, stream in streams.items()) else None


def resolved(play: Play) -> None:
    """Everybody is told, and every watcher finds its peers well."""
    play.until_healthy()
    play.event("the watchers' RESOLVED", **ANSWERS_AGAIN)
    play.event("the architect's RESOLVED", ARCHITECT, **ANSWERS_AGAIN)
    play.say("mesh", "every watcher finds its peers HEALTHY, and duty and architect know")


def watchers_end(play: Play) -> None:
    """As systemd would end them."""
    play.mesh.stop_watchers()
    play.say("mesh", "the three watchers ended when told to, each with status 0")


def nothing_left(play: Play) -> None:
    """However the story ended."""
    stages.clear(play.stage)
    if play.stage.left:
        raise Failed(f"left behind: {', '.join(play.stage.left)}")
    play.say("host", "no process, cgroup, mount, BPF program or file of the demo is left")
