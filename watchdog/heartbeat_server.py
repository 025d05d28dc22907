"""The server behind `watchdog.heartbeat.serve`. Standard library only."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any

from watchdog.heartbeat import NONCE_HEADER, SIGNED_FORMAT, Pulse

IDLE_TIMEOUT_S = 90.0
"""A kept connection is closed after this long without a request."""


class HeartbeatServer:
    """A running server; `close` it, or leave it to end with the process."""

    def __init__(self, pulse: Pulse, host: str, port: int) -> None:
        self._server = _Server(pulse, host, port)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, on kept connections too."""
        self._server.closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> HeartbeatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, pulse: Pulse, host: str, port: int) -> None:
        self.pulse = pulse
        self.closed = False
        if ":" in host:
            self.address_family = AF_INET6
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; a fault of ours is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT_S
    wbufsize = -1  # headers and body leave in one segment: two would wait for a delayed acknowledgement
    server: _Server

    def do_GET(self) -> None:
        if self.server.closed:
            self.close_connection = True
            return
        answer = self.server.pulse.answer(self.headers.get(NONCE_HEADER))
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def version_string(self) -> str:
        return SIGNED_FORMAT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Probes come every few seconds: nothing to say about them."""
