"""The pin directory: on a bpffs of its own where there is none, and private."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from watchdog.errors import HostCannot, KernelRefused
from watchdog.kernel import bpffs
from watchdog.kernel.mounts import read_mounts

pytestmark = pytest.mark.kernel

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_stays_mounted(v2_root: Path, tmp_path: Path) -> object:
    yield None
    for mount in reversed(read_mounts()):
        if mount.point.is_relative_to(tmp_path):
            bpffs.unmount(mount.point)


def mounts_at(path: Path) -> int:
    return sum(mount.point == path for mount in read_mounts())


def test_a_private_bpffs_is_mounted_once(tmp_path: Path) -> None:
    pins = tmp_path / "run" / "pins"
    assert not bpffs.is_on_bpffs(pins)
    for _ in range(2):
        assert bpffs.prepare(pins) == pins
        assert bpffs.is_on_bpffs(pins)
        assert mounts_at(pins) == 1
        assert pins.stat().st_mode & 0o777 == 0o700
    bpffs.unmount(pins)
    assert not bpffs.is_on_bpffs(pins)
    bpffs.unmount(pins)


def test_on_a_bpffs_only_a_directory_is_made(tmp_path: Path) -> None:
    top = bpffs.prepare(tmp_path / "bpf")
    pins = bpffs.prepare(top / "a" / "pins")
    assert pins.stat().st_mode & 0o777 == 0o700
    assert mounts_at(pins) == 0
    assert bpffs.prepare(pins) == pins


def test_many_at_once_mount_once(tmp_path: Path) -> None:
    """Each mount of bpf is a file system of its own: a second one would hide the first one's pins."""
    pins = tmp_path / "pins"
    code = f"from watchdog.kernel import bpffs; from pathlib import Path; bpffs.prepare(Path({str(pins)!r}))"
    racing = [subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT) for _ in range(6)]
    assert [each.wait(timeout=20) for each in racing] == [0] * 6
    assert mounts_at(pins) == 1


def test_sysfs_without_a_bpffs_names_the_remedy() -> None:
    with pytest.raises(HostCannot, match="no bpffs is mounted for /sys/kernel/watchdog-mesh") as raised:
        bpffs.prepare(Path("/sys/kernel/watchdog-mesh"))
    assert raised.value.hint == "mount -t bpf bpf /sys/fs/bpf"


def test_a_directory_in_use_is_not_mounted_over(tmp_path: Path) -> None:
    (tmp_path / "pins").mkdir(mode=0o700)
    (tmp_path / "pins" / "file").touch()
    with pytest.raises(HostCannot, match="not empty"):
        bpffs.prepare(tmp_path / "pins")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777])
@pytest.mark.parametrize("where", ["ordinary", "bpffs"])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, where: str, mode: int) -> None:
    top = tmp_path if where == "ordinary" else bpffs.prepare(tmp_path / "bpf")
    pins = top / "pins"
    pins.mkdir()
    pins.chmod(mode)
    with pytest.raises(HostCannot, match=f"open to others: mode {mode:04o}") as raised:
        bpffs.prepare(pins)
    assert f"chmod 0700 {pins}" in raised.value.hint
    assert mounts_at(pins) == 0


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    pins = tmp_path / "pins"
    pins.mkdir(mode=0o700)
    os.chown(pins, 12345, 12345)
    with pytest.raises(HostCannot, match="uid 12345"):
        bpffs.prepare(pins)


def test_a_directory_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(HostCannot, match=f"others can replace .*{above} is mode 0777"):
        bpffs.prepare(above / "pins")
    above.chmod(0o1777)  # sticky: only the owner can replace what is his
    bpffs.prepare(above / "pins")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "pins").symlink_to("real")
    with pytest.raises(HostCannot, match="symbolic link"):
        bpffs.prepare(tmp_path / "pins")


@pytest.mark.parametrize("path", ["pins", "/tmp/../pins"])
def test_a_path_must_be_plain(path: str) -> None:
    with pytest.raises(HostCannot, match="no absolute path"):
        bpffs.prepare(Path(path))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostCannot, match="cannot make the pin directory"):
        bpffs.prepare(tmp_path / "file" / "pins")


def test_a_bpffs_in_use_is_not_unmounted(tmp_path: Path) -> None:
    pins = bpffs.prepare(tmp_path / "pins")
    fd = os.open(pins, os.O_RDONLY)
    try:
        with pytest.raises(KernelRefused, match="cannot unmount"):
            bpffs.unmount(pins)
    finally:
        os.close(fd)
