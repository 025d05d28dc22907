"""`verify`: ask the kernel, not the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from watchdog.actions import isolation
from watchdog.cli import report
from watchdog.cli.app import common, configured, need_root, place_of
from watchdog.cli.output import Output
from watchdog.cli.release import meant
from watchdog.cli.target import named, target_options
from watchdog.errors import Exit


@click.command()
@target_options
@common
def verb(config_path: Path | None, as_json: bool, **target: Any) -> int:
    """Ask the kernel and systemd whether an isolation holds, and change nothing.

    Ends with 0 when it holds, 4 when it holds in part, 1 when it does not or the target is not isolated.
    """
    output, wanted = Output(as_json=as_json), named(target)
    need_root()
    settings = configured(config_path)
    with place_of(settings) as place:
        intent = meant(wanted, settings, place)
        if intent is None:
            name = wanted.peer or wanted.unit or wanted.cgroup or f"process {wanted.pid}"
            output.document("verify", 1, {"target": name, "holds": False, "state": None})
            output.words(f"{name} is not isolated")
            return Exit.FAILED
        result = isolation.verify(intent, place)
    output.document("verify", 1, report.facts_of(result))
    verdict = "holds" if result.holds and not result.gaps else "holds in part" if result.holds else "DOES NOT HOLD"
    output.words(f"The isolation of {intent.name} {verdict}: {report.place_of(result)}")
    output.words(*(f"  not covered: {gap}" for gap in result.gaps), f"  {report.dropped_in_words(result)}")
    if not result.holds:
        output.words("  put it back with: watchdog-mesh reconcile")
        return Exit.FAILED
    return Exit.PARTIAL if result.gaps else Exit.OK
