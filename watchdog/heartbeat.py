"""The heartbeat: what an agent answers, and a helper that answers it. Standard library only, for agents to embed.

    pulse = Pulse("shield", key=read_key(Path("/etc/shield/heartbeat.key")))
    serve(pulse, port=9103)
    while True:
        pulse.beat()
        work()

The answer to GET is a JSON object: `agent` (who), `instance` (this start of it), `seq` (how often its main loop came
round), `loop_age_s` (seconds since it last did) and `status`: "ok" with 200, "hung" with 503. With a shared key it
also carries the request's `nonce` and `hmac`, so that nobody else can answer and no answer serves twice. `signature`
says what is signed. Beat more often than the mesh probes: a `seq` that two probes find unchanged is a miss.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchdog.errors import ConfigurationError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from watchdog.heartbeat_server import HeartbeatServer

NONCE_HEADER = "Watchdog-Nonce"
NONCE = re.compile(r"[A-Za-z0-9_-]{1,128}")
SIGNED_FORMAT = "watchdog-heartbeat-1"
KEY_MIN_BYTES = 16
MAX_LOOP_AGE_S = 60.0
"""An older main loop is a hung one."""
INSTANCE_BYTES = 8
HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


def read_key(path: Path) -> bytes:
    """The shared key in `path`, without the white space around it.

    Raises ConfigurationError when it cannot be read or is shorter than KEY_MIN_BYTES.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read the heartbeat key {path}: {error.strerror}") from error
    if len(key) < KEY_MIN_BYTES:
        raise ConfigurationError(
            f"the heartbeat key {path} has {len(key)} bytes, at least {KEY_MIN_BYTES} are wanted",
            hint=f"make one: openssl rand -hex 32 > {path}",
        )
    return key


def signature(key: bytes, *, nonce: str, agent: str, instance: str, seq: str, loop_age_s: str) -> str:
    """HMAC-SHA256 in lower case hex over six lines of UTF-8 joined by "\\n": SIGNED_FORMAT and these five.

    The two numbers are taken as they are written in the JSON, so that every language can sign its own spelling.
    """
    signed = "\n".join((SIGNED_FORMAT, nonce, agent, instance, seq, loop_age_s))
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back: the HTTP status and the JSON body; HEADERS go with both."""

    status: HTTPStatus
    body: bytes

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All headers of the answer."""
        return [*HEADERS, ("Content-Length", str(len(self.body)))]


class Pulse:
    """One agent's pulse: its main loop calls `beat`, whatever serves HTTP calls `answer`. Thread-safe.

    The clock is the monotonic one, which stands still while the host sleeps: nobody is hung after a resume.
    """

    def __init__(
        self,
        agent: str,
        *,
        key: bytes | None = None,
        max_loop_age_s: float = MAX_LOOP_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.agent = agent
        self.instance = secrets.token_hex(INSTANCE_BYTES)
        self._key = key
        self._max_loop_age_s = max_loop_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last = (0, clock())

    def beat(self) -> None:
        """The main loop came round once more."""
        with self._lock:
            self._last = (self._last[0] + 1, self._clock())

    def answer(self, nonce: str | None = None) -> Answer:
        """The answer now, signed when there is a key and the request brought a usable nonce."""
        seq, beaten_at_s = self._last
        loop_age_s = round(self._clock() - beaten_at_s, 3)
        hung = loop_age_s > self._max_loop_age_s
        fields: dict[str, Any] = {
            "status": "hung" if hung else "ok",
            "agent": self.agent,
            "instance": self.instance,
            "seq": seq,
            "loop_age_s": loop_age_s,
        }
        if self._key is not None and nonce is not None and NONCE.fullmatch(nonce):
            fields |= {"nonce": nonce, "hmac": self._sign(self._key, nonce, seq, loop_age_s)}
        status = HTTPStatus.SERVICE_UNAVAILABLE if hung else HTTPStatus.OK
        return Answer(status, json.dumps(fields).encode() + b"\n")

    def wsgi(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The same as a WSGI application, to mount in the agent's own server."""
        answer = self.answer(environ.get("HTTP_" + NONCE_HEADER.upper().replace("-", "_")))
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.headers)
        return [answer.body]

    def _sign(self, key: bytes, nonce: str, seq: int, loop_age_s: float) -> str:
        return signature(
            key,
            nonce=nonce,
            agent=self.agent,
            instance=self.instance,
            seq=json.dumps(seq),
            loop_age_s=json.dumps(loop_age_s),
        )


def serve(pulse: Pulse, host: str = "127.0.0.1", port: int = 0) -> HeartbeatServer:
    """Answer GET and HEAD on every path of http://host:port in daemon threads; port 0 takes a free one.

    Raises OSError when the address cannot be bound.
    """
    from watchdog.heartbeat_server import HeartbeatServer  # http.server doubles the time to import this module

    return HeartbeatServer(pulse, host, port)
