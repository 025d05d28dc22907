"""docs/faults.md tells people what the tests on a real systemd see."""

from __future__ import annotations

from pathlib import Path

from tests.systemd.test_faults import ROWS

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"


def test_the_document_has_the_rows_that_are_tested_in_their_order() -> None:
    shown = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][
        2:
    ]  # below the head and its rule
    assert shown == [row.in_the_document for row in ROWS]
