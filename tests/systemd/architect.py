"""Outside of every agent: receives the webhooks, and counts what each agent gets out.

/run/mission/hooks.jsonl has a line a delivery; /run/mission/heard.json has the datagrams by sender.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MISSION = Path("/run/mission")
HOOK_PORT, SINK_PORT = 9300, 9200
WRITE_EVERY_S = 0.05


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with (MISSION / "hooks.jsonl").open("a") as hooks:
            hooks.write(json.dumps({"id": self.headers["webhook-id"], "body": body}) + "\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The file says it all."""


def listen() -> None:
    """Count for ever; what the file says is at most WRITE_EVERY_S old."""
    sinks = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    sockets = [socket.socket(family, socket.SOCK_DGRAM) for family, _ in sinks]
    for each, (_, address) in zip(sockets, sinks, strict=True):
        each.bind((address, SINK_PORT))
    heard: Counter[str] = Counter()
    turns, written_s = 0, 0.0
    while True:
        for ready in select.select(sockets, [], [], WRITE_EVERY_S)[0]:
            heard[ready.recv(99).decode()] += 1
        if time.monotonic() - written_s < WRITE_EVERY_S:
            continue
        turns, written_s = turns + 1, time.monotonic()
        beside = MISSION / "heard.new"
        beside.write_text(json.dumps({"turns": turns, **heard}))
        beside.replace(MISSION / "heard.json")


if __name__ == "__main__":
    MISSION.mkdir(exist_ok=True)
    threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", HOOK_PORT), Hook).serve_forever, daemon=True).start()
    listen()
