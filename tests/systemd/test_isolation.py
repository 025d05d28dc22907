"""Units that are isolated on a real systemd: whatever they are, whatever happens to them, and after a reboot."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import filters, killed
from tests.systemd.mission_bed import (
    MISSION,
    PINS,
    RESTORE_UNIT,
    RUN,
    STATE,
    Mission,
    adapted,
    is_whole,
    python_unit,
    wait_for,
)
from tests.systemd.testbed import REPOSITORY, Testbed

pytestmark = pytest.mark.systemd

OK, FAILED, USAGE, REFUSED, PARTIAL = 0, 1, 2, 3, 4
UNIT = "shield.service"
CGROUP = f"/system.slice/{UNIT}"
WHY = ("--reason", "a test")
CONFIG = "/etc/watchdog-mesh/config.toml"
PEER = '[[peer]]\nname = "shield"\nendpoint = "http://127.0.0.1:9103/"\nunit = "shield.service"\n'


@pytest.fixture(scope="module")
def architect(testbed: Testbed) -> Iterator[Mission]:
    """Hears who talks. There is no watcher in this file; programs are compiled once."""
    seen = Mission(testbed)
    try:
        testbed.run(["ip", "link", "set", "lo", "up"])
        testbed.run(["mkdir", "-p", MISSION])
        testbed.unit("architect.service", python_unit("architect.py"))
        testbed.systemctl("start", "architect.service")
        wait_for(lambda: seen.file("heard.json"), "the architect does not listen")
        yield seen
    finally:
        seen.tear_down()


@pytest.fixture
def host(architect: Mission) -> Iterator[Mission]:
    """shield runs, talks all the time, and is heard."""
    heard, bed = architect.heard("shield"), architect.bed
    bed.unit(UNIT, python_unit("agent.py", "shield", "9103"))
    bed.systemctl("start", UNIT)
    wait_for(lambda: architect.heard("shield") > heard, "shield is not heard")
    yield architect
    architect.mesh("release", "--unit", UNIT, *WHY)
    bed.remove_unit(UNIT)
    bed.run(["rm", "-rf", STATE, RUN, CONFIG, f"{MISSION}/shield.starts"])


def is_cut_off(host: Mission) -> bool:
    """Whether nothing of shield arrives, although it runs and talks."""
    turns, heard, starts = turns_of(host), host.heard("shield"), len(host.starts("shield"))
    assert starts
    wait_for(lambda: turns_of(host) > turns + 2, "the architect does not listen")
    return host.heard("shield") == heard


def turns_of(host: Mission) -> int:
    return int(json.loads(host.file("heard.json"))["turns"])


# Killed


@pytest.mark.parametrize("afterwards", ["reconcile", "the same again"])
@pytest.mark.parametrize(("verb", "wanted"), [("isolate", "isolated"), ("release", "free")])
def test_killed_after_each_step(host: Mission, verb: str, wanted: str, afterwards: str) -> None:
    reached = host.bed.call(killed.killed_after_each_step, UNIT, verb, afterwards)
    assert len(reached) >= 4
    assert set(reached) == {wanted}
    assert host.bed.call(filters.attached, CGROUP) == (0, 0)
    assert not is_cut_off(host)


# What a unit may be


def test_a_dead_unit_is_held_by_its_drop_in_and_comes_up_isolated(host: Mission) -> None:
    host.bed.systemctl("kill", "--signal=KILL", UNIT)
    wait_for(lambda: host.bed.show(UNIT, "ActiveState") == "failed", "it still runs")
    isolated = host.document("isolate", "--unit", UNIT, *WHY)
    assert (isolated["exit"], isolated["state"], isolated["gaps"], isolated["cgroup"]) == (OK, "isolated", [], None)
    heard, starts = host.heard("shield"), len(host.starts("shield"))
    host.bed.systemctl("reset-failed", UNIT)
    host.bed.systemctl("start", UNIT)
    wait_for(lambda: len(host.starts("shield")) > starts, "it did not start")
    assert is_cut_off(host)
    assert host.heard("shield") == heard
    assert host.document("reconcile")["exit"] == OK
    assert is_whole(host.document("verify", "--unit", UNIT))
    assert host.document("release", "--unit", UNIT, *WHY)["exit"] == OK
    assert not is_cut_off(host)


def test_a_unit_that_does_not_exist(host: Mission) -> None:
    done = host.mesh("isolate", "--unit", "nemo", *WHY)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr == (
        "watchdog-mesh: there is no unit 'nemo.service' on this host; see which there are: systemctl list-units --all\n"
    )
    assert host.in_force() == []


def test_a_watcher_of_a_unit_that_does_not_exist_says_so_and_watches(host: Mission) -> None:
    own = {"WATCHDOG_MESH_STATE_DIR": f"{MISSION}/state", "WATCHDOG_MESH_RUN_DIR": f"{MISSION}/run"}
    own_agent = '[[peer]]\nname = "immune"\nendpoint = "http://127.0.0.1:9101/"\n'
    host.bed.write(f"{MISSION}/nemo.toml", PEER.replace(UNIT, "nemo.service") + own_agent)
    run = [*host.bed.python, "-m", "watchdog", "run", "--self", "immune", "--config", f"{MISSION}/nemo.toml"]
    watcher = host.bed.popen(["timeout", "20", *run], env=own, stderr=subprocess.PIPE)
    try:
        assert watcher.stderr is not None
        said = {watcher.stderr.readline().rstrip() for _ in range(2)}
    finally:
        host.bed.kill(watcher)
        watcher.communicate()
    assert said == {
        "INFO immune watches 1 peer",
        "WARNING peer 'shield'.unit: there is no unit 'nemo.service' on this host; "
        "see which there are: systemctl list-units --all",
    }


def test_every_name_of_a_unit_means_it(host: Mission) -> None:
    """An alias, its cgroup, a process of it: isolated once, lastingly, under its own name, and as the peer it is."""
    host.bed.write(CONFIG, PEER)
    host.bed.run(["ln", "-sf", UNIT, "/run/systemd/system/protector.service"])
    host.bed.systemctl("daemon-reload")
    pid = host.bed.show(UNIT, "MainPID")
    try:
        for named in (["--pid", pid], ["--cgroup", f"/sys/fs/cgroup{CGROUP}"], ["--unit", "protector"], ["shield"]):
            isolated = host.document("isolate", *named, *WHY)
            assert (is_whole(isolated), isolated["unit"], isolated["peer"]) == (True, UNIT, "shield"), named
        assert host.rows("SELECT count(*) AS n FROM isolation")[0]["n"] == 1
        assert host.document("release", "--unit", "protector", *WHY)["changed"] is True
    finally:
        host.bed.run(["rm", "/run/systemd/system/protector.service"])


def test_the_journal_is_no_process_outside(host: Mission) -> None:
    """Its output goes there over a unix connection."""
    told = host.document("isolate", "--unit", UNIT, *WHY)
    assert "unix connection to a process outside" not in told["agent"]["holds"]
    assert told["agent"]["unix_peers"] == []
    pid = host.bed.show(UNIT, "MainPID")
    assert "socket:" in host.bed.run(["readlink", f"/proc/{pid}/fd/1"]).stdout


def test_a_slice_that_holds_the_caller_is_refused(host: Mission) -> None:
    done = host.mesh("isolate", "--unit", "system.slice", *WHY)
    assert done.returncode == REFUSED
    assert "it holds this very process" in done.stderr
    assert host.in_force() == []
    assert host.mesh("isolate", "--unit", "init.scope", *WHY).stderr.count("it holds PID 1") == 1


def test_a_transient_unit_that_ended_can_be_released(host: Mission) -> None:
    host.bed.run(["systemd-run", "--quiet", "--unit=wd-brief", "sleep", "infinity"])
    assert is_whole(host.document("isolate", "--unit", "wd-brief", *WHY))
    host.bed.systemctl("stop", "wd-brief")
    assert host.document("verify", "--unit", "wd-brief")["exit"] == OK
    released = host.document("release", "--unit", "wd-brief", *WHY)
    assert (released["exit"], released["changed"]) == (OK, True)
    assert host.bed.run(["find", "/run/systemd/system", "-name", "50-watchdog-mesh.conf"]).stdout == ""


# Somebody else's hands


def test_a_drop_in_that_was_removed_is_found_missing_and_put_back(host: Mission) -> None:
    host.document("isolate", "--unit", UNIT, *WHY)
    drop_in = f"/run/systemd/system/{UNIT}.d/50-watchdog-mesh.conf"
    text = host.bed.read(drop_in)
    host.bed.run(["rm", drop_in])
    host.bed.systemctl("daemon-reload")
    seen = host.document("verify", "--unit", UNIT)
    assert (seen["exit"], seen["holds"]) == (PARTIAL, True)
    assert f"a restart of {UNIT} would open it: its drop-in is missing" in seen["gaps"]
    host.bed.write(drop_in, text)  # as after a kill between the file and the reload
    assert f"a restart of {UNIT} would open it: systemd has not read its drop-in" in " ".join(
        host.document("verify", "--unit", UNIT)["gaps"]
    )
    assert [repair["failed"] for repair in host.document("reconcile")["repairs"]] == [False]
    assert is_whole(host.document("verify", "--unit", UNIT))
    host.bed.systemctl("restart", UNIT)
    assert is_cut_off(host)


def test_removed_pins_keep_the_unit_from_starting_until_they_are_put_back(host: Mission) -> None:
    host.document("isolate", "--unit", UNIT, *WHY)
    host.bed.run(["sh", "-c", f"rm -r {PINS}/*/slot-*"])
    seen = host.document("verify", "--unit", UNIT)
    assert (seen["exit"], seen["holds"]) == (PARTIAL, True)
    assert f"{UNIT} cannot start: the pins that its drop-in names are gone" in seen["gaps"]
    assert host.document("reconcile")["exit"] == OK
    host.bed.systemctl("restart", UNIT)
    assert is_cut_off(host)
    assert host.document("release", "--unit", UNIT, *WHY)["exit"] == OK


def test_a_unit_that_was_stopped_while_its_pins_went_can_be_started_again(host: Mission) -> None:
    """Nothing keeps the programs any more: others take their place, and the drop-in names those."""
    host.document("isolate", "--unit", UNIT, *WHY)
    host.bed.systemctl("stop", UNIT)
    host.bed.run(["sh", "-c", f"rm -r {PINS}/*/slot-*"])
    assert host.document("reconcile")["exit"] == OK
    assert is_whole(host.document("verify", "--unit", UNIT))
    host.bed.systemctl("start", UNIT)
    assert is_cut_off(host)


def test_a_lost_journal_is_rebuilt_with_unit_and_peer(host: Mission) -> None:
    host.bed.write(CONFIG, PEER)
    host.document("isolate", "shield", *WHY)
    host.bed.run(["rm", "-r", STATE])
    (repair,) = host.document("reconcile")["repairs"]
    assert (repair["target"], repair["failed"]) == ("shield", False)
    seen = host.document("verify", "shield")
    assert (is_whole(seen), seen["unit"], seen["peer"]) == (True, UNIT, "shield")
    host.bed.systemctl("stop", UNIT)
    host.bed.run(["rm", "-r", STATE])
    (repair,) = host.document("reconcile")["repairs"]
    assert repair["target"] == "shield"
    assert host.document("release", "shield", *WHY)["exit"] == OK
    host.bed.systemctl("start", UNIT)
    wait_for(lambda: not is_cut_off(host), "it is cut off still")


# After a reboot


def test_what_was_isolated_comes_up_isolated_after_a_reboot(host: Mission, tmp_path: Path) -> None:
    """Another boot of systemd, with the disk of the first and nothing of its kernel's: before any agent runs."""
    host.bed.write(CONFIG, PEER)
    assert is_whole(host.document("isolate", "shield", *WHY))
    disk = seed(host.bed, tmp_path / "disk")
    with Testbed(seed=disk) as rebooted:
        again = Mission(rebooted)
        wait_for(lambda: again.starts("shield") and again.starts("immune"), "the agents did not start")
        wait_for(lambda: again.heard("immune"), "immune is not heard")
        assert rebooted.show(RESTORE_UNIT, "Result") == "success"
        assert is_cut_off(again)
        assert again.heard("shield") == 0
        seen = again.document("verify", "shield")
        assert (seen["holds"], seen["dropped"]["egress"]["packets"] > 0) == (True, True)
        assert again.document("reconcile")["exit"] == OK
        assert is_whole(again.document("verify", "shield"))
        assert again.document("release", "shield", *WHY)["exit"] == OK
        wait_for(lambda: again.heard("shield"), "it is still cut off")


def seed(bed: Testbed, disk: Path) -> Path:
    """What a disk keeps: the journal, the configuration, and units that are started at boot."""
    units = disk / "etc/systemd/system"
    for folder in (units / "testbed.target.wants", units / "basic.target.wants", units / f"{RESTORE_UNIT}.d"):
        folder.mkdir(parents=True)
    shutil.copytree(bed.root / STATE.lstrip("/"), disk / STATE.lstrip("/"), symlinks=True)
    shutil.copytree(bed.root / "etc/watchdog-mesh", disk / "etc/watchdog-mesh")
    (disk / "opt/watchdog-mesh").mkdir(parents=True)
    (units / RESTORE_UNIT).write_text((REPOSITORY / "systemd" / RESTORE_UNIT).read_text())
    (units / f"{RESTORE_UNIT}.d/checkout.conf").write_text(adapted(RESTORE_UNIT))
    (units / "basic.target.wants" / RESTORE_UNIT).symlink_to(f"../{RESTORE_UNIT}")
    services = {"architect": python_unit("architect.py")}
    services |= {name: python_unit("agent.py", name, port) for name, port in (("immune", "9101"), ("shield", "9103"))}
    for name, text in services.items():
        ready = f"ExecStartPre=/bin/sh -c 'ip link set lo up; mkdir -p {MISSION}'\n"
        after = "[Unit]\nAfter=architect.service\n" if name != "architect" else ""
        (units / f"{name}.service").write_text(text + ready + after)
        (units / "testbed.target.wants" / f"{name}.service").symlink_to(f"../{name}.service")
    return disk


def test_nothing_to_restore_is_no_failure(host: Mission) -> None:
    done = host.mesh("reconcile", "--boot")
    assert (done.returncode, done.stdout, done.stderr) == (OK, "", "")
