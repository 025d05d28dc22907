"""Agents for tests: a process in a cgroup, root or not, and what it tries there."""

from __future__ import annotations

import os

from tests.kernel.conftest import RunInside
from tests.kernel.inside import Inside
from tests.kernel.netns import Netns
from watchdog.kernel.cgroups import Cgroup

ROOT, USER = "root", "user"
UNPRIVILEGED_UID = 60600 + os.getpid() % 400
"""Of this run alone: agents of another run would be processes of the same user, and could be traced."""

HELPERS = """
import ctypes
LIBC = ctypes.CDLL(None, use_errno=True)
INET, INET6, UNIX, PACKET = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_PACKET
STREAM, DGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def listening(family=INET, kind=STREAM, protocol=0):
    made = socket.socket(family, kind, protocol)
    made.bind(('127.0.0.1' if family == INET else '::1', 0))
    if kind == STREAM:
        made.listen()
    return made


def port(of):
    return of.getsockname()[1]


def dial(family, port, protocol=0, wait_s=0.4):
    made = socket.socket(family, STREAM, protocol)
    made.settimeout(wait_s)
    made.connect(('127.0.0.1' if family == INET else '::1', port))
    return made
"""


def agent(run_in_cgroup: RunInside, cgroup: Cgroup, who: str = ROOT, netns: Netns | None = None) -> Inside:
    """A process in the cgroup, with HELPERS; one that is not root cannot become it again."""
    inside = run_in_cgroup(cgroup, netns)
    inside.run(HELPERS)
    if who == USER:
        inside.run(
            f"os.setgroups([]); os.setresgid(*[{UNPRIVILEGED_UID}] * 3); os.setresuid(*[{UNPRIVILEGED_UID}] * 3)"
        )
    return inside


def harmless(inside: Inside) -> Inside:
    """Take its capabilities away, for good: it may open no packet socket, so nothing is to be done on the host's links.

    38 is PR_SET_NO_NEW_PRIVS: without it root has all of them again with its next program.
    """
    inside.run("import ctypes; ctypes.CDLL(None).capset(struct.pack('Ii', 0x20080522, 0), bytes(24))")
    inside.run("ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)")
    return inside
