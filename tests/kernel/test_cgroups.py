"""Cgroups on the real hierarchy: the rails, processes, re-creation, freezing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from watchdog.errors import KernelRefused, Refused, UsageError, WatchdogError
from watchdog.kernel import cgroups, freezer
from watchdog.kernel.cgroups import Cgroup, CgroupGone

pytestmark = pytest.mark.kernel


def test_resolve_gives_the_cgroup_id(scratch_cgroup: MakeCgroup, v2_root: Path) -> None:
    path = scratch_cgroup().path
    found = cgroups.resolve(str(path) + "/")
    assert found == Cgroup(path, path.stat().st_ino, v2_root)
    assert cgroups.resolve_relative(found.relative()) == found
    assert not found.is_root


@pytest.mark.parametrize(
    ("spelling", "error", "words"),
    [
        ("{root}", Refused, "root cgroup"),
        ("{root}/", Refused, "root cgroup"),
        ("{root}/.", Refused, "root cgroup"),
        ("{root}/{name}/..", UsageError, "holds '..'"),
        ("{root}/{name}/../{name}", UsageError, "holds '..'"),
        ("{root}/../etc", UsageError, "holds '..'"),
        ("{root}/{name}-missing", UsageError, "there is no cgroup"),
        ("{root}/{name}/cgroup.procs", UsageError, "is not a cgroup"),
        ("{root}-elsewhere", UsageError, "outside the cgroup v2 tree"),
        ("/", UsageError, "outside the cgroup v2 tree"),
        ("/etc", UsageError, "outside the cgroup v2 tree"),
        ("", UsageError, "no absolute path"),
        ("{name}", UsageError, "no absolute path"),
        ("{root}/{name}\0", UsageError, "no absolute path"),
        ("{root}/{name}\n", UsageError, "there is no cgroup"),
        ("{link}", UsageError, "outside the cgroup v2 tree"),
    ],
)
def test_rails(
    scratch_cgroup: MakeCgroup, v2_root: Path, tmp_path: Path, spelling: str, error: type[WatchdogError], words: str
) -> None:
    cgroup = scratch_cgroup()
    (tmp_path / "link").symlink_to(cgroup.path)
    text = spelling.format(root=v2_root, name=cgroup.path.name, link=tmp_path / "link")
    with pytest.raises(error, match=words):
        cgroups.resolve(text)


def test_a_tree_reached_by_a_symbolic_link_is_refused(
    scratch_cgroup: MakeCgroup, v2_root: Path, tmp_path: Path
) -> None:
    cgroup = scratch_cgroup()
    (tmp_path / "root").symlink_to(v2_root)
    with pytest.raises(UsageError, match=f"leads to {cgroup.path}"):
        cgroups.resolve(tmp_path / "root" / cgroup.path.name, tmp_path / "root")


@pytest.mark.parametrize("name", ["", "/", "//"])
def test_the_root_by_its_relative_name_is_refused(name: str, v2_root: Path) -> None:
    with pytest.raises(Refused, match="root cgroup"):
        cgroups.resolve_relative(name)


def test_processes_and_their_cgroup(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, v2_root: Path) -> None:
    cgroup = scratch_cgroup()
    child = scratch_cgroup("child", cgroup)
    here, below = run_in_cgroup(cgroup), run_in_cgroup(child)
    assert cgroups.processes(cgroup) == {here.pid, below.pid}
    assert cgroups.processes(child) == {below.pid}
    assert cgroups.of_pid(below.pid) == child
    assert cgroup.contains(cgroups.of_pid(below.pid))
    assert not child.contains(cgroup)
    assert cgroups.of_pid(os.getpid()).root == v2_root
    below.close()
    with pytest.raises(UsageError, match=f"process {below.pid} is gone"):
        cgroups.of_pid(below.pid)


def test_a_threaded_cgroup_tells_its_processes(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> None:
    cgroup = scratch_cgroup()
    threaded = scratch_cgroup("threads", cgroup)
    agent = run_in_cgroup(cgroup)
    (threaded.path / "cgroup.type").write_text("threaded")
    (threaded.path / "cgroup.threads").write_text(str(agent.pid))
    assert cgroups.processes(threaded) == {agent.pid}


def test_cgroups_that_vanish_midway_are_left_out(scratch_cgroup: MakeCgroup) -> None:
    top = scratch_cgroup()
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(20):
                (top.path / f"c{number}").mkdir()
            for number in range(20):
                (top.path / f"c{number}").rmdir()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(200):
            assert cgroups.processes(top) == set()
    finally:
        stop.set()
        churning.join()


def test_the_same_path_is_not_the_same_cgroup(scratch_cgroup: MakeCgroup) -> None:
    old = scratch_cgroup()
    assert cgroups.exists(old)
    assert cgroups.recreated(old) is None
    old.path.rmdir()
    assert not cgroups.exists(old)
    assert cgroups.recreated(old) is None
    with pytest.raises(CgroupGone, match="is gone"), cgroups.opened(old):
        pass
    old.path.mkdir()
    assert not cgroups.exists(old)
    new = cgroups.recreated(old)
    assert new is not None
    assert new.inode == old.path.stat().st_ino
    with pytest.raises(CgroupGone, match="created anew"), cgroups.opened(old):
        pass
    with cgroups.opened(new) as fd:
        assert os.fstat(fd).st_ino == new.inode


def test_freeze_stops_and_thaw_resumes(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(scratch_cgroup("child", cgroup))
    agent.run("n = 0")
    assert not freezer.is_frozen(cgroup)
    freezer.freeze(cgroup)
    freezer.freeze(cgroup)
    assert freezer.is_frozen(cgroup)
    agent.tell("'ran'")
    time.sleep(0.05)
    assert agent.process.stdout is not None
    freezer.thaw(cgroup)
    freezer.thaw(cgroup)
    assert not freezer.is_frozen(cgroup)
    assert agent.hear() == "ran"


def test_a_frozen_parent_keeps_its_child_frozen(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> None:
    parent = scratch_cgroup()
    child = scratch_cgroup("child", parent)
    run_in_cgroup(child)
    freezer.freeze(parent)
    before_s = time.monotonic()
    with pytest.raises(KernelRefused, match=r"not thawed after 0\.1 s"):
        freezer.thaw(child, timeout_s=0.1)
    assert time.monotonic() - before_s < 2
    freezer.thaw(parent)


def test_freezing_what_is_gone(scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()
    cgroup.path.rmdir()
    for act in (freezer.freeze, freezer.thaw, freezer.is_frozen):
        with pytest.raises(CgroupGone):
            act(cgroup)


def test_a_cgroup_is_found_by_its_id_and_is_none_once_it_is_gone(scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()
    assert cgroups.by_id(cgroup.inode, cgroup.root) == cgroup
    cgroup.path.rmdir()
    assert cgroups.by_id(cgroup.inode, cgroup.root) is None


def test_what_may_not_be_looked_up_is_not_taken_for_gone(scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()
    ask = f"from watchdog.kernel import cgroups; cgroups.by_id({cgroup.inode}, cgroups.find_v2_root())"
    command = ["setpriv", "--bounding-set=-dac_read_search", sys.executable, "-c", ask]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"HostCannot: cannot look up the cgroup with the id {cgroup.inode}: Operation not permitted" in done.stderr
