"""The receivers of notifications: real HTTP on loopback, and every signature is checked before an event counts."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from watchdog import clock, webhook
from watchdog.webhook import BadSignature

SECRET_BYTES = 32
SECRET_MODE = 0o600
REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event that a receiver has taken, with what proved it."""

    receiver: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The same at every try."""
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        """peer_name, action, severity, state, reason, watcher."""
        data: dict[str, Any] = json.loads(self.body)["data"]
        return data

    def is_about(self, peer: str, **wanted: str) -> bool:
        """Whether it says these things of the peer."""
        return self.data["peer_name"] == peer and all(self.data[key] == value for key, value in wanted.items())


class Receivers:
    """One HTTP server for all receivers, each at a path and with a secret of its own."""

    def __init__(self, room: Path, *names: str) -> None:
        self.events: list[Event] = []
        self.refused: list[str] = []
        self._lock = threading.Lock()
        self._room = room
        for name in names:
            self.secret_file(name).touch(SECRET_MODE)
            self.secret_file(name).write_text(f"{secrets.token_hex(SECRET_BYTES)}\n")
        self.secrets = {name: webhook.read_secret(self.secret_file(name)) for name in names}
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, name="receivers", daemon=True).start()

    def secret_file(self, name: str) -> Path:
        """What the sender signs with."""
        return self._room / f"{name}.secret"

    def url(self, name: str) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def take(self, receiver: str, headers: Mapping[str, str], body: bytes) -> HTTPStatus:
        """What to answer. An event that came before is answered like a new one, and dropped."""
        if receiver not in self.secrets:
            return HTTPStatus.NOT_FOUND
        event = Event(receiver, headers, body)
        try:
            self.check(event)
        except BadSignature as error:
            self.refused.append(f"{receiver}: {error.message}")
            return HTTPStatus.UNAUTHORIZED
        with self._lock:
            if not any(known.id == event.id and known.receiver == receiver for known in self.events):
                self.events.append(event)
        return HTTPStatus.NO_CONTENT

    def check(self, event: Event) -> None:
        """Raises BadSignature unless the event's own receiver's secret signed exactly this body, just now."""
        webhook.verify(event.headers, event.body, [self.secrets[event.receiver]], clock.utc_now())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receivers: Receivers) -> None:
        self.receivers = receivers
        super().__init__(("127.0.0.1", 0), _Post)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that was cut off sends again."""


class _Post(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.receivers.take(self.path.lstrip("/"), headers, body))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """The demo tells what arrived."""
