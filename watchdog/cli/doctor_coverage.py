"""`doctor --coverage`: every known path tried on this host, in a scratch bed, before, during and after an isolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from watchdog.actions import programs, targets
from watchdog.actions.place import Place
from watchdog.cli.output import Output, table
from watchdog.errors import Exit
from watchdog.kernel.layers import sequence
from watchdog.paths import coverage
from watchdog.paths.coverage import Row
from watchdog.paths.words import Coverage

HEADER = ("PATH", "WHO", "BEFORE", "DURING", "AFTER", "VERDICT", "WHAT IT IS")
AT_MOST = {"BEFORE": 7, "DURING": 7, "AFTER": 7, "VERDICT": 10}
"""In a narrow terminal: "timeout", and "applicable" below "not", are whole."""
DISAGREES = "DISAGREES"


def run(output: Output, place: Place) -> int:
    """Print the table. 0 where all that was seen is what is said, 1 where anything is otherwise."""
    with place.alone():
        slot = programs.take(place)
        common = targets.common_programs(place)
        rows = coverage.coverage(coverage.layered(slot, common), place.root)
    missing = {layer.name: why for layer in sequence.LAYERS if (why := layer.missing(common))}
    wrong = [row for row in rows if row.disagreement]
    output.document(
        "doctor-coverage", 1, {"agrees": not wrong, "missing": missing, "rows": [_facts(row) for row in rows]}
    )
    if not output.as_json:
        table([_cells(row) for row in rows], HEADER, AT_MOST)
    output.words(*(f"this kernel lacks the layer {name}: {why}" for name, why in missing.items()))
    output.words(*(f"{row.path} {row.title}, as {row.who}: {row.disagreement}" for row in wrong))
    output.words(_tally(rows), "What was seen is what is said." if not wrong else "What was seen is NOT what is said.")
    return Exit.FAILED if wrong else Exit.OK


def _cells(row: Row) -> tuple[str, ...]:
    tries = tuple("passes" if each.passed else each.word for each in (row.before, row.during, row.after))
    verdict = f"{row.verdict.coverage} {DISAGREES}" if row.disagreement else str(row.verdict.coverage)
    return (row.path, row.who, *tries, verdict, row.title)


def _facts(row: Row) -> dict[str, Any]:
    return {
        "path": row.path,
        "title": row.title,
        "who": row.who,
        "before": row.before.word,
        "during": row.during.word,
        "after": row.after.word,
        "coverage": row.verdict.coverage,
        "why": row.verdict.why,
        "disagreement": row.disagreement or None,
    }


def _tally(rows: Sequence[Row]) -> str:
    said = [row.verdict.coverage for row in rows]
    counts = ", ".join(f"{said.count(each)} {each}" for each in Coverage)
    return f"{len(rows)} tries at level network, by an agent that is root and by one that is not: {counts}"
