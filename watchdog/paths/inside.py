"""A process that is put into a cgroup, makes sockets there as it is told, and says what came of each.

Run as `python -P -S -m watchdog.paths.inside`; standard library only. One JSON line in, one JSON line out, each with
the same "seq". It makes no socket before it is told to, so that its starter can move it first. It ends with its input.
An order that it reads after "until_s" of the monotonic clock (it was frozen meanwhile) is answered with no results.

    {"seq": 1, "until_s": 9, "do": "run", "scripts": {"E2a": [["make", "s", "tcp4"], ["connect", "s", ["::1", 80]]]}}
        -> {"seq": 1, "results": {"E2a": "ok"}, "ports": {}}
       Each script runs until a step fails; its result is "ok" or the name of the error ("EPERM"). The steps are the
       methods of Steps. "ports" are those bound, by the socket's name.
    {"seq": 2, "until_s": 9, "do": "await", "within_s": 0.3, "for": {"E2a": ["s", "connected", ""]}}
        -> {"seq": 2, "results": {"E2a": "ok"}}
       Waits for all of them at once: "connected"; "refused"; "data" that contains the token (hexadecimal) read from the
       socket; "accepted" the same from a connection that it accepts. "ok", the name of an error, or "timeout".
"""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from watchdog.paths.inside_steps import Steps
from watchdog.paths.inside_wait import Wait


def run_scripts(steps: Steps, scripts: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, str]:
    """Run each script; "ok", or the name of the error of its first step that failed."""
    return {key: _run_script(steps, script) for key, script in scripts.items()}


def _run_script(steps: Steps, script: Sequence[Sequence[Any]]) -> str:
    try:
        for word, *arguments in script:
            method: Callable[..., None] = getattr(steps, word)
            method(*arguments)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    except KeyError:
        return "ENOTSOCK"
    return "ok"


def answer(steps: Steps, order: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out one order, if it is not too late."""
    if time.monotonic() > order["until_s"]:
        return {"results": {}}
    if order["do"] == "await":
        return {"results": Wait(steps, order["for"]).until(time.monotonic() + order["within_s"])}
    return {"results": run_scripts(steps, order["scripts"]), "ports": steps.ports}


def main() -> None:
    """Answer orders until there are no more."""
    steps = Steps()
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps({"seq": order["seq"], **answer(steps, order)}), flush=True)


if __name__ == "__main__":
    main()
