"""Every known way out of an agent: open before the isolation, stopped or reported as open during it, open again.

Rows are tried by a root agent and by one without privilege, over namespaces and a veth of the test's own. What is said
of a row (watchdog.paths.catalogue) must be what is seen: a row that is stopped and said to be open fails as well.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kernel.conftest import skip_or_fail
from tests.kernel.evasion_bed import ISOLATIONS
from tests.kernel.lsm_bed import lsm_or_skip
from watchdog.errors import HostCannot
from watchdog.kernel import common, slots
from watchdog.paths import bed, catalogue, coverage
from watchdog.paths.bed import FACTS, ROOT, USER
from watchdog.paths.coverage import Row
from watchdog.paths.words import Coverage, Layer

pytestmark = pytest.mark.kernel

ARRIVES_S = float(os.environ.get("WATCHDOG_ARRIVES_S", bed.ARRIVES_S))
"""How long traffic is given to arrive; an emulated machine needs more."""

NO_FAMILY = "EAFNOSUPPORT"

PATHS = [path.id for path in catalogue.CATALOGUE]


@pytest.fixture(scope="module", params=sorted(ISOLATIONS))
def table(request: pytest.FixtureRequest, v2_root: Path, built_pins: Path) -> dict[tuple[str, str], Row]:
    slot = slots.list_slots(built_pins)[0]
    slots.zero(slot)
    try:
        programs = common.find(built_pins)
        assert programs is not None
        if request.param == Layer.LSM:
            lsm_or_skip(programs)
        seen = coverage.coverage(ISOLATIONS[request.param](slot, programs), v2_root, ARRIVES_S)
    except HostCannot as error:
        skip_or_fail(error.one_line())
        raise
    assert not list(v2_root.glob(f"{bed.PREFIX}{os.getpid()}-*"))
    return {(row.path, row.who): row for row in seen}


@pytest.mark.parametrize("who", [ROOT, USER])
@pytest.mark.parametrize("path_id", PATHS)
def test_what_is_said_of_a_path_is_what_is_seen(table: dict[tuple[str, str], Row], path_id: str, who: str) -> None:
    row, path = table[path_id, who], catalogue.find(path_id)
    if not row.before.passed:
        allowed = path.needs is None or path.needs in (FACTS[who].may or ())
        if path.needs_others and row.before.word == NO_FAMILY:
            pytest.skip("this kernel has loaded no other family")
        if allowed:
            skip_or_fail(f"{path_id} does not pass before any isolation: {row.before.word}")
        assert row.before.word in path.refused_with
        assert not row.during.passed
        assert row.verdict.coverage is Coverage.NOT_APPLICABLE
    elif row.verdict.coverage is Coverage.NOT_APPLICABLE:
        assert path.harmless, f"{path_id} is there, and is said not to apply: {row.verdict.why}"
    assert row.disagreement == ""


def test_every_path_is_tried_by_both(table: dict[tuple[str, str], Row]) -> None:
    assert set(table) == {(path_id, who) for path_id in PATHS for who in (ROOT, USER)}
