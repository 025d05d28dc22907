"""Traffic: sockets that echo what they hear, attempts to reach others', connections that stay open.

Agents and the talker outside run the same code; which cgroup they run in makes the difference. Agents reach each other
over loopback, and the outside over a link.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

FAMILIES = {"v4": socket.AF_INET, "v6": socket.AF_INET6}
LOOPBACK = {"v4": "127.0.0.1", "v6": "::1"}
NEAR, FAR = {"v4": "192.0.2.1", "v6": "2001:db8::1"}, {"v4": "192.0.2.2", "v6": "2001:db8::2"}
"""The ends of the link between the agents and the outside: addresses for documentation (RFC 5737, RFC 3849)."""
ANY = {"v4": "0.0.0.0", "v6": "::"}  # noqa: S104 - in network namespaces of the demo's own
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
RECEIVE_BYTES = 4096
LINE_S = 0.05
"""A stream sends one line in this time."""
STREAM = "stream"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""struct linger: no connection of ours outlives its process, to say goodbye or to wait for latecomers."""


class Call(NamedTuple):
    """One attempt: a token to say, a path ("tcp v4"), and the address and port that should echo it."""

    token: str
    path: str
    address: str
    port: int


def missing(family: str) -> str:
    """Why this host cannot speak a family over loopback; "" when it can."""
    address = LOOPBACK[family]
    try:
        with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return f"{address} cannot be used: {error.strerror}"
    return ""


class Talker:
    """A TCP and a UDP socket a family, served by a thread of their own: they echo what they hear, and remember it."""

    def __init__(self, families: Iterable[str]) -> None:
        self.ports: dict[str, int] = {}
        self.streams: dict[str, int] = {}
        """The last line of every stream: by "NAME PID FAMILY"."""
        self._heard: set[str] = set()
        self._selector = selectors.DefaultSelector()
        for family in families:
            for kind in KINDS:
                self._open(kind, family)
        threading.Thread(target=self._serve, name="talker", daemon=True).start()

    def heard(self, tokens: Iterable[str]) -> list[str]:
        """Those of the tokens that arrived here, by whatever path."""
        return [token for token in tokens if token in self._heard]

    def _open(self, kind: str, family: str) -> None:
        bound = socket.socket(FAMILIES[family], KINDS[kind])
        if family == "v6":
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((ANY[family], 0))
        bound.setblocking(False)
        if kind == "tcp":
            bound.listen()
        self.ports[f"{kind} {family}"] = bound.getsockname()[1]
        self._watch(bound, self._accept if kind == "tcp" else self._datagram)

    def _watch(self, opened: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self._selector.register(opened, selectors.EVENT_READ, serve)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                with suppress(OSError):  # whoever called has gone, or may not be answered
                    key.data(key.fileobj)

    def _datagram(self, bound: socket.socket) -> None:
        said, caller = bound.recvfrom(RECEIVE_BYTES)
        self._heard.add(said.decode().strip())
        bound.sendto(said, caller)

    def _accept(self, listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        connection.setblocking(False)
        unfinished = bytearray()
        self._watch(connection, lambda opened: self._stream(opened, unfinished))

    def _stream(self, connection: socket.socket, unfinished: bytearray) -> None:
        try:
            said = connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._selector.unregister(connection)
            connection.close()
            return
        unfinished += said
        *lines, rest = bytes(unfinished).split(b"\n")
        unfinished[:] = rest
        for line in lines:
            self._note(line.decode())
            connection.sendall(line + b"\n")

    def _note(self, line: str) -> None:
        if line.startswith(STREAM):
            name, _, number = line.removeprefix(STREAM).strip().rpartition(" ")
            self.streams[name] = int(number)
        else:
            self._heard.add(line)


def attempt(calls: Sequence[Call], wait_s: float) -> list[str]:
    """Make all calls at once; the tokens whose echo came back within the time."""
    back: list[str] = []
    deadline_s = time.monotonic() + wait_s
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        for call in calls:
            with suppress(OSError):  # the kernel refused it: it did not pass
                _begin(call, opened, selector)
        while selector.get_map() and (left_s := deadline_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                back += _go_on(key, selector)
    return back


def _begin(call: Call, opened: ExitStack, selector: selectors.BaseSelector) -> None:
    kind, family = call.path.split()
    calling = opened.enter_context(socket.socket(FAMILIES[family], KINDS[kind]))
    calling.setblocking(False)
    if kind == "udp":
        calling.connect((call.address, call.port))
        calling.send(f"{call.token}\n".encode())
        selector.register(calling, selectors.EVENT_READ, call.token)
        return
    calling.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    with suppress(BlockingIOError):
        calling.connect((call.address, call.port))
    selector.register(calling, selectors.EVENT_WRITE, call.token)


def _go_on(key: selectors.SelectorKey, selector: selectors.BaseSelector) -> list[str]:
    calling, token = key.fileobj, key.data
    assert isinstance(calling, socket.socket)
    try:
        if key.events & selectors.EVENT_WRITE:
            calling.send(f"{token}\n".encode())  # raises what became of the connection
            selector.modify(calling, selectors.EVENT_READ, token)
            return []
        said = calling.recv(RECEIVE_BYTES).decode().strip()
    except OSError:
        said = ""
    selector.unregister(calling)
    return [token] if said == token else []


class Stream:
    """A connection that stays open: a numbered line every LINE_S, each of which the other end echoes."""

    def __init__(self, name: str, to: str, family: str, address: str, port: int) -> None:
        self._name, self._to, self._family, self._address, self._port = name, to, family, address, port
        self._own_port = self._sent = self._echoed = 0
        self._ended = ""
        threading.Thread(target=self._run, name=f"stream to {to}", daemon=True).start()

    def facts(self) -> dict[str, Any]:
        """Where it is now. `echoed` is the last line of an unbroken row."""
        return {
            "name": self._name,
            "to": self._to,
            "family": self._family,
            "port": self._own_port,
            "sent": self._sent,
            "echoed": self._echoed,
            "ended": self._ended,
        }

    def _run(self) -> None:
        try:
            with socket.socket(FAMILIES[self._family], socket.SOCK_STREAM) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect((self._address, self._port))
                self._own_port = connection.getsockname()[1]
                self._talk(connection)
        except OSError as error:
            self._ended = error.strerror or str(error)

    def _talk(self, connection: socket.socket) -> None:
        unread = b""
        while True:
            self._sent += 1
            connection.sendall(f"{STREAM} {self._name} {self._sent}\n".encode())
            time.sleep(LINE_S)
            with suppress(BlockingIOError):
                said = connection.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
                if not said:
                    raise ConnectionAbortedError("the other end closed it")
                *lines, unread = (unread + said).split(b"\n")
                for line in lines:
                    self._check(int(line.split()[-1]))

    def _check(self, number: int) -> None:
        if number != self._echoed + 1:
            raise ConnectionAbortedError(f"line {number} came after line {self._echoed}")
        self._echoed = number
