"""What the demo's process changes about itself before anything begins: where its network is, and whose parent it is.

Two network namespaces of its own: one for the agents, and one for the outside, at the other end of a veth. Nothing
names them but this process, so that they end with it and what it has started.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from pathlib import Path

from scripts.demonstration.talk import FAR, NEAR, missing
from watchdog.errors import HostCannot
from watchdog.kernel import netns
from watchdog.kernel.netns import Netns

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNET = 0x40000000
COMMAND_LIMIT_S = 5.0
NEAR_LINK, FAR_LINK = "wd-demo0", "wd-demo1"
PREFIX_BITS = {"v4": 30, "v6": 126}


def make() -> Netns:
    """To be called before any thread is started; the network outside. Raises HostCannot."""
    adopt_orphans()
    leave_network()
    outside = _network_outside()
    _join(outside)
    return outside


def adopt_orphans() -> None:
    """Have processes whose parent ends become ours: then none of them is lost sight of, or stays a zombie."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave_network() -> None:
    """Move into a network namespace of our own: no port, link or packet of the host's is touched."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        why = os.strerror(ctypes.get_errno())
        raise HostCannot(f"cannot make a network namespace: {why}", hint="the demo needs CAP_SYS_ADMIN")
    _ip("link", "set", "lo", "up")


def _network_outside() -> Netns:
    """Another namespace, kept by a descriptor of this process."""
    made: list[int] = []

    def make_it() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0:
            made.append(os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make_it)
    thread.start()
    thread.join()
    if not made:
        raise HostCannot("cannot make a second network namespace", hint="the demo needs CAP_SYS_ADMIN")
    return Netns(os.fstat(made[0]).st_ino, Path(f"/proc/{os.getpid()}/fd/{made[0]}"))


def _join(outside: Netns) -> None:
    """A veth between the two, with an address of each family that this host speaks at either end."""
    _ip("link", "add", NEAR_LINK, "type", "veth", "peer", "name", FAR_LINK, "netns", str(outside.path))
    families = [family for family in NEAR if not missing(family)]

    def put_up(link: str, addresses: dict[str, str]) -> None:
        for family in families:
            more = ["nodad"] if family == "v6" else []
            _ip("address", "add", f"{addresses[family]}/{PREFIX_BITS[family]}", "dev", link, *more)
        _ip("link", "set", link, "up")

    put_up(NEAR_LINK, NEAR)
    netns.inside(outside, lambda: put_up(FAR_LINK, FAR))


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostCannot(f"cannot run ip: {error}", hint="apt-get install iproute2") from error
    if done.returncode != 0:
        raise HostCannot(f"ip {' '.join(words)}: {done.stderr.strip()}", hint="the demo needs CAP_NET_ADMIN and veth")
