"""`run`: one watcher, in the foreground, as systemd wants it."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path

import click
import msgspec

from watchdog.cli.app import common, configured, need_root
from watchdog.config import StatusServer, find, for_watcher
from watchdog.config_files import cgroups_outside
from watchdog.early import identity_of
from watchdog.errors import ConfigurationError, Exit, UsageError
from watchdog.status.server import parse_listen


@click.command()
@common
@click.option("--self", "own", metavar="NAME", help="Whose watcher this is, when the configuration does not say.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Serve the status here, whatever the configuration says.")
def verb(config_path: Path | None, as_json: bool, own: str | None, listen: str | None) -> int:  # noqa: ARG001
    """Watch the peers for one agent, until SIGTERM, SIGINT or SIGHUP. What is isolated stays isolated."""
    need_root()
    path = find(config_path)
    if not path.exists():
        raise ConfigurationError(
            f"there is no configuration at {path}", hint=f"write one: watchdog-mesh config example > {path}"
        )
    identity = identity_of(str(path))
    loaded = configured(path)
    if outside := cgroups_outside(loaded):
        raise ConfigurationError(f"{path} names what cannot be used: {'; '.join(outside)}", problems=tuple(outside))
    settings = for_watcher(loaded, own)
    if listen is not None:
        _check_listen(listen)
        settings = msgspec.structs.replace(settings, status=StatusServer(listen=listen))
    logging.basicConfig(stream=sys.__stderr__ or sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    from watchdog import daemon
    from watchdog.actions.place import note_agents

    daemon.run(settings, loaded.peer(settings.self_name or ""), partial(note_agents, loaded, path, identity))
    return Exit.OK


def _check_listen(listen: str) -> None:
    try:
        parse_listen(listen)
    except ConfigurationError as error:
        raise UsageError(
            f"--listen: want ADDRESS:PORT, got {listen!r}", hint="for example --listen 127.0.0.1:9470"
        ) from error
