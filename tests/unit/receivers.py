"""Webhook receivers that work, and that are broken in every way receivers are: real servers on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

DRIP_S = 0.05
HUGE_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True)
class Received:
    """One request as it came in."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["data"]["reason"])


Manner = Callable[["Handler"], None]
"""How a request is answered."""


def answers(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Manner:
    """An ordinary answer."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


OK = answers(200)


def hang(handler: Handler) -> None:
    """Take the request and say nothing until the server ends."""
    handler.hook.closing.wait()


def drip_headers(handler: Handler) -> None:
    """A byte at a time, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.hook.closing.wait(DRIP_S):
        handler.wfile.write(b"x")


def drip_body(status: int) -> Manner:
    """The status at once, the body a byte at a time, for ever."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(HUGE_BYTES))
        handler.end_headers()
        while not handler.hook.closing.wait(DRIP_S):
            handler.wfile.write(b"x")

    return answer


def reset(handler: Handler) -> None:
    """Take the request and reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def close(handler: Handler) -> None:
    """Take the request and close the connection."""


def garbage(handler: Handler) -> None:
    """An answer that is no HTTP."""
    handler.wfile.write(b"\x00\xffSSH-2.0-nothing of yours\r\n\r\n")


def huge(status: int) -> Manner:
    """A body that nobody wants to hold."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(HUGE_BYTES))
        handler.end_headers()
        piece = b"x" * 65536
        for _ in range(HUGE_BYTES // len(piece)):
            handler.wfile.write(piece)

    return answer


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    @property
    def hook(self) -> Hook:
        assert isinstance(self.server, Hook)
        return self.server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        manner = self.hook.take(Received(dict(self.headers.items()), body))
        self.close_connection = True
        with contextlib.suppress(OSError):  # the sender hung up on us: what most of these tests are about
            manner(self)

    def do_GET(self) -> None:
        self.hook.take(Received(dict(self.headers.items()), b""))

    def log_message(self, *_: Any) -> None:
        pass


class Hook(ThreadingHTTPServer):
    """A receiver that answers each request in the next of `manners`; the last one is for all that follow."""

    daemon_threads = True

    def __init__(self, *manners: Manner, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.manners = list(manners or (OK,))
        self.received: list[Received] = []
        self.closing = threading.Event()
        self._arrived = threading.Condition()
        self._scheme = "https" if tls else "http"

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}/hook?token=keep-me-out"

    @property
    def reasons(self) -> list[str]:
        """The events' reasons in the order they came, as often as they came."""
        return [received.reason for received in self.received]

    def take(self, received: Received) -> Manner:
        with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()
            return self.manners.pop(0) if len(self.manners) > 1 else self.manners[0]

    def answer_from_now_on(self, manner: Manner) -> None:
        with self._arrived:
            self.manners = [manner]

    def wait_for(self, count: int, patience_s: float = 10.0) -> None:
        """Until that many requests have come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.received) >= count, patience_s), (
                f"{len(self.received)} of {count} requests came in {patience_s:g} s"
            )

    def handle_error(self, *_: Any) -> None:
        """A sender that hung up or refused our certificate is no news."""

    def __enter__(self) -> Hook:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
