"""`watchdog-mesh`, also as `python -m watchdog`: the only place that prints errors and ends with a status."""

from __future__ import annotations

import os
import sys

STANDARD_ERROR = 2


def main() -> None:
    """Run the command line and exit with its status."""
    work = _run
    while True:
        try:
            status = work()
            break
        except KeyboardInterrupt:  # while there was nobody yet to say so: imports take longer than most of what is done
            work = _say_interrupted
    sys.exit(status)


def _run() -> int:
    from watchdog import early

    _open_standard_streams()
    words = sys.argv[1:]
    with early.hold(words) as held:
        if sys.flags.no_site:  # as scripts/setup has it started, since that takes less time: now the rest is wanted
            import site

            site.main()
        from watchdog import interrupts

        interrupts.listen()
        from watchdog.cli.app import run
        from watchdog.cli.output import steady

        status = steady(lambda: run(words, held))
        interrupts.end()
    return status


def _say_interrupted() -> int:
    from watchdog import interrupts

    interrupts.end()
    from watchdog.cli.output import Output, steady

    error = interrupts.error_of(sys.argv[1:])
    steady(lambda: Output(as_json="--json" in sys.argv[1:]).error(error))
    return int(error.exit_status)


def _open_standard_streams() -> None:
    """What was closed (`>&-`) is /dev/null: else the journal is opened under that number, and a child writes to it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    main()
