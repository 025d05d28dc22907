"""Where the members of the running kernel's structures are, as the kernel itself describes them (BTF).

bpf/lsm.c reads a few of them. The headers we compile with may be of another kernel; what is said here is not.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from ctypes import c_char_p, c_int32, c_uint32, c_void_p
from functools import cache
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel.libbpf import SONAMES

VMLINUX = Path("/sys/kernel/btf/vmlinux")

MEMBERS = (
    ("socket", "file"),
    ("socket", "sk"),
    ("sock_common", "skc_family"),  # what every struct sock begins with
    ("sock", "sk_type"),
    ("sock", "sk_peer_pid"),
    ("pid", "numbers"),  # the first member of the first of them is its number in the initial namespace
    ("file", "f_mode"),
    ("file", "private_data"),  # of a socket's file: the socket
    ("file", "f_inode"),
    ("inode", "i_mode"),
    ("file", "f_path"),
    ("path", "dentry"),
    ("dentry", "d_parent"),
    ("dentry", "d_inode"),
    ("inode", "i_ino"),
    ("inode", "i_sb"),
    ("super_block", "s_magic"),
    ("task_struct", "tgid"),
    ("task_struct", "cgroups"),
    ("css_set", "dfl_cgrp"),
    ("cgroup", "kn"),
    ("cgroup", "level"),
    ("cgroup", "ancestors"),  # since Linux 6.1
    ("kernfs_node", "id"),
)
"""struct wd_members in bpf/lsm.c, in its order."""

_STRUCT, _UNION, _FUNCTION, _MODIFIERS = 4, 5, 12, {8, 9, 10, 11, 18}
"""BTF_KIND_*: typedef, volatile, const, restrict and type tags lead on to a type."""
_TYPE_BYTES, _MEMBER_BYTES = 12, 12
_OFFSET_BITS = 0xFFFFFF
"""Of a member's offset where the structure has bit fields; the bits above say how wide one is."""


def member_offsets() -> tuple[int, ...]:
    """The offsets of MEMBERS in bytes. KernelRefused where the kernel does not describe its types, or has no such
    member."""
    return tuple(_types().offset(structure, member) for structure, member in MEMBERS)


def function_id(name: str) -> int | None:
    """The id of a function of the kernel; None where it has no such function. KernelRefused as above."""
    found: int = _library().btf__find_by_name_kind(_types().handle, name.encode(), _FUNCTION)
    return found if found > 0 else None


class _Types:
    """The kernel's types."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def offset(self, structure: str, member: str) -> int:
        type_id = _library().btf__find_by_name_kind(self.handle, structure.encode(), _STRUCT)
        found = self._find(type_id, member) if type_id > 0 else None
        if found is None:
            raise KernelRefused(f"this kernel has no member {member} in struct {structure}")
        return found // 8

    def _find(self, type_id: int, member: str) -> int | None:
        """Its offset in bits, also inside structures and unions without a name."""
        for name, inner_id, offset in self._members(type_id):
            if name == member:
                return offset
            if not name:
                inner = self._find(inner_id, member)
                if inner is not None:
                    return offset + inner
        return None

    def _members(self, type_id: int) -> Iterator[tuple[str, int, int]]:
        address = _library().btf__type_by_id(self.handle, type_id)
        _, info, other_id = struct.unpack("=3I", ctypes.string_at(address, _TYPE_BYTES))
        kind, count, has_bit_fields = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        if kind in _MODIFIERS:
            yield from self._members(other_id)
        elif kind in {_STRUCT, _UNION}:
            raw = ctypes.string_at(address + _TYPE_BYTES, count * _MEMBER_BYTES)
            for name_at, inner_id, offset in struct.iter_unpack("=3I", raw):
                name = _library().btf__name_by_offset(self.handle, name_at)
                yield (name or b"").decode(), inner_id, offset & _OFFSET_BITS if has_bit_fields else offset


@cache
def _types() -> _Types:
    """Read once, and kept: reading takes longer than all that is asked of them, and the builder lives shortly."""
    if not VMLINUX.exists():
        raise KernelRefused(f"this kernel does not describe its types: no {VMLINUX} (CONFIG_DEBUG_INFO_BTF)")
    handle = _library().btf__load_vmlinux_btf()
    if not handle:
        raise KernelRefused(f"libbpf cannot read the kernel's types in {VMLINUX}")
    return _Types(handle)


@cache
def _library() -> ctypes.CDLL:
    """libbpf once more: what is asked of it here is no system call."""
    try:
        library = ctypes.CDLL(SONAMES[0], use_errno=True)
    except OSError as error:
        raise KernelRefused(f"BPF LSM needs libbpf 1: {error}", hint="install libbpf1") from error
    library.btf__load_vmlinux_btf.restype = c_void_p
    library.btf__find_by_name_kind.argtypes = (c_void_p, c_char_p, c_uint32)
    library.btf__find_by_name_kind.restype = c_int32
    library.btf__type_by_id.argtypes = (c_void_p, c_uint32)
    library.btf__type_by_id.restype = c_void_p
    library.btf__name_by_offset.argtypes = (c_void_p, c_uint32)
    library.btf__name_by_offset.restype = c_char_p
    return library
