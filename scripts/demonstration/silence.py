"""Second chapter: shield goes silent, and three restarts do not help."""

from __future__ import annotations

from scripts.demonstration.pace import Failed, Stuck
from scripts.demonstration.play import CHANGE_LIMIT_S, LINES_WANTED, SHIELD, Play
from scripts.demonstration.traffic import PATIENCE_S

RESTARTS = 3


def fall_silent(play: Play) -> None:
    """Its rules are damaged where every new process of it will read them."""
    if not play.shield_answers():
        raise Stuck("shield did not answer before")
    play.shield.damage()
    play.say(SHIELD, "its rules file is damaged; its loop hangs on it and answers nobody")
    play.event("the first MEDIUM event", action="alert", severity="MEDIUM", state="FIRING")
    play.pace.until("a watcher finds shield DEGRADED", lambda: play.is_believed("DEGRADED"), CHANGE_LIMIT_S)


def restart(play: Play, number: int) -> None:
    """The mesh restarts it, really: another process, and as silent."""
    play.pace.until(
        f"restart {number} is ordered",
        lambda: len(play.events(action="restart", severity="HIGH", state="FIRING")) >= number,
        CHANGE_LIMIT_S,
    )
    old = play.pids[-1]
    new = play.pace.until(
        f"a new process takes the place of {old}",
        lambda: next((pid for pid in play.processes_in(SHIELD) if pid not in play.pids), None),
        CHANGE_LIMIT_S,
    )
    play.pids.append(new)
    play.pace.until(f"process {new} runs, alone in shield's cgroup", lambda: _is_alone(play, new), CHANGE_LIMIT_S)
    if play.shield_answers():
        raise Failed("the new process answers, though its rules are damaged")
    play.say(SHIELD, f"process {old} is gone; process {new} reads the same rules and is as silent")


def still_open(play: Play) -> None:
    """What is to be stopped passes until then, from the new process as well; its connections are established."""
    crossing = play.traffic.cross(play.traffic.pairs_with(SHIELD), play.families, PATIENCE_S)
    crossing.check_all_passed()
    play.pace.until("shield's connections are established", lambda: _established(play), CHANGE_LIMIT_S)
    play.streams = play.streams_of(SHIELD)
    if play.is_believed("ISOLATED"):
        raise Failed("shield was isolated before this could be seen")
    ports = " and ".join(str(stream["port"]) for stream in play.streams.values())
    play.say(SHIELD, f"{crossing.in_words('pass')} from, to and within it; it keeps connections from ports {ports}")


def _is_alone(play: Play, pid: int) -> bool:
    return play.processes_in(SHIELD) == [pid] and play.shield.pid == pid


def _established(play: Play) -> bool:
    return all(stream["echoed"] >= LINES_WANTED for stream in play.streams_of(SHIELD).values())
