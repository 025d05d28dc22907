"""Peers that misbehave, on real sockets: each behaviour is a function of one accepted connection."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

STEP_S = 0.05
"""Between two drops of a drip."""
MEGABYTE = 1024 * 1024
OK_HEAD = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEALTHY = OK_HEAD + b"Content-Length: 2\r\n\r\nok"


@dataclass
class Peer:
    """A listening peer and what it saw."""

    host: str
    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/healthz"

    @property
    def https_url(self) -> str:
        return self.url.replace("http:", "https:")

    def read_request(self, connection: socket.socket) -> bytes:
        """The next request on `connection`, b"" when it was closed."""
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(65536)
            if not data:
                return b""
            request += data
        self.requests.append(request)
        return request

    def pause(self, seconds: float = STEP_S) -> None:
        """Wait, or stop this connection's behaviour when the test is over."""
        if self.ended.wait(seconds):
            raise ConnectionAbortedError


Behaviour = Callable[[Peer, socket.socket], None]


@contextlib.contextmanager
def peer(
    behave: Behaviour, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    """Serve `behave`, one thread a connection, until the block ends; leaves no socket and no thread behind."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    here = Peer(host, listener.getsockname()[1])
    sockets: list[socket.socket] = [listener]
    threads: list[threading.Thread] = []

    def serve_one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
            served = closing.enter_context(contextlib.closing(connection))
            if tls is not None:
                served = closing.enter_context(tls.wrap_socket(connection, server_side=True))
                sockets.append(served)
            behave(here, served)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                here.connections += 1
                sockets.append(connection)
                threads.append(threading.Thread(target=serve_one, args=(connection,), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield here
    finally:
        here.ended.set()
        for opened in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(opened, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        for opened in sockets:
            opened.close()


@contextlib.contextmanager
def deaf(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that never accepts: its backlog is full, further SYNs are dropped. Yields the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(socket.create_server((host, port), family=family, backlog=0))
        for _ in range(4):
            waiting = closing.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname()[:2])
        yield listener.getsockname()[1]


def answering(answer: bytes, *, keep: bool = True) -> Behaviour:
    """Answer each request with the same bytes; without `keep` close after the first."""

    def behave(here: Peer, connection: socket.socket) -> None:
        while here.read_request(connection):
            connection.sendall(answer)
            if not keep:
                return

    return behave


healthy = answering(HEALTHY)


def breaks_off(data: bytes) -> Behaviour:
    """Answer with these bytes, and close."""
    return answering(data, keep=False)


def length(said: bytes) -> Behaviour:
    """Answer with this Content-Length."""
    return breaks_off(OK_HEAD + b"Content-Length: " + said + b"\r\n\r\nok")


def says(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    """A whole answer with `body`."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def hang(here: Peer, connection: socket.socket) -> None:
    """Read the request and never answer."""
    here.read_request(connection)
    here.pause(60)


def drip(here: Peer, connection: socket.socket, data: Iterator[bytes]) -> None:
    here.read_request(connection)
    for piece in data:
        connection.sendall(piece)
        here.pause()


def status_drip(here: Peer, connection: socket.socket) -> None:
    drip(here, connection, (HEALTHY[at % 4 : at % 4 + 1] for at in count()))


def header_drip(here: Peer, connection: socket.socket) -> None:
    drip(here, connection, (OK_HEAD if at == 0 else b"X-%d: y\r\n" % at for at in count()))


def body_drip(here: Peer, connection: socket.socket) -> None:
    drip(here, connection, (OK_HEAD + b"Content-Length: 60000\r\n\r\n" if at == 0 else b"x" for at in count()))


def flood(here: Peer, connection: socket.socket, head: bytes, piece: bytes, times: int | None = None) -> None:
    here.read_request(connection)
    connection.sendall(head)
    block = piece * (MEGABYTE // len(piece))
    for sent in count():
        if sent == times:
            return
        here.pause(0)
        connection.sendall(block)


def huge_body(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, OK_HEAD + b"Content-Length: %d\r\n\r\n" % (200 * MEGABYTE), b"x", 200)


def endless_body(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, OK_HEAD + b"\r\n", b"x")


def endless_chunks(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n")


def empty_chunks(here: Peer, connection: socket.socket) -> None:
    """Chunk extensions carry the flood, the body stays small."""
    flood(here, connection, OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"e" * 1020 + b"\r\nx\r\n")


def header_flood(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, OK_HEAD, b"X-Header: " + b"y" * 1012 + b"\r\n")


def one_long_header(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, OK_HEAD + b"X: ", b"y")


def continue_flood(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, b"", b"HTTP/1.1 100 Continue\r\n\r\n")


def trailer_flood(here: Peer, connection: socket.socket) -> None:
    flood(here, connection, OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n")


def gzip_bomb() -> bytes:
    """50 MB of zeros in some 50 KB."""
    return says(gzip.compress(bytes(50 * MEGABYTE), 9), b"200 OK", b"Content-Encoding: gzip")


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def reset_in_answer(here: Peer, connection: socket.socket) -> None:
    here.read_request(connection)
    connection.sendall(OK_HEAD + b"Content-Length: 100\r\n\r\nsome")
    here.pause()
    reset(connection)


def reset_at_once(here: Peer, connection: socket.socket) -> None:
    here.read_request(connection)
    reset(connection)


def close_early(here: Peer, connection: socket.socket) -> None:
    here.read_request(connection)
    connection.sendall(OK_HEAD + b"Content-Length: 100\r\n\r\nsome")


def close_at_once(here: Peer, connection: socket.socket) -> None:
    here.read_request(connection)
