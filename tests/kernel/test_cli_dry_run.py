"""isolate --dry-run: the plan as it would be carried out, and nothing done."""

from __future__ import annotations

import pytest

from tests.kernel.agents import USER, agent
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import Host, ours_at
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.sequence import LAYERS

pytestmark = pytest.mark.kernel

OK, USAGE, REFUSED = 0, 2, 3


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup()


def test_the_plan_is_what_isolate_does_then(host: Host, cgroup: Cgroup, run_in_cgroup: RunInside) -> None:
    inside = agent(run_in_cgroup, cgroup, USER)
    inside.run("own = [listening(), listening(INET6), listening(INET, DGRAM)]; own += [dial(INET, port(own[0]))]")
    words = ("isolate", "--cgroup", cgroup.path, "--reason", "drill", "--allow", "192.0.2.1/32")
    before = host.snapshot()
    said = host.mesh(*words, "--dry-run", "--json")
    assert said.status == OK
    plan = said.document
    assert (plan["schema"], plan["would_change"], plan["ready"]) == ("watchdog-mesh/isolate-plan/1", True, True)
    assert (plan["cgroups"], plan["processes"], plan["level"]) == ([str(cgroup.path)], 1, "network")
    assert [entry["entry"] for entry in plan["allow"]] == ["192.0.2.1/32"]
    assert "would be isolated, and nothing was done" in host.mesh(*words, "--dry-run").out
    assert host.snapshot() == before

    done = host.mesh(*words, "--json").document
    assert [each["path"] for each in plan["paths"]] == [each["path"] for each in done["paths"]]
    assert {each["path"]: each["coverage"] for each in plan["paths"]} == {
        each["path"]: each["coverage"] for each in done["paths"]
    }
    planned = {each["layer"]: bool(each["not_applicable"] or each["missing"]) for each in plan["layers"]}
    assert list(planned) == [layer.name for layer in LAYERS]
    assert planned == {each["layer"]: not each["holds"] for each in done["layers"]}


def test_a_plan_for_what_is_isolated_says_what_would_change(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside
) -> None:
    agent(run_in_cgroup, cgroup, USER)
    words = ("isolate", "--cgroup", cgroup.path, "--reason", "drill")
    host.mesh(*words)
    before = host.snapshot()
    assert "nothing would be changed" in host.mesh(*words, "--dry-run").out
    frozen = host.mesh(*words, "--dry-run", "--level", "frozen", "--json").document
    (todo,) = [each["layer"] for each in frozen["layers"] if each["gaps"]]
    assert (todo, frozen["would_change"]) == ("freeze", True)
    assert host.snapshot() == before


def test_without_ready_programs_it_says_so_and_builds_none(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside
) -> None:
    agent(run_in_cgroup, cgroup, USER)
    nowhere = {"WATCHDOG_MESH_BPFFS_DIR": str(host.folder / "none")}
    said = host.mesh("isolate", "--cgroup", cgroup.path, "--reason", "drill", "--dry-run", env=nowhere)
    assert (said.status, "no programs wait for it" in said.out) == (OK, True)
    assert "calls: would be put in force, if the kernel takes its programs" in said.out
    assert not (host.folder / "none").exists()
    assert ours_at(cgroup) == []


def test_what_would_be_refused_is_refused(host: Host, cgroup: Cgroup, run_in_cgroup: RunInside) -> None:
    named, _stranger = agent(run_in_cgroup, cgroup, USER), agent(run_in_cgroup, cgroup, USER)
    words = ("isolate", "--pid", str(named.pid), "--reason", "drill", "--dry-run")
    assert host.mesh(*words).status == REFUSED
    forced = host.mesh(*words, "--force")
    assert forced.status == OK
    assert forced.out.startswith("Although ")
    both = host.mesh(*words, "--shadow")
    assert (both.status, "exclude each other" in both.err) == (USAGE, True)
