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

import msgspec

from watchdog import config_check
from watchdog.config_check import MAX_PORT, is_printable, shown, shown_key
from watchdog.errors import ConfigurationError
from watchdog.ladder import FORGIVE_AFTER_INTERVALS, Policy
from watchdog.model import Severity
from watchdog.spans import Seconds, seconds

DEFAULT_PATH = Path("/etc/watchdog-mesh/config.toml")
PATH_VARIABLE = "WATCHDOG_MESH_CONFIG"
VARIABLES = {
    "paths.state": "WATCHDOG_MESH_STATE_DIR",
    "paths.run": "WATCHDOG_MESH_RUN_DIR",
    "paths.bpffs": "WATCHDOG_MESH_BPFFS_DIR",
    "isolation.host_links": "WATCHDOG_MESH_HOST_LINKS",
}
"""What keeps tests and drills from touching the real things, by setting."""

GIVEN_OPEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""A configuration may come through a pipe that is open already."""
SWITCH: Mapping[str, bool] = {"yes": True, "no": False}
SELECTORS = config_check.SELECTORS
MOST_COUNT = 1000
MALFORMED: Any = object()
EXPECTED = re.compile(r"Expected `(int|str|bool|array)\b[^`]*`(?: ([<>]=) (\d+))?")
"""How msgspec begins to say what it wanted."""
IN_WORDS = {"int": "a whole number", "str": "a text", "bool": "true or false", "array": "a list of texts"}
LIMITS = {">=": "of at least", "<=": "of at most"}
INSIDE = "at `$["
"""What msgspec ends with where it is about an entry of a list: all of ours are of texts."""
Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_COUNT)]
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
    host_end: str | None = None
    """The link of this host that is the other end of the agent's own veth, where it cannot be found by looking."""
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

    level: Literal["network", "frozen"] = "network"
    host_links: bool = True
    """Whether an agent that can send frames gets its egress filter on the links of the host's own network namespace
    too, while it is isolated. The filter matches nobody else's frames; without it those of such an agent pass."""
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
    restart_timeout: Seconds = Seconds(25)
    """Ends before the next heartbeat is due: with the defaults a restart that hangs delays no rung of the ladder."""
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
    """The configuration's path: --config, or $WATCHDOG_MESH_CONFIG, or /etc. Raises ConfigurationError for none."""
    if given == Path():
        raise ConfigurationError(
            "--config names no file",
            hint=f"give its path, or leave --config out for ${PATH_VARIABLE} or {DEFAULT_PATH}",
        )
    return given or Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path) -> Config:
    """Read and check the file; raises ConfigurationError with every problem found."""
    return parse(_text_of(path), path, os.environ)


def usable(path: Path) -> tuple[Config, ConfigurationError | None]:
    """What is right of the file, and what is wrong with the rest; nothing of it is used where it is no TOML at all.

    An incident does not wait for a file to be mended: what is left out is the mesh's default, which lets less pass.
    """
    try:
        config, problems = _parsed(_text_of(path), path, os.environ)
    except ConfigurationError as error:
        return without_file(os.environ), error
    return config, _all_wrong(path, problems) if problems else None


def _text_of(path: Path) -> str:
    try:
        if not _is_at_hand(path):
            raise _unreadable(path, "it is no file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8 text") from error


def _is_at_hand(path: Path) -> bool:
    """To open a FIFO would be to wait for ever; what this process was given open is its caller's to fill. A directory
    says itself that it is one."""
    mode = path.stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(GIVEN_OPEN)


def _unreadable(path: Path, reason: str) -> ConfigurationError:
    hint = "name one with --config, or write one: watchdog-mesh config example"
    return ConfigurationError(f"cannot read the configuration {path}: {reason}", hint=hint)


def parse(text: str, path: Path, environment: Mapping[str, str]) -> Config:
    """The configuration in `text`, with the paths that `environment` sets; `path` is for messages."""
    config, problems = _parsed(text, path, environment)
    if problems:
        raise _all_wrong(path, problems)
    return config


def _all_wrong(path: Path, problems: Sequence[str]) -> ConfigurationError:
    number = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return ConfigurationError(f"{path} has {number}: {'; '.join(problems)}", problems=problems)


def _parsed(text: str, path: Path, environment: Mapping[str, str]) -> tuple[Config, list[str]]:
    """What is well formed, and what is wrong. Raises ConfigurationError where it is no TOML."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}", problems=(str(error),)) from error
    except RecursionError as error:
        raise ConfigurationError(f"{path} is nested too deeply", problems=("nested too deeply",)) from error
    problems: list[str] = []
    table = with_environment(table, environment)
    values = _read_values(table, Config, "", problems)
    config = Config(**values)
    problems += config_check.whole(config, _names_in(table.get("peer")), _names_in(table.get("webhook")))
    if not {"interval", "timeout"} & (set(table) - set(values)):
        problems += config_check.times(config)
    problems += [] if table.get("peer") else ["peer: want at least one [[peer]]"]
    return config, [_as_set(problem, environment) for problem in problems]


def _names_in(tables: Any) -> list[str]:
    """The names of peers or webhooks as written, those of malformed ones too."""
    entries = [entry for entry in tables if isinstance(entry, dict)] if isinstance(tables, list) else []
    return [entry["name"] for entry in entries if isinstance(entry.get("name"), str)]


def without_file(environment: Mapping[str, str]) -> Config:
    """What holds where there is no file: enough for all that needs no peers."""
    problems: list[str] = []
    config = Config(**_read_values(with_environment({}, environment), Config, "", problems))
    if problems:
        problems = [_as_set(problem, environment) for problem in problems]
        raise ConfigurationError(f"the environment is wrong: {'; '.join(problems)}", problems=problems)
    return config


def _as_set(problem: str, environment: Mapping[str, str]) -> str:
    """A problem with what the environment set is the environment's."""
    for key, variable in VARIABLES.items():
        if environment.get(variable) and problem.startswith(f"{key}: "):
            return f"${variable}: {problem.partition(': ')[2]}"
    return problem


def with_environment(table: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """The file's table with what the environment sets: it wins."""
    for key, variable in VARIABLES.items():
        section, _, name = key.partition(".")
        inside, value = table.get(section, {}), environment.get(variable)
        if value and isinstance(inside, dict):
            table = {**table, section: {**inside, name: SWITCH.get(value, value)}}
    return table


Table = TypeVar("Table", bound=Settings)


def read_table(table: Any, kind: type[Table], at: str, problems: list[str]) -> Table | None:
    """One table as `kind`, checked; all that is wrong with it goes to `problems`. None when it is not well formed."""
    before = len(problems)
    values = _read_values(table, kind, at, problems)
    well_formed = len(problems) == before
    blank = {field.name: None for field in msgspec.structs.fields(kind) if field.required and field.name not in values}
    made = kind(**blank, **values)
    if isinstance(table, dict):
        problems += config_check.one(made, at, table)
    return made if well_formed else None


def _read_values(table: Any, kind: type[Settings], at: str, problems: list[str]) -> dict[str, Any]:
    """The well-formed ones."""
    if not isinstance(table, dict):
        problems.append(f"{at.rstrip('.')}: want a table, got {shown(table)}")
        return {}
    known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    problems += [_unknown(at, key, known) for key in table if key not in known]
    problems += [f"{at}{key}: is missing" for key, field in known.items() if field.required and key not in table]
    read = {
        field.name: _read_value(table[key], field.type, f"{at}{key}", problems)
        for key, field in known.items()
        if key in table
    }
    return {name: value for name, value in read.items() if value is not MALFORMED}


def _unknown(at: str, key: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"
    return f"{at}{shown_key(key)}: unknown setting{meant}"


def _read_value(value: Any, kind: Any, at: str, problems: list[str]) -> Any:
    if isinstance(kind, type) and issubclass(kind, Settings):
        made = read_table(value, kind, f"{at}.", problems)
        return MALFORMED if made is None else made
    if kind in (list[Peer], list[Webhook]):
        item = kind.__args__[0]
        if not isinstance(value, list):
            problems.append(f"{at}: want [[{at}]] tables, got {shown(value)}")
            return MALFORMED
        read = [read_table(entry, item, f"{_entry(at, index, entry)}.", problems) for index, entry in enumerate(value)]
        return [each for each in read if each is not None]
    try:
        if not is_printable(value):
            raise msgspec.ValidationError("Expected no control characters")
        return msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        problems.append(f"{at}: {_wanted(kind, str(error))}, got {shown(value)}")
    return MALFORMED


def _entry(at: str, index: int, entry: Any) -> str:
    """A place a person finds again: the entry's name where it has one, its number otherwise."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"{at} {shown(name)}" if isinstance(name, str) and name else f"{at} number {index + 1}"


def _wanted(kind: Any, message: str) -> str:
    choices: list[Any] = list(kind) if isinstance(kind, type) and issubclass(kind, Enum) else list(get_args(kind))
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"want {' or '.join(choices)}"
    found = EXPECTED.match(message)
    if found is None:
        return message.replace("Expected ", "want ")
    wanted = IN_WORDS["array" if INSIDE in message else found[1]]
    return f"want {wanted} {LIMITS[found[2]]} {found[3]}" if found[2] else f"want {wanted}"


def _decode(kind: type, value: Any) -> Any:
    if kind is Seconds:
        return seconds(value)
    if issubclass(kind, Path):
        if not isinstance(value, str) or not value.startswith("/"):
            raise ValueError("want an absolute path")
        return Path(value)
    raise NotImplementedError(kind)


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
