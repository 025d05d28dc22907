"""An isolation on a real systemd: no daemon-reload and no restart of the unit, by whomever, lets a packet out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.systemd import filters
from tests.systemd.testbed import Testbed
from watchdog.kernel import cgroups, gate, slots

pytestmark = pytest.mark.systemd

UNIT = "wd-agent.service"
CGROUP = f"/system.slice/{UNIT}"
SLICE = "/system.slice"
PINS = "/sys/fs/bpf/watchdog-mesh"
STATE = ("/run/watchdog-mesh", "/var/lib/watchdog-mesh", PINS)
PORT = 9999
RELOADS = 60
RESTARTS = 100
PAUSE_S = 0.02
"""Between two restarts, so that the new process has sent something before it is killed."""

FAR = "wd-far"
"""The network namespace at the other end of a veth pair, where what leaves is captured."""
FAR_V4, FAR_V6 = "10.77.0.2", "fd00:77::2"
LINKS = (
    "ip link set lo up",
    f"ip netns add {FAR}",
    f"ip link add wd-near type veth peer name wd-end netns {FAR}",
    "ip addr add 10.77.0.1/24 dev wd-near",
    "ip addr add fd00:77::1/64 dev wd-near nodad",
    "ip link set wd-near up",
    f"ip -n {FAR} addr add {FAR_V4}/24 dev wd-end",
    f"ip -n {FAR} addr add {FAR_V6}/64 dev wd-end nodad",
    f"ip -n {FAR} link set wd-end up",
)

SENDER = f"""
import socket
pairs = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
pairs += ((socket.AF_INET, "{FAR_V4}"), (socket.AF_INET6, "{FAR_V6}"))
sockets = [(socket.socket(family, socket.SOCK_DGRAM), (address, {PORT})) for family, address in pairs]
for each, where in sockets:
    each.connect(where)  # what is not connected is refused before there is a packet
while True:
    for each, _ in sockets:
        try:
            each.send(b"x")
        except OSError:
            pass
"""

CAPTURE = f"""
import select, socket, sys
ETH_P_ALL, PORT = 3, ({PORT}).to_bytes(2, "big")
seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
seen.bind(("wd-end", 0))
print("ready", flush=True)
count = 0
while True:
    readable, _, _ = select.select([sys.stdin, seen], [], [])
    if seen in readable:
        frame = seen.recv(2048)
        count += PORT in (frame[36:38], frame[56:58])  # the UDP destination behind an IPv4 or an IPv6 header
    if readable == [sys.stdin]:
        break
print(count)
"""

RECEIVER = f"""
import select, socket, sys
pairs = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
sockets = [socket.socket(family, socket.SOCK_DGRAM) for family, _ in pairs]
for each, (_, address) in zip(sockets, pairs):
    each.bind((address, {PORT}))
print("ready", flush=True)
count = 0
while True:
    readable, _, _ = select.select([sys.stdin, *sockets], [], [])
    for each in sockets:
        if each in readable:
            each.recv(9)
            count += 1
    if readable == [sys.stdin]:
        break
print(count)
"""


class Receiver:
    """Counts what arrives, until it is asked."""

    def __init__(self, bed: Testbed, program: str = RECEIVER, prefix: tuple[str, ...] = ()) -> None:
        self._process = bed.popen([*prefix, *bed.python, "-c", program], stdin=-1, stdout=-1)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def count(self) -> int:
        with self._process as process:
            said, _ = process.communicate("", 10.0)
        return int(said)


def captured(bed: Testbed) -> Receiver:
    """Counts the unit's datagrams on the wire, at the far end of the veth."""
    return Receiver(bed, CAPTURE, ("ip", "netns", "exec", FAR))


def mesh(bed: Testbed, *words: str) -> dict[str, Any]:
    """Run the command inside; its JSON document with the exit status in it."""
    done = bed.run([*bed.python, "-m", "watchdog", *words, "--json"], 60.0, check=False)
    return {**json.loads(done.stdout), "exit": done.returncode}


@pytest.fixture(autouse=True)
def _agent(testbed: Testbed) -> Iterator[None]:
    """An agent that sends all the time, on sockets that it connects as soon as it runs."""
    for line in LINKS:
        testbed.run(line.split())
    testbed.write("/run/wd-sender.py", SENDER)
    sender = "[Service]\nExecStart=/usr/bin/python3 -IS /run/wd-sender.py\n"
    testbed.unit(UNIT, f"[Unit]\nStartLimitIntervalSec=0\n{sender}")
    testbed.systemctl("start", UNIT)
    yield
    mesh(testbed, "release", "--unit", UNIT, "--reason", "the test is over")
    testbed.remove_unit(UNIT)
    testbed.run(["ip", "netns", "delete", FAR])
    testbed.run(["rm", "-rf", "/run/wd-sender.py", *STATE])


def dropped() -> int:
    views = gate.query(cgroups.resolve_relative(CGROUP))
    counted = slots.counters_of_programs(info.id for view in views.values() for info in view.ours)
    return counted.egress.packets if counted else 0


def test_restarts_and_reloads_let_no_packet_out(testbed: Testbed) -> None:
    """Beside another tool's program on the slice above, which sees every attempt and stays."""
    testbed.call(filters.start_counting, SLICE)
    isolated = mesh(testbed, "isolate", "--unit", UNIT, "--reason", "a test")
    assert (isolated["state"], isolated["holds"], isolated["changed"]) == ("partial", True, True), isolated
    receiver, capture = Receiver(testbed), captured(testbed)
    before = testbed.call(filters.counted)
    for _ in range(RESTARTS):
        testbed.systemctl("restart", UNIT)
        time.sleep(PAUSE_S)
    assert testbed.call(filters.counted) > before + RESTARTS, "it did not try to send after every restart"
    # Only now systemd has attached a pair itself, which it detaches and attaches again at every reload.
    mesh(testbed, "reconcile")
    tried = testbed.call(filters.counted)
    for _ in range(RELOADS):
        testbed.systemctl("daemon-reload")
    assert testbed.call(filters.counted) > tried + RELOADS
    assert testbed.call(dropped) > RELOADS
    assert (receiver.count(), capture.count()) == (0, 0)
    testbed.call(filters.stop_counting, SLICE)


def test_a_restart_leaves_the_drop_ins_pair_and_a_gap_until_it_is_repaired(testbed: Testbed) -> None:
    mesh(testbed, "isolate", "--unit", UNIT, "--reason", "a test")
    assert mesh(testbed, "verify", "--unit", UNIT)["gaps"] == []
    testbed.systemctl("restart", UNIT)
    drifted = mesh(testbed, "verify", "--unit", UNIT)
    assert (drifted["holds"], drifted["exit"]) == (True, 4)
    assert "wd_guard_in, wd_guard_out are not attached" in " ".join(drifted["gaps"])
    [repair] = mesh(testbed, "reconcile")["repairs"]
    assert (repair["done"], repair["failed"]) == ("isolated again", False)
    assert mesh(testbed, "verify", "--unit", UNIT)["gaps"] == []


def test_release_leaves_neither_pair(testbed: Testbed) -> None:
    mesh(testbed, "isolate", "--unit", UNIT, "--reason", "a test")
    released = mesh(testbed, "release", "--unit", UNIT, "--reason", "it is well")
    assert (released["state"], released["changed"]) == ("released", True)
    assert testbed.call(filters.attached, CGROUP) == (0, 0)
    receiver, capture = Receiver(testbed), captured(testbed)
    time.sleep(PAUSE_S)
    assert receiver.count() > 0
    assert capture.count() > 0
