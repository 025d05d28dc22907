"""How `isolate` is told what its target may still reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from watchdog import clock
from watchdog.actions import allowing, locate
from watchdog.cli.app import F
from watchdog.config import Config
from watchdog.errors import UsageError
from watchdog.intents import Allowed

HELP = "What it may still reach, as 192.0.2.10/32:443/tcp or [2001:db8::/32]:443/tcp@15m; can be repeated."


def allow_options(command: F) -> F:
    """--allow, --allow-heartbeat and --no-allow; `asked` reads them."""
    for option in (
        click.option("--no-allow", is_flag=True, help="Allow nothing, whatever was allowed or is configured."),
        click.option("--allow-heartbeat", is_flag=True, help="Let this host's watchers still get its heartbeat."),
        click.option("--allow", multiple=True, metavar="CIDR[:PORT[/PROTO]][@TIME]", help=HELP),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Asked:
    """What was said of the allow-list; None where nothing was."""

    entries: tuple[Allowed, ...] | None
    heartbeat: bool

    def of(self, peer: str, settings: Config) -> tuple[Allowed, ...] | None:
        """The whole list, with the way to the heartbeat where that was asked for."""
        if not self.heartbeat:
            return self.entries
        if not peer:
            raise UsageError(
                "--allow-heartbeat wants a configured peer: nothing says where the heartbeat of this target is",
                hint="name it as a peer in the configuration",
            )
        return (*(self.entries or ()), *allowing.heartbeat(locate.configured_peer(peer, settings)))


def asked(options: dict[str, Any]) -> Asked:
    """Takes the allow-list's options out of `options`. Raises UsageError with all that is wrong with them."""
    texts, heartbeat, nothing = (options.pop(key) for key in ("allow", "allow_heartbeat", "no_allow"))
    if nothing and (texts or heartbeat):
        raise UsageError("--no-allow and an allow-list were given: want one of them")
    said = texts or heartbeat or nothing
    return Asked(allowing.given(texts, "--allow", clock.moment()) if said else None, heartbeat)
