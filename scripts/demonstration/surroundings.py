"""What the demo's process changes about itself before anything begins: where its network is, and whose parent it is."""

from __future__ import annotations

import ctypes
import os
import subprocess

from watchdog.errors import HostCannot

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNET = 0x40000000
COMMAND_LIMIT_S = 5.0


def make() -> None:
    """To be called before any thread is started. Raises HostCannot."""
    adopt_orphans()
    leave_network()


def adopt_orphans() -> None:
    """Have processes whose parent ends become ours: then none of them is lost sight of, or stays a zombie."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave_network() -> None:
    """Move into a network namespace of our own, with nothing but loopback: no port, link or packet of the host's is
    touched, and it ends with the last process in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
        raise HostCannot(f"cannot make a network namespace: {why}", hint="the demo needs CAP_SYS_ADMIN")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True, timeout=COMMAND_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostCannot(f"cannot bring loopback up: {error}", hint="apt-get install iproute2") from error
