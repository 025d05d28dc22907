"""A unit file that was renamed, found by what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from watchdog.host.unit_files import UnitFile, read, renamed_to

TEXT = "[Service]\nExecStart=/bin/agent\n"


@pytest.fixture
def unit(tmp_path: Path) -> UnitFile:
    (tmp_path / "shield.service").write_text(TEXT)
    (tmp_path / "other.service").write_text("[Service]\nExecStart=/bin/other\n")
    (tmp_path / "shield.socket").write_text(TEXT)
    found = read(str(tmp_path / "shield.service"))
    assert found is not None
    return found


def test_it_is_where_it_was(unit: UnitFile, tmp_path: Path) -> None:
    shutil.copy(unit.path, tmp_path / "copy.service")
    assert renamed_to(unit, [tmp_path]) == []


def test_renamed(unit: UnitFile, tmp_path: Path) -> None:
    Path(unit.path).rename(tmp_path / "protector.service")
    (tmp_path / "copy.service").write_text(TEXT)
    assert renamed_to(unit, []) == ["protector.service"]


def test_written_anew_elsewhere(unit: UnitFile, tmp_path: Path) -> None:
    Path(unit.path).unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "protector.service").write_text(TEXT)
    (elsewhere / "alias.service").symlink_to("protector.service")
    assert renamed_to(unit, [elsewhere, tmp_path / "nowhere"]) == ["protector.service"]


def test_moved_to_another_directory_under_its_name(unit: UnitFile, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path(unit.path).rename(elsewhere / "shield.service")
    assert renamed_to(unit, [elsewhere]) == []


def test_removed(unit: UnitFile, tmp_path: Path) -> None:
    Path(unit.path).unlink()
    assert renamed_to(unit, [tmp_path]) == []


def test_what_is_no_file(tmp_path: Path) -> None:
    assert read(str(tmp_path / "nowhere")) is None
    assert read(str(tmp_path)) is None
