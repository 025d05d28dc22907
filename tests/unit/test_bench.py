"""The benchmarks run and print their tables. What they measure is not judged here: this machine may be busy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.benchmarks.isolation import report_of
from scripts.benchmarks.plot import dots
from scripts.benchmarks.report import p95, table
from scripts.benchmarks.ways import MESH, NFT, SYSTEMD
from tests.systemd.testbed import missing

REPOSITORY = Path(__file__).resolve().parents[2]
RUN_LIMIT_S = 180


def bench(kind: str) -> str:
    command = [sys.executable, "-m", "scripts.benchmarks", kind, "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_LIMIT_S, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mesh_prints_its_tables() -> None:
    said = bench("mesh")
    for row in ("| the mesh |", "| the mesh (Monitor, journal on disk) |", "| 3 watchers at once | the lock |"):
        assert row in said


@pytest.mark.systemd
@pytest.mark.skipif(bool(missing()), reason=f"the systemd test bed needs {missing()}")
def test_isolation_prints_its_tables() -> None:
    said = bench("isolation")
    for row in (f"| {MESH} |", f"| {SYSTEMD} |", "| to all layers in place |", f"| veth | {MESH} |"):
        assert row in said


def measured(**cold: list[float]) -> dict[str, object]:
    streams = {"loopback": {MESH: [(2.0e9, 1.9e9, 2.0e9), (2.0e9, 1.96e9, 1.6e9), (3.0e9, 2.97e9, 3.0e9)]}}
    return {
        "cold": {name: {"dropped": times, "done": times} for name, times in cold.items()},
        "warm": {"dropped": [0.5], "done": [60.0]},
        "steps": {"intended": [0.1], "lasting": [70.0]},
        "streams": streams,
        "flood": {
            "nobody floods": [3.0e9],
            "it floods, free": [1.0e9],
            "it floods, isolated": [2.0e9],
            "tried, free": [4.0e5],
            "tried, isolated": [5.0e5],
            "verify, s": [0.2],
        },
        "attached_before": [],
        "attached_after": [],
    }


def test_a_missed_goal_is_told() -> None:
    text = report_of(measured(**{MESH: [31.0], SYSTEMD: [10.0], NFT: [5.0]})).text
    assert "Measured: 3.10, MISSED" in text
    assert "| to the first dropped packet | 0.50 | 0.50 | 1 | met |" in text
    assert "| to all layers in place | 60.00 | 60.00 | 50 | MISSED |" in text
    assert "| it floods, isolated | 500,000 | 1.86 | 2.00 |" in text
    assert f"| loopback | {MESH} | 1.83 | +1.0 | -8.9 to +5.0 | met |" in text
    assert "| loopback | nobody is isolated, again | 1.86 | +0.0 | +0.0 to +20.0 |  |" in text


def test_nft_that_is_not_there_is_told() -> None:
    text = report_of(measured(**{MESH: [20.0], SYSTEMD: [10.0]})).text
    assert "Measured: 2.00, met" in text
    assert "nft is not installed here" in text


def test_what_is_attached_while_nobody_is_isolated_fails_it() -> None:
    found = measured(**{MESH: [20.0], SYSTEMD: [10.0]}) | {"attached_after": ["program 7"]}
    with pytest.raises(AssertionError, match="program 7"):
        report_of(found)


def test_figure_is_xml_with_a_dot_for_each_run() -> None:
    figure = ElementTree.fromstring(dots("Title", {"one": [0.3, 4.0, 2.0], "two": [1.0]}, "ms"))
    assert len(figure.findall("{http://www.w3.org/2000/svg}circle")) == 4


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (20, 20), (100, 96)])
def test_p95(count: int, expected: int) -> None:
    assert p95([float(n) for n in range(count, 0, -1)]) == expected


def test_table_has_a_line_below_its_header() -> None:
    assert table(("a", "b"), [("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
