"""Slots are built once, whole or not at all, whoever asks and whatever happens to the builder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup
from watchdog.errors import HostCannot
from watchdog.kernel import builder, gate, libbpf, slots
from watchdog.kernel.builder import BuildFailed, BuildInputs
from watchdog.kernel.headers import HeaderRoots
from watchdog.kernel.locks import LockBusy, locked
from watchdog.kernel.programs import ALLOW_MAP, COUNT_MAP, SLOT_SETS, ProgramType
from watchdog.kernel.sources import source_dir, source_key
from watchdog.kernel.stale import prune_stale

pytestmark = pytest.mark.kernel

PROJECT = Path(__file__).parents[2]
STEP_TIMEOUT_S = 30.0


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "run" / "build.lock"


@pytest.fixture
def own_sources(tmp_path: Path) -> Path:
    """A copy of the sources, to be changed."""
    return Path(shutil.copytree(source_dir(), tmp_path / "sources"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )


def ensure(pins: Path, lock: Path, count: int) -> str:
    return f"""
        from pathlib import Path
        from watchdog.kernel import builder
        slots = builder.ensure_slots(Path({str(pins)!r}), Path({str(lock)!r}), {count})
        print([slot.program_ids for slot in slots])
    """


def test_builds_what_is_missing_and_no_more(pins: Path, lock: Path) -> None:
    first = builder.ensure_slots(pins, lock, 1)
    assert [slot.path.name for slot in first] == ["slot-0"]
    more = builder.ensure_slots(pins, lock, 2)
    assert more[0] == first[0]
    assert [slot.path for slot in more] == [pins / source_key() / name for name in ("slot-0", "slot-1")]
    assert builder.ensure_slots(pins, lock, 1) == more
    assert names(pins / source_key()) == ["common", "slot-0", "slot-1"]
    assert len({slot.maps[COUNT_MAP] for slot in more}) == 2


def test_ready_slots_need_neither_bcc_nor_the_lock(built_pins: Path, lock: Path) -> None:
    with locked(lock, 0):
        code = ensure(built_pins, lock, 2) + "    import sys; print('bcc' in sys.modules)"
        out, _ = start(code).communicate(timeout=STEP_TIMEOUT_S)
    assert out.splitlines()[-1] == "False"


def test_the_kernel_sees_what_the_sources_and_python_agree_on(built_pins: Path) -> None:
    slot = slots.list_slots(built_pins)[0]
    pins = {path.name for path in slot.path.iterdir()}
    assert pins == {p.name for s in SLOT_SETS for p in s.programs} | {name for s in SLOT_SETS for name in s.maps}
    for name, program_id in slot.programs.items():
        info = libbpf.prog_info_of(program_id)
        assert (info.name, info.type) == (name, ProgramType.CGROUP_SKB)
        assert slot.maps[ALLOW_MAP] in info.map_ids
        assert (slot.maps[COUNT_MAP] in info.map_ids) is ("guard" not in name)
        assert gate.is_ours(info) is ("shadow" not in name)
    with libbpf.map_by_id(slot.maps[COUNT_MAP]) as fd:
        info_of_map = libbpf.map_info(fd)
    assert info_of_map.name == COUNT_MAP
    assert (info_of_map.key_bytes, info_of_map.value_bytes, info_of_map.max_entries) == (
        4,
        slots.TRAFFIC_FIELDS * 8,
        slots.COUNTS,
    )


def test_every_slot_holds_the_same_programs_and_maps_of_its_own(built_pins: Path) -> None:
    first, second = slots.list_slots(built_pins)[:2]
    for name in first.programs:
        tags = {libbpf.prog_info_of(slot.programs[name]).tag for slot in (first, second)}
        assert len(tags) == 1
    assert first.maps != second.maps


def test_only_root_can_look_at_the_pins(built_pins: Path) -> None:
    for folder, _, _ in os.walk(built_pins):
        assert Path(folder).stat().st_mode & 0o077 == 0


def test_two_builders_at_once_build_once(pins: Path, lock: Path) -> None:
    racing = [start(ensure(pins, lock, 2)) for _ in range(3)]
    said = [each.communicate(timeout=STEP_TIMEOUT_S)[0] for each in racing]
    assert [each.returncode for each in racing] == [0, 0, 0]
    assert len(set(said)) == 1
    assert names(pins / source_key()) == ["common", "slot-0", "slot-1"]


def builders_of(parent: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def wait_for(happened: object, what: str) -> None:
    deadline_s = time.monotonic() + STEP_TIMEOUT_S
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline_s, what
        time.sleep(0.002)


def test_a_killed_builder_leaves_whole_slots_only_and_the_next_one_tidies_up(pins: Path, lock: Path) -> None:
    parent = start(ensure(pins, lock, 20))
    folder = pins / source_key()
    wait_for(lambda: len(slots.list_slots(pins)) > 2, "no slot appears")
    [child] = builders_of(parent)
    os.kill(child, signal.SIGKILL)
    parent.communicate(timeout=STEP_TIMEOUT_S)
    assert parent.returncode == 1  # BuildFailed
    (folder / "new-slot-77").mkdir(exist_ok=True)  # as if killed while it filled one
    whole = slots.list_slots(pins)
    assert 0 < len(whole) < 20
    again = builder.ensure_slots(pins, lock, len(whole) + 1)
    assert again[: len(whole)] == whole
    assert len(again) == len(whole) + 1
    assert [name for name in names(folder) if name.startswith("new-")] == []


def test_a_killed_parent_leaves_the_lock_to_its_builder(pins: Path, lock: Path) -> None:
    """Or the next one would take a slot that is being filled for a leftover."""
    parent = start(ensure(pins, lock, 4))
    wait_for(lambda: (pins / source_key()).exists(), "nothing is built")
    [child] = builders_of(parent)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate(timeout=STEP_TIMEOUT_S)
    alive = Path(f"/proc/{child}").exists()
    if alive and len(slots.list_slots(pins)) < 4:
        with pytest.raises(LockBusy), locked(lock, 0):
            pass
    assert len(builder.ensure_slots(pins, lock, 4)) == 4
    assert len(names(pins / source_key())) == 4 + len(["common"])


def test_a_builder_past_its_deadline_is_killed(pins: Path, lock: Path, own_sources: Path, tmp_path: Path) -> None:
    header = own_sources / "wd.h"
    fifo = tmp_path / "never.h"
    os.mkfifo(fifo)  # the compiler waits for a writer that never comes
    header.write_text(header.read_text().replace("#define WD_H", f'#define WD_H\n#include "{fifo}"'))
    before_s = time.monotonic()
    with pytest.raises(BuildFailed, match="did not finish within 2 s"):
        builder.ensure_slots(pins, lock, 1, timeout_s=2, inputs=BuildInputs(sources=own_sources))
    assert time.monotonic() - before_s < 10
    with locked(lock, 0):
        pass


def test_a_second_builder_waits_no_longer_than_its_deadline(pins: Path, lock: Path) -> None:
    with locked(lock, 0), pytest.raises(LockBusy, match=str(lock)):
        builder.ensure_slots(pins, lock, 1, timeout_s=0.1)


def test_the_compilers_words_reach_the_operator(pins: Path, lock: Path, own_sources: Path) -> None:
    source = own_sources / "cgroup_skb.c"
    source.write_text(source.read_text().replace("return WD_DROP;\n}", "return WD_DORP;\n}"))
    with pytest.raises(BuildFailed, match=r"cgroup_skb\.c: .*error: use of undeclared identifier 'WD_DORP'") as raised:
        builder.ensure_slots(pins, lock, 1, inputs=BuildInputs(sources=own_sources))
    assert "WD_DORP" in raised.value.detail
    assert "\n" not in raised.value.one_line()
    assert slots.list_slots(pins, source_key(own_sources)) == []


def test_the_verifiers_words_reach_the_operator(pins: Path, lock: Path, own_sources: Path) -> None:
    source = own_sources / "cgroup_skb.c"
    source.write_text(source.read_text().replace("return WD_DROP;\n}", "return 7;\n}"))
    with pytest.raises(BuildFailed, match="the kernel refused to load wd_ingress") as raised:
        builder.ensure_slots(pins, lock, 1, inputs=BuildInputs(sources=own_sources))
    assert "R0" in raised.value.detail


def test_missing_headers_name_the_packages(pins: Path, lock: Path, tmp_path: Path) -> None:
    nowhere = HeaderRoots(modules=tmp_path / "a", sources=tmp_path / "b", in_kernel=tmp_path / "c")
    with pytest.raises(HostCannot, match="no kernel headers") as raised:
        builder.ensure_slots(pins, lock, 1, inputs=BuildInputs(header_roots=nowhere))
    assert f"linux-headers-{os.uname().release}" in raised.value.hint
    assert "scripts/setup" in raised.value.hint


def test_an_interpreter_without_bcc_names_the_package(
    pins: Path, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", str(bare)], check=True, timeout=STEP_TIMEOUT_S)
    monkeypatch.setattr(sys, "executable", str(bare / "bin/python"))
    with pytest.raises(HostCannot, match="bcc cannot be imported") as raised:
        builder.ensure_slots(pins, lock, 1)
    assert "python3-bpfcc" in raised.value.hint
    assert "PyPI" in raised.value.hint


def test_other_sources_get_another_key_and_stale_slots_are_pruned(
    pins: Path, lock: Path, own_sources: Path, scratch_cgroup: MakeCgroup
) -> None:
    (own_sources / "wd.h").write_text((own_sources / "wd.h").read_text() + "/* an older version */\n")
    old = builder.ensure_slots(pins, lock, 3, inputs=BuildInputs(sources=own_sources))
    [new] = builder.ensure_slots(pins, lock, 1)
    attached, named, unused = old
    cgroup = scratch_cgroup()
    gate.attach(cgroup, attached)

    assert prune_stale(pins, lock, keep=[named.path], root=cgroup) == [unused.path]
    assert prune_stale(pins, lock, keep=[named.path], root=cgroup) == []
    assert slots.list_slots(pins, source_key(own_sources)) == [attached, named]
    gate.detach(cgroup, attached.program_ids)
    assert prune_stale(pins, lock, root=cgroup) == [attached.path, named.path]
    assert not (pins / source_key(own_sources)).exists()
    assert slots.list_slots(pins) == [new]


def test_nothing_is_pruned_while_somebody_builds(
    pins: Path, lock: Path, own_sources: Path, scratch_cgroup: MakeCgroup
) -> None:
    (own_sources / "wd.h").write_text((own_sources / "wd.h").read_text() + "/* an older version */\n")
    builder.ensure_slots(pins, lock, 1, inputs=BuildInputs(sources=own_sources))
    with locked(lock, 0):
        assert prune_stale(pins, lock, root=scratch_cgroup()) == []


def test_a_damaged_slot_is_not_used_and_its_number_stays_taken(pins: Path, lock: Path) -> None:
    first, second = builder.ensure_slots(pins, lock, 2)
    (first.path / "wd_egress").unlink()
    assert slots.list_slots(pins) == [second]
    rebuilt = builder.ensure_slots(pins, lock, 2)
    assert [slot.path.name for slot in rebuilt] == ["slot-1", "slot-2"]
    assert replace(rebuilt[0]) == second
