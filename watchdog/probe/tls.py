"""TLS over a BoundedSocket.

ssl.SSLSocket reads the descriptor itself: a flood of handshake or key update messages would keep it inside OpenSSL
past every deadline. Here OpenSSL sees memory only, and each byte it gets came through the BoundedSocket.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any

from urllib3.util.ssltransport import SSLTransport

from watchdog.errors import ConfigurationError
from watchdog.probe.exchange import Missed, bounds
from watchdog.probe.words import shown

WORDS = {
    "WRONG_VERSION_NUMBER": "does not speak TLS",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "wants a client certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "refused the TLS handshake",
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust our client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not trust our client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that our client certificate has expired",
    "TLSV1_ALERT_PROTOCOL_VERSION": "speaks no TLS version of ours",
    "UNSUPPORTED_PROTOCOL": "speaks no TLS version of ours",
}

Files = tuple[Path | None, Path | None, Path | None]
"""CA, client certificate, client key."""


class TlsConnection(SSLTransport):
    """What http.client reads from and writes to."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        try:
            count_bytes = super().recv_into(buffer, nbytes, flags)
        except ssl.SSLError as error:
            raise _missed(error) from error
        assert isinstance(count_bytes, int), "reading into a buffer yields a count"
        bounds().heard(count_bytes)
        return count_bytes


class BoundedContext(ssl.SSLContext):
    """Wraps sockets in a TlsConnection."""

    def wrap_socket(self, sock: Any, *_: object, server_hostname: Any = None, **__: object) -> Any:
        exchange = bounds()
        exchange.waiting_for = "the TLS handshake did not end"
        try:
            wrapped = TlsConnection(sock, self, server_hostname)
        except ssl.SSLError as error:
            raise _missed(error) from error
        exchange.waiting_for = ""
        return wrapped


def _missed(error: ssl.SSLError) -> Missed:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Missed(f"its certificate is not trusted: {shown(error.verify_message)}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Missed("closed the connection in the TLS handshake")
    return Missed(WORDS.get(error.reason) or f"TLS failed: {shown(error.reason or str(error))}")


class Contexts:
    """One context for each set of files, made anew when a file changed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Files, tuple[object, BoundedContext]] = {}

    def get(self, files: Files) -> BoundedContext:
        """Raises ConfigurationError when a file cannot be used: our fault, not the peer's."""
        with self._lock:
            try:
                version = [_version(path) for path in files]
                made = self._made.get(files)
                if made is None or made[0] != version:
                    made = self._made[files] = (version, _make(files))
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"cannot use the TLS files {_names(files)}: {error}") from error
            return made[1]


def _version(path: Path | None) -> object:
    if path is None:
        return None
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _make(files: Files) -> BoundedContext:
    ca_file, client_cert, client_key = files
    context = BoundedContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(ca_file)
    if client_cert is not None:
        # An encrypted key would make OpenSSL ask for its passphrase on the terminal.
        context.load_cert_chain(client_cert, client_key, password="")
    return context


def _names(files: Files) -> str:
    return ", ".join(str(path) for path in files if path is not None) or "of the system"
