"""What is wrong with what a configuration names: each file is read as its user reads it, each address looked up.

For `config check` and `doctor`. Not part of `config.load`: an isolation must not wait for it, nor fail because of a
receiver's certificate.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from watchdog.config_check import shown
from watchdog.errors import ConfigurationError, HostCannot, SystemdFailed
from watchdog.host import systemd
from watchdog.host.systemd import normalise

if TYPE_CHECKING:
    from watchdog.config import Config, Peer, Webhook
    from watchdog.probe.tls import Files


ANY_PORT = ":0"


def problems(config: Config) -> list[str]:
    """A sentence each, with its place; none where every watcher can be started with it and can do what it is to do."""
    places: dict[str, Callable[[], object]] = {}
    for peer in config.peers:
        places |= {f"peer {shown(peer.name)}.{setting}": read for setting, read in _of_peer(peer)}
    for webhook in config.webhooks:
        places |= {f"webhook {shown(webhook.name)}.{setting}": read for setting, read in _of_webhook(webhook)}
    places["status.listen"] = lambda: _look_up(config.status.listen)
    return [f"{place}: {why}" for place, read in places.items() if (why := _why_not(read))] + [
        *_shared_addresses(config),
        *_shared_agents(config),
        *unknown_units(config),
    ]


def cgroups_outside(config: Config) -> list[str]:
    """The peers whose cgroup is none that a watcher could ever see to, a sentence each."""
    places = {f"peer {shown(peer.name)}.cgroup": peer.cgroup for peer in config.peers if peer.cgroup is not None}
    checks = {place: partial(_below_the_root, path) for place, path in places.items()}
    return [f"{place}: {why}" for place, check in checks.items() if (why := _why_not(check))]


def restarts_in_vain(config: Config) -> list[str]:
    """The peers whose restart would run nothing, a sentence each."""
    found = {peer.name: why_no_restart(peer) for peer in config.peers}
    return [f"peer {shown(name)}.restart: {error.one_line()}" for name, error in found.items() if error]


def why_no_restart(peer: Peer) -> ConfigurationError | None:
    """What is wrong with the program that is to restart it; None without one too."""
    try:
        _program((peer.restart or [""])[0])
    except ConfigurationError as error:
        return error
    return None


def read_for(place: str, read: Callable[[Path], bytes], path: Path) -> bytes:
    """What is in a file of the configuration; raises ConfigurationError that begins with the setting's place."""
    try:
        return read(path)
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error.message}", hint=error.hint) from error


def _why_not(read: Callable[[], object]) -> str:
    try:
        read()
    except ConfigurationError as error:
        return error.one_line()
    return ""


def _shared_addresses(config: Config) -> list[str]:
    """Watchers of one file that would serve their status at the same address: all but the first could not start."""
    first: dict[str, str] = {}
    problems = []
    for peer in config.peers if config.self_name is None else ():
        if config.watchers is not None and peer.name not in config.watchers:
            continue
        listen = peer.status_listen or config.status.listen
        taken = first.setdefault(listen, peer.name)
        if taken != peer.name and not listen.endswith(ANY_PORT):
            problems.append(
                f"peer {shown(peer.name)}.status_listen: want an address of its own watcher's, "
                f"got {listen}, where the one of {shown(taken)} serves"
            )
    return problems


def _shared_agents(config: Config) -> list[str]:
    """Peers that are one agent: what is done to one of them would be done to the other too."""
    first: dict[str, str] = {}
    problems = []
    for peer in config.peers:
        for setting, value in (("unit", normalise(peer.unit) if peer.unit else ""), ("cgroup", str(peer.cgroup or ""))):
            taken = first.setdefault(value, peer.name) if value else peer.name
            if taken != peer.name:
                problems.append(f"peer {shown(peer.name)}.{setting}: want its own, got {value}, that of {shown(taken)}")
    return problems


def unknown_units(config: Config) -> list[str]:
    """The peers whose unit systemd does not know, a sentence each.

    One that does not run, or does not answer, leaves it open: a configuration is read elsewhere, too.
    """
    units = {peer.name: normalise(peer.unit) for peer in config.peers if peer.unit}
    unknown = set()
    if units and systemd.SYSTEMD_RUNTIME.is_dir():
        with suppress(HostCannot, SystemdFailed):
            unknown = systemd.unknown_of(list(units.values()))
    return [
        f"peer {shown(name)}.unit: there is no unit {unit!r} on this host; {systemd.SEE_UNITS}"
        for name, unit in units.items()
        if unit in unknown
    ]


def _of_peer(peer: Peer) -> Iterator[tuple[str, Callable[[], object]]]:
    if peer.key_file is not None:
        from watchdog.heartbeat import read_key

        key_file = peer.key_file
        yield "key_file", lambda: read_key(key_file)
    if peer.ca_file is not None:
        yield "ca_file", lambda: _load_tls((peer.ca_file, None, None))
    if peer.client_cert is not None:
        yield "client_cert", lambda: _load_tls((None, peer.client_cert, peer.client_key))
    if peer.cgroup is not None:
        cgroup = peer.cgroup
        yield "cgroup", partial(_below_the_root, cgroup)
    if peer.restart is not None:
        yield "restart", partial(_program, peer.restart[0])
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


def _below_the_root(path: Path) -> None:
    """It need not be there: its agent may not run."""
    from watchdog.kernel.cgroups import find_v2_root

    with suppress(HostCannot):  # doctor says that
        root = find_v2_root()
        if path == root or not path.is_relative_to(root):
            raise ConfigurationError(f"want a cgroup below {root}, got {path}")


def _program(name: str) -> None:
    """One that this user may execute. No name is no problem."""
    path = Path(name)
    if not name:
        return
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(
            f"cannot find the program {path}: {error.strerror}", hint="name one by its path"
        ) from error
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is no file", hint="name a program by its path")
    if not os.access(path, os.X_OK):
        raise ConfigurationError(f"{path} cannot be executed", hint=f"chmod +x {path}")


def _look_up(listen: str) -> None:
    from watchdog.status.server import parse_listen

    host, port = parse_listen(listen)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{host} is no address of a host that is known: {error.strerror}") from error
