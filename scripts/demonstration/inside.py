"""Move into a cgroup, then become a command: `inside.py CGROUP PROGRAM [ARGUMENT...]`.

A socket belongs to the cgroup its maker is in when it is made, so an agent has to be there before it begins.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Never returns when all goes well."""
    cgroup, *command = sys.argv[1:]
    try:
        Path(cgroup, "cgroup.procs").write_text("0")
        os.execv(command[0], command)  # noqa: S606 - it must stay this very process
    except OSError as error:
        sys.exit(f"cannot run {command[0]} in {cgroup}: {error.strerror}")


if __name__ == "__main__":
    main()
