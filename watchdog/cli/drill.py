"""`drill`: isolate and release a stand-in for an agent, the whole path on this host."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from watchdog.actions import drill
from watchdog.actions.place import no_news
from watchdog.cli.app import common, need_root, place_of, usable
from watchdog.cli.output import Output, table
from watchdog.errors import Exit


@click.command()
@common
def verb(config_path: Path | None, as_json: bool) -> int:
    """Isolate a stand-in for an agent, see that it is cut off, release it, and see that it is free.

    The stand-in is a sleeping process in a cgroup of its own: no agent is touched, and no receiver is told. Journal,
    kernel and verdicts are those of a real isolation; while it lasts, about two seconds, it counts for max_isolated.
    Interrupted, it releases the stand-in first.
    Where a step fails it ends as a command that fails like that: 5 where this host cannot isolate.
    """
    output = Output(as_json=as_json)
    need_root()
    with place_of(usable(config_path)[0], to_change=True) as place:
        steps = drill.drill(replace(place, news=no_news))
    failed = next((step for step in steps if not step.ok), None)
    passed = failed is None
    output.document("drill", 1, {"passed": passed, "steps": [_document(step) for step in steps]})
    if not as_json:
        rows = [("PASS" if step.ok else "FAIL", step.name, f"{step.took_s:.2f} s", step.detail) for step in steps]
        table(rows, ("", "STEP", "TOOK", "SEEN"))
        output.words("The drill went as it should." if passed else "The drill FAILED; watchdog-mesh doctor says more.")
    return Exit.OK if failed is None else failed.exit_status


def _document(step: drill.Step) -> dict[str, Any]:
    told = asdict(step)
    del told["exit_status"]  # the command's own says it
    return told
