"""Serves the status over HTTP beside the watcher's loop, in a thread of its own."""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import TYPE_CHECKING, Self

from watchdog.errors import ConfigurationError, WatchdogError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from watchdog.status.serving import Serving

SETTING = "status.listen"
SETTINGS = "status.listen, or in status_listen of this watcher's agent where that is set"
PORT_MAX = 65_535
STOP_S = 2.0
REQUEST_TIMEOUT_S = 10.0

BIND_HINTS = {
    errno.EADDRINUSE: "another process has this port (see: ss -ltnp); stop it or set another one in {setting}",
    errno.EADDRNOTAVAIL: "no interface of this host has this address; set another one in {setting}",
    errno.EACCES: "ports below 1024 need root; set a higher one in {setting}",
}


class StatusServer:
    """`app` at `listen` ("127.0.0.1:9470", "[::1]:9470"; port 0 lets the kernel choose, see `port`).

    A client that takes longer than `request_timeout_s` to send its request is cut.
    """

    def __init__(self, app: WSGIApplication, listen: str, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._app = app
        self._request_timeout_s = request_timeout_s
        self._host, self._wanted_port = parse_listen(listen)
        self._port: int | None = None
        self._serving: Serving | None = None

    @property
    def host(self) -> str:
        """The configured host, without brackets: what `create_app(hosts=...)` wants to know."""
        return self._host

    @property
    def port(self) -> int:
        """The port really listened on; before `start` the configured one."""
        return self._wanted_port if self._port is None else self._port

    def start(self) -> None:
        """Bind and serve. WatchdogError when the address cannot be had; nothing is left running then."""
        if self._serving is not None:
            return
        listener = _bind(self._host, self._wanted_port)
        from watchdog.status.serving import Serving

        self._port = listener.getsockname()[1]
        self._serving = Serving(self._app, listener, self._request_timeout_s)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Stop listening and close every connection. May be called twice, and before `start`."""
        if self._serving is not None:
            self._serving.stop(timeout_s)
        self._serving = None
        self._port = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def parse_listen(listen: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". ConfigurationError when it is neither."""
    host, colon, port = listen.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    is_bracketed = host.startswith("[") and host.endswith("]")
    usable_port = port.isascii() and port.isdecimal() and int(port) <= PORT_MAX
    if not (colon and bare and usable_port) or (":" in bare) != is_bracketed:
        raise ConfigurationError(
            f"{SETTING}: want host:port or [address]:port, got {listen!r}",
            hint=f'for example {SETTING} = "127.0.0.1:9470"',
        )
    return bare, int(port)


def _bind(host: str, port: int) -> socket.socket:
    listener = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Of two that bound the port at once only one may listen: learn it here, where it can be explained.
        listener.listen()
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> WatchdogError:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    hint = BIND_HINTS.get(error.errno or 0, "set an address of this host in {setting}")
    return WatchdogError(
        f"cannot serve the status at {shown}: {error.strerror or error}", hint=hint.format(setting=SETTINGS)
    )
