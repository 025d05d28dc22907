"""Faults of the real world, for real: each function strikes, waits until the mesh has answered, and takes it away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.systemd.mission_bed import AGENTS, MISSION, RUN, STATE, Mission, watcher
from tests.systemd.seen import Seen
from watchdog.kernel import locks

SQUATTER = f"""
import http.server, pathlib, time
class Yes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
while not pathlib.Path("{MISSION}/squat").exists():
    time.sleep(0.005)
http.server.ThreadingHTTPServer(("127.0.0.1", 9103), Yes).serve_forever()
"""
FILLER = f"""
import sqlite3
sqlite3.connect("{STATE}/journal.db", timeout=20).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
try:
    with open("{STATE}/ballast", "ab", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
except OSError:
    pass  # there is no room, neither here nor in the WAL
"""
LOCKER = f"""
import sqlite3, sys
journal = sqlite3.connect("{STATE}/journal.db", timeout=20, isolation_level=None)
journal.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""
TRY_LOCK = f"""
import sqlite3
sqlite3.connect("{STATE}/journal.db", timeout=0.1, isolation_level=None).execute("BEGIN IMMEDIATE")
"""
FLOCKER = f"""
import fcntl, sys
held = open("{RUN}/isolation.lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
TABLE = """
table inet fault {{
    chain out {{
        type filter hook output priority 0
        {rules}
    }}
}}
"""
INTERVAL_S = 0.8
TROUBLE = "SELECT name FROM peer WHERE name = 'shield' AND episode_open"
ROUNDS_TO_ACT = 5
"""In as many rounds a mesh that could restart somebody would have."""


# Tools


def signal_main(mission: Mission, signal: str, *units: str) -> None:
    mission.bed.systemctl("kill", f"--signal={signal}", "--kill-whom=main", *units)


def unit(agent: str) -> str:
    return f"{agent}.service"


@contextmanager
def drop_in(mission: Mission, name: str, *lines: str) -> Iterator[None]:
    """Settings of a unit, until it is over."""
    bed = mission.bed
    bed.unit(f"{name}.d/fault.conf", "\n".join(["[Service]", *lines]) + "\n")
    try:
        yield
    finally:
        bed.run(["rm", "-f", f"/run/systemd/system/{name}.d/fault.conf"])
        bed.systemctl("daemon-reload")


@contextmanager
def dropped(mission: Mission, *rules: str) -> Iterator[None]:
    """Packets that are lost on the bed's loopback, until it is over."""
    mission.bed.run(["nft", "-f", "-"], stdin=TABLE.format(rules="\n".join(f"{rule} drop" for rule in rules)))
    try:
        yield
    finally:
        mission.bed.run(["nft", "delete", "table", "inet", "fault"])


def from_watcher(mission: Mission, name: str) -> str:
    """What matches the packets of a watcher; the level counts from the namespace's root, or the host's before 6.11."""
    path = mission.bed.show(watcher(name), "ControlGroup").lstrip("/")
    depth = len(Path(path).parts)
    for level in (depth, depth + len(mission.bed.cgroup.relative_to(mission.bed.v2_root).parts)):
        match = f'socket cgroupv2 level {level} "{path}"'
        if mission.bed.run(["nft", "-c", "-f", "-"], stdin=TABLE.format(rules=match), check=False).returncode == 0:
            return match
    raise AssertionError(f"nft takes no rule for {path}")


@contextmanager
def holding(mission: Mission, script: str) -> Iterator[None]:
    """A process inside that holds something, until it is over."""
    pipe = subprocess.PIPE
    holder = mission.bed.popen([*mission.bed.python, "-c", script], stdin=pipe, stdout=pipe)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield
    finally:
        mission.bed.kill(holder)
        holder.communicate()


def rounds(seen: Seen, count: int) -> None:
    """Let so many rounds pass, and look."""
    end_s = time.monotonic() + count * INTERVAL_S
    seen.until(lambda: time.monotonic() > end_s, "time stood still")


def restarts(seen: Seen, peer: str) -> int:
    return sum(n for (name, action, _), n in seen.orders().items() if (name, action) == (peer, "restart"))


def is_restarted(seen: Seen, *peers: str) -> None:
    seen.until(lambda: all(restarts(seen, peer) for peer in peers), f"{peers}: no restart was ordered")


def is_isolated(seen: Seen, peer: str) -> None:
    seen.until(lambda: seen.orders()[peer, "isolate", "done"], f"{peer} was not isolated")


def let_back(seen: Seen, peer: str) -> None:
    """What an operator does."""
    assert seen.mission.mesh("release", peer, "--reason", "it was repaired").returncode == 0


# Agents


def agent_stopped(seen: Seen) -> None:
    signal_main(seen.mission, "STOP", unit("shield"))
    is_restarted(seen, "shield")


def agent_killed(seen: Seen) -> None:
    signal_main(seen.mission, "KILL", unit("shield"))
    is_restarted(seen, "shield")


def agent_killed_and_restarted_by_systemd(seen: Seen) -> None:
    with drop_in(seen.mission, unit("sidecar"), "Restart=always", "RestartSec=900ms"):
        signal_main(seen.mission, "KILL", unit("sidecar"))
        seen.until(lambda: seen.was_told("sidecar", "MEDIUM", "alert", "RESOLVED"), "nobody told that it is back")


def agent_frozen(seen: Seen) -> None:
    path = seen.mission.bed.show(unit("shield"), "ControlGroup")
    (seen.mission.bed.root / f"sys/fs/cgroup{path}/cgroup.freeze").write_text("1")
    is_restarted(seen, "shield")


def port_squatted(seen: Seen) -> None:
    """The agent lets go of its port, and before it is missed too often somebody else takes it and says 200."""
    bed, go = seen.mission.bed, f"{MISSION}/squat"
    bed.run(["systemd-run", "--unit=squatter", "--collect", *bed.python, "-c", SQUATTER])
    try:
        seen.mission.silence("shield")
        seen.until(
            lambda: seen.was_told("shield", "MEDIUM", "alert") and seen.was_told("shield (watcher)", "MEDIUM", "alert"),
            "nobody missed it",
        )
        bed.run(["touch", go])
        rounds(seen, ROUNDS_TO_ACT)
    finally:
        seen.mission.let_speak("shield")  # before: it has the port back at once, and nobody misses it once more
        bed.systemctl("stop", "squatter.service", check=False)
        bed.run(["rm", "-f", go])


def all_agents_killed(seen: Seen) -> None:
    signal_main(seen.mission, "KILL", *map(unit, AGENTS))
    is_restarted(seen, *AGENTS)


def all_agents_stopped(seen: Seen) -> None:
    signal_main(seen.mission, "STOP", *map(unit, AGENTS))
    try:
        rounds(seen, ROUNDS_TO_ACT)
    finally:
        signal_main(seen.mission, "CONT", *map(unit, AGENTS))


# The way between them


def port_blocked_for_one(seen: Seen) -> None:
    with dropped(seen.mission, f"{from_watcher(seen.mission, 'immune')} tcp dport 9103"):
        seen.until(lambda: seen.was_told("shield", "CRITICAL", "alert"), "nobody told that there is no quorum")


def port_blocked_for_all(seen: Seen) -> None:
    mission = seen.mission
    with dropped(mission, "tcp dport 9103"):
        is_isolated(seen, "shield")
        seen.until(lambda: set(mission.believed("shield").values()) == {"ISOLATED"}, "somebody does not know")
    let_back(seen, "shield")


def mutual_accusation(seen: Seen) -> None:
    """And the third, who would know better, is stopped."""
    mission = seen.mission
    one, other = (from_watcher(mission, name) for name in ("immune", "shield"))
    with stopped(mission, "sidecar"):
        with dropped(mission, f"{one} tcp dport 9103", f"{other} tcp dport 9101"):
            for accused in ("immune", "shield"):
                seen.until(lambda: seen.warned(accused, "no-quorum"), f"no word on {accused}")  # noqa: B023
        seen.until(
            lambda: (mission.believed("shield")["immune"], mission.believed("immune")["shield"]) == ("HEALTHY",) * 2,
            "they do not hear each other again",
        )


# Watchers


def begin_anew(mission: Mission, name: str) -> None:
    """A watcher that ends in peace would first wait for what it is at."""
    signal_main(mission, "KILL", watcher(name))
    mission.bed.systemctl("restart", watcher(name))


def watcher_in_a_namespace_of_its_own(seen: Seen) -> None:
    mission = seen.mission
    with drop_in(mission, watcher("immune"), "PrivateNetwork=yes"):
        begin_anew(mission, "immune")
        seen.until(lambda: mission.believed("sidecar").get("immune") == "OFFLINE", "immune is not cut off")
        signal_main(mission, "STOP", unit("shield"))
        is_restarted(seen, "shield")
    begin_anew(mission, "immune")


def delivering_watcher_cut_off(seen: Seen) -> None:
    """The one that delivers can reach nobody: the others must."""
    mission = seen.mission
    pid = int(mission.bed.show(watcher("immune"), "MainPID"))
    assert pid in mission.bed.call(locks.holders, Path(RUN) / "outbox-architect.lock"), "another one delivers"
    with dropped(mission, f"{from_watcher(mission, 'immune')} meta l4proto tcp"):
        seen.until(lambda: seen.was_told("immune (watcher)", "MEDIUM", "alert"), "nobody was told")


def watchers_killed(seen: Seen) -> None:
    """While an agent hangs."""
    signal_main(seen.mission, "STOP", unit("shield"))
    seen.until(lambda: set(seen.mission.believed("shield").values()) & {"DEGRADED", "OFFLINE"}, "nobody missed it")
    signal_main(seen.mission, "KILL", *map(watcher, AGENTS))
    is_restarted(seen, "shield")


@contextmanager
def stopped(mission: Mission, name: str) -> Iterator[None]:
    """A watcher that does not run, and that was not stopped within a transaction: that is another row."""
    bed, unit_of_it = mission.bed, watcher(name)
    signal_main(mission, "STOP", unit_of_it)
    try:
        while bed.run([*bed.python, "-c", TRY_LOCK], check=False).returncode != 0:
            signal_main(mission, "CONT", unit_of_it)
            signal_main(mission, "STOP", unit_of_it)
        yield
    finally:
        signal_main(mission, "CONT", unit_of_it)


def holder_of(seen: Seen, action: str) -> dict[str, Any]:
    """The order on shield that was begun last."""
    seen.until(lambda: seen.orders()["shield", action, "begun"], f"no {action} was begun")
    order: dict[str, Any] = seen.mission.rows("SELECT * FROM orders ORDER BY token DESC LIMIT 1")[0]
    return order


def watcher_stopped_with_an_order_in_its_hand(seen: Seen) -> None:
    """It waits for another isolation to end; the peer is well again when it wakes up."""
    mission = seen.mission
    with ExitStack() as held:
        held.enter_context(holding(mission, FLOCKER))
        mission.silence("shield")
        held.enter_context(stopped(mission, holder_of(seen, "isolate")["watcher"]))
        mission.let_speak("shield")
        seen.until(lambda: not mission.rows(TROUBLE), "it is not well again")
    seen.until(lambda: not seen.orders()["shield", "isolate", "begun"], "the watcher does not wake up")


def watcher_stopped_past_its_lease(seen: Seen) -> None:
    """While it restarts an agent; systemd brings that to its end without it."""
    mission = seen.mission
    go = f"{MISSION}/go"
    wait = f"ExecStop=/bin/sh -c 'until [ -e {go} ]; do sleep 0.05; done'"
    with drop_in(mission, unit("shield"), wait, "TimeoutStopSec=20"):
        signal_main(mission, "STOP", unit("shield"))
        order = holder_of(seen, "restart")
        with stopped(mission, order["watcher"]):
            mission.bed.run(["touch", go])
            seen.until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > order["expires_s"], "time stood still")
    mission.bed.run(["rm", go])
    seen.until(lambda: not seen.orders()["shield", "restart", "begun"], "the watcher does not wake up")


# The journal


def disk_full(seen: Seen) -> None:
    """While an agent hangs."""
    bed = seen.mission.bed
    try:
        bed.run([*bed.python, "-c", FILLER])
        signal_main(seen.mission, "STOP", unit("shield"))
        rounds(seen, ROUNDS_TO_ACT)
        assert not seen.orders()
        assert seen.mission.mesh("status").returncode == 1
    finally:
        bed.run(["rm", f"{STATE}/ballast"])
    is_restarted(seen, "shield")


def journal_locked(seen: Seen) -> None:
    """While an agent hangs, and longer than anybody waits for a lock."""
    with holding(seen.mission, LOCKER):
        signal_main(seen.mission, "STOP", unit("shield"))
        rounds(seen, ROUNDS_TO_ACT + 3)
    is_restarted(seen, "shield")


# After a row

FORGIVER = f"""
import sqlite3
journal = sqlite3.connect("{STATE}/journal.db", timeout=20)
journal.execute("UPDATE peer SET restart_count = 0")
journal.execute("UPDATE orders SET begun_s = begun_s - 3600")
journal.commit()
"""


def forgive(mission: Mission) -> None:
    """What some healthy time would do, at once: nothing is owed, and no restart was lately."""
    mission.bed.run([*mission.bed.python, "-c", FORGIVER])


def repair(mission: Mission) -> None:
    """After one that failed: everything as it was, whatever it left; what cannot be done is not."""
    bed = mission.bed
    bed.run(["nft", "delete", "table", "inet", "fault"], check=False)
    for name in AGENTS:
        mission.let_speak(name)
    bed.systemctl("kill", "--signal=KILL", *map(unit, AGENTS), *map(watcher, AGENTS), check=False)
    bed.systemctl("restart", *map(unit, AGENTS), *map(watcher, AGENTS), timeout_s=120.0, check=False)
    for peer, _ in mission.in_force():
        mission.mesh("release", peer, "--reason", "the row failed")
