"""`config check` and `config example`."""

from __future__ import annotations

from pathlib import Path

import click

from watchdog import config
from watchdog.cli.app import common
from watchdog.cli.output import Output
from watchdog.errors import ConfigurationError, Exit


@click.group()
def verb() -> None:
    """Check a configuration, or print an example."""


@verb.command()
@common
@click.option("--self", "own", metavar="NAME", help="Check it as this agent's watcher would read it.")
def check(config_path: Path | None, as_json: bool, own: str | None) -> int:
    """Read the configuration and report every problem with its place."""
    output, path = Output(as_json=as_json), config.find(config_path)
    try:
        loaded = config.load(path)
        if own is not None:
            loaded = config.for_watcher(loaded, own)
    except ConfigurationError as error:
        problems = error.problems or (error.one_line(),)
        output.words(*(f"{path}: {problem}" for problem in problems))
        output.document("config", 1, {"path": str(path), "ok": False, "problems": list(problems)})
        return Exit.USAGE
    output.words(f"{path}: good, {len(loaded.peers)} peers, {len(loaded.webhooks)} webhooks")
    output.document("config", 1, {"path": str(path), "ok": True, "problems": []})
    return Exit.OK


@verb.command()
def example() -> int:
    """Print a whole configuration to start from."""
    click.echo(config.EXAMPLE, nl=False)
    return Exit.OK
