"""`watchdog-mesh`, also as `python -m watchdog`: the only place that prints errors and ends with a status."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from watchdog.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
