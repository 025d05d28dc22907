"""`config check` and `config example`."""

from __future__ import annotations

from pathlib import Path

import click

from watchdog import config, config_files
from watchdog.cli.app import common
from watchdog.cli.output import Output
from watchdog.errors import ConfigurationError, Exit
from watchdog.numbers import counted


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
        if found := config_files.problems(loaded):
            raise ConfigurationError(f"{path} names what cannot be used", problems=found)
    except ConfigurationError as error:
        problems = error.problems or (error.one_line(),)
        output.words(*(f"{path}: {problem}" for problem in error.problems), *([] if error.problems else problems))
        output.document("config", 1, {"path": str(path), "ok": False, "problems": list(problems)})
        return Exit.USAGE
    output.words(f"{path}: good, {counted(len(loaded.peers), 'peer')}, {counted(len(loaded.webhooks), 'webhook')}")
    output.document("config", 1, {"path": str(path), "ok": True, "problems": []})
    return Exit.OK


@verb.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of words.")
def example(as_json: bool) -> int:
    """Print a whole configuration to start from."""
    if not as_json:
        click.echo(config.EXAMPLE, nl=False)
    Output(as_json=as_json).document("config-example", 1, {"toml": config.EXAMPLE})
    return Exit.OK
