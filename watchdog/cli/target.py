"""How a verb is told whom it means: a configured PEER, or --unit, --pid or --cgroup. Never nobody, never all."""

from __future__ import annotations

from typing import Any

import click

from watchdog.actions.locate import Named
from watchdog.cli.app import F
from watchdog.errors import UsageError

WANTED = "a configured PEER, --unit UNIT, --pid N or --cgroup PATH"


class Pid(click.IntRange):
    """A process id, called so in what click says of one that is none."""

    name = "process id"


def target_options(command: F) -> F:
    """PEER, --unit, --pid and --cgroup; `named` makes one target of them."""
    for option in (
        click.option("--cgroup", metavar="PATH", help="A cgroup by its path in the v2 tree."),
        click.option("--pid", type=Pid(min=1), metavar="N", help="The cgroup of a process."),
        click.option("--unit", metavar="UNIT", help="A systemd unit."),
        click.argument("peer", required=False),
    ):
        command = option(command)
    return command


def named(options: dict[str, Any]) -> Named:
    """Takes the target's options out of `options`. Raises UsageError unless exactly one is given."""
    given = {key: options.pop(key) for key in ("peer", "unit", "pid", "cgroup")}
    chosen = {key: value for key, value in given.items() if value is not None}
    if len(chosen) != 1:
        said = f"{' and '.join(chosen)} were given" if chosen else "nobody was named"
        raise UsageError(f"{said}: want one target", hint=WANTED)
    if "" in chosen.values():
        raise UsageError(f"the target's name is empty: {' and '.join(chosen)}", hint=f"name {WANTED}")
    return Named(**chosen)
