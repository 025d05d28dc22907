"""The pure parts of the kernel's side: mount tables, cgroup names, headers, sources, locks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.errors import HostCannot, WatchdogError
from watchdog.kernel import libbpf, locks
from watchdog.kernel.cgroups import Cgroup, choose_v2_root, parse_proc_cgroup
from watchdog.kernel.freezer import parse_frozen
from watchdog.kernel.headers import HeaderRoots, find_headers, version_key
from watchdog.kernel.mounts import Mount, parse_mountinfo
from watchdog.kernel.programs import OUR_PREFIX, SETS
from watchdog.kernel.slots import slot_name, slot_number
from watchdog.kernel.sources import source_dir, source_files, source_key

UNIFIED = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
LEGACY = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
PART = "29 22 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"

MAX_BPF_NAME_CHARACTERS = 15


@pytest.mark.parametrize(
    ("table", "root"),
    [
        (UNIFIED, "/sys/fs/cgroup"),
        (HYBRID, "/sys/fs/cgroup/unified"),
        (PART + HYBRID, "/sys/fs/cgroup/unified"),
        (LEGACY + UNIFIED, "/sys/fs/cgroup"),
    ],
)
def test_the_v2_root_is_found_in_every_layout(table: str, root: str) -> None:
    assert choose_v2_root(parse_mountinfo(table)) == Path(root)


@pytest.mark.parametrize(
    ("table", "words"),
    [(LEGACY, "no cgroup v2"), ("", "no cgroup v2"), (PART, "only the cgroup v2 tree below /docker/abc")],
)
def test_no_v2_root_says_what_to_do(table: str, words: str) -> None:
    with pytest.raises(HostCannot, match=words) as raised:
        choose_v2_root(parse_mountinfo(table))
    assert raised.value.hint


def test_mountinfo_escapes_and_optional_fields() -> None:
    line = r"36 35 98:5 /a\040b /mnt/with\040space\134 rw,noatime master:1 shared:2 - ext3 /dev/root rw"
    assert parse_mountinfo(line) == [Mount(Path("/mnt/with space\\"), "/a b", "ext3", os.makedev(98, 5))]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0::/system.slice/shield.service\n", "/system.slice/shield.service"),
        ("12:pids:/user\n1:name=systemd:/init\n0::/a:b\n", "/a:b"),
        ("0::/\n", ""),
        ("0::/gone (deleted)\n", "/gone (deleted)"),
    ],
)
def test_the_v2_line_of_proc_cgroup(text: str, name: str) -> None:
    assert parse_proc_cgroup(text) == name


def test_a_process_without_v2_is_told() -> None:
    with pytest.raises(HostCannot):
        parse_proc_cgroup("1:name=systemd:/init\n")


@pytest.mark.parametrize(
    ("outer", "inner", "contains"),
    [
        ("/r/a", "/r/a", True),
        ("/r/a", "/r/a/b", True),
        ("/r/a", "/r/ab", False),
        ("/r/a/b", "/r/a", False),
        ("/r", "/r/a", True),
    ],
)
def test_contains_goes_by_components(outer: str, inner: str, contains: bool) -> None:
    root = Path("/r")
    assert Cgroup(Path(outer), 1, root).contains(Cgroup(Path(inner), 2, root)) is contains


@pytest.mark.parametrize(("path", "name"), [("/r", "/"), ("/r/a", "/a"), ("/r/a/b.service", "/a/b.service")])
def test_relative_names(path: str, name: str) -> None:
    cgroup = Cgroup(Path(path), 1, Path("/r"))
    assert cgroup.relative() == name
    assert cgroup.is_root is (name == "/")


@pytest.mark.parametrize(
    ("events", "frozen"),
    [("populated 1\nfrozen 0\n", False), ("populated 1\nfrozen 1\n", True), ("populated 0\n", False), ("", False)],
)
def test_frozen_line(events: str, frozen: bool) -> None:
    assert parse_frozen(events) is frozen


@given(st.integers(min_value=0))
def test_slot_names_go_both_ways(number: int) -> None:
    assert slot_number(Path("/x") / slot_name(number)) == number


@pytest.mark.parametrize("name", ["new-slot-1", "slot-", "slot-x", "slot-1x", "progs", "maps.debug", "wd_ingress"])
def test_what_is_no_slot(name: str) -> None:
    assert slot_number(Path(name)) is None


# --- sources


def test_the_sources_are_found_and_named_after_their_content(tmp_path: Path) -> None:
    names = [path.name for path in source_files(source_dir())]
    assert {"wd.h", *(each.source for each in SETS)} <= set(names)
    key = source_key()
    assert re.fullmatch(r"[0-9a-f]{16}", key)
    copy = Path(shutil.copytree(source_dir(), tmp_path / "copy"))
    assert source_key(copy) == key
    (copy / "wd.h").write_text((copy / "wd.h").read_text() + "\n")
    assert source_key(copy) != key


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_the_sources_are_found_in_every_layout(tmp_path: Path, layout: str) -> None:
    package = Path(sys.modules["watchdog"].__file__ or "").parent
    shutil.copytree(package, tmp_path / "watchdog", ignore=shutil.ignore_patterns("__pycache__", "bpf"))
    folder = tmp_path / ("bpf" if layout == "checkout" else "watchdog/bpf")
    shutil.copytree(source_dir(), folder)
    code = "from watchdog.kernel import sources; print(sources.source_dir())"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == str(folder)
    shutil.rmtree(folder)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert "HostCannot: the BPF sources are missing" in done.stderr


def test_names_fit_the_kernel() -> None:
    names = [program.name for each in SETS for program in each.programs] + [name for each in SETS for name in each.maps]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.startswith(OUR_PREFIX)
        assert len(name) <= MAX_BPF_NAME_CHARACTERS


def test_the_sources_use_uapi_types_only() -> None:
    for path in source_files(source_dir()):
        text = path.read_text()
        assert text.splitlines()[0].strip("/* ") == "SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0"
        for header in re.findall(r"#include\s+[<\"](.+)[>\"]", text):
            assert header.startswith("uapi/") or (source_dir() / header).is_file(), f"{path.name} includes {header}"


# --- headers


def tree(path: Path, *files: str) -> Path:
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).touch()
    return path


def whole_tree(path: Path) -> Path:
    return tree(path, "include/linux/kconfig.h", "include/generated/autoconf.h")


def split_tree(sources: Path, version: str) -> tuple[Path, Path]:
    """As Debian installs them: one tree for all flavours, one for each."""
    common = tree(sources / f"linux-headers-{version}-common", "include/linux/kconfig.h")
    generated = "arch/x86/include/generated/uapi/asm/types.h"
    flavour = tree(sources / f"linux-headers-{version}-amd64", "include/generated/autoconf.h", generated)
    (flavour / "Makefile").write_text(f"include {common}/Makefile\n")
    return flavour, common


@pytest.fixture
def roots(tmp_path: Path) -> HeaderRoots:
    return HeaderRoots(tmp_path / "modules", tmp_path / "src", tmp_path / "kheaders.tar.xz")


def test_own_headers_come_first(roots: HeaderRoots) -> None:
    own = whole_tree(roots.modules / "6.18.0" / "build")
    split_tree(roots.sources, "6.19.0-1")
    assert find_headers("6.18.0", "x86_64", roots).tree == own
    assert find_headers("6.17.0", "x86_64", roots).tree != own


def test_what_the_kernel_brings_itself_comes_second(roots: HeaderRoots) -> None:
    split_tree(roots.sources, "6.19.0-1")
    roots.in_kernel.touch()
    found = find_headers("6.18.0", "x86_64", roots)
    assert (found.tree, found.includes) == (None, ())


def test_the_newest_installed_ones_come_last(roots: HeaderRoots) -> None:
    split_tree(roots.sources, "6.1.0-9")
    flavour, common = split_tree(roots.sources, "6.1.0-56")
    tree(roots.sources / "linux-headers-6.1.0-99-amd64", "Makefile")  # removed, with something left behind
    found = find_headers("6.18.0", "x86_64", roots)
    assert found.tree == common
    assert found.includes[0] == flavour / "include"
    assert flavour / "arch/x86/include/generated" in found.includes


def test_a_dangling_build_link_is_no_headers(roots: HeaderRoots) -> None:
    (roots.modules / "6.18.0").mkdir(parents=True)
    (roots.modules / "6.18.0" / "build").symlink_to("/nowhere")
    _, common = split_tree(roots.sources, "6.1.0-9")
    assert find_headers("6.18.0", "x86_64", roots).tree == common


@pytest.mark.parametrize(
    ("machine", "package"),
    [("x86_64", "linux-headers-amd64"), ("aarch64", "linux-headers-arm64"), ("mips", "linux-headers-mips")],
)
def test_no_headers_name_the_package(roots: HeaderRoots, machine: str, package: str) -> None:
    if machine != "x86_64":
        split_tree(roots.sources, "6.1.0-9")  # of another machine
    with pytest.raises(HostCannot, match="no kernel headers") as raised:
        find_headers("6.18.0", machine, roots)
    assert package in raised.value.hint
    assert "linux-headers-6.18.0" in raised.value.hint


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("6.1.0-9-amd64", "6.1.0-56-amd64"),
        ("5.10.0-30", "6.1.0-1"),
        ("6.1.0-1", "6.12.0-1"),
        ("linux-headers-6.1", "linux-headers-6.1.0"),
    ],
)
def test_versions_sort_by_number(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


# --- locks and the library


def test_a_lock_is_exclusive_and_reusable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with locks.locked(path, 0):
        with pytest.raises(locks.LockBusy, match=re.escape(str(path))), locks.locked(path, 0.05):
            pass
        assert path.stat().st_mode & 0o777 == 0o600
    with locks.locked(path, 0):
        pass


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(WatchdogError, match="cannot open the lock"), locks.locked(path, 0):
            pass


def test_a_missing_libbpf_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "SONAMES", ("libbpf.so.none",))
    libbpf._library.cache_clear()
    try:
        with pytest.raises(HostCannot, match=r"libbpf\.so\.none") as raised:
            libbpf.require()
    finally:
        libbpf._library.cache_clear()
    assert "libbpf1" in raised.value.hint


def test_only_the_builder_imports_bcc_and_only_where_it_compiles() -> None:
    package = Path(libbpf.__file__).parents[1]
    importing = {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if "import bcc" in (t := path.read_text()) or "from bcc" in t
    }
    assert importing == {Path("kernel/compiler.py")}
    code = "import sys; import watchdog.kernel.builder, watchdog.kernel.gate; print('bcc' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout.strip() == "False"
