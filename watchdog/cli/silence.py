"""`silence`: maintenance without alarms. Probing goes on, nothing acts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import click

from watchdog import clock
from watchdog.actions import locate
from watchdog.cli.app import DAY_S, closing_journal, common, configured, given_span_s, need_root, stated
from watchdog.cli.output import Output
from watchdog.errors import Exit, UsageError
from watchdog.host.caller import who
from watchdog.mesh import coordinator_of
from watchdog.mesh.coordinator import Silence

LONGEST_S = DAY_S
"""A silence is for a piece of work; what lasts longer is a change of the configuration."""


@click.command()
@common
@click.argument("peer")
@click.option("--for", "span", metavar="TIME", help='How long, as "30m" or "2h"; at most a day.')
@click.option("--reason", help="Why.")
@click.option("--end", is_flag=True, help="End a silence now.")
def verb(config_path: Path | None, as_json: bool, peer: str, span: str | None, reason: str | None, end: bool) -> int:
    """Let nothing act on PEER for a time, and say nothing about it."""
    output = Output(as_json=as_json)
    need_root()
    settings = configured(config_path)
    if settings.peer(peer) is None:
        problem, hint = locate.unknown_peer(peer, settings)
        raise UsageError(problem, hint=hint)
    with closing_journal(settings) as journal:
        coordinator, at = coordinator_of(journal), clock.moment()
        if end:
            ended = coordinator.unsilence(peer)
            if ended:
                journal.record(at.utc, "silence ended", peer=peer, by=asdict(who()))
            output.document("silence", 1, {"peer": peer, "until": None, "changed": ended})
            output.words(f"{peer} is silenced no more" if ended else f"{peer} was not silenced")
            return Exit.OK
        if not span or not reason:
            raise UsageError("a silence needs --for TIME and --reason TEXT", hint="or --end")
        stated(reason, "--reason")
        until = at.utc + timedelta(seconds=given_span_s(span, "--for", LONGEST_S))
        ends, caller = clock.rfc3339(until), who()
        silence = Silence(peer, until, reason, caller.in_words())
        with journal.transaction():
            coordinator.silence(silence, at)
            journal.record(at.utc, "silenced", peer=peer, until=ends, reason=reason, by=asdict(caller))
    output.document("silence", 1, {"peer": peer, "until": ends, "changed": True})
    output.words(f"{peer} is silenced until {ends}: probed, and nothing acts on it")
    return Exit.OK
