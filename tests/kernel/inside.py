"""A Python process that a test puts into a cgroup and a network namespace, and tells what to do there."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ANSWER_TIMEOUT_S = 10.0
READ_BYTES = 65536

_AGENT = """
import ast, json, os, socket, struct, sys, time

names = {"os": os, "socket": socket, "struct": struct, "time": time}


def run(code):
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "test", "exec"), names)
    return eval(compile(ast.Expression(last.value), "test", "eval"), names) if last else None


for line in sys.stdin:
    try:
        answer = {"value": run(json.loads(line))}
        text = json.dumps(answer, default=repr)
    except Exception as error:
        text = json.dumps({"error": repr(error), "errno": getattr(error, "errno", None), "type": type(error).__name__})
    print(text, flush=True)
"""


class InsideError(Exception):
    """What the code inside raised: `name` is the errno's name, or the exception's type."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["error"])
        self.name: str = errno.errorcode.get(answer["errno"] or 0, answer["type"])


class Inside:
    """The running process. It has made no socket before the first `run`."""

    def __init__(self, cgroup: Path, prefix: Sequence[str] = ()) -> None:
        """`prefix` is put before the interpreter: ["nsenter", "--net=/proc/PID/ns/net"]."""
        command = [*prefix, sys.executable, "-I", "-c", _AGENT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._heard = b""
        self.move(cgroup)

    @property
    def pid(self) -> int:
        return self.process.pid

    def move(self, cgroup: Path) -> None:
        """Put the process into another cgroup; its sockets keep theirs."""
        (cgroup / "cgroup.procs").write_text(str(self.pid))

    def tell(self, code: str) -> None:
        """Start running code; `hear` waits for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """The value of the last expression of the code told before; InsideError for what it raised."""
        assert self.process.stdout is not None
        while b"\n" not in self._heard:  # two answers may come at once: a file object would keep the second from select
            ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_TIMEOUT_S)
            assert ready, "the process inside does not answer"
            more = os.read(self.process.stdout.fileno(), READ_BYTES)
            assert more, "the process inside has ended"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise InsideError(answer)
        return answer["value"]

    def run(self, code: str) -> Any:
        """Run statements; names last from one call to the next; os, socket, struct, time are there."""
        self.tell(code)
        return self.hear()

    def outcome(self, code: str) -> str:
        """ "pass", or the name of what the code raised: "EPERM", "TimeoutError"."""
        try:
            self.run(code)
        except InsideError as error:
            return error.name
        return "pass"

    def close(self) -> None:
        """Kill it, stopped, frozen or not, and reap it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
