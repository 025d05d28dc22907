"""One agent of the demo: `python -m scripts.demonstration.agent ROOM`.

Its main loop reads its rules and answers heartbeats. Rules that cannot be read keep the loop waiting for better ones,
and then it answers nobody: no restart cures that. Its other threads go on talking all the same, as the demo tells
them to through two named pipes, which no isolation of the network cuts. It ends when the demo does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from scripts.demonstration.talk import Call, Stream, Talker, attempt
from watchdog.heartbeat import NONCE_HEADER, Pulse

SETTINGS, RULES, PID, ORDERS, ANSWERS, LOG = "settings.json", "rules.json", "pid", "orders", "answers", "log"
LOOP_S = 0.05
REQUEST_TIMEOUT_S = 1.0


class Settings(NamedTuple):
    """What the demo wrote down for one agent, so that a restarted one finds it again."""

    name: str
    port: int
    """Where it answers heartbeats."""
    families: list[str]
    dials: list[tuple[str, str, str, int]]
    """Whom it keeps a connection to: name, family, address, port."""

    def write(self, room: Path) -> None:
        """Into the agent's room."""
        (room / SETTINGS).write_text(json.dumps(self._asdict()))

    @classmethod
    def read(cls, room: Path) -> Settings:
        """As they were written."""
        return cls(**json.loads((room / SETTINGS).read_text()))


class Heartbeats(HTTPServer):
    """Answers one request each time the main loop comes by."""

    timeout = LOOP_S
    request_queue_size = 64
    """Probes that wait while the loop hangs."""

    def __init__(self, port: int, pulse: Pulse) -> None:
        self.pulse = pulse
        super().__init__(("127.0.0.1", port), _Answer)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A prober that went away meanwhile is no news."""


class _Answer(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: Heartbeats

    def do_GET(self) -> None:
        answer = self.server.pulse.answer(self.headers.get(NONCE_HEADER))
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Nothing to say about heartbeats."""


class Agent:
    """Everything one agent runs."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._settings = Settings.read(room)
        self._pulse = Pulse(self._settings.name)
        self._turns = 0
        self._heartbeats = Heartbeats(self._settings.port, self._pulse)
        self._talker = Talker(self._settings.families)
        own = f"{self._settings.name} {os.getpid()}"
        self._streams = [Stream(f"{own} {dial[1]}", *dial) for dial in self._settings.dials]
        threading.Thread(target=self._obey, name="orders", daemon=True).start()
        _write_whole(room / PID, str(os.getpid()))

    def run(self) -> None:
        """The main loop. It beats, and answers, only when its rules can be read."""
        while True:
            if not _are_sound(self._room / RULES):
                time.sleep(LOOP_S)
                continue
            self._turns += 1
            self._pulse.beat()
            self._heartbeats.handle_request()

    def _obey(self) -> None:
        # Opened so that neither waits for the demo: once it has gone, the first read says so.
        orders_fd = os.open(self._room / ORDERS, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(orders_fd, True)
        answers_fd = os.open(self._room / ANSWERS, os.O_RDWR)
        with os.fdopen(orders_fd) as orders, os.fdopen(answers_fd, "w") as answers:
            for line in orders:
                order = json.loads(line)
                answer = {"id": order["id"], "is": self._carry_out(order)}
                print(json.dumps(answer), file=answers, flush=True)
        os._exit(0)  # the demo has gone, and its end of the pipe with it

    def _carry_out(self, order: dict[str, Any]) -> Any:
        if order["do"] == "attempt":
            return attempt([Call(*call) for call in order["calls"]], order["wait_s"])
        if order["do"] == "heard":
            return self._talker.heard(order["tokens"])
        streams = [stream.facts() for stream in self._streams]
        return {"pid": os.getpid(), "turns": self._turns, "ports": self._talker.ports, "streams": streams}


def _are_sound(rules: Path) -> bool:
    try:
        json.loads(rules.read_text())
    except ValueError:
        return False
    return True


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


if __name__ == "__main__":
    Agent(Path(sys.argv[1])).run()
