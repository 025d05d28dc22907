"""What is wrong with what a configuration names: each file is read as its user reads it, each address looked up.

For `config check` and `doctor`. Not part of `config.load`: an isolation must not wait for it, nor fail because of a
receiver's certificate.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from watchdog.config_check import shown
from watchdog.errors import ConfigurationError

if TYPE_CHECKING:
    from watchdog.config import Config, Peer, Webhook
    from watchdog.probe.tls import Files


def problems(config: Config) -> list[str]:
    """A sentence each, with its place; none where every watcher can be started with it."""
    places: dict[str, Callable[[], object]] = {}
    for peer in config.peers:
        places |= {f"peer {shown(peer.name)}.{setting}": read for setting, read in _of_peer(peer)}
    for webhook in config.webhooks:
        places |= {f"webhook {shown(webhook.name)}.{setting}": read for setting, read in _of_webhook(webhook)}
    places["status.listen"] = lambda: _look_up(config.status.listen)
    return [f"{place}: {why}" for place, read in places.items() if (why := _why_not(read))]


def _why_not(read: Callable[[], object]) -> str:
    try:
        read()
    except ConfigurationError as error:
        return error.one_line()
    return ""


def _of_peer(peer: Peer) -> Iterator[tuple[str, Callable[[], object]]]:
    if peer.key_file is not None:
        from watchdog.heartbeat import read_key

        key_file = peer.key_file
        yield "key_file", lambda: read_key(key_file)
    if peer.ca_file is not None:
        yield "ca_file", lambda: _load_tls((peer.ca_file, None, None))
    if peer.client_cert is not None:
        yield "client_cert", lambda: _load_tls((None, peer.client_cert, peer.client_key))
    if peer.status_listen is not None:
        listen = peer.status_listen
        yield "status_listen", lambda: _look_up(listen)


def _of_webhook(webhook: Webhook) -> Iterator[tuple[str, Callable[[], object]]]:
    from watchdog.webhook import read_secret

    if webhook.secret_file is not None:
        secret_file = webhook.secret_file
        yield "secret_file", lambda: read_secret(secret_file)
    if webhook.previous_secret_file is not None:
        previous = webhook.previous_secret_file
        yield "previous_secret_file", lambda: read_secret(previous)
    if webhook.ca_file is not None:
        yield "ca_file", lambda: _load_tls((webhook.ca_file, None, None))


def _load_tls(files: Files) -> None:
    from watchdog.probe.tls import Contexts

    Contexts().get(files)


def _look_up(listen: str) -> None:
    from watchdog.status.server import parse_listen

    host, port = parse_listen(listen)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{host} is no address of a host that is known: {error.strerror}") from error
