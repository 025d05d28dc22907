"""Waiting for everything at once; part of inside.py, standard library only."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Mapping, Sequence

from watchdog.paths.inside_steps import Steps, reset_on_close

READ_BYTES = 65536
HEARD_LIMIT_BYTES = 1 << 20


class Wait:
    """Everything that is waited for at once."""

    def __init__(self, steps: Steps, wanted: Mapping[str, Sequence[str]]) -> None:
        self._sockets = dict(steps.sockets)
        self._wanted = {key: (name, what, bytes.fromhex(token)) for key, (name, what, token) in wanted.items()}
        self._heard: dict[str, bytearray] = {}
        self._accepted: dict[int, tuple[str, socket.socket]] = {}
        self._by_fd: dict[int, str] = {}
        self.results: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        """What a socket reported meanwhile; it may still hear what is waited for."""

    def until(self, deadline_s: float) -> dict[str, str]:
        """Return when all came, or at the deadline; what did not come is "timeout"."""
        with select.epoll() as poller:
            self._register(poller)
            while (left_s := deadline_s - time.monotonic()) > 0 and self._open_keys():
                for fd, _ in poller.poll(left_s):
                    self._handle(poller, fd)
        for _, accepted in self._accepted.values():
            accepted.close()
        return {key: self.results.get(key) or self._errors.get(key, "timeout") for key in self._wanted}

    def _open_keys(self) -> list[str]:
        return [key for key in self._wanted if key not in self.results]

    def _register(self, poller: select.epoll) -> None:
        for key, (name, what, _) in self._wanted.items():
            if name not in self._sockets:
                self.results[key] = "ENOTSOCK"
                continue
            fd = self._sockets[name].fileno()
            if fd not in self._by_fd:
                self._by_fd[fd] = name
                poller.register(fd, select.EPOLLOUT if what in {"connected", "refused"} else select.EPOLLIN)

    def _handle(self, poller: select.epoll, fd: int) -> None:
        name, sock = self._accepted[fd] if fd in self._accepted else (self._by_fd[fd], self._sockets[self._by_fd[fd]])
        kinds = {what for key, (wanted, what, _) in self._wanted.items() if wanted == name}
        if kinds & {"connected", "refused"}:
            self._settle(name, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _unconnected(sock))
            poller.unregister(fd)
        elif "accepted" in kinds and fd not in self._accepted:
            self._accept(poller, name, sock)
        elif not self._read(name, sock):
            poller.unregister(fd)

    def _settle(self, name: str, code: int) -> None:
        word = errno.errorcode.get(code, str(code)) if code else "ok"
        for key, (wanted, what, _) in self._wanted.items():
            if wanted == name:
                self.results[key] = _turned(word) if what == "refused" else word

    def _accept(self, poller: select.epoll, name: str, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            accepted, _ = sock.accept()
            accepted.setblocking(False)
            reset_on_close(accepted)
            self._accepted[accepted.fileno()] = (name, accepted)
            poller.register(accepted.fileno(), select.EPOLLIN)

    def _read(self, name: str, sock: socket.socket) -> bool:
        """Read once; False where nothing more will come."""
        try:
            data = sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            self._note(name, errno.errorcode.get(error.errno or 0, "error"))
            return sock.type != socket.SOCK_STREAM
        heard = self._heard.setdefault(name, bytearray())
        heard += data
        del heard[:-HEARD_LIMIT_BYTES]
        for key, (wanted, _, token) in self._wanted.items():
            if wanted == name and token in heard:
                self.results[key] = "ok"
        return bool(data) or sock.type != socket.SOCK_STREAM

    def _note(self, name: str, word: str) -> None:
        for key, (wanted, _, _) in self._wanted.items():
            if wanted == name:
                self._errors[key] = word


def _unconnected(sock: socket.socket) -> int:
    """A socket whose connect was refused at once is as ready as a connected one, and reports no error."""
    try:
        sock.getpeername()
    except OSError as error:
        return error.errno or errno.ENOTCONN
    return 0


def _turned(word: str) -> str:
    """For who waits for a refusal, the refusal is what he wants."""
    return {"ECONNREFUSED": "ok", "ok": "connected"}.get(word, word)
