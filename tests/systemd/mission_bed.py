"""The mission's cast on a real systemd: three agents, three watchers, an architect. Everything as operators have it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from tests.systemd.testbed import REPOSITORY, Testbed

T = TypeVar("T")

AGENTS = {"immune": 9101, "sidecar": 9102, "shield": 9103}
MISSION = "/run/mission"
STATE, RUN, PINS = "/var/lib/watchdog-mesh", "/run/watchdog-mesh", "/sys/fs/bpf/watchdog-mesh"
CONFIG = "/etc/watchdog-mesh/config.toml"
SECRET = "/etc/watchdog-mesh/architect.secret"
WATCHER_UNIT = "watchdog-mesh@.service"
RESTORE_UNIT = "watchdog-mesh-restore.service"
INTERVAL_S = 1.0
WAIT_S = 60.0
"""For what takes seconds; a machine may be busy."""

READER = f"""
import json, os, sqlite3, sys
for line in sys.stdin:
    sql, values = json.loads(line)
    rows = []
    if os.path.exists("{STATE}/journal.db"):
        journal = sqlite3.connect("file:{STATE}/journal.db?mode=ro", uri=True, timeout=10)
        journal.row_factory = sqlite3.Row
        rows = [dict(row) for row in journal.execute(sql, values)]
        journal.close()
    print(json.dumps(rows), flush=True)
"""
"""A process inside that reads the journal: SQLite finds no file by a path through /proc/PID/root."""

RULES = f"""
interval = "{INTERVAL_S:g}s"
timeout = "700ms"
restart_timeout = "5s"
forgive_restart_after = "4s"
"""
SETTINGS = f"""
[[webhook]]
name = "architect"
url = "http://127.0.0.1:9300/"
secret_file = "{SECRET}"
timeout = "2s"
"""
PEER = """
[[peer]]
name = "{name}"
endpoint = "http://127.0.0.1:{port}/healthz"
unit = "{name}.service"
status_listen = "127.0.0.1:{status}"
"""


def configuration(rules: str) -> str:
    """The same for every watcher."""
    peers = [PEER.format(name=name, port=port, status=port + 370) for name, port in AGENTS.items()]
    return rules + SETTINGS + "".join(peers)


def python_unit(script: str, *words: str) -> str:
    """A service that runs one of the files beside this one."""
    command = f"{sys.executable} {REPOSITORY}/tests/systemd/{script} {' '.join(words)}"
    environment = f"PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1"
    return f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={command}\nEnvironment={environment}\n"


def adapted(unit: str, *more: str) -> str:
    """A drop-in for one of ours: this checkout instead of what scripts/install puts in place."""
    (command,) = [line for line in (REPOSITORY / "systemd" / unit).read_text().splitlines() if "ExecStart=" in line]
    words = command.partition("=")[2].split()[1:]
    seen = " ".join(dict.fromkeys([str(REPOSITORY), sys.prefix, sys.base_prefix]))
    lines = [
        "[Service]",
        "ExecStart=",
        f"ExecStart={sys.executable} -m watchdog {' '.join(words)}",
        f"BindReadOnlyPaths={seen}",
        f"Environment=PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1",
        *more,
    ]
    return "\n".join(lines) + "\n"


OK, PARTIAL = 0, 4


def is_whole(told: dict[str, Any]) -> bool:
    """Whether all of ours is in force, and nothing was found open that ought to be stopped; the exit status says what
    is open to the agent nevertheless: it is root."""
    is_open = any(path["coverage"] == "not covered" for path in told["paths"])
    tried = told.get("inside") or {"passed": None}
    assert tried["passed"] is not False, tried
    return (told["holds"], told["gaps"], told["exit"]) == (True, [], PARTIAL if is_open else OK)


def wait_for(what: Callable[[], T], why: str, limit_s: float = WAIT_S) -> T:
    """The first answer that is true; fails with `why`, and with the last answer, at the deadline."""
    deadline_s = time.monotonic() + limit_s
    while not (answer := what()):
        assert time.monotonic() < deadline_s, f"{why}: {answer!r}"
        time.sleep(0.05)
    return answer


class Mission:
    """The cast, and what can be seen of it from outside."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self._reader: subprocess.Popen[str] | None = None

    def set_up(self, *, watchdog_s: int, rules: str = RULES) -> None:
        """Agents and architect run, watchers are ready to be started. `rules` are the configuration's top."""
        bed = self.bed
        bed.run(["ip", "link", "set", "lo", "up"])
        bed.run(["mkdir", "-p", MISSION])
        bed.write(CONFIG, configuration(rules))
        bed.write(SECRET, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        bed.run(["chmod", "600", SECRET])
        for name, port in AGENTS.items():
            bed.write(f"/run/systemd/system/{name}.service", python_unit("agent.py", name, str(port)))
        bed.write("/run/systemd/system/architect.service", python_unit("architect.py"))
        bed.write(f"/run/systemd/system/{WATCHER_UNIT}", (REPOSITORY / "systemd" / WATCHER_UNIT).read_text())
        extra = (f"WatchdogSec={watchdog_s}s",)
        bed.write(f"/run/systemd/system/{WATCHER_UNIT}.d/checkout.conf", adapted(WATCHER_UNIT, *extra))
        bed.systemctl("daemon-reload")
        bed.systemctl("start", "architect.service", *(f"{name}.service" for name in AGENTS))

    def tear_down(self) -> None:
        """Nothing of it is left in the bed."""
        ours = [*map(watcher, AGENTS), *(f"{name}.service" for name in AGENTS), "architect.service"]
        self.bed.systemctl("kill", "--signal=KILL", *ours, check=False)
        self.bed.systemctl("stop", *ours, check=False)
        for peer, _ in self.in_force():
            self.mesh("release", peer, "--reason", "the test is over")
        self.bed.run(["umount", "--quiet", STATE], check=False)  # where a test put it on a disk of its own
        files = [f"/run/systemd/system/{unit}" for unit in (WATCHER_UNIT, *ours)]
        folders = [f"{file}.d" for file in files]
        self.bed.run(["rm", "-rf", *files, *folders, MISSION, STATE, RUN, PINS, str(Path(CONFIG).parent)])
        self.bed.systemctl("daemon-reload")
        self.bed.systemctl("reset-failed", check=False)
        if self._reader is not None:
            self.bed.kill(self._reader)
            self._reader.communicate()
            self._reader = None

    def mesh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command line inside."""
        return self.bed.run([*self.bed.python, "-m", "watchdog", *words], 90.0, check=False)

    def document(self, *words: str) -> dict[str, Any]:
        """The JSON of one command line, with its exit status in it."""
        done = self.mesh(*words, "--json")
        return {**json.loads(done.stdout), "exit": done.returncode}

    # What is seen

    def file(self, name: str) -> str:
        path = self.bed.root / MISSION.lstrip("/") / name
        return path.read_text() if path.exists() else ""

    def silence(self, name: str) -> None:
        """Make an agent answer no more, whatever restarts it."""
        (self.bed.root / MISSION.lstrip("/") / f"{name}.silent").touch()

    def let_speak(self, name: str) -> None:
        (self.bed.root / MISSION.lstrip("/") / f"{name}.silent").unlink(missing_ok=True)

    def starts(self, name: str) -> list[str]:
        """The invocation ids of all starts of an agent."""
        return self.file(f"{name}.starts").split()

    def heard(self, name: str) -> int:
        """How many datagrams of an agent arrived."""
        return int(json.loads(self.file("heard.json") or "{}").get(name, 0))

    def hooks(self) -> list[dict[str, Any]]:
        """What the architect was told, in order.

        A watcher that is killed between the answer and its own commit leaves the event to be posted again, right after
        itself: an architect remembers the id, as docs/notifications.md asks.
        """
        posts = [json.loads(line) for line in self.file("hooks.jsonl").splitlines()]
        return [next(same) for _, same in groupby(posts, key=itemgetter("id"))]

    def told(self, peer: str) -> list[tuple[str, str, str]]:
        """State, action and severity of everything the architect was told of one peer."""
        events = [hook["body"]["data"] for hook in self.hooks()]
        return [(e["state"], e["action"], e["severity"]) for e in events if e["peer_name"] == peer]

    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Read the journal, beside the watchers; nothing while there is none."""
        if self._reader is None:
            pipe = subprocess.PIPE
            self._reader = self.bed.popen([*self.bed.python, "-c", READER], stdin=pipe, stdout=pipe)
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write(json.dumps([sql, values]) + "\n")
        self._reader.stdin.flush()
        rows: list[dict[str, Any]] = json.loads(self._reader.stdout.readline())
        return rows

    def orders(self, peer: str, action: str) -> list[str]:
        """The states of all orders on a peer, oldest first."""
        rows = self.rows("SELECT state FROM orders WHERE peer = ? AND action = ? ORDER BY token", peer, action)
        return [row["state"] for row in rows]

    def in_force(self) -> list[tuple[str, str]]:
        """Peer and state of all isolations that are not over."""
        rows = self.rows("SELECT peer, state FROM isolation WHERE state NOT IN ('released', 'failed')")
        return [(row["peer"], row["state"]) for row in rows]

    def believed(self, peer: str) -> dict[str, str]:
        """The status of a peer by each watcher that looks at it, as last published."""
        believed = {}
        for name in AGENTS:
            path = self.bed.root / RUN.lstrip("/") / f"watcher-{name}.json"
            for row in json.loads(path.read_text())["peers"] if path.exists() else []:
                if row["name"] == peer:
                    believed[name] = row["status"]
        return believed


def watcher(name: str) -> str:
    """The unit of an agent's watcher."""
    return WATCHER_UNIT.replace("@", f"@{name}")
