"""scripts/bench: which measurement, and where its table goes."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
from pathlib import Path

from scripts.benchmarks.report import Report

DOCS = Path(__file__).resolve().parents[2] / "docs"
KINDS = ("mesh", "isolation")


def main() -> None:
    """Run one measurement; prints as it goes, and writes docs/bench-KIND.md unless it is a quick one."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--quick", action="store_true", help="a smoke run: small numbers, nothing written to docs/")
    chosen = parser.parse_args()
    report: Report = importlib.import_module(f"scripts.benchmarks.{chosen.kind}").measure(quick=chosen.quick)
    text = f"{report.text}\n{machine()}\n"
    print(text)
    if not chosen.quick:
        for name, content in {f"bench-{chosen.kind}.md": text, **report.figures}.items():
            (DOCS / name).write_text(content)


def machine() -> str:
    """What it was measured on."""
    release = ".".join(platform.release().split(".")[:2])
    return f"Linux {release}, {os.cpu_count()} cores, Python {platform.python_version()}."


if __name__ == "__main__":
    main()
