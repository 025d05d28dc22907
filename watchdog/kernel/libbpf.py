"""The only door to libbpf, through ctypes: pins, attachments, queries, maps.

libbpf answers -errno; here that becomes `BpfRefused`, which names the operation and the objects. Every
descriptor is handed out by a context manager, and the kernel makes all of them close-on-exec.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from watchdog.errors import HostCannot, KernelRefused

SONAMES = ("libbpf.so.1", "libbpf.so.0")

ALLOW_MULTI = 2
"""BPF_F_ALLOW_MULTI: beside others' programs, never in their place. We attach with nothing else."""

QUERY_EFFECTIVE = 1
"""BPF_F_QUERY_EFFECTIVE: what runs for the cgroup, with what its ancestors pass on."""

PROGRAMS_AT_FIRST = 64
"""BPF_CGROUP_MAX_PROGS: no cgroup holds more itself; effective lists can be longer."""

MAX_MAPS = 64
"""MAX_USED_MAPS: no program uses more."""

MAP_ID_BYTES = 4
"""What a map of maps answers: the id of the map in it."""

LPM_TRIE, NO_PREALLOC = 11, 1
"""BPF_MAP_TYPE_LPM_TRIE and BPF_F_NO_PREALLOC, without which there is none."""

NAME_BYTES = 16
"""BPF_OBJ_NAME_LEN."""

VALUE_ALIGN_BYTES = 8
"""Values of per-CPU maps are rounded up to it."""

_HINTS = {
    errno.EPERM: "this needs root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN in the initial user namespace",
    errno.ENOENT: "it may have been removed meanwhile; `watchdog-mesh doctor` checks this host",
    errno.EINVAL: "this kernel may lack the hook; `watchdog-mesh doctor` checks this host",
    errno.EROFS: "find what is mounted read-only there with findmnt -T, and remount it: mount -o remount,rw",
    errno.ENOMEM: "free memory, or raise the service's LimitMEMLOCK=",
}


class BpfRefused(KernelRefused):
    """The kernel refused a bpf operation; `code` is the errno."""

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True, slots=True)
class Attached:
    """What one hook of one cgroup holds, in the order in which it runs."""

    flags: int
    """0 exclusive, 1 BPF_F_ALLOW_OVERRIDE, 2 BPF_F_ALLOW_MULTI; says nothing where `ids` is empty."""
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """One loaded program as the kernel describes it."""

    id: int
    name: str
    type: int
    tag: str
    """Hash of its instructions, 16 hexadecimal digits: the same for every load of the same program."""
    map_ids: tuple[int, ...]
    """CLOCK_BOOTTIME."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """One map as the kernel describes it."""

    id: int
    name: str
    type: int
    key_bytes: int
    value_bytes: int
    max_entries: int


class _ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info; the kernel fills as much as we ask for."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_ubyte * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * NAME_BYTES),
    )


class _MapOptions(ctypes.Structure):
    """The beginning of libbpf's struct bpf_map_create_opts, whose first field says how much of it there is."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
    )


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * NAME_BYTES),
    )


_BATCH = (c_int, c_void_p, c_void_p, c_char_p, c_char_p, POINTER(c_uint32), c_void_p)

_FUNCTIONS = {
    "bpf_obj_get": (c_char_p,),
    "bpf_obj_pin": (c_int, c_char_p),
    "bpf_prog_attach": (c_int, c_int, c_int, c_uint32),
    "bpf_prog_detach2": (c_int, c_int, c_int),
    "bpf_prog_query": (c_int, c_int, c_uint32, POINTER(c_uint32), POINTER(c_uint32), POINTER(c_uint32)),
    "bpf_prog_get_fd_by_id": (c_uint32,),
    "bpf_prog_get_next_id": (c_uint32, POINTER(c_uint32)),
    "bpf_map_get_fd_by_id": (c_uint32,),
    "bpf_obj_get_info_by_fd": (c_int, c_void_p, POINTER(c_uint32)),
    "bpf_map_lookup_elem": (c_int, c_char_p, c_char_p),
    "bpf_map_update_elem": (c_int, c_char_p, c_char_p, c_uint64),
    "bpf_map_delete_elem": (c_int, c_char_p),
    "bpf_map_get_next_key": (c_int, c_char_p, c_char_p),
    "bpf_map_freeze": (c_int,),
    "bpf_map_lookup_batch": _BATCH,
    "bpf_map_lookup_and_delete_batch": _BATCH,
    "libbpf_num_possible_cpus": (),
}


@cache
def _library() -> ctypes.CDLL:
    for soname in SONAMES:
        try:
            library = ctypes.CDLL(soname, use_errno=True)
        except OSError:
            continue
        for name, arguments in _FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
        return library
    raise HostCannot(
        f"libbpf is not installed: no {' or '.join(SONAMES)}", hint="install libbpf1, or run scripts/setup"
    )


def require() -> None:
    """HostCannot, with what to install, where libbpf is missing."""
    _library()


def _checked(result: int, operation: Callable[[], str]) -> int:
    """`operation` is asked only on failure: naming the objects costs more than most operations."""
    if result >= 0:
        return result
    # libbpf 1 answers -errno and libbpf 0 answers -1; both leave errno.
    code = ctypes.get_errno()
    if code in (errno.EPERM, errno.ENOSYS):
        require_bpf()
    raise BpfRefused(f"cannot {operation()}: {os.strerror(code)}", code=code, hint=_HINTS.get(code, ""))


def require_bpf() -> None:
    """HostCannot where this process may use no BPF at all, whoever it runs as: a container, a unit's sandbox."""
    found = _library().bpf_prog_get_next_id(0, byref(c_uint32()))
    code = ctypes.get_errno() if found < 0 else 0
    if code in (errno.EPERM, errno.ENOSYS):
        raise HostCannot(
            f"this process may not use BPF: {os.strerror(code)}",
            hint="give it CAP_SYS_ADMIN, CAP_BPF and CAP_NET_ADMIN in the initial user namespace, and the bpf call",
        )


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def obj_get(path: Path) -> Iterator[int]:
    """Open what is pinned at `path`, a program or a map."""
    with _closing(_checked(_library().bpf_obj_get(os.fsencode(path)), lambda: f"open the pin {path}")) as fd:
        yield fd


@contextmanager
def prog_by_id(prog_id: int) -> Iterator[int]:
    """Open a loaded program, pinned or not; code ENOENT where it is gone."""
    with _closing(_checked(_library().bpf_prog_get_fd_by_id(prog_id), lambda: f"open BPF program {prog_id}")) as fd:
        yield fd


@contextmanager
def map_by_id(map_id: int) -> Iterator[int]:
    """Open a map, pinned or not; code ENOENT where it is gone."""
    with _closing(_checked(_library().bpf_map_get_fd_by_id(map_id), lambda: f"open BPF map {map_id}")) as fd:
        yield fd


def obj_pin(fd: int, path: Path) -> None:
    """Pin a program or a map; code EEXIST where something is there."""
    _checked(_library().bpf_obj_pin(fd, os.fsencode(path)), lambda: f"pin {path}")


def prog_attach(prog_fd: int, cgroup_fd: int, hook: int) -> None:
    """Attach beside whatever is there. Code EINVAL where it is attached already."""
    _checked(
        _library().bpf_prog_attach(prog_fd, cgroup_fd, hook, ALLOW_MULTI),
        lambda: f"attach {_described(prog_fd)} to {_opened_path(cgroup_fd)} (hook {int(hook)})",
    )


def prog_detach(prog_fd: int, cgroup_fd: int, hook: int) -> bool:
    """Detach this one program. False where it was not attached, which is success."""
    result = _library().bpf_prog_detach2(prog_fd, cgroup_fd, hook)
    if result < 0 and ctypes.get_errno() == errno.ENOENT:
        return False
    _checked(result, lambda: f"detach {_described(prog_fd)} from {_opened_path(cgroup_fd)} (hook {int(hook)})")
    return True


def prog_query(cgroup_fd: int, hook: int, *, effective: bool = False, room: int = PROGRAMS_AT_FIRST) -> Attached:
    """What is attached at one hook; with `effective`, what runs there with the ancestors' programs."""
    flags, ids, count = c_uint32(), (c_uint32 * room)(), c_uint32(room)
    asked = QUERY_EFFECTIVE if effective else 0
    result = _library().bpf_prog_query(cgroup_fd, hook, asked, byref(flags), ids, byref(count))
    if result < 0 and ctypes.get_errno() == errno.ENOSPC:
        return prog_query(cgroup_fd, hook, effective=effective, room=max(count.value, room * 2))
    _checked(result, lambda: f"query hook {int(hook)} of {_opened_path(cgroup_fd)}")
    return Attached(flags.value, tuple(ids[: count.value]))


def prog_info(fd: int) -> ProgramInfo:
    """Describe an open program."""
    maps = (c_uint32 * MAX_MAPS)()
    info = _ProgramInfo(nr_map_ids=MAX_MAPS, map_ids=ctypes.addressof(maps))
    _fill(fd, info)
    return ProgramInfo(
        id=info.id,
        name=info.name.decode(errors="replace"),
        type=info.type,
        tag=bytes(info.tag).hex(),
        map_ids=tuple(maps[: info.nr_map_ids]),
    )


def prog_info_of(prog_id: int) -> ProgramInfo:
    """Describe a loaded program by its id; code ENOENT where it is gone."""
    with prog_by_id(prog_id) as fd:
        return prog_info(fd)


def program_ids() -> Iterator[int]:
    """Every program that is loaded on this kernel, pinned, attached or held open by whomever, oldest first."""
    prog_id = c_uint32(0)
    while _library().bpf_prog_get_next_id(prog_id.value, byref(prog_id)) == 0:
        yield prog_id.value


def is_program(fd: int) -> bool:
    """Whether an open pin is a program; else it is a map or a link."""
    return _opened_path(fd) == "anon_inode:bpf-prog"


def map_info(fd: int) -> MapInfo:
    """Describe an open map."""
    info = _MapInfo()
    _fill(fd, info)
    name = info.name.decode(errors="replace")
    return MapInfo(info.id, name, info.type, info.key_size, info.value_size, info.max_entries)


def _fill(fd: int, info: ctypes.Structure) -> None:
    length = c_uint32(ctypes.sizeof(info))
    _checked(_library().bpf_obj_get_info_by_fd(fd, byref(info), byref(length)), lambda: "read a BPF object's info")


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds for a key: possible CPUs, not those online."""
    return _checked(_library().libbpf_num_possible_cpus(), lambda: "count the possible CPUs")


def map_sum(map_fd: int, key: int, fields: int) -> tuple[int, ...]:
    """A per-CPU array's value of `fields` u64 at `key`, summed over all CPUs."""
    cpus = possible_cpus()
    buffer = ctypes.create_string_buffer(cpus * fields * VALUE_ALIGN_BYTES)
    packed_key = struct.pack("=I", key)
    _checked(_library().bpf_map_lookup_elem(map_fd, packed_key, buffer), lambda: f"read entry {key} of a BPF map")
    values = struct.unpack(f"={cpus * fields}Q", buffer.raw)
    return tuple(sum(values[field::fields]) for field in range(fields))


def map_zero(map_fd: int, key: int, fields: int) -> None:
    """Set a per-CPU array's value of `fields` u64 at `key` to 0 on all CPUs."""
    map_update(map_fd, struct.pack("=I", key), bytes(possible_cpus() * fields * VALUE_ALIGN_BYTES))


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set one entry; a per-CPU map wants one value for every possible CPU, each rounded up to 8 bytes."""
    _checked(_library().bpf_map_update_elem(map_fd, key, value, 0), lambda: "write an entry of a BPF map")


def map_lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """One entry's value; None where there is no such entry."""
    value = ctypes.create_string_buffer(value_bytes)
    return value.raw if _found(_library().bpf_map_lookup_elem(map_fd, key, value), "read") else None


def map_delete(map_fd: int, key: bytes) -> bool:
    """Remove one entry. False where there was none, which is success."""
    return _found(_library().bpf_map_delete_elem(map_fd, key), "remove")


def map_keys(map_fd: int, key_bytes: int) -> list[bytes]:
    """The keys of a hash map. One that is removed by others meanwhile can make the kernel begin anew: each is once."""
    keys: dict[bytes, None] = {}
    after: bytes | None = None
    following = ctypes.create_string_buffer(key_bytes)
    while _found(_library().bpf_map_get_next_key(map_fd, after, following), "list") and following.raw not in keys:
        after = following.raw
        keys[after] = None
    return list(keys)


def map_entries(
    map_fd: int, key_bytes: int, value_bytes: int, room: int, *, remove: bool = False
) -> dict[bytes, bytes]:
    """All of a hash map that has at most `room` entries, in one call; with `remove` it is empty afterwards."""
    keys, values = (ctypes.create_string_buffer(room * size) for size in (key_bytes, value_bytes))
    position, count = c_uint32(), c_uint32(room)
    batch = _library().bpf_map_lookup_and_delete_batch if remove else _library().bpf_map_lookup_batch
    _found(batch(map_fd, None, byref(position), keys, values, byref(count), None), "list")  # ENOENT: that was all
    cut_keys, cut_values = (
        [whole[n : n + size] for n in range(0, count.value * size, size)]
        for whole, size in ((keys.raw, key_bytes), (values.raw, value_bytes))
    )
    return dict(zip(cut_keys, cut_values, strict=True))


@contextmanager
def trie_created(name: str, key_bytes: int, value_bytes: int, room: int) -> Iterator[int]:
    """A new, empty longest-prefix-match trie; it is gone with its descriptor unless somebody else holds it then."""
    library, about = _library(), (LPM_TRIE, name.encode(), key_bytes, value_bytes, room)
    if hasattr(library, "bpf_map_create"):
        options = _MapOptions(size=ctypes.sizeof(_MapOptions), map_flags=NO_PREALLOC)
        fd = library.bpf_map_create(*about, byref(options))
    else:  # libbpf 0
        fd = library.bpf_create_map_name(*about, NO_PREALLOC)
    with _closing(_checked(fd, lambda: f"make the BPF map {name}")) as created:
        yield created


def map_freeze(map_fd: int) -> None:
    """Have the kernel refuse every later change through the system call, by whomever."""
    _checked(_library().bpf_map_freeze(map_fd), lambda: "freeze a BPF map")


def _found(result: int, operation: str) -> bool:
    if result < 0 and ctypes.get_errno() == errno.ENOENT:
        return False
    _checked(result, lambda: f"{operation} an entry of a BPF map")
    return True


def _described(prog_fd: int) -> str:
    info = prog_info(prog_fd)
    return f"{info.name} (BPF program {info.id})"


def _opened_path(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())
