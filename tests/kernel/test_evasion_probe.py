"""The probe from inside: what it finds with nothing, under isolation, after release; and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.netns import Netns
from watchdog.errors import Refused
from watchdog.kernel import cgroups, freezer, gate
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.slots import Slot
from watchdog.paths import catalogue
from watchdog.paths.probe import PREFIX, Finding, Outcome, inside, probe_from_inside
from watchdog.paths.words import Coverage, Facts, Layer, Need, needs_met

pytestmark = pytest.mark.kernel

DEADLINE_S = 5.0

PROBE_AND_TELL = """
import json, sys
from pathlib import Path
from watchdog.kernel import cgroups
from watchdog.paths.probe import Outcome, probe_from_inside

findings = probe_from_inside(cgroups.resolve(sys.argv[1]), uid=61001, netns=Path(sys.argv[2]))
print(json.dumps({each: [f.path for f in findings if f.outcome is each] for each in Outcome}))
"""
UID = 61001

NEVER_BY_PACKETS = {"E5a", "E5c", "E6a", "E12a", "E12d", "E12f", "E14", "E15e", "E15f", "E16b", "E16c", "E16d", "E16e"}
"""What the packet hooks never see, in the probe's selection."""
FROM_ELSEWHERE = {"E9a", "E9c", "E9d"}


@pytest.fixture
def netns(new_netns: Callable[[], Netns]) -> Path:
    return new_netns().path


def by_outcome(findings: list[Finding], outcome: Outcome) -> set[str]:
    return {finding.path for finding in findings if finding.outcome is outcome}


def probe(cgroup: Cgroup, **more: object) -> list[Finding]:
    before_s = time.monotonic()
    findings = probe_from_inside(cgroup, **more)  # type: ignore[arg-type]
    assert time.monotonic() - before_s < DEADLINE_S
    assert cgroups.processes(cgroup) == set()
    assert not list(Path("/tmp").glob(f"{PREFIX}*"))
    return findings


def test_everything_passes_where_nothing_is_isolated(scratch_cgroup: MakeCgroup, netns: Path) -> None:
    findings = probe(scratch_cgroup(), netns=netns, rescan=lambda: None)
    assert by_outcome(findings, Outcome.STOPPED) == set()
    assert by_outcome(findings, Outcome.GOT_THROUGH) >= NEVER_BY_PACKETS | FROM_ELSEWHERE
    assert {finding.label for finding in findings if finding.path == "E2c"} == {"IPv4", "IPv6"}


def test_what_is_found_under_isolation_is_what_the_catalogue_says(
    scratch_cgroup: MakeCgroup, netns: Path, slot: Slot
) -> None:
    cgroup = scratch_cgroup()
    gate.attach(cgroup, slot)
    findings = probe(cgroup, netns=netns, rescan=lambda: None)
    assert by_outcome(findings, Outcome.GOT_THROUGH) == NEVER_BY_PACKETS | FROM_ELSEWHERE
    for finding in findings:
        said = catalogue.verdict(catalogue.find(finding.path), {Layer.PACKETS}, Facts()).coverage
        if finding.outcome is not Outcome.UNTRIED:
            assert (finding.outcome is Outcome.STOPPED) == (said is Coverage.COVERED), finding

    gate.detach(cgroup, slot.program_ids)
    assert by_outcome(probe(cgroup, netns=netns), Outcome.STOPPED) == set()


def test_one_process_tries_before_during_and_after(scratch_cgroup: MakeCgroup, netns: Path, slot: Slot) -> None:
    cgroup = scratch_cgroup()
    with inside(cgroup, netns=netns) as ready:
        before = ready.attempt()
        gate.attach(cgroup, slot)
        during = ready.attempt()
        gate.detach(cgroup, slot.program_ids)
        after = ready.attempt()
    assert by_outcome(before, Outcome.STOPPED) == set() == by_outcome(after, Outcome.STOPPED)
    assert by_outcome(during, Outcome.GOT_THROUGH) == NEVER_BY_PACKETS


@pytest.mark.parametrize("capabilities", [0, 1 << 13])
def test_the_probe_may_what_the_agent_may(scratch_cgroup: MakeCgroup, netns: Path, capabilities: int) -> None:
    findings = probe(scratch_cgroup(), netns=netns, uid=UID, capabilities=capabilities)
    may = needs_met(capabilities)
    for finding in findings:
        need = catalogue.find(finding.path).needs
        if finding.outcome is not Outcome.UNTRIED:
            allowed = need is None or need in may
            assert finding.outcome is (Outcome.GOT_THROUGH if allowed else Outcome.STOPPED), finding
    assert {"E4a", "E5a"} <= by_outcome(findings, Outcome.GOT_THROUGH if Need.NET_RAW in may else Outcome.STOPPED)


def test_a_watcher_with_few_capabilities_tries_what_it_can(scratch_cgroup: MakeCgroup, netns: Path) -> None:
    """Those of the unit that is installed: no CAP_NET_RAW, no CAP_SETUID, no CAP_SETGID."""
    cgroup = scratch_cgroup()
    command = ["setpriv", "--bounding-set=-net_raw,-setuid,-setgid", sys.executable, "-c", PROBE_AND_TELL]
    done = subprocess.run([*command, str(cgroup.path), str(netns)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert {"E2c", "E3f", "E15a", "E16b"} <= set(found["got through"])
    assert {"E4a", "E5a", "E12d"} <= set(found["could not be tried"])
    assert set(found["stopped"]) == {"E12f", "E14"}


def test_a_frozen_cgroup_cannot_be_tried(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup)
    freezer.freeze(cgroup)
    findings = probe_from_inside(cgroup)
    assert {finding.outcome for finding in findings} == {Outcome.UNTRIED}
    assert "frozen" in findings[0].detail
    assert cgroups.processes(cgroup) == {agent.pid}


def test_a_cgroup_that_is_gone_cannot_be_tried(scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()
    cgroup.path.rmdir()
    findings = probe_from_inside(cgroup)
    assert {finding.outcome for finding in findings} == {Outcome.UNTRIED}
    assert "gone" in findings[0].detail
    cgroup.path.mkdir()
    assert "created anew" in probe_from_inside(cgroup)[0].detail


def test_a_cgroup_that_hands_controllers_down_is_tried_in_a_child(
    scratch_cgroup: MakeCgroup, netns: Path, slot: Slot
) -> None:
    cgroup = scratch_cgroup()
    controllers = (cgroup.path / "cgroup.controllers").read_text().split()
    if not controllers:
        pytest.skip("the v2 root hands no controller down on this host")
    (cgroup.path / "cgroup.subtree_control").write_text(f"+{controllers[0]}")
    gate.attach(cgroup, slot)
    findings = probe(cgroup, netns=netns)
    assert by_outcome(findings, Outcome.GOT_THROUGH) == NEVER_BY_PACKETS
    assert [path for path in cgroup.path.iterdir() if path.is_dir()] == []


def test_silence_outside_proves_nothing_inside(
    scratch_cgroup: MakeCgroup, new_netns: Callable[[], Netns], slot: Slot
) -> None:
    cgroup, netns = scratch_cgroup(), new_netns()
    netns.ip("link", "set", "lo", "down")
    gate.attach(cgroup, slot)
    findings = probe(cgroup, netns=netns.path)
    assert by_outcome(findings, Outcome.STOPPED) == set()
    assert {"E2c", "E3f", "E15a"} <= by_outcome(findings, Outcome.UNTRIED)


def test_the_root_cgroup_is_refused(v2_root: Path) -> None:
    with pytest.raises(Refused):
        probe_from_inside(Cgroup(v2_root, v2_root.stat().st_ino, v2_root))


def test_the_deadline_holds(scratch_cgroup: MakeCgroup, netns: Path) -> None:
    before_s = time.monotonic()
    cgroup = scratch_cgroup()
    findings = probe_from_inside(cgroup, netns=netns, deadline_s=0.01)
    assert cgroups.processes(cgroup) == set()
    assert time.monotonic() - before_s < 4
    assert {finding.outcome for finding in findings} == {Outcome.UNTRIED}
