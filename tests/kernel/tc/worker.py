"""Processes that do one thing with a layer: killed on their way, or from another network namespace.

Steps are counted as the interpreter sees them: every call that changes something in the kernel counts twice, as it
begins and as it ends.

`python worker.py REQUEST` with pins, cgroups, number, host_links, layer ("tc", "host_end"), do ("attach", "detach",
"gaps"). Answers with the gaps, and what was refused.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from tests.kernel.tc.bed import target_of
from watchdog.errors import WatchdogError
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.base import Layer
from watchdog.kernel.layers.host_end import HostEnd
from watchdog.kernel.layers.tc import Tc

LAYERS: dict[str, Layer] = {"tc": Tc(), "host_end": HostEnd()}

CHANGES = {"_submit", "map_update", "map_delete"}
"""Functions of watchdog.kernel that change something in the kernel."""

TIMEOUT_S = 60


@contextmanager
def at_step(number: int, action: Callable[[], object]) -> Iterator[list[int]]:
    """Do something when as many changes have begun or ended in this thread. Yields the count, which goes on."""
    count = [0]

    def seen(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event in {"call", "return"} and code.co_name in CHANGES and "/watchdog/kernel/" in code.co_filename:
            count[0] += 1
            if count[0] == number:
                action()

    sys.setprofile(seen)
    try:
        yield count
    finally:
        sys.setprofile(None)


def killed_at(number: int, action: Callable[[], object]) -> bool:
    """Have it done by a child that is killed at that step. Whether it came so far."""
    child = os.fork()
    if child == 0:
        with at_step(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
    return os.WIFSIGNALED(status)


def work(pins: Path, *targets: Cgroup, prefix: list[str], **request: Any) -> dict[str, Any]:
    """Have it done by another process."""
    order = json.dumps({"pins": str(pins), "cgroups": [str(each.path) for each in targets], **request})
    command = [*prefix, sys.executable, "-P", "-m", "tests.kernel.tc.worker", order]
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main(request: dict[str, Any]) -> None:
    root = cgroups.find_v2_root()
    target = target_of(
        Path(request["pins"]),
        *(cgroups.resolve(path, root) for path in request["cgroups"]),
        number=request.get("number", 0),
    )
    target = replace(target, host_links=request.get("host_links", False), host_end=request.get("host_end", ""))
    layer, gaps, error = LAYERS[request["layer"]], [], ""
    try:
        if request["do"] == "gaps":
            gaps = layer.gaps(target)
        else:
            getattr(layer, request["do"])(target)
    except WatchdogError as refused:
        error = refused.one_line()
    print(json.dumps({"gaps": gaps, "error": error}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
