"""`watchdog-mesh`, also as `python -m watchdog`: the only place that prints errors and ends with a status."""

from __future__ import annotations

import os
import sys

STANDARD_ERROR = 2


def main() -> None:
    """Run the command line and exit with its status."""
    from watchdog import early

    _open_standard_streams()
    words = sys.argv[1:]
    with early.hold(words) as held:
        if sys.flags.no_site:  # as scripts/setup has it started, since that takes less time: now the rest is wanted
            import site

            site.main()
        from watchdog.cli.app import run
        from watchdog.cli.output import steady

        status = steady(lambda: run(words, held))
    sys.exit(status)


def _open_standard_streams() -> None:
    """What was closed (`>&-`) is /dev/null: else the journal is opened under that number, and a child writes to it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    main()
