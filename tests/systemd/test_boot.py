"""At boot: what was isolated before it comes up isolated, and does not come up at all where that fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systemd.test_isolation_lasts import PINS, STATE, mesh
from tests.systemd.testbed import Testbed
from watchdog.kernel import gate
from watchdog.kernel.cgroups import resolve_relative

pytestmark = pytest.mark.systemd

UNIT = "wd-boot.service"


@pytest.fixture
def bed(testbed: Testbed) -> Iterator[Testbed]:
    """A unit that is isolated, and all that a reboot takes away taken away: programs, pins, drop-ins, run directory."""
    testbed.unit(UNIT, "[Service]\nExecStart=sleep infinity\n")
    try:
        assert mesh(testbed, "isolate", "--unit", UNIT, "--reason", "test")["exit"] in (0, 4)
        testbed.run(["rm", "-rf", PINS, f"/run/systemd/system/{UNIT}.d", "/run/watchdog-mesh"], 10.0)
        testbed.systemctl("daemon-reload")
        yield testbed
    finally:
        testbed.systemctl("stop", UNIT, check=False)
        mesh(testbed, "release", "--unit", UNIT, "--reason", "test is over")
        testbed.remove_unit(UNIT)
        testbed.run(["rm", "-rf", *STATE], 10.0)


def attached(bed: Testbed) -> int:
    cgroup = bed.call(resolve_relative, f"/system.slice/{UNIT}")
    return sum(len(view.ours) for view in bed.call(gate.query, cgroup).values())


def test_it_comes_up_isolated(bed: Testbed) -> None:
    assert mesh(bed, "reconcile", "--boot")["exit"] in (0, 1)
    bed.systemctl("start", UNIT)
    assert attached(bed) >= 2


def test_it_stays_down_where_the_programs_cannot_be_built(bed: Testbed) -> None:
    bed.run([*bed.python, "-c", BAR], 60.0)
    assert bed.run(["systemctl", "start", UNIT], 20.0, check=False).returncode != 0
    assert mesh(bed, "reconcile", "--boot")["exit"] in (0, 1)
    bed.systemctl("start", UNIT)
    assert attached(bed) >= 2


BAR = """
from pathlib import Path
from watchdog.actions import reconcile
from watchdog.actions.place import Place
from watchdog.journal import Journal
journal = Journal.open(Path("/var/lib/watchdog-mesh"))
reconcile.bar(Place(journal, Path("/sys/fs/bpf/watchdog-mesh"), Path("/run/watchdog-mesh")))
"""
"""What `reconcile --boot` does first; then the machine has trouble."""
