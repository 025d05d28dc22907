"""Network namespaces: found by looking, entered without leaving one's own, never made."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.netns import Netns
from tests.kernel.tc.bed import INITIAL, devices, place_of
from watchdog.errors import HostCannot
from watchdog.kernel import netns, tc
from watchdog.kernel.netns import NetnsGone

pytestmark = pytest.mark.kernel


def test_of_processes_and_threads(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    first, second = new_netns(), new_netns()
    process = run_in_cgroup(scratch_cgroup(), first)
    process.run(
        "import threading, ctypes\n"
        "def stray():\n"
        f"    ctypes.CDLL(None).setns(os.open({str(second.path)!r}, os.O_RDONLY), 0)\n"
        "    ready.set(); time.sleep(60)\n"
        "ready = threading.Event(); threading.Thread(target=stray, daemon=True).start(); ready.wait()"
    )
    here = netns.of_processes([process.pid, 2**22 + 1])
    assert set(here) == {place_of(first).inode, place_of(second).inode}
    for place in here.values():
        with netns.opened(place) as fd:
            assert os.fstat(fd).st_ino == place.inode


def test_processes_that_end_midway_and_zombies_are_left_out() -> None:
    zombie = subprocess.Popen(["true"])
    while Path(f"/proc/{zombie.pid}/stat").read_text().split()[2] != "Z":
        pass
    assert netns.of_processes([zombie.pid]) == {}
    zombie.wait()
    assert netns.of_processes([zombie.pid]) == {}


def test_all_that_can_be_seen(new_netns: Callable[[], Netns], tmp_path: Path) -> None:
    held, named = new_netns(), new_netns()
    mounted = tmp_path / "named"
    mounted.touch()
    subprocess.run(["mount", "--bind", str(named.path), str(mounted)], check=True)
    inode = place_of(named).inode
    try:
        assert netns.all_visible()[inode].path == mounted
        named.close()
        found = netns.all_visible()
        assert {INITIAL, place_of(held).inode, inode} <= set(found)
        assert devices_of(found[inode]) == ["lo"]
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert inode not in netns.all_visible()


def devices_of(place: netns.Netns) -> list[str]:
    return sorted(netns.links(place).values())


def test_the_hosts_own_are_ours_and_pid_1s(new_netns: Callable[[], Netns]) -> None:
    assert INITIAL in netns.hosts_own()
    assert place_of(new_netns()).inode not in netns.hosts_own()


def test_work_inside_leaves_every_thread_where_it_was(new_netns: Callable[[], Netns]) -> None:
    space = new_netns()
    space.ip("link", "add", "here", "type", "ifb")
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    assert "here" in [name for _, name in netns.inside(place_of(space), socket.if_nameindex)]
    with pytest.raises(ZeroDivisionError):
        netns.inside(place_of(space), lambda: 1 // 0)
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before
    assert all(
        Path(f"/proc/self/task/{thread.native_id}/ns/net").stat().st_ino == before for thread in threading.enumerate()
    )


def test_a_namespace_that_is_gone_is_not_mistaken_for_another(new_netns: Callable[[], Netns]) -> None:
    space, other = new_netns(), new_netns()
    place = place_of(space)
    space.close()
    with pytest.raises(NetnsGone, match=f"network namespace {place.inode}"):
        netns.links(place)
    with pytest.raises(NetnsGone, match="another one is there now"):
        netns.links(netns.Netns(place.inode, other.path))


def test_no_namespace_is_ever_made(tmp_path: Path) -> None:
    missing = netns.Netns(1, tmp_path / "missing")
    with pytest.raises(NetnsGone), tc.opened(missing):
        pass
    assert not missing.path.exists()


def test_what_is_no_namespace_cannot_be_entered(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(HostCannot, match="cannot enter"):
        netns.links(netns.Netns(plain.stat().st_ino, plain))


def test_strangers_are_named(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    space = new_netns()
    process = run_in_cgroup(scratch_cgroup(), space)
    assert netns.strangers(place_of(space).inode, [process.pid]) == {space.pid: "sh"}
    assert netns.listed(dict.fromkeys(range(10), "x")).endswith("x (7) and 2 more")


def test_a_socket_is_of_its_namespace_whoever_uses_it(new_netns: Callable[[], Netns]) -> None:
    space = new_netns()
    space.ip("link", "add", "here", "type", "ifb")
    with tc.opened(place_of(space)) as door:
        assert [link.name for link in door.links()] == devices(space)
