"""`watchdog-mesh`, also as `python -m watchdog`: the only place that prints errors and ends with a status."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from watchdog import early

    words = sys.argv[1:]
    with early.hold(words) as held:
        if sys.flags.no_site:  # as scripts/setup has it started, since that takes less time: now the rest is wanted
            import site

            site.main()
        from watchdog.cli.app import run

        status = run(words, held)
    sys.exit(status)


if __name__ == "__main__":
    main()
