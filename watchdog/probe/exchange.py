"""The bounds of one exchange with a peer, and the socket that keeps them.

Whatever a library does between our call and the peer, every byte passes BoundedSocket: it gives each system call no
more than the time that is left of the whole exchange and counts what comes in. So slow names, addresses, TLS
handshakes, headers and bodies end together at the deadline, and floods of any kind end at a size.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from watchdog.errors import WatchdogError

if TYPE_CHECKING:
    from watchdog.probe.resolver import Resolver

BODY_MAX_BYTES = 64 * 1024
WIRE_MAX_BYTES = 4 * BODY_MAX_BYTES
"""Of one exchange on the wire: TLS handshake, headers, chunk sizes and all."""
OWN_FAULTS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EACCES,
        errno.EPERM,
    }
)
"""Why a connection fails on this side: no descriptor, port or permission left. They say nothing about the peer."""
WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "reset the connection",
    errno.EPIPE: "closed the connection",
    errno.EHOSTUNREACH: "no route to its host",
    errno.ENETUNREACH: "no route to its network",
}


class CannotProbe(WatchdogError):
    """This watcher could not even try: no word on the peer, and no miss of it."""


class Missed(Exception):
    """What the peer did instead of answering, in words for people.

    Deliberately no OSError: it passes through requests and urllib3 as it is.
    """


class Late(Missed):
    """The deadline of the exchange passed."""


@dataclass(slots=True)
class Exchange:
    """One probe on its way: what is left of its time and size, and how far it came. Belongs to one thread."""

    timeout_s: float
    resolver: Resolver
    deadline_s: float = field(init=False)
    bytes_left: int = WIRE_MAX_BYTES
    opened: bool = False
    """It opened a connection of its own; False while it uses the pooled one."""
    answered: bool = False
    """At least one byte of HTTP came back."""
    waiting_for: str = ""
    """What the peer has not done yet, when the deadline passes in the middle of something."""
    sent_at_s: float | None = None
    address: str | None = None
    """The numeric one that was asked, once a connection to it was used: a name may have several."""

    def __post_init__(self) -> None:
        self.deadline_s = time.monotonic() + self.timeout_s

    def left_s(self) -> float:
        """Seconds left, always greater than 0. Raises Late."""
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise self.late()
        return left_s

    def late(self) -> Late:
        """Say that the deadline passed, and in the middle of what."""
        what = f": {self.waiting_for}" if self.waiting_for else ""
        return Late(f"no answer within {self.timeout_s:g} s{what}")

    def received(self, count_bytes: int) -> None:
        """Count bytes off the wire. Raises Missed when they are too many."""
        self.bytes_left -= count_bytes
        if self.bytes_left < 0:
            raise Missed(f"its answer is larger than {WIRE_MAX_BYTES // 1024} KiB with all its headers")

    def heard(self, count_bytes: int) -> None:
        """The peer began to answer, when this is more than nothing."""
        if count_bytes and not self.answered:
            self.answered = True
            self.waiting_for = "it sent only part of one"

    def response_time_ms(self) -> float | None:
        """From the first byte this exchange sent until now."""
        return None if self.sent_at_s is None else (time.monotonic() - self.sent_at_s) * 1000.0


class _Current(threading.local):
    exchange: Exchange | None = None


_current = _Current()


def under_way() -> Exchange | None:
    """This thread's exchange. Libraries between the prober and its sockets cannot hand it through."""
    return _current.exchange


def begin(exchange: Exchange | None) -> None:
    """Make it this thread's exchange; None ends it."""
    _current.exchange = exchange


def bounds() -> Exchange:
    """This thread's exchange, for code that runs only within one."""
    exchange = _current.exchange
    assert exchange is not None, "a probe's socket is used outside of a probe"
    return exchange


class BoundedSocket(socket.socket):
    """A stream socket that obeys the exchange of the thread that uses it."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        exchange = bounds()
        self.settimeout(exchange.left_s())
        try:
            count_bytes = super().recv_into(buffer, nbytes, flags)
        except OSError as error:
            raise _missed(exchange, error) from error
        exchange.received(count_bytes)
        exchange.heard(count_bytes)
        return count_bytes

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        exchange = bounds()
        self.settimeout(exchange.left_s())
        try:
            data = super().recv(bufsize, flags)
        except OSError as error:
            raise _missed(exchange, error) from error
        exchange.received(len(data))
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        """A connection that breaks here is left to the reader: the peer may have answered before it closed."""
        if not data:  # the kernel would report a broken connection for nothing at all
            return
        exchange = bounds()
        self.settimeout(exchange.left_s())
        if exchange.sent_at_s is None:
            exchange.sent_at_s = time.monotonic()
            exchange.address = self._peer_address()
        try:
            super().sendall(data, flags)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError as error:
            raise _missed(exchange, error) from error

    def _peer_address(self) -> str | None:
        try:
            return str(self.getpeername()[0])
        except OSError:  # a kept connection that was reset meanwhile
            return None


def _missed(exchange: Exchange, error: OSError) -> Missed:
    return exchange.late() if isinstance(error, TimeoutError) else Missed(words(error))


def words(error: OSError) -> str:
    """The error as a short phrase about the peer."""
    return WORDS.get(error.errno or 0) or (os.strerror(error.errno).lower() if error.errno else str(error))


def open_socket(exchange: Exchange, host: str, port: int) -> BoundedSocket:
    """Connect to the first address that accepts, each given its share of the time left.

    Raises Missed when none does, CannotProbe when none could be tried.
    """
    exchange.opened = True
    exchange.waiting_for = "its name was not resolved"
    try:
        addresses = exchange.resolver.addresses(host, port, exchange.left_s())
    except TimeoutError as error:
        raise exchange.late() from error
    exchange.waiting_for = "the connection was not accepted"
    failures: list[OSError] = []
    for tried, (family, _, protocol, _, address) in enumerate(addresses):
        share_s = exchange.left_s() / (len(addresses) - tried)
        try:
            connected = _connect(family, protocol, address, share_s)
        except OSError as error:
            failures.append(error)
        else:
            exchange.waiting_for = ""
            return connected
    raise _unreachable(exchange, failures)


def _connect(family: int, protocol: int, address: Any, timeout_s: float) -> BoundedSocket:
    connection = BoundedSocket(family, socket.SOCK_STREAM, protocol)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection


def _unreachable(exchange: Exchange, failures: Sequence[OSError]) -> Exception:
    if failures and all(failure.errno in OWN_FAULTS for failure in failures):
        return CannotProbe(f"cannot open a connection: {words(failures[-1])}")
    theirs = [failure for failure in failures if failure.errno not in OWN_FAULTS]
    if not theirs or all(isinstance(failure, TimeoutError) for failure in theirs):
        return exchange.late()
    spoken = [words(failure) for failure in theirs if not isinstance(failure, TimeoutError)]
    return Missed("; ".join(dict.fromkeys(spoken)))
