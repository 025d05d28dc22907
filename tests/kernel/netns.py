"""Network namespaces without names: each lives as long as the process that holds it."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

COMMAND_TIMEOUT_S = 10


class Netns:
    """A new, empty network namespace with its loopback up."""

    def __init__(self) -> None:
        # `read` keeps it alive until its standard input is closed, also by our death.
        command = ["unshare", "--net", "sh", "-c", "echo ready; read _"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.ip("link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def path(self) -> Path:
        return Path(f"/proc/{self.pid}/ns/net")

    @property
    def prefix(self) -> list[str]:
        """Put before a command to run it in here."""
        return ["nsenter", f"--net={self.path}"]

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [*self.prefix, *command], check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        return done.stdout

    def ip(self, *arguments: str) -> str:
        return self.run("ip", *arguments)

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()


@dataclass(frozen=True, slots=True)
class VethPair:
    """Two namespaces joined by a veth: `near` is where agents are put, `far` is the world."""

    near: Netns
    far: Netns
    device: str = "va"
    near_v4: str = "192.0.2.1"
    far_v4: str = "192.0.2.2"
    near_v6: str = "2001:db8::1"
    far_v6: str = "2001:db8::2"


def join(near: Netns, far: Netns) -> VethPair:
    """A veth between two namespaces, made inside `near` so that it never is in the initial one."""
    pair = VethPair(near, far)
    near.ip("link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", str(far.pid))
    ends = ((near, "va", pair.near_v4, pair.near_v6), (far, "vb", pair.far_v4, pair.far_v6))
    for netns, device, v4, v6 in ends:
        netns.ip("addr", "add", f"{v4}/24", "dev", device)
        netns.ip("addr", "add", f"{v6}/64", "dev", device, "nodad")
        netns.ip("link", "set", device, "up")
    for (netns, device, _, _), (other, other_device, v4, v6) in zip(ends, reversed(ends), strict=True):
        _introduce(netns, device, _mac(other, other_device), v4, v6)
    for netns, device, _, _ in ends:
        _await_up(netns, device)
    return pair


def _introduce(netns: Netns, device: str, mac: str, *addresses: str) -> None:
    """Without it the first IPv6 packet can wait a second: a solicitation sent too early is lost."""
    for address in addresses:
        netns.ip("neigh", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent")


def _mac(netns: Netns, device: str) -> str:
    found: str = json.loads(netns.ip("-json", "link", "show", device))[0]["address"]
    return found


def _await_up(netns: Netns, device: str) -> None:
    deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
    while json.loads(netns.ip("-json", "link", "show", device))[0]["operstate"] != "UP":
        assert time.monotonic() < deadline_s, f"{device} does not come up"
        time.sleep(0.01)
