"""Agents over real sockets whose health a test turns by hand, and actions that do what a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from watchdog.mesh.coordinator import Order, Outcome

PATIENCE_S = 20.0
HANG_S = 30.0


class Agent:
    """Answers 200 after `delay_s`; hangs while `hanging`; refuses connections while it is down."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.hanging = False
        self.delay_s = 0.0
        self._over = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = self._listen(0)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/healthz"

    def go_down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def come_up(self) -> None:
        self._listen(self.port)

    def close(self) -> None:
        self._over.set()
        self.go_down()

    def _listen(self, port: int) -> int:
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if agent._server is not self.server:  # a connection kept from before it went down
                    self.close_connection = True
                    return
                agent.asked.append(time.monotonic())
                if agent._over.wait(HANG_S if agent.hanging else agent.delay_s):
                    return
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return int(self._server.server_port)


@contextmanager
def agents(*names: str) -> Iterator[dict[str, Agent]]:
    """Some, ended with the test."""
    made = {name: Agent() for name in names}
    try:
        yield made
    finally:
        for agent in made.values():
            agent.close()


@dataclass
class Told:
    """Actions that remember what they were told, and do what a test says."""

    restart_with: Callable[[Order], Outcome] = lambda _: Outcome(failed=False, detail="restarted")
    isolate_with: Callable[[Order], Outcome] = lambda _: Outcome(failed=False, detail="isolated")
    said: dict[str, tuple[str, bool]] = field(default_factory=dict)
    waits_for: dict[str, str] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)

    def restart(self, order: Order) -> Outcome:
        self.orders.append(order)
        return self.restart_with(order)

    def isolate(self, order: Order) -> Outcome:
        self.orders.append(order)
        return self.isolate_with(order)

    def evidence(self, peer: str) -> tuple[str, bool]:
        self.asked_for.append(peer)
        return self.said.get(peer, ("", False))

    def unfinished(self, peer: str) -> str:
        return self.waits_for.get(peer, "")


def eventually(holds: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait until it holds; fails when it never does."""
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, "it never came to hold"
        time.sleep(0.01)
