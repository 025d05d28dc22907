"""The configuration: one TOML file, read once into types, every problem reported with its place.

One file may serve every watcher of a host: it then lists all agents as peers and no `self`, and each watcher is
started with `run --self NAME`. docs/configuration.md explains every setting; `watchdog-mesh config example`
prints a whole file.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec

from watchdog import allowlist
from watchdog.errors import ConfigurationError
from watchdog.ladder import FORGIVE_AFTER_INTERVALS, Policy
from watchdog.model import Severity
from watchdog.spans import Seconds, seconds

DEFAULT_PATH = Path("/etc/watchdog-mesh/config.toml")
PATH_VARIABLE = "WATCHDOG_MESH_CONFIG"
PATHS_VARIABLES = {
    "state": "WATCHDOG_MESH_STATE_DIR",
    "run": "WATCHDOG_MESH_RUN_DIR",
    "bpffs": "WATCHDOG_MESH_BPFFS_DIR",
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_WANTED = "letters, digits, dots, dashes and underscores, at most 64, beginning with a letter or digit"
MAX_PORT = 65535
READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IROTH
SELECTORS = ("unit", "pid_file", "exec", "command_line", "port", "cgroup")

Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=MAX_PORT)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; its fields are the settings that may stand in it."""


class Peer(Settings, frozen=True):
    """One agent: where it answers, how to find it on this host, how to restart it."""

    name: str
    endpoint: str
    unit: str | None = None
    pid_file: Path | None = None
    exec: Path | None = None
    command_line: str | None = None
    port: Port | None = None
    cgroup: Path | None = None
    restart: list[str] | None = None
    agent: str | None = None
    """The name its heartbeat must carry; the peer's own name when a key is set."""
    key_file: Path | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    status_listen: str | None = None
    """Where this agent's own watcher serves its status, when one file serves several watchers."""

    @property
    def selector(self) -> tuple[str, Any] | None:
        """How the agent is found on this host: the setting's name and its value."""
        return next(((key, getattr(self, key)) for key in SELECTORS if getattr(self, key) is not None), None)


class Isolation(Settings, frozen=True):
    """How agents are isolated."""

    level: Literal["network"] = "network"
    max_isolated: Count = 1
    """How many peers may be isolated at once without --force."""
    allow: list[str] = msgspec.field(default_factory=list)
    """What an isolated agent may still reach (watchdog/allowlist.py), where an operator does not say."""
    allow_heartbeat: bool = False
    """Whether this host's watchers still get its heartbeat."""


class Webhook(Settings, frozen=True):
    """Somebody who is told."""

    name: str
    url: str
    secret_file: Path | None = None
    previous_secret_file: Path | None = None
    min_severity: Severity = Severity.MEDIUM
    timeout: Seconds = Seconds(15)
    ca_file: Path | None = None


class StatusServer(Settings, frozen=True):
    """Where the status is served."""

    listen: str = "127.0.0.1:9470"


class Paths(Settings, frozen=True):
    """Where the mesh keeps things on this host."""

    state: Path = Path("/var/lib/watchdog-mesh")
    run: Path = Path("/run/watchdog-mesh")
    bpffs: Path = Path("/sys/fs/bpf/watchdog-mesh")


class Config(Settings, frozen=True):
    """The whole file."""

    self_name: str | None = msgspec.field(default=None, name="self")
    interval: Seconds = Seconds(30)
    timeout: Seconds = Seconds(5)
    missed_before_restart: Count = 3
    restarts_before_isolation: Count = 3
    restart_timeout: Seconds = Seconds(60)
    forgive_restart_after: Seconds | None = None
    watchers: list[str] | None = None
    """Who has a vote, by name; every agent named in the file when it is not set."""
    peers: list[Peer] = msgspec.field(default_factory=list, name="peer")
    isolation: Isolation = Isolation()
    webhooks: list[Webhook] = msgspec.field(default_factory=list, name="webhook")
    status: StatusServer = StatusServer()
    paths: Paths = Paths()

    @property
    def policy(self) -> Policy:
        """The ladder's numbers."""
        return Policy(
            interval_s=self.interval,
            timeout_s=self.timeout,
            missed_before_restart=self.missed_before_restart,
            restarts_before_isolation=self.restarts_before_isolation,
            forgive_after_s=self.forgive_restart_after or self.interval * FORGIVE_AFTER_INTERVALS,
        )

    def peer(self, name: str) -> Peer | None:
        """The peer of that name."""
        return next((peer for peer in self.peers if peer.name == name), None)

    def voters_on(self, peer: str) -> frozenset[str]:
        """The watchers that have a vote on `peer`: all configured ones but the peer itself."""
        named = self.watchers or [*(p.name for p in self.peers), *([self.self_name] if self.self_name else [])]
        return frozenset(named) - {peer}


def find(given: Path | None = None) -> Path:
    """The configuration's path: --config, or $WATCHDOG_MESH_CONFIG, or /etc."""
    return given or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path) -> Config:
    """Read and check the file; raises ConfigurationError with every problem found."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"cannot read the configuration {path}: {reason}",
            hint="name one with --config, or write one: watchdog-mesh config example",
        ) from error
    return parse(text, path, os.environ)


def parse(text: str, path: Path, environment: Mapping[str, str]) -> Config:
    """The configuration in `text`, with the paths that `environment` sets; `path` is for messages."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}", problems=(str(error),)) from error
    problems: list[str] = []
    config = read_table(with_environment(table, environment), Config, "", problems)
    if config is not None:
        problems += check(config)
    if problems or config is None:
        raise ConfigurationError(
            f"{path} has {len(problems)} problem{'s' if len(problems) > 1 else ''}: {'; '.join(problems)}",
            problems=problems,
        )
    return config


def with_environment(table: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The file's table with [paths] as the environment sets them: it wins."""
    paths = table.get("paths", {})
    set_there = {key: environment[name] for key, name in PATHS_VARIABLES.items() if environment.get(name)}
    return {**table, "paths": {**paths, **set_there}} if set_there and isinstance(paths, dict) else table


Table = TypeVar("Table", bound=Settings)


def read_table(table: Any, kind: type[Table], at: str, problems: list[str]) -> Table | None:
    """One table as `kind`; what is wrong with it goes to `problems`, all of it."""
    if not isinstance(table, dict):
        problems.append(f"{at.rstrip('.')}: want a table, got {table!r}")
        return None
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    before = len(problems)
    problems += [_unknown(at, key, known) for key in table if key not in known]
    values = {
        field.name: _read_value(table[key], field.type, f"{at}{key}", problems)
        for key, field in known.items()
        if key in table
    }
    problems += [f"{at}{key}: is missing" for key, field in known.items() if field.required and key not in table]
    return kind(**values) if len(problems) == before else None


def _unknown(at: str, key: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"
    return f"{at}{key}: unknown setting{meant}"


def _read_value(value: Any, kind: Any, at: str, problems: list[str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, Settings):
        return read_table(value, kind, f"{at}.", problems)
    if kind in (list[Peer], list[Webhook]):
        item = kind.__args__[0]
        if not isinstance(value, list):
            problems.append(f"{at}: want [[{at}]] tables, got {value!r}")
            return []
        return [read_table(entry, item, f"{_entry(at, index, entry)}.", problems) for index, entry in enumerate(value)]
    try:
        return msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        problems.append(f"{at}: {_wanted(kind, str(error))}, got {value!r}")
    return None


def _entry(at: str, index: int, entry: Any) -> str:
    """A place a person finds again: the entry's name where it has one, its number otherwise."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"{at} {name!r}" if isinstance(name, str) and name else f"{at} number {index + 1}"


def _wanted(kind: Any, message: str) -> str:
    choices: list[Any] = list(kind) if isinstance(kind, type) and issubclass(kind, Enum) else list(get_args(kind))
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"want {' or '.join(choices)}"
    return message.replace("Expected ", "want ").replace("`", "")


def _decode(kind: type, value: Any) -> Any:
    if kind is Seconds:
        return seconds(value)
    if issubclass(kind, Path):
        if not isinstance(value, str) or not value.startswith("/"):
            raise ValueError("want an absolute path")
        return Path(value)
    raise NotImplementedError(kind)


def check(config: Config) -> list[str]:
    """What is wrong with settings that are each well formed: a sentence each, with its place."""
    problems = _check_names(config)
    problems += [f"isolation.allow: {problem}" for problem in allowlist.parse_all(config.isolation.allow)[1]]
    if config.timeout >= config.interval:
        problems.append(f"timeout: want less than interval ({config.interval:g} s), got {config.timeout:g} s")
    if not config.peers:
        problems.append("peer: want at least one [[peer]]")
    for peer in config.peers:
        problems += _check_peer(peer, f"peer {peer.name!r}.")
    for webhook in config.webhooks:
        at = f"webhook {webhook.name!r}."
        problems += _check_url(webhook.url, f"{at}url")
        problems += _check_secret(webhook.secret_file, f"{at}secret_file")
        problems += _check_secret(webhook.previous_secret_file, f"{at}previous_secret_file")
        problems += _check_readable(webhook.ca_file, f"{at}ca_file")
    listens = [("status.listen", config.status.listen)]
    listens += [(f"peer {p.name!r}.status_listen", p.status_listen) for p in config.peers if p.status_listen]
    return problems + [problem for at, listen in listens for problem in _check_listen(listen, at)]


def _check_names(config: Config) -> list[str]:
    problems = []
    names = [peer.name for peer in config.peers]
    receivers = [webhook.name for webhook in config.webhooks]
    selves = [config.self_name] if config.self_name is not None else []
    for at, name in [("self", n) for n in selves] + [("peer", n) for n in names] + [("webhook", n) for n in receivers]:
        if not NAME.fullmatch(name):
            problems.append(f"{at} name: want {NAME_WANTED}, got {name!r}")
    for at, all_of_them in (("peer", names), ("webhook", receivers)):
        twice = sorted({name for name in all_of_them if all_of_them.count(name) > 1})
        problems += [f"{at} {name!r}: the name is used twice" for name in twice]
    if config.self_name in names:
        problems.append(f"peer {config.self_name!r}: self is among the peers; a watcher does not watch its own agent")
    known = {*names, *selves}
    problems += [f"watchers: {name!r} is no peer and not self" for name in config.watchers or () if name not in known]
    return problems


def _check_peer(peer: Peer, at: str) -> list[str]:
    problems = _check_url(peer.endpoint, f"{at}endpoint")
    chosen = [key for key in SELECTORS if getattr(peer, key) is not None]
    if len(chosen) > 1:
        problems.append(f"{at}{chosen[1]}: want one way to find the agent, got {', '.join(chosen)}")
    if peer.restart is not None and not (peer.restart and peer.restart[0].startswith("/")):
        problems.append(f"{at}restart: want a list that begins with an absolute path, got {peer.restart!r}")
    if (peer.client_cert is None) != (peer.client_key is None):
        problems.append(f"{at}client_cert: want client_cert and client_key together")
    problems += _check_secret(peer.key_file, f"{at}key_file")
    problems += _check_secret(peer.client_key, f"{at}client_key")
    for key in ("ca_file", "client_cert"):
        problems += _check_readable(getattr(peer, key), f"{at}{key}")
    return problems


def _check_url(url: str, at: str) -> list[str]:
    wanted = "http://HOST:PORT/PATH or https://HOST:PORT/PATH"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in url):
        return [f"{at}: want {wanted}, got {url!r}"]
    return [f"{at}: want no user name or password in it"] if parts.username or parts.password else []


def _check_readable(path: Path | None, at: str) -> list[str]:
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            content = file.read(1)
    except OSError as error:
        return [f"{at}: cannot read {path}: {error.strerror}"]
    return [] if content else [f"{at}: {path} is empty"]


def _check_secret(path: Path | None, at: str) -> list[str]:
    problems = _check_readable(path, at)
    if path is not None and not problems and path.stat().st_mode & READABLE_BY_OTHERS:
        problems.append(f"{at}: {path} can be read by others; want chmod 600 {path}")
    return problems


def _check_listen(listen: str, at: str) -> list[str]:
    host, _, port = listen.rpartition(":")
    usable = bool(host) and port.isdigit() and int(port) <= MAX_PORT
    return [] if usable else [f'{at}: want "ADDRESS:PORT", got {listen!r}']


def for_watcher(config: Config, name: str | None) -> Config:
    """The configuration as watcher `name` sees it: its own agent is no peer of its own.

    `name` is what --self says; without it the file's `self` counts. Raises ConfigurationError when there is none.
    """
    own = name or config.self_name
    if own is None:
        raise ConfigurationError(
            "whose watcher this is was not said", hint='set self = "NAME" in the configuration, or give --self NAME'
        )
    if config.self_name is None and config.peer(own) is None:
        known = ", ".join(peer.name for peer in config.peers)
        raise ConfigurationError(f"--self {own}: no such agent in the configuration", hint=f"known: {known}")
    if config.self_name not in (None, own):
        raise ConfigurationError(f"--self {own} and self = {config.self_name!r} in the configuration disagree")
    mine = config.peer(own)
    listen = mine.status_listen if mine and mine.status_listen else config.status.listen
    everyone: Sequence[str] = config.watchers or [peer.name for peer in config.peers] + ([] if mine else [own])
    return msgspec.structs.replace(
        config,
        self_name=own,
        peers=[peer for peer in config.peers if peer.name != own],
        watchers=list(everyone),
        status=StatusServer(listen=listen),
    )


EXAMPLE = """\
# Watchdog Mesh: one file for every watcher of this host (docs/configuration.md explains each setting).
# Each watcher is started with `watchdog-mesh run --self NAME`; with `self` set here, it serves that one alone:
# self = "immune"

interval = "30s"                    # one heartbeat to every peer
timeout = "5s"                      # for the whole exchange
missed_before_restart = 3
restarts_before_isolation = 3

[[peer]]
name = "immune"
endpoint = "http://127.0.0.1:9101/healthz"
unit = "immune.service"             # or pid_file, exec, command_line, port, cgroup
status_listen = "127.0.0.1:9471"    # where immune's own watcher serves its status

[[peer]]
name = "sidecar"
endpoint = "http://127.0.0.1:9102/healthz"
unit = "sidecar.service"
status_listen = "127.0.0.1:9472"

[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9103/healthz"
unit = "shield.service"
status_listen = "127.0.0.1:9473"

[isolation]
level = "network"

# [[webhook]]                       # who is told; Standard Webhooks headers, retried for three days
# name = "architect"
# url = "https://soc.example/hook"
# secret_file = "/etc/watchdog-mesh/architect.secret"
# min_severity = "CRITICAL"
"""
