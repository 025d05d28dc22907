"""Traffic of our own over loopback, between a process inside a cgroup and sockets outside of it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.errors import KernelRefused
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.insider import DATAGRAM_BYTES, FAMILIES, RESET_ON_CLOSE, send

SILENCE_S = 0.25
"""How long nothing has to arrive before it counts as dropped; loopback takes a fraction of a millisecond."""

PATIENCE_S = 0.8
"""How long something may take to arrive on a busy host; nobody waits longer than it takes."""

ANSWER_TIMEOUT_S = 2.0

_INSIDER = Path(__file__).with_name("insider.py")


@dataclass(frozen=True, slots=True)
class Round:
    """What was tried at once, and what of it got through: "udp v4 out", "tcp v6 out", "udp v6 in"."""

    tried: frozenset[str]
    passed: frozenset[str]


class InsideProcess:
    """A running insider.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Give one order and wait for its answer; KernelRefused where none comes in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
            answer: dict[str, Any] = json.loads(self._process.stdout.readline() if ready else "")
        except (OSError, ValueError) as error:
            raise KernelRefused("the test process inside the scratch cgroup did not answer") from error
        return answer


class Loopback:
    """The sockets outside, by family, and the process inside."""

    def __init__(
        self, insider: InsideProcess, udp: Mapping[str, socket.socket], tcp: Mapping[str, socket.socket]
    ) -> None:
        self._insider, self._udp, self._tcp = insider, udp, tcp
        self._ports_inside = insider.ask({"do": "bind", "families": list(udp)})
        self._rounds = 0

    def round(self, wait_s: float) -> Round:
        """UDP and TCP from inside to outside, and UDP from outside to inside, in every family.

        Ends when all has arrived, or after `wait_s`.
        """
        self._rounds += 1
        token = f"{os.getpid()}-{self._rounds}"
        for family, port in self._ports_inside.items():
            send(family, port, token.encode())
        answer = self._insider.ask(self._order(token, wait_s))
        self._drop_connections()
        sent = [family for family in answer["sent"] if _arrived(self._udp[family], token.encode(), wait_s)]
        passed = [f"udp {family} out" for family in sent]
        passed += [f"tcp {family} out" for family in answer["connected"]]
        passed += [f"udp {family} in" for family in answer["received"]]
        tried = [f"{path} out" for f in self._udp for path in (f"udp {f}", f"tcp {f}")]
        return Round(frozenset(tried + [f"udp {f} in" for f in self._udp]), frozenset(passed))

    def _order(self, token: str, wait_s: float) -> dict[str, Any]:
        udp = {family: bound.getsockname()[1] for family, bound in self._udp.items()}
        tcp = {family: listening.getsockname()[1] for family, listening in self._tcp.items()}
        return {"do": "try", "udp": udp, "tcp": tcp, "token": token, "wait_s": wait_s}

    def _drop_connections(self) -> None:
        for listening in self._tcp.values():
            with suppress(BlockingIOError):
                accepted, _ = listening.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                accepted.close()


def _arrived(bound: socket.socket, token: bytes, wait_s: float) -> bool:
    while select.select([bound], [], [], wait_s)[0]:
        if bound.recv(DATAGRAM_BYTES) == token:
            return True
    return False


@contextmanager
def loopback(cgroup: Cgroup) -> Iterator[Loopback]:
    """Sockets outside and a process inside, in every family this host has; all gone at the end."""
    with ExitStack() as sockets, _inside(cgroup) as insider:
        udp, tcp = {}, {}
        for family in FAMILIES:
            pair = _bound_pair(family)
            if pair:
                udp[family], tcp[family] = (sockets.enter_context(closing(each)) for each in pair)
        yield Loopback(insider, udp, tcp)


def _bound_pair(family: str) -> tuple[socket.socket, socket.socket] | None:
    """A UDP and a listening TCP socket; None where the host lacks the family (IPv6 turned off)."""
    kind, address = FAMILIES[family]
    opened: list[socket.socket] = []
    try:
        for protocol in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            opened.append(socket.socket(kind, protocol))
            opened[-1].setblocking(False)
            opened[-1].bind((address, 0))
        opened[1].listen()
    except OSError:
        for each in opened:
            each.close()
        return None
    return opened[0], opened[1]


@contextmanager
def _inside(cgroup: Cgroup) -> Iterator[InsideProcess]:
    """An insider that was moved into the cgroup before it made any socket; killed at the end."""
    command = [sys.executable or "/usr/bin/python3", "-I", "-S", str(_INSIDER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _move(process.pid, cgroup)
            yield InsideProcess(process)
        finally:
            process.kill()


def _move(pid: int, cgroup: Cgroup) -> None:
    try:
        (cgroup.path / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise KernelRefused(f"cannot move a process into {cgroup.path}: {error.strerror}") from error
