"""requests and urllib3, made to open BoundedSockets and to look at nothing they need not.

The only import of both, but for what tls takes of urllib3.
"""

from __future__ import annotations

import http.client
import logging
import queue
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, BinaryIO, ClassVar

import urllib3.exceptions
from requests import PreparedRequest, Request, Response
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from watchdog import __version__
from watchdog.probe.exchange import BODY_MAX_BYTES, BoundedSocket, CannotProbe, Missed, bounds, open_socket, under_way
from watchdog.probe.tls import Contexts, Files
from watchdog.probe.words import shown

REQUEST_HEADERS = {
    "User-Agent": f"watchdog-mesh/{__version__}",
    "Accept": "application/json, */*",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",
}
NOISY_LOGGERS = ("urllib3.connection", "urllib3.connectionpool")
STATUS_LINE_SHOWN_CHARS = 40
HTTP = b"HTTP/"
BLANK_LINES = (b"\r\n", b"\n")
HEADER = re.compile(rb"[!-9;-~]+:|[ \t]")
"""Its name and a colon, or a line that goes on with the one before."""
LENGTH = re.compile("[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whole and in time."""

    status: int
    headers: Mapping[str, str]
    """Names are found whatever their case."""
    body: bytes


class _Head:
    """The lines of an answer's head as http.client reads them, which takes the end of the connection for that of a line
    and of the head, and passes over a line that is no header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False
        self._in_headers = False

    def readline(self, limit: int) -> bytes:
        """The next line. Raises Missed where the head breaks off in it, and for a header that is none."""
        line = self._file.readline(limit)
        self._check(line, whole=line.endswith(b"\n") or len(line) == limit)
        self._begun = True
        self._in_headers = line not in BLANK_LINES
        return line

    def close(self) -> None:
        self._file.close()

    def _check(self, line: bytes, *, whole: bool) -> None:
        """That nothing came at all, or what does not begin like a status line, is left to http.client."""
        if not whole and (self._begun or line.startswith(HTTP)):
            raise Missed(f"its answer breaks off in {'the headers' if self._in_headers else 'the status line'}")
        if self._in_headers and line not in BLANK_LINES and not HEADER.match(line):
            raise Missed(f"its answer is no valid HTTP: not a header: {shown(line.decode('latin-1'))}")


class WholeResponse(http.client.HTTPResponse):
    """An answer whose head came whole, and says rightly how long its body is."""

    def begin(self) -> None:
        """Raises Missed for every other."""
        file = self.fp
        self.fp = _Head(file)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            if self.fp is not None:  # http.client closes it at a bad status line
                self.fp = file
        said = self.headers.get_all("Content-Length", [])
        if not all(LENGTH.fullmatch(length.strip()) for each in said for length in each.split(",")):
            raise Missed(f"its answer is no valid HTTP: Content-Length: {shown(', '.join(said))}")


class _Bounded:
    """`_new_conn` is urllib3's own hook and not public: `connect` notices when it is no longer called."""

    def _new_conn(self) -> BoundedSocket:
        host, port = self.host, self.port  # type: ignore[attr-defined]
        return open_socket(bounds(), host.strip("[]"), port)

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        if not bounds().opened:
            self.close()  # type: ignore[attr-defined]
            raise CannotProbe(
                f"urllib3 {version('urllib3')} opens connections in a way that has no deadline",
                hint="install a release of urllib3 that this version of watchdog-mesh was tested with",
            )


class BoundedHTTPConnection(_Bounded, HTTPConnection):
    response_class = WholeResponse


class BoundedHTTPSConnection(_Bounded, HTTPSConnection):
    response_class = WholeResponse


class Shelf:
    """Where a pool keeps the connection that is not in use: what urllib3 asks of queue.LifoQueue, without waiting.

    A queue's lock and three conditions are 2.3 KiB, and there is a pool for each of a thousand peers.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._kept: list[Any] = []

    def put(self, connection: Any, block: bool = True) -> None:
        """Raises queue.Full."""
        if len(self._kept) >= self._places:
            raise queue.Full
        self._kept.append(connection)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raises queue.Empty."""
        try:
            return self._kept.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        """How many it keeps."""
        return len(self._kept)


class BoundedHTTPPool(HTTPConnectionPool):
    ConnectionCls = BoundedHTTPConnection
    QueueCls = Shelf  # type: ignore[assignment]


class BoundedHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = BoundedHTTPSConnection
    QueueCls = Shelf  # type: ignore[assignment]


class BoundedAdapter(HTTPAdapter):
    """Used without a Session: there is no environment, proxy, cookie, redirect or netrc to turn off."""

    POOLS: ClassVar[Mapping[str, type[HTTPConnectionPool]]] = {"http": BoundedHTTPPool, "https": BoundedHTTPSPool}

    def __init__(self, pools: int) -> None:
        self._contexts = Contexts()
        super().__init__(pool_connections=pools, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = dict(self.POOLS)

    def build_connection_pool_key_attributes(self, request: PreparedRequest, verify: Any, cert: Any = None) -> Any:
        host, attributes = super().build_connection_pool_key_attributes(request, True)
        if host["scheme"] == "https":
            attributes["ssl_context"] = self._contexts.get((verify, *cert))
        return host, attributes

    def cert_verify(self, *_: object, **__: object) -> None:
        """All is in the context; requests would add the public authorities to a private one."""

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """requests would parse cookies here."""
        response = Response()
        response.request = req
        response.raw = resp
        response.status_code = resp.status
        return response


def prepare(url: str) -> PreparedRequest:
    """A GET, to be sent any number of times."""
    return Request("GET", url, headers=REQUEST_HEADERS).prepare()


def fetch(adapter: BoundedAdapter, request: PreparedRequest, files: Files) -> Reply:
    """One exchange within this thread's bounds. Raises Missed for whatever the peer can do wrong."""
    options: Any = {"verify": files[0], "cert": files[1:]}  # handed to build_connection_pool_key_attributes as they are
    try:
        # urllib3 gets a timeout too, for what it does with a socket before ours does.
        response = adapter.send(request, stream=True, timeout=bounds().left_s(), **options)
        try:
            return Reply(response.status_code, response.raw.headers, _read_body(response.raw))
        finally:
            response.raw.close()  # a connection whose answer was read to its end is in the pool by now
    except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
        raise Missed(_words(error)) from error


def _read_body(raw: urllib3.HTTPResponse) -> bytes:
    """As it came: a compressed body is not expanded, so nothing grows."""
    body = bytearray()
    while chunk := _read_some(raw, BODY_MAX_BYTES + 1 - len(body)):
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            raise Missed(f"its body is larger than {BODY_MAX_BYTES // 1024} KiB")
    return bytes(body)


def _read_some(raw: urllib3.HTTPResponse, max_bytes: int) -> bytes:
    try:
        return raw.read(max_bytes, decode_content=False)
    except ValueError as error:  # http.client takes "-3" for a chunk's size and reads that many bytes
        raise Missed(f"its answer is no valid HTTP: {error}") from error


def _words(error: BaseException) -> str:
    """What the peer did, from the innermost error a library wrapped."""
    for cause in _causes(error):
        match cause:
            case http.client.RemoteDisconnected():
                return "closed the connection without an answer"
            case http.client.BadStatusLine() | http.client.UnknownProtocol():
                return f"does not speak HTTP: {shown(str(cause), STATUS_LINE_SHOWN_CHARS)}"
            case http.client.IncompleteRead() | urllib3.exceptions.IncompleteRead():
                return "its answer breaks off in the middle"
    innermost = list(_causes(error))[-1]
    return f"its answer is no valid HTTP: {shown(str(innermost))}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def silence() -> None:
    """Keep urllib3 from logging what a peer sent, with a traceback, while it serves a probe; only then."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_not_ours)


def _not_ours(_: logging.LogRecord) -> bool:
    return under_way() is None
