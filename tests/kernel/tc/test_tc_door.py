"""The door to rtnetlink: what pyroute2 costs, what it leaves open, and its errors in words."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.netns import Netns, VethPair
from tests.kernel.tc.bed import BECOME_NOBODY, add_links, egress, place_of
from watchdog.errors import KernelRefused
from watchdog.kernel import common, netns, tc, tc_proof
from watchdog.kernel.common import Common
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.tc import TcRefused

pytestmark = pytest.mark.kernel


@pytest.fixture
def programs(built_pins: Path) -> Common:
    found = common.find(built_pins)
    assert found is not None
    return found


def test_the_dump_says_which_program_a_filter_runs(veth: VethPair, programs: Common) -> None:
    wanted = egress(programs)
    with tc.opened(place_of(veth.near)) as door:
        [link] = [link for link in door.links() if link.name == "va"]
        assert link.kind == "veth"
        assert door.cover(link.index, link.name, [wanted], door.clsacts())
        assert not door.cover(link.index, link.name, [wanted], door.clsacts())
        [found] = door.filters(link.index)
        assert found == replace(wanted, name="wd_tc_egress+clsact")
        assert door.clsacts() == {link.index: "clsact"}
        assert door.uncover(link.index, lambda _: True)
        assert not door.uncover(link.index, lambda _: True)
        assert door.clsacts() == {}


def test_a_link_that_is_not_there(veth: VethPair, programs: Common) -> None:
    with tc.opened(place_of(veth.near)) as door:
        assert not door.cover(99, "gone", [egress(programs)], {})
        assert not door.uncover(99, lambda _: True)
        assert door.filters(99) == []


def test_a_program_that_is_not_there_leaves_no_clsact_behind(veth: VethPair, programs: Common) -> None:
    with tc.opened(place_of(veth.near)) as door:
        with pytest.raises(BpfRefused, match=f"cannot open BPF program {2**31}"):
            door.cover(2, "va", [replace(egress(programs), program_id=2**31)], {})
        assert door.clsacts() == {}


def test_a_program_that_is_no_filter_leaves_no_clsact_behind(veth: VethPair, programs: Common) -> None:
    with tc.opened(place_of(veth.near)) as door:
        with pytest.raises(
            TcRefused, match=r"cannot change the filters of va in network namespace \d+ \(/proc/"
        ) as told:
            door.cover(2, "va", [replace(egress(programs), program_id=programs.programs["wd_connect4"])], {})
        assert told.value.code == errno.EINVAL
        assert door.clsacts() == {}


def test_how_two_namespaces_call_each_other(veth: VethPair, new_netns: Callable[[], Netns]) -> None:
    with tc.opened(place_of(veth.near)) as door:
        with netns.opened(place_of(veth.far)) as fd:
            [link] = [link for link in door.links() if link.name == "va"]
            assert door.number_of(fd) == link.other_nsid
        with netns.opened(place_of(new_netns())) as fd:
            assert door.number_of(fd) is None


def test_nothing_stays_open(veth: VethPair, programs: Common) -> None:
    def once() -> None:
        with tc.opened(place_of(veth.near)) as door:
            door.links()
            door.cover(2, "va", [egress(programs)], {})
            with pytest.raises(KernelRefused):
                door.cover(2, "va", [replace(egress(programs), program_id=2**31)], {})
            door.uncover(2, lambda _: True)

    once()
    open_before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        once()
    assert sorted(Path("/proc/self/fd").iterdir()) == open_before
    assert not [
        child for child in Path("/proc/self/task").iterdir() if (child / "children").read_text().split() == ["x"]
    ]


def test_a_namespace_is_not_kept_alive(new_netns: Callable[[], Netns]) -> None:
    space = new_netns()
    add_links(space, ["vc", "vd"])
    with tc.opened(place_of(space)) as door:
        assert len(door.links()) == 3
    place = place_of(space)
    space.close()
    assert place.inode not in netns.all_visible()


def test_it_is_proved_on_a_namespace_that_nobody_else_sees(programs: Common) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    assert tc_proof.why_not([egress(programs)]) == ""
    wrong = replace(egress(programs), program_id=programs.programs["wd_connect4"])
    assert "cannot change the filters of lo" in tc_proof.why_not([wrong])
    assert sorted(Path("/proc/self/fd").iterdir()) == before


# What it costs


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def test_pyroute2_is_imported_by_nobody_who_does_not_need_it() -> None:
    """Importing it takes longer than everything else that an isolation does."""
    modules = "from watchdog.kernel import netns, tc, tc_links, tc_maps, link_watch, packet_sockets, veth"
    layers = "from watchdog.kernel.layers import sequence, tc as a, host_end as b, reach"
    assert run_python(f"import sys; {modules}; {layers}; print('pyroute2' in sys.modules)") == "False"


@pytest.mark.parametrize(("foreign", "door"), [("pyroute2", "kernel/tc.py"), ("psutil", "host/processes.py")])
def test_what_is_foreign_is_imported_in_one_place_only(foreign: str, door: str) -> None:
    package = Path(tc.__file__).parents[1]
    imports = re.compile(rf"^\s*(import|from) {foreign}", re.MULTILINE)
    found = [path for path in package.rglob("*.py") if imports.search(path.read_text())]
    assert found == [package / door]


def test_without_pyroute2_it_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['pyroute2'] = None\n"
        "from watchdog.errors import WatchdogError\n"
        "from watchdog.kernel import tc\n"
        "try: tc.load()\n"
        "except WatchdogError as error: print(error.one_line())"
    )
    assert re.fullmatch("pyroute2 cannot be imported: .*; run scripts/setup", run_python(code))


def test_somebody_who_is_not_root_is_told(veth: VethPair) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from watchdog.errors import WatchdogError\n"
        "from watchdog.kernel import netns\n"
        f"{BECOME_NOBODY}\n"
        f"try: netns.links(netns.Netns({place_of(veth.near).inode}, Path({str(veth.near.path)!r})))\n"
        "except WatchdogError as error: print(error.one_line())"
    )
    assert "cannot open network namespace" in run_python(code)
