"""One HTTP exchange with a deadline that holds: the only door to requests and urllib3.

Plain requests counts its timeout anew with every read, follows redirects, takes in any amount of body and obeys
$HTTP_PROXY. Here the deadline is over the whole exchange (name, connect, TLS, headers, body); redirects, cookies and
the environment are ignored, and the body is capped. Importing this costs some 100 ms: do it where it is used.
"""

from __future__ import annotations

import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from watchdog import __version__
from watchdog.errors import ConfigurationError

BODY_LIMIT_BYTES = 64 * 1024
USER_AGENT = f"watchdog-mesh/{__version__}"
FOREIGN_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
"""What an exchange can raise; ValueError and its UnicodeError come from odd URLs and from headers no codec takes."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `cut` says why the body is not whole, and is empty when it is."""

    status: int
    headers: Mapping[str, str]
    """Names are found whatever their case."""
    body: bytes
    cut: str = ""


@dataclass(frozen=True, slots=True)
class NoReply:
    """Nothing that is an HTTP answer came back; `why` is one short phrase without the URL."""

    why: str


class _Exchange(threading.local):
    """The running exchange's end, by thread: an exchange never leaves its thread."""

    ends_s = 0.0  # of CLOCK_MONOTONIC, which socket timeouts count in

    def begin(self, timeout_s: float) -> None:
        self.ends_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left, more than 0; raises TimeoutError when there are none."""
        left_s = self.ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the exchange's deadline has passed")
        return left_s


_exchange = _Exchange()


class _DeadlineSocket(socket.socket):
    """A socket whose every operation ends with the exchange (sendall's timeout is over the whole call)."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_exchange.left_s())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any) -> None:
        self.settimeout(_exchange.left_s())
        super().sendall(*args)


class _DeadlineTlsSocket(ssl.SSLSocket):
    """The same above TLS: wrapping makes a new socket, which knows nothing of the one below."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(_exchange.left_s())
        super().do_handshake(block)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_exchange.left_s())
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any) -> int:  # sendall calls this for every piece
        self.settimeout(_exchange.left_s())
        return super().send(*args)


def _addresses(host: str, port: int) -> list[Any]:
    """getaddrinfo that ends with the exchange: the C library's own resolver takes as long as it likes."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_resolve, args=(host, port, answers), name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=_exchange.left_s())
    except queue.Empty:
        raise TimeoutError(f"no address for {host} in time") from None
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, list)
    return found


def _resolve(host: str, port: int, answers: queue.SimpleQueue[Any]) -> None:
    try:
        answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:  # a label that is empty or too long is a UnicodeError
        answers.put(error)


def _connect(connection: HTTPConnection) -> socket.socket:
    """Connect to the first address that answers; each gets its even share of the time that is left."""
    last: OSError = OSError("no address")
    try:
        found = _addresses(connection._dns_host.strip("[]"), connection.port)
        for tried, (family, kind, protocol, _, address) in enumerate(found):
            sock = _DeadlineSocket(family, kind, protocol)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(_exchange.left_s() / (len(found) - tried))
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                last = error
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except UnicodeError as error:
        raise NewConnectionError(connection, "not a host name") from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, "no connection in time") from error
    raise NewConnectionError(connection, str(last)) from last


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:  # urllib3's private hook: tests/unit/test_http.py holds it
        return _connect(self)


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connect(self)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """requests' adapter over our pools and one TLS context of our own."""

    def __init__(self, context: ssl.SSLContext | None, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=connections, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def cert_verify(self, conn: Any, *_: Any) -> None:
        """Leave the context alone: requests would add its own list of authorities to the one we were given."""
        conn.cert_reqs = "CERT_REQUIRED"


def tls_context(ca_file: Path | None, client_cert: Path | None, client_key: Path | None) -> ssl.SSLContext:
    """A context that trusts `ca_file` alone, or the system's authorities without one.

    Raises ConfigurationError, with the file's name, when one of the files cannot be used.
    """
    at = ca_file
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        at = client_cert
        if client_cert:
            # An encrypted key must fail rather than ask the terminal for its password.
            context.load_cert_chain(client_cert, client_key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror if isinstance(error, OSError) and error.errno else str(error)
        raise ConfigurationError(f"cannot use {at} for TLS: {reason}", hint="want PEM, readable by root") from error
    context.sslsocket_class = _DeadlineTlsSocket
    return context


class Client:
    """Exchanges with one or more hosts, over connections that are kept for `connections` hosts at most.

    May be used by several threads at once. Raises ConfigurationError as `tls_context` does.
    """

    def __init__(
        self,
        *,
        tls: bool = True,
        ca_file: Path | None = None,
        client_cert: Path | None = None,
        client_key: Path | None = None,
        connections: int = 1,
    ) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.clear()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter(tls_context(ca_file, client_cert, client_key) if tls else None, connections)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def exchange(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit_bytes: int = BODY_LIMIT_BYTES,
    ) -> Reply | NoReply:
        """One request and its answer, over in `timeout_s` seconds whatever the other side does."""
        _exchange.begin(timeout_s)
        sent = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **(headers or {})}
        try:
            response = self._session.request(
                method, url, data=body, headers=sent, timeout=timeout_s, stream=True, allow_redirects=False
            )
        except FOREIGN_ERRORS as error:
            return NoReply(reason(error, timeout_s))
        return _read(response, timeout_s, limit_bytes)

    def close(self) -> None:
        """Close every kept connection."""
        self._session.close()


def _read(response: requests.Response, timeout_s: float, limit_bytes: int) -> Reply:
    """The answer with its body; a connection whose answer was not read to its end is not kept."""
    body, cut = b"", ""
    try:
        body = response.raw.read(limit_bytes + 1, decode_content=False)
        if len(body) > limit_bytes:
            cut = f"the answer is larger than {limit_bytes} bytes"
    except FOREIGN_ERRORS as error:
        cut = reason(error, timeout_s)
    if cut:
        response.raw.close()
    response.close()
    return Reply(response.status_code, response.headers, body[:limit_bytes], cut)


def reason(error: BaseException, timeout_s: float) -> str:
    """What happened, as one short phrase; never the URL, which may hold a secret."""
    for inner in _causes(error):
        if isinstance(inner, UnicodeError | requests.exceptions.InvalidURL):
            return "not a URL that can be asked"
        if isinstance(inner, TimeoutError | urllib3.exceptions.TimeoutError | requests.Timeout):
            return f"no answer within {timeout_s:g} s"
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"TLS: {inner.verify_message}"
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {(inner.reason or 'failed').lower().replace('_', ' ')}"
        if isinstance(inner, socket.gaierror):
            return f"its name cannot be resolved: {inner.strerror}"
        if isinstance(inner, http.client.RemoteDisconnected):
            return "the connection was closed without an answer"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        if isinstance(inner, http.client.HTTPException):
            return f"not an HTTP answer ({type(inner).__name__})"
    return f"the exchange failed ({type(error).__name__})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that an error was made from, innermost first: libraries wrap them up to four deep."""
    inner = [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    for cause in inner:
        if isinstance(cause, BaseException) and cause is not error:
            yield from _causes(cause)
    yield error
