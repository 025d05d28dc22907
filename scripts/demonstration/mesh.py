"""The product, as an operator runs it: a configuration, one `watchdog-mesh run` an agent, and its other verbs."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.demonstration.pace import Pace, Stuck
from scripts.demonstration.receiver import Receivers
from scripts.demonstration.screen import Screen
from scripts.demonstration.stage import Stage
from scripts.demonstration.starting import start

INTERVAL, TIMEOUT = "800ms", "300ms"
COMMAND_LIMIT_S = 20.0
STATUS_TIMEOUT_S = 1.0
TOLD_LINES = 3
WATCHERS = "watchers"
COMMAND = Path(sys.executable).with_name("watchdog-mesh")
WITH_US = ("/usr/bin/setpriv", "--pdeathsig", "KILL")
"""A demo that is killed takes its watchers with it; nothing would be left to stop them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one agent is found."""

    name: str
    cgroup: Path
    port: int
    status_port: int
    restart: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """One command that ended."""

    status: int
    document: dict[str, Any]
    """What it printed with --json."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now."""
    with ExitStack() as opened:
        held = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


class Mesh:
    """Everything of it is on the stage: journal, locks, pins, processes."""

    def __init__(self, stage: Stage, screen: Screen, pace: Pace, agents: Iterable[Place], told: Receivers) -> None:
        self.agents = {agent.name: agent for agent in agents}
        self._screen, self._pace = screen, pace
        self._room, self._cgroup = stage.room, stage.cgroup(WATCHERS)
        self._watchers: dict[str, subprocess.Popen[bytes]] = {}
        self._numbers = itertools.count(1)
        self._config = stage.room / "config.toml"
        self._config.write_text(_configuration(self.agents.values(), told))
        self._environment = _environment(stage, self._config)

    def start_watchers(self) -> None:
        """One for each agent."""
        for name in self.agents:
            with self._log(name).open("wb") as log:
                self._watchers[name] = self._start("run", "--self", name, output=log)

    def stop_watchers(self) -> None:
        """Ask them to end, as systemd would, and see that they do."""
        for watcher in self._watchers.values():
            watcher.terminate()
        watchers, self._watchers = self._watchers, {}
        for name, watcher in watchers.items():
            if status := self._ended(f"the watcher of {name}", watcher):
                raise Stuck(f"the watcher of {name} ended with status {status}")

    def check_watchers(self) -> None:
        """Raises Stuck when one has ended that nobody stopped."""
        for name, watcher in self._watchers.items():
            if watcher.poll() is not None:
                raise Stuck(f"the watcher of {name} has ended: {' / '.join(self.last_words(name)) or 'without a word'}")

    def last_words(self, name: str) -> list[str]:
        """The end of a watcher's log."""
        log = self._log(name)
        return log.read_text(errors="replace").splitlines()[-TOLD_LINES:] if log.exists() else []

    def seen_by(self, watcher: str) -> Mapping[str, Mapping[str, Any]]:
        """What a watcher says of its peers, by name, asked over HTTP; empty when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.agents[watcher].status_port, timeout=STATUS_TIMEOUT_S)
        try:
            connection.request("GET", "/", headers={"Accept": "application/json"})
            document = json.loads(connection.getresponse().read())
            return {peer["name"]: peer for peer in document["peers"]}
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return {}
        finally:
            connection.close()

    def run(self, *words: str, aloud: bool = True) -> Done:
        """Run one verb with --json to its end; `aloud` shows the command as an operator would type it."""
        if aloud:
            self._screen.say("$", shlex.join(["watchdog-mesh", *words]))
        output = self._room / f"command-{next(self._numbers)}"
        with output.open("wb") as file:
            status = self._ended(f"watchdog-mesh {words[0]}", self._start(*words, "--json", output=file))
        try:
            return Done(status, json.loads(output.read_text()))
        except ValueError as error:
            raise Stuck(f"watchdog-mesh {words[0]} said no JSON: {output.read_text()!r}") from error

    def _start(self, *words: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return start(self._cgroup, (*WITH_US, str(COMMAND), *words), output, self._environment)

    def _ended(self, what: str, process: subprocess.Popen[bytes]) -> int:
        self._pace.until(f"{what} ends", lambda: process.poll() is not None, COMMAND_LIMIT_S)
        return process.returncode

    def _log(self, name: str) -> Path:
        return self._room / f"watcher-{name}.log"


def _configuration(agents: Iterable[Place], told: Receivers) -> str:
    return "\n".join(
        [
            f'interval = "{INTERVAL}"',
            f'timeout = "{TIMEOUT}"',
            *(_peer(agent) for agent in agents),
            *(_webhook(told, name, severity) for name, severity in (("duty", "MEDIUM"), ("architect", "CRITICAL"))),
        ]
    )


def _peer(agent: Place) -> str:
    restart = f"restart = {json.dumps(list(agent.restart))}" if agent.restart else ""
    return f"""
[[peer]]
name = "{agent.name}"
endpoint = "http://127.0.0.1:{agent.port}/healthz"
cgroup = "{agent.cgroup}"
status_listen = "127.0.0.1:{agent.status_port}"
{restart}"""


def _webhook(told: Receivers, name: str, severity: str) -> str:
    return f"""
[[webhook]]
name = "{name}"
url = "{told.url(name)}"
secret_file = "{told.secret_file(name)}"
min_severity = "{severity}"
"""


def _environment(stage: Stage, config: Path) -> dict[str, str]:
    """Ours, with everything of the product's on the stage."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("WATCHDOG_MESH_")}
    return others | {
        "WATCHDOG_MESH_CONFIG": str(config),
        "WATCHDOG_MESH_STATE_DIR": str(stage.room / "state"),
        "WATCHDOG_MESH_RUN_DIR": str(stage.room / "run"),
        "WATCHDOG_MESH_BPFFS_DIR": str(stage.pins),
        "WATCHDOG_MESH_HOST_LINKS": "no",
    }
