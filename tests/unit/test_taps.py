"""Which devices are taps."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from watchdog.kernel import taps, unsynced
from watchdog.kernel.unsynced import File

DEVICES = """Character devices:
  1 mem
 10 misc
246 macvtap
247 ipvtap
248 ipvtap_like

Block devices:
  7 loop
"""


def test_their_majors_are_read() -> None:
    assert taps.parse(DEVICES) == {246, 247}
    assert taps.parse("") == frozenset()


@pytest.mark.parametrize(
    ("kind", "major", "minor", "is_one"),
    [
        (stat.S_IFCHR, 246, 5, True),
        (stat.S_IFCHR, 10, 200, True),
        (stat.S_IFCHR, 10, 201, False),
        (stat.S_IFCHR, 248, 5, False),
        (stat.S_IFBLK, 246, 5, False),
    ],
)
def test_one_is_told_by_its_numbers(kind: int, major: int, minor: int, is_one: bool) -> None:
    file = File(kind, inode=7, device=os.makedev(major, minor))
    assert taps.is_one(file, {246, 247}) is is_one


def test_a_file_is_told_as_stat_tells_it(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null"), Path("/proc/self/exe")):
        known = path.stat()
        assert unsynced.look(str(path)) == File(known.st_mode, known.st_ino, known.st_rdev)
    with pytest.raises(FileNotFoundError):
        unsynced.look(str(tmp_path / "gone"))
