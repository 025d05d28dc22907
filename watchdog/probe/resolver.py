"""Names to addresses, without waiting longer than asked.

getaddrinfo cannot be interrupted: it waits for the name servers as long as resolv.conf says. So it runs in a thread of
its own, one a name at a time, and whoever asks waits only as long as the exchange allows; a late answer serves the
next probe. Name servers that fail are no fault of the peer's: addresses that were once found stay good until then.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from watchdog.probe.exchange import CannotProbe, Missed

AddressInfo = tuple[Any, ...]
"""Family, type, protocol, canonical name, address: as socket.getaddrinfo gives them."""
Lookup = Callable[..., list[Any]]
KNOWN_SHARE = 0.5
"""Of the time left, spent on waiting for name servers when older addresses are at hand."""


@dataclass(slots=True)
class _Question:
    """One lookup under way."""

    done: threading.Event = field(default_factory=threading.Event)
    found: list[AddressInfo] = field(default_factory=list)
    error: OSError | None = None


class Resolver:
    """Thread-safe; `lookup` has the shape of socket.getaddrinfo."""

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], _Question] = {}
        self._known: dict[tuple[str, int], list[AddressInfo]] = {}

    def addresses(self, host: str, port: int, within_s: float) -> list[AddressInfo]:
        """The addresses of `host`, in the order to try them. Raises Missed when it has none, TimeoutError when late."""
        if numeric := _numeric(host, port):
            return numeric
        known = self._known.get((host, port), [])
        question = self._ask(host, port)
        in_time = question.done.wait(within_s * (KNOWN_SHARE if known else 1.0))
        if question.found:
            return question.found
        if known and not (question.error and question.error.errno == socket.EAI_NONAME):
            return known
        if not in_time:
            raise TimeoutError
        reason = question.error.strerror if question.error else "it has no address"
        raise Missed(f"the name {host} cannot be resolved: {reason}")

    def _ask(self, host: str, port: int) -> _Question:
        """Join the lookup of this name that is under way, or start one."""
        with self._lock:
            question = self._asked.get((host, port))
            if question is None:
                question = self._asked[host, port] = _Question()
                self._start(host, port, question)
            return question

    def _start(self, host: str, port: int, question: _Question) -> None:
        thread = threading.Thread(target=self._answer, args=(host, port, question), name=f"resolve {host}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no thread left on this host
            del self._asked[host, port]
            raise CannotProbe(f"cannot resolve {host}: {error}") from error

    def _answer(self, host: str, port: int, question: _Question) -> None:
        try:
            question.found = self._lookup(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            question.error = error
        except UnicodeError:  # a label that is empty or too long for IDNA
            question.error = socket.gaierror(socket.EAI_NONAME, "not a host name")
        with self._lock:
            del self._asked[host, port]
            if question.found:
                self._known[host, port] = question.found
        question.done.set()


def _numeric(host: str, port: int) -> list[AddressInfo]:
    """An address needs no name server and no thread."""
    try:
        return [*socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)]
    except (socket.gaierror, UnicodeError):
        return []
