"""Slots: ready program sets with maps of their own, pinned, each waiting for one isolation to take it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from watchdog.errors import KernelRefused, NotRoot
from watchdog.kernel import allow, flows, libbpf
from watchdog.kernel.bpffs import PRIVATE_MODE
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import ALLOW_MAP, COUNT_MAP, SHADOW, SLOT_SETS, Program
from watchdog.kernel.sources import source_key

TRAFFIC_FIELDS = 2
"""struct wd_traffic in bpf/wd.h: packets, bytes."""

COUNTS = 4
"""Keys of wd_count: what was dropped by hook, then what was let pass by hook."""

_SPARE = {program.name for program in SHADOW}
"""Attached nowhere during an isolation: lost with their pins, and not missed."""

_SLOT_NAME = re.compile(r"slot-(\d+)")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was dropped in one direction since the slot was zeroed."""

    packets: int
    bytes: int
    """Network header and above."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What was dropped in both directions, and what the allow-list let pass."""

    ingress: Traffic
    egress: Traffic
    allowed_in: Traffic = Traffic(0, 0)
    allowed_out: Traffic = Traffic(0, 0)
    frames_in: Traffic = Traffic(0, 0)
    """Dropped at links, and in no other figure: whole frames, of which no packet hook saw anything."""
    frames_out: Traffic = Traffic(0, 0)


NOTHING = Counters(Traffic(0, 0), Traffic(0, 0))


@dataclass(frozen=True, slots=True)
class Slot:
    """One ready program set; ids stay valid as long as the programs are pinned or attached."""

    path: Path
    programs: Mapping[str, int]
    """Program ids by name."""
    maps: Mapping[str, int]
    """Map ids by name."""

    @property
    def program_ids(self) -> tuple[int, ...]:
        """The ids of all its programs."""
        return tuple(self.programs.values())

    def pin(self, program: Program) -> Path:
        """The pin of one program: what a unit's drop-in names."""
        return self.path / program.name


def slot_name(number: int) -> str:
    """The directory name of a slot."""
    return f"slot-{number}"


def slot_number(path: Path) -> int | None:
    """Which slot a directory is; None where its name is no slot's."""
    match = _SLOT_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def list_slots(pins: Path, key: str | None = None) -> list[Slot]:
    """The whole slots of this version's sources (or of another `key`), by number."""
    return list(each_slot(pins, key or source_key()))


def each_slot(pins: Path, key: str, but: Collection[Path] = ()) -> Iterator[Slot]:
    """The same one by one, without those in the directories `but`: whoever needs only one opens the pins of one."""
    numbered = sorted((n, path) for path in _entries(pins / key) if (n := slot_number(path)) is not None)
    found = (_whole_slot(path) for _, path in numbered if path not in but)
    return (slot for slot in found if slot is not None)


def pinned_programs(slot_dir: Path) -> dict[int, Path]:
    """Program ids to pins, of whatever lies in one slot's directory: damaged, or of a version with other programs."""
    found = ((pin, _program_id_or_none(pin)) for pin in _entries(slot_dir))
    return {program_id: pin for pin, program_id in found if program_id is not None}


def slot_at(path: Path) -> Slot:
    """The slot pinned at `path`; BpfRefused where a pin is missing that an isolation needs."""
    names = [program.name for each in SLOT_SETS for program in each.programs]
    programs = {name: pinned_program_id(path / name) for name in names if name not in _SPARE or (path / name).exists()}
    return Slot(path, programs, {name: pinned_map_id(path / name) for each in SLOT_SETS for name in each.maps})


def counters(slot: Slot) -> Counters:
    """What the slot's programs have dropped since it was zeroed; works without its pins."""
    return _read_counters(slot.maps[COUNT_MAP])


def counters_of_programs(program_ids: Iterable[int]) -> Counters | None:
    """The same by program ids alone, for what another process attached; None where none of them counts here."""
    found = {map_id for program_id in program_ids for map_id in _count_maps(program_id)}
    each = [_read_counters(map_id) for map_id in sorted(found)]
    return total(each) if each else None


def zero(slot: Slot) -> None:
    """Forget what it counted, whom it saw and what it allowed: before an isolation takes the slot."""
    allow.install(slot.maps[ALLOW_MAP], {})
    if counters(slot) == NOTHING:
        return  # it has judged no packet since: an isolation that is in a hurry need not wait for the rest
    flows.forget(slot.maps)
    with libbpf.map_by_id(slot.maps[COUNT_MAP]) as fd:
        for key in range(COUNTS):
            libbpf.map_zero(fd, key, TRAFFIC_FIELDS)


def repin(path: Path, program_ids: Iterable[int]) -> Slot:
    """Put back the pins of a slot whose programs are still attached, found by their ids.

    Pins that are right stay. BpfRefused where a program is gone; KernelRefused where the ids are no slot.
    """
    try:
        for folder in (path.parent, path):
            folder.mkdir(mode=PRIVATE_MODE, exist_ok=True)
    except OSError as error:
        raise KernelRefused(f"cannot make {path}: {error.strerror}") from error
    put_pins(path, program_ids)
    return slot_at(path)


def of_ids(path: Path, programs: Mapping[str, int]) -> Slot:
    """A slot as its loaded programs make it, whether its pins can be opened or not; BpfRefused where one is gone."""
    return Slot(path, programs, maps_used(programs.values()))


def maps_used(program_ids: Iterable[int]) -> dict[str, int]:
    """The ids by name of all maps that loaded programs use."""
    used = {map_id for program_id in program_ids for map_id in libbpf.prog_info_of(program_id).map_ids}
    return {_map_name(map_id): map_id for map_id in used}


def put_pins(path: Path, program_ids: Iterable[int]) -> None:
    """Pin programs found by their ids, and the maps they use, in a directory that is there; right pins stay."""
    for program_id in program_ids:
        with libbpf.prog_by_id(program_id) as fd:
            info = libbpf.prog_info(fd)
            _put_pin(path / info.name, fd, info.id, pinned_program_id)
        for map_id in info.map_ids:
            with libbpf.map_by_id(map_id) as fd:
                _put_pin(path / libbpf.map_info(fd).name, fd, map_id, pinned_map_id)


def remove(path: Path) -> None:
    """Remove the pins in one slot's directory and the directory; what is gone already is success."""
    try:
        for pin in _entries(path):
            pin.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            path.rmdir()
    except OSError as error:
        raise KernelRefused(f"cannot remove the pins in {path}: {error.strerror}") from error


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise NotRoot(f"only root can look into {folder}") from error


def _whole_slot(path: Path) -> Slot | None:
    try:
        return slot_at(path)
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def pinned_program_id(pin: Path) -> int:
    """The id of the program pinned there; BpfRefused where none is."""
    with libbpf.obj_get(pin) as fd:
        return libbpf.prog_info(fd).id


def _program_id_or_none(pin: Path) -> int | None:
    try:
        with libbpf.obj_get(pin) as fd:
            return libbpf.prog_info(fd).id if libbpf.is_program(fd) else None
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def pinned_map_id(pin: Path) -> int:
    """The id of the map pinned there; BpfRefused where none is."""
    with libbpf.obj_get(pin) as fd:
        return libbpf.map_info(fd).id


def _put_pin(pin: Path, fd: int, object_id: int, id_at: Callable[[Path], int]) -> None:
    try:
        found = id_at(pin)
    except BpfRefused:
        found = None
    if found == object_id:
        return
    try:
        pin.unlink(missing_ok=True)
    except OSError as error:
        raise KernelRefused(f"cannot replace the pin {pin}: {error.strerror}") from error
    libbpf.obj_pin(fd, pin)


def _count_maps(program_id: int) -> list[int]:
    try:
        map_ids = libbpf.prog_info_of(program_id).map_ids
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return []
        raise
    return [map_id for map_id in map_ids if _map_name(map_id) == COUNT_MAP]


def _map_name(map_id: int) -> str:
    with libbpf.map_by_id(map_id) as fd:
        return libbpf.map_info(fd).name


def _read_counters(map_id: int) -> Counters:
    with libbpf.map_by_id(map_id) as fd:
        keys = range(min(COUNTS, libbpf.map_info(fd).max_entries))  # an earlier version's map has fewer
        return Counters(*(Traffic(*libbpf.map_sum(fd, key, TRAFFIC_FIELDS)) for key in keys))


def total(parts: Sequence[Counters]) -> Counters:
    """All of them together."""
    by_field = zip(*(astuple(part) for part in parts), strict=True)
    return Counters(*(Traffic(*map(sum, zip(*same, strict=True))) for same in by_field))
