"""What is wrong with settings that are each well formed: a sentence each, with its place and what was wanted."""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from watchdog import allowlist
from watchdog.errors import UsageError
from watchdog.host.systemd import normalise
from watchdog.spans import LEAST_INTERVAL_S, LONGEST_INTERVAL_S

if TYPE_CHECKING:
    from watchdog.config import Config, Isolation, Peer, Settings, StatusServer, Webhook

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_WANTED = "letters, digits, dots, dashes and underscores, at most 64, beginning with a letter or digit"
LINK = re.compile(r"[^\s/:]{1,15}")
"""IFNAMSIZ is 16 with the final zero; the rest is what the kernel refuses in a link's name."""
NO_VETHS = (".", "..", "lo")
SELECTORS = ("unit", "pid_file", "exec", "command_line", "port", "cgroup")
READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
MAX_PORT = 65535
PORT = re.compile(r"[0-9]{1,5}")
HOST = re.compile(r"(?!-)(?=.{1,253}\.?$)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
MOST_SHOWN = 120


def shown(value: Any) -> str:
    """A value in a sentence: on one line, and not longer than one reads."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def shown_key(key: str) -> str:
    """A key as it would be written."""
    return key if NAME.fullmatch(key) else shown(key)


def is_printable(value: Any) -> bool:
    """No control characters in it: no name, path or command has any, and a terminal would obey them."""
    if isinstance(value, list):
        return all(is_printable(each) for each in value)
    return not isinstance(value, str) or value.isprintable()


def one(table: Settings, at: str, given: Collection[str]) -> list[str]:
    """What is wrong with one table, as far as it is well formed; `given` are its settings, malformed ones too.

    A setting that is malformed is None here, and has its problem already.
    """
    check = CHECKS.get(type(table).__name__)
    together = _together(given, at) if type(table).__name__ == "Peer" else []
    return together + (check(table, at) if check else [])


def whole(config: Config, peers_named: Sequence[str], webhooks_named: Sequence[str]) -> list[str]:
    """What is wrong with tables together; the names are all that are in the file, those of malformed tables too."""
    return _names(config, peers_named, webhooks_named)


def times(config: Config) -> list[str]:
    """What is wrong with the times, where all of them are well formed."""
    problems = []
    if not LEAST_INTERVAL_S <= config.interval <= LONGEST_INTERVAL_S:
        problems.append(f"interval: want {LEAST_INTERVAL_S * 1000:g}ms to 24h, got {config.interval:g} s")
    if config.timeout >= config.interval:
        problems.append(f"timeout: want less than interval ({config.interval:g} s), got {config.timeout:g} s")
    return problems


def _names(config: Config, names: Sequence[str], receivers: Sequence[str]) -> list[str]:
    problems = []
    selves = [config.self_name] if config.self_name is not None else []
    problems += [f"self: want {NAME_WANTED}, got {shown(name)}" for name in selves if not NAME.fullmatch(name)]
    for at, all_of_them in (("peer", names), ("webhook", receivers)):
        twice = sorted({name for name in all_of_them if list(all_of_them).count(name) > 1})
        problems += [f"{at} {shown(name)}: the name is used twice" for name in twice]
    if config.self_name in names:
        problems.append(
            f"peer {shown(config.self_name)}: self is among the peers; a watcher does not watch its own agent"
        )
    known = {*names, *selves}
    if config.watchers == []:
        problems.append("watchers: want at least one name, or leave it out: then every agent has a vote")
    strangers = [name for name in config.watchers or () if name not in known]
    return problems + [f"watchers: {shown(name)} is no peer and not self" for name in strangers]


def _peer(peer: Peer, at: str) -> list[str]:
    problems = _name(peer.name, at) + _url(peer.endpoint, f"{at}endpoint")
    problems += _unit(peer.unit, f"{at}unit") if peer.unit is not None else []
    if peer.host_end is not None and (not LINK.fullmatch(peer.host_end) or peer.host_end in NO_VETHS):
        problems.append(f"{at}host_end: want the name of a veth of this host, got {shown(peer.host_end)}")
    problems += [f"{at}agent: is empty"] if peer.agent == "" else []
    problems += _pattern(peer.command_line, f"{at}command_line") if peer.command_line is not None else []
    if peer.cgroup is not None and ".." in peer.cgroup.parts:
        problems.append(f"{at}cgroup: want the cgroup's path without .., got {peer.cgroup}")
    if peer.restart is not None and not (peer.restart and peer.restart[0].startswith("/")):
        problems.append(f"{at}restart: want a list that begins with an absolute path, got {shown(peer.restart)}")
    problems += _file(peer.key_file, f"{at}key_file", secret=True)
    problems += _file(peer.client_key, f"{at}client_key", secret=True)
    problems += _file(peer.ca_file, f"{at}ca_file") + _file(peer.client_cert, f"{at}client_cert")
    return problems + (_listen(peer.status_listen, f"{at}status_listen") if peer.status_listen is not None else [])


def _together(given: Collection[str], at: str) -> list[str]:
    """What is wrong with a peer's settings together."""
    problems = []
    chosen = [key for key in SELECTORS if key in given]
    if len(chosen) > 1:
        problems.append(f"{at}{chosen[1]}: want one way to find the agent, got {', '.join(chosen)}")
    if ("client_cert" in given) != ("client_key" in given):
        problems.append(f"{at}client_cert: want client_cert and client_key together")
    return problems


def _webhook(webhook: Webhook, at: str) -> list[str]:
    problems = _name(webhook.name, at) + _url(webhook.url, f"{at}url")
    problems += _file(webhook.secret_file, f"{at}secret_file", secret=True)
    problems += _file(webhook.previous_secret_file, f"{at}previous_secret_file", secret=True)
    return problems + _file(webhook.ca_file, f"{at}ca_file")


def _isolation(isolation: Isolation, at: str) -> list[str]:
    return [f"{at}allow: {problem}" for problem in allowlist.parse_all(isolation.allow)[1]]


def _status(status: StatusServer, at: str) -> list[str]:
    return _listen(status.listen, f"{at}listen")


CHECKS: dict[str, Callable[..., list[str]]] = {
    "Peer": _peer,
    "Webhook": _webhook,
    "Isolation": _isolation,
    "StatusServer": _status,
}
"""By the name of the table's type."""


def _name(name: str | None, at: str) -> list[str]:
    return [] if name is None or NAME.fullmatch(name) else [f"{at}name: want {NAME_WANTED}, got {shown(name)}"]


def _url(url: str | None, at: str) -> list[str]:
    if url is None:
        return []
    wanted = "http://HOST:PORT/PATH or https://HOST:PORT/PATH"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
        usable = usable and _is_host(parts.hostname or "")
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in url):
        return [f"{at}: want {wanted}, got {shown(url)}"]
    if parts.username or parts.password:
        return [f"{at}: want no user name or password in it"]
    return [f"{at}: want no # in it, as what follows is never sent, got {shown(url)}"] if "#" in url else []


def _is_host(host: str) -> bool:
    """An address, or a name as it is looked up: of another script only as xn--. ValueError for what is no address.

    No name ends in a number, and glibc looks up none that begins with a dash.
    """
    if ":" in host or host.rstrip(".").rpartition(".")[2].isdecimal():
        ipaddress.ip_address(host)
        return True
    return HOST.fullmatch(host) is not None


def _unit(unit: str, at: str) -> list[str]:
    """As every verb reads it."""
    try:
        normalise(unit)
    except UsageError as error:
        return [f"{at}: want the name of a unit that has processes, got {shown(unit)}; {error.hint}"]
    return []


def _pattern(pattern: str, at: str) -> list[str]:
    """As host/agents.py uses it."""
    if not pattern:
        return [f"{at}: is empty"]
    try:
        matches_all = re.compile(pattern).search("") is not None
    except re.error as error:
        return [f"{at}: want a regular expression, got {shown(pattern)}: {error}"]
    return [f"{at}: {shown(pattern)} matches every process"] if matches_all else []


def _file(path: Path | None, at: str, *, secret: bool = False) -> list[str]:
    """Each file that is named must be there, a file, readable and not empty; a secret must be nobody else's to read."""
    if path is None:
        return []
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a FIFO would be to wait for ever
            return [f"{at}: {path} is no file"]
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        return [f"{at}: cannot read {path}: {error.strerror}"]
    if empty:
        return [f"{at}: {path} is empty"]
    if secret and found.st_mode & READABLE_BY_OTHERS:
        return [f"{at}: {path} can be read by others; want chmod 600 {path}"]
    return []


def _listen(listen: str, at: str) -> list[str]:
    host, _, port = listen.rpartition(":")
    usable = bool(host) and PORT.fullmatch(port) is not None and int(port) <= MAX_PORT
    return [] if usable else [f'{at}: want "ADDRESS:PORT", got {shown(listen)}']
