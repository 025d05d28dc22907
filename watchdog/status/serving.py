"""The door to waitress. Imported only where a server starts.

Two lanes of threads: /healthz has its own, so that requests which build a whole view, however many and however slow,
never make this watcher look hung to the others.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

HEALTH_PATH = "/healthz"
HEALTH_THREADS = 2
VIEW_THREADS = 2
CONNECTIONS_MAX = 128
CROWD = CONNECTIONS_MAX // 2
"""With more connections than this, idle ones that are not new are closed: /healthz must find a place."""
CROWD_ANSWER_S = 30
"""And those that wait for an answer this long: a client that gave up is not seen while its view is being built."""
BACKLOG = 128
IDLE_S = 35
"""Outlives a pause between two probes at the default interval, so that a prober keeps its connection."""
SWEEP_S = 1.0
HEADER_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 1024
RESPONSE_BYTES_MAX = 64 * 1024 * 1024
"""Above what 10,000 peers need: answers wait in memory, never in temporary files, for the disk may be full."""
SELECT_S = 1


# waitress warns whenever a request waits for a thread; a quiet mesh writes nothing.
_queue_log = logging.getLogger(f"{__name__}.queue")
_queue_log.setLevel(logging.ERROR)


class _Lane(ThreadedTaskDispatcher):  # type: ignore[misc]  # waitress has no types
    queue_logger = _queue_log


class _Lanes:
    """Takes waitress's tasks (connections with a whole request) and hands each to the threads it belongs to."""

    def __init__(self) -> None:
        self._health = _Lane()
        self._views = _Lane()
        self._health.set_thread_count(HEALTH_THREADS)
        self._views.set_thread_count(VIEW_THREADS)

    def add_task(self, channel: HTTPChannel) -> None:
        # A request that could not be parsed has no path.
        is_health = getattr(channel.requests[0], "path", None) == HEALTH_PATH
        (self._health if is_health else self._views).add_task(channel)

    def shutdown(self, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        for lane in (self._health, self._views):
            lane.shutdown(timeout=max(until_s - time.monotonic(), 0))


class _Server(TcpWSGIServer):  # type: ignore[misc]  # waitress has no types
    """waitress's server, which also cuts clients that drip a request or crowd out the others.

    To waitress each byte counts as activity, and a connection that waits holds its place.
    """

    def __init__(self, app: WSGIApplication, listener: socket.socket, lanes: _Lanes, request_timeout_s: float) -> None:
        self._request_timeout_s = request_timeout_s
        self._trigger_lock = threading.Lock()
        self._is_closed = False
        self._swept_at_s = 0.0
        self._connected_s: dict[HTTPChannel, float] = {}
        self._asking_s: dict[HTTPChannel, float] = {}
        super().__init__(
            app,
            dispatcher=lanes,
            adj=_adjustments(listener),
            bind_socket=False,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            _sock=listener,
        )

    def serve_once(self) -> None:
        """Wait for something to happen on any socket, handle it, and cut who is overdue."""
        wasyncore.loop(timeout=SELECT_S, use_poll=True, map=self._map, count=1)
        now_s = time.monotonic()
        if now_s - self._swept_at_s >= SWEEP_S:
            self._swept_at_s = now_s
            self._sweep(now_s)

    def _sweep(self, now_s: float) -> None:
        """Times are counted from the first sweep that saw them."""
        channels = list(self.active_channels.values())
        waiting = [channel for channel in channels if not channel.requests]
        asking = [channel for channel in waiting if channel.request is not None]
        self._connected_s = {channel: self._connected_s.get(channel, now_s) for channel in channels}
        self._asking_s = {channel: self._asking_s.get(channel, now_s) for channel in asking}
        overdue = {channel for channel in asking if now_s - self._asking_s[channel] > self._request_timeout_s}
        if len(channels) > CROWD:
            overdue |= {channel for channel in waiting if now_s - self._connected_s[channel] >= SWEEP_S}
            overdue |= {channel for channel in channels if now_s - self._connected_s[channel] > CROWD_ANSWER_S}
        for channel in overdue:
            channel.handle_close()

    def pull_trigger(self) -> None:
        """Wake the loop. A thread that leaves a slow view after `close` finds the pipe's number in another's hands."""
        with self._trigger_lock:
            if not self._is_closed:
                super().pull_trigger()

    def close(self) -> None:
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        with self._trigger_lock:
            self._is_closed = True
            super().close()


class Serving:
    """A bound, listening socket being served by a daemon thread until `stop`."""

    def __init__(self, app: WSGIApplication, listener: socket.socket, request_timeout_s: float) -> None:
        self._lanes = _Lanes()
        self._stopping = threading.Event()
        self._server = _Server(app, listener, self._lanes, request_timeout_s)
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Close the listener and every connection, after at most `timeout_s` for answers still being made."""
        self._server.accepting = False
        self._lanes.shutdown(timeout_s)
        self._stopping.set()
        self._server.pull_trigger()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._server.serve_once()
        self._server.close()


def _adjustments(listener: socket.socket) -> Adjustments:
    return Adjustments(
        sockets=[listener],
        ident=None,
        backlog=BACKLOG,
        connection_limit=CONNECTIONS_MAX,
        channel_timeout=IDLE_S,
        cleanup_interval=SWEEP_S,
        max_request_header_size=HEADER_BYTES_MAX,
        max_request_body_size=BODY_BYTES_MAX,
        outbuf_overflow=RESPONSE_BYTES_MAX,
        outbuf_high_watermark=RESPONSE_BYTES_MAX,
        log_socket_errors=False,
        expose_tracebacks=False,
        asyncore_use_poll=True,
        clear_untrusted_proxy_headers=False,
    )
