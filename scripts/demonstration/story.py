"""The story as a list of steps. Each is a check of its own: it returns when it came out, and raises what did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from scripts.demonstration import isolation, opening, release, silence
from scripts.demonstration.play import WORDS, Play
from scripts.demonstration.silence import RESTARTS


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table."""

    name: str
    check: Callable[[Play], None]
    chapter: str = ""
    """Begins a new part of the story."""
    skip: str = ""
    """Why it cannot be on this host."""
    always: bool = False
    """Also when the story could not go on before."""


def steps(play: Play) -> Iterator[Step]:
    """All of it, in order."""
    yield Step("Three agents run, each in a cgroup of its own", opening.start_agents, "Three agents watch each other")
    yield Step("Three watchers find everybody HEALTHY", opening.start_watchers)
    yield from _by_family(play, "Everybody reaches everybody", opening.all_pass)
    yield Step("shield goes silent: DEGRADED, MEDIUM", silence.fall_silent, "shield goes silent")
    for number in range(1, RESTARTS + 1):
        yield Step(
            f"Restart {number} of {RESTARTS}, HIGH: a new process, as silent", partial(silence.restart, number=number)
        )
    yield Step("Its new process reaches everybody still", silence.still_open)
    yield Step("shield is ISOLATED, CRITICAL", isolation.isolated, "Three restarts did not help")
    yield Step("The architect gets the CRITICAL webhook, signed", isolation.signed)
    yield Step("watchdog-mesh verify: the kernel says it holds", isolation.verified)
    yield from _by_family(play, "shield is cut off: out, in, to itself", isolation.none_pass)
    yield Step("Its connections of before stand still", isolation.stand_still)
    yield Step("What was stopped is counted", isolation.counted)
    yield from _by_family(play, "immune and sidecar talk on", isolation.others_pass)
    yield Step("Their connections of before talk on", isolation.others_stream)
    yield Step("Repaired, shield stays cut off", release.repaired, "An operator repairs shield and lets it back")
    yield Step("watchdog-mesh release lets it back", release.released)
    yield from _by_family(play, "Everybody reaches everybody again", opening.all_pass)
    yield Step("Its connections of before go on, no line lost", release.resumed)
    yield Step("shield is HEALTHY, RESOLVED arrives", release.resolved)
    yield Step("The watchers end when told to", release.watchers_end, "The end")
    yield Step("Nothing is left behind", release.nothing_left, always=True)


def _by_family(play: Play, name: str, check: Callable[..., None]) -> Iterator[Step]:
    for family, why_not in play.lacking.items():
        yield Step(f"{name}: {WORDS[family]}", partial(check, family=family), skip=why_not)
