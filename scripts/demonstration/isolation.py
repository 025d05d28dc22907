"""Third chapter: shield is cut off, provably, and the others are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from scripts.demonstration.pace import Failed
from scripts.demonstration.play import (
    ARCHITECT,
    CHANGE_LIMIT_S,
    IMMUNE,
    LINES_WANTED,
    SHIELD,
    SIDECAR,
    WORDS,
    Play,
    Streams,
)
from scripts.demonstration.traffic import PATIENCE_S, SILENCE_S
from watchdog.webhook import BadSignature

OTHERS = (IMMUNE, SIDECAR)
OK, PARTIAL = 0, 4
COVERED, NOT_COVERED, NOT_APPLICABLE = "covered", "not covered", "not applicable"


def isolated(play: Play) -> None:
    """Both other watchers voted for it, and one did it."""
    play.event("the CRITICAL event", action="alert_architect", severity="CRITICAL", state="FIRING")
    for watcher in OTHERS:
        play.pace.until(
            f"{watcher} finds shield ISOLATED",
            partial(_finds_isolated, play, watcher),
            CHANGE_LIMIT_S,
        )


def _finds_isolated(play: Play, watcher: str) -> bool:
    return play.news.believed[watcher][0] == "ISOLATED"


def signed(play: Play) -> None:
    """The architect gets CRITICAL events only, and can tell that they are the mesh's."""
    event = play.event(
        "the architect's event", ARCHITECT, action="alert_architect", severity="CRITICAL", state="FIRING"
    )
    play.told.check(event)
    try:
        play.told.check(replace(event, body=event.body.replace(b"CRITICAL", b"MEDIUM")))
    except BadSignature:
        pass
    else:
        raise Failed("a changed event was taken for a signed one")
    if milder := [each for each in play.events(ARCHITECT) if each.data["severity"] != "CRITICAL"]:
        raise Failed(f"the architect wants CRITICAL events only, and got {milder[0].data}")
    if play.told.refused:
        raise Failed(f"an event came with a bad signature: {play.told.refused[0]}")
    play.say(ARCHITECT, f"{event.id} has a good HMAC-SHA256 signature; changed by one word it has not")


def verified(play: Play) -> None:
    """The kernel is asked, not the journal."""
    verified = still_holds(play, aloud=True)
    play.dropped = _dropped(verified)
    play.say("kernel", f"{play.shield.cgroup}: every packet in and out is dropped")
    said = [path["coverage"] for path in verified["paths"]]
    counts = ", ".join(f"{said.count(word)} {word}" for word in (COVERED, NOT_COVERED, NOT_APPLICABLE))
    play.say("verify", f"of {len(said)} known ways round it: {counts}")
    if NOT_COVERED in said:
        play.say("verify", "it runs as root here, and says so: only --level frozen holds against root")


def still_holds(play: Play, *, aloud: bool = False) -> dict[str, Any]:
    """What verify says. Raises Failed where something of ours is not in force, or the status hides what is open."""
    done = play.mesh.run("verify", SHIELD, aloud=aloud)
    is_open = any(path["coverage"] == NOT_COVERED for path in done.document["paths"])
    if done.status != (PARTIAL if is_open else OK) or not done.document["holds"] or done.document["gaps"]:
        raise Failed(f"the isolation does not hold whole: {done.document}")
    return done.document


def _dropped(verified: Mapping[str, Any]) -> dict[str, int]:
    return {way: verified["dropped"][way]["packets"] for way in ("egress", "ingress")}


def none_pass(play: Play, family: str) -> None:
    """New connections and datagrams, from shield, to it, and within it: no echo, and nothing arrives."""
    crossing = play.traffic.cross(play.traffic.pairs_with(SHIELD), [family], SILENCE_S)
    crossing.check_none_passed()
    play.say(SHIELD, f"{WORDS[family]}: {crossing.in_words('are stopped')} from, to and within it")


def stand_still(play: Play) -> None:
    """The connections of before are open, are tried, and carry nothing either way."""
    before, heard_before = play.streams_of(SHIELD), dict(play.outside.streams)
    play.pace.rest(SILENCE_S)
    after = play.streams_of(SHIELD)
    play.check_same(after)
    for to, stream in after.items():
        heard = play.outside.streams[stream["name"]]
        if stream["echoed"] != before[to]["echoed"] or heard != heard_before[stream["name"]]:
            raise Failed(f"a line came through to {to}: {stream}")
        if stream["sent"] <= before[to]["sent"]:
            raise Failed(f"nothing is sent to {to} any more: {stream}")
        play.say(SHIELD, f"its connection to {to}: {stream['sent'] - heard} lines sent, and none comes through")


def counted(play: Play) -> None:
    """What was just tried shows in the kernel's counters."""
    now = _dropped(still_holds(play))
    out, inward = (now[way] - play.dropped[way] for way in ("egress", "ingress"))
    if out <= 0 or inward <= 0:
        raise Failed(f"packets were dropped and not counted: {out} out and {inward} in")
    totals = f"{now['egress']} and {now['ingress']} since it was isolated"
    play.say("kernel", f"dropped and counted meanwhile: {out} packets out, {inward} in; {totals}")


def others_pass(play: Play, family: str) -> None:
    """immune, sidecar and the outside are as free as before."""
    crossing = play.traffic.cross(play.traffic.pairs_without(SHIELD), [family], PATIENCE_S)
    crossing.check_all_passed()
    play.say("traffic", f"{WORDS[family]}: {crossing.in_words('pass')} between immune, sidecar and the outside")


def others_stream(play: Play) -> None:
    """So are their connections."""
    for name in OTHERS:
        before = play.streams_of(name)
        play.pace.until(
            f"the connections of {name} go on",
            partial(_went_on, play, name, before),
            CHANGE_LIMIT_S,
        )
        play.say(name, f"talks on over the connections of before: to {', '.join(before)}")


def _went_on(play: Play, name: str, before: Streams) -> bool:
    now = play.streams_of(name)
    return all(stream["echoed"] >= before[to]["echoed"] + LINES_WANTED for to, stream in now.items())
