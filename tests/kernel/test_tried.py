"""Whom an agent called and was refused at once is remembered, by whom and how often, within bounds."""

from __future__ import annotations

import time

import pytest

from tests.kernel.agents import ROOT, USER, agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from watchdog.kernel import libbpf, tried
from watchdog.kernel.common import Common
from watchdog.kernel.layers.calls import Calls
from watchdog.kernel.programs import TRIED_MAP

pytestmark = pytest.mark.kernel

CALLS = Calls()
TCP, UDP = 6, 17


@pytest.mark.parametrize("who", [ROOT, USER])
def test_calls_are_remembered(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target_of: TargetOf, common_set: Common, who: str
) -> None:
    cgroup = scratch_cgroup()
    child, other = scratch_cgroup("child", cgroup), scratch_cgroup("other")
    inside, below, neighbour = (agent(run_in_cgroup, each, who) for each in (cgroup, child, other))
    inside.run("u4, u6 = socket.socket(INET, DGRAM), socket.socket(INET6, DGRAM)")
    ids = common_set.programs.values()
    CALLS.attach(target_of(cgroup, other))
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    for call in ("u4.sendto(b'x', ('192.0.2.1', 53))",) * 3 + (
        "u6.sendto(b'x', ('2001:db8::1', 53))",
        "u6.sendto(b'x', ('::ffff:192.0.2.2', 53))",
        "socket.socket(INET, STREAM).connect(('192.0.2.3', 443))",
        "socket.socket(INET6, STREAM).connect(('2001:db8::3', 443))",
        "socket.socket(INET6, STREAM).connect(('::ffff:192.0.2.4', 443))",
        "u4.connect(('192.0.2.5', 123))",
    ):
        assert inside.outcome(call) == "EPERM"
    below.outcome("socket.socket(INET, STREAM).connect(('192.0.2.6', 80))")
    neighbour.outcome("socket.socket(INET, STREAM).connect(('192.0.2.7', 80))")

    found = tried.read(ids, {cgroup.inode, child.inode})
    assert {(each.protocol, each.address, each.port): each.times for each in found} == {
        (UDP, "192.0.2.1", 53): 3,
        (UDP, "2001:db8::1", 53): 1,
        (UDP, "192.0.2.2", 53): 1,
        (TCP, "192.0.2.3", 443): 1,
        (TCP, "2001:db8::3", 443): 1,
        (TCP, "192.0.2.4", 443): 1,
        (UDP, "192.0.2.5", 123): 1,
        (TCP, "192.0.2.6", 80): 1,
    }
    assert (found[0].address, found[0].pid) == ("192.0.2.6", below.pid)
    assert found[0].command.startswith("python")
    first = found[-1]
    assert first.address == "192.0.2.1"
    assert before_s <= first.first_s < first.last_s <= time.clock_gettime(time.CLOCK_BOOTTIME)
    [theirs] = tried.read(ids, {other.inode})
    assert theirs.address == "192.0.2.7"


def test_more_than_fits_forgets_the_oldest(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target_of: TargetOf, common_set: Common
) -> None:
    cgroup = scratch_cgroup()
    inside = agent(run_in_cgroup, cgroup)
    CALLS.attach(target_of(cgroup))
    inside.run(f"""
made = socket.socket(INET, DGRAM)
for n in range({3 * tried.TRIED_MAX}):
    try: made.sendto(b'x', ('127.1.%d.%d' % divmod(n, 256), 9))
    except PermissionError: pass
""")
    found = tried.read(common_set.programs.values(), {cgroup.inode})
    assert 0 < len(found) <= tried.TRIED_MAX
    last = divmod(3 * tried.TRIED_MAX - 1, 256)
    assert found[0].address == f"127.1.{last[0]}.{last[1]}"


def test_what_the_kernel_and_python_agree_on(common_set: Common) -> None:
    with libbpf.map_by_id(common_set.maps[TRIED_MAP]) as fd:
        info = libbpf.map_info(fd)
    assert (info.key_bytes, info.value_bytes, info.max_entries) == (tried.KEY.size, tried.VALUE.size, tried.TRIED_MAX)


def test_programs_that_are_gone_know_nobody() -> None:
    assert tried.read([2**31], {1}) == []
