"""A unit's cgroup, found in the tree by where systemd puts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdog.kernel import cgroups

UNIT = "shield.service"


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    "place",
    [
        UNIT,
        f"system.slice/{UNIT}",
        f"soc.slice/soc-agents.slice/{UNIT}",
        f"system.slice/system-shield.slice/{UNIT}",
    ],
)
def test_found_in_whatever_slice(tmp_path: Path, place: str) -> None:
    tree(tmp_path, "init.scope", "system.slice/cron.service", place)
    found = cgroups.of_unit(UNIT, tmp_path)
    assert found is not None
    assert found.path == tmp_path / place
    assert found.inode == (tmp_path / place).stat().st_ino
    assert found.root == tmp_path


@pytest.mark.parametrize(
    "place",
    [
        "system.slice/cron.service",
        f"user.slice/user-1000.slice/user@1000.service/app.slice/{UNIT}",
        f"machine.slice/machine-web.scope/system.slice/{UNIT}",
        f"system.slice/docker.service/{UNIT}",
        f"system.slice/other-{UNIT}",
    ],
)
def test_what_another_systemd_or_a_service_made_is_no_unit_of_this_one(tmp_path: Path, place: str) -> None:
    tree(tmp_path, "system.slice", place)
    assert cgroups.of_unit(UNIT, tmp_path) is None


def test_a_slice_is_found_as_any_unit(tmp_path: Path) -> None:
    tree(tmp_path, "soc.slice/soc-agents.slice")
    found = cgroups.of_unit("soc-agents.slice", tmp_path)
    assert found is not None
    assert found.path == tmp_path / "soc.slice/soc-agents.slice"


def test_a_tree_that_is_gone_holds_no_unit(tmp_path: Path) -> None:
    tree(tmp_path, "system.slice")
    assert cgroups.of_unit(UNIT, tmp_path / "system.slice") is None
