"""The smallest cgroup_skb programs, without a compiler: for tests of what systemd does with pinned programs, and as
another tool's that must stay.

Call these inside the test bed (Testbed.call).
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

CGROUP_SKB = 8  # BPF_PROG_TYPE_CGROUP_SKB, linux/bpf.h
INGRESS, EGRESS = 0, 1  # BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET_EGRESS
ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI
DROP = 0
MOST = 64
CGROUPS = Path("/sys/fs/cgroup")


def _libbpf() -> ctypes.CDLL:
    return ctypes.CDLL("libbpf.so.1", use_errno=True)


def _check(status: int, what: str) -> int:
    if status < 0:
        raise OSError(-status, f"{what}: {os.strerror(-status)}")
    return status


def pin(path: Path) -> None:
    """Pin a program that drops every packet."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, DROP) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = DROP; exit
    fd = _check(_libbpf().bpf_prog_load(CGROUP_SKB, b"wd_test", b"GPL", code, 2, None), "load")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _check(_libbpf().bpf_obj_pin(fd, str(path).encode()), "pin")
    finally:
        os.close(fd)


def attach(path: Path, cgroup: str, hook: int) -> None:
    """Attach a pinned program directly, as an isolation does first."""
    program = _check(_libbpf().bpf_obj_get(str(path).encode()), "open pin")
    directory = os.open(f"{CGROUPS}{cgroup}", os.O_RDONLY)
    try:
        _check(_libbpf().bpf_prog_attach(program, directory, hook, ALLOW_MULTI), "attach")
    finally:
        os.close(program)
        os.close(directory)


def attached(cgroup: str) -> tuple[int, int]:
    """How many programs are attached to a cgroup itself: ingress, egress."""
    directory = os.open(f"{CGROUPS}{cgroup}", os.O_RDONLY)
    try:
        return _count(directory, INGRESS), _count(directory, EGRESS)
    finally:
        os.close(directory)


def _count(directory: int, hook: int) -> int:
    count = ctypes.c_uint32(MOST)
    ids = (ctypes.c_uint32 * MOST)()
    _check(_libbpf().bpf_prog_query(directory, hook, 0, None, ids, ctypes.byref(count)), "query")
    return count.value


COUNTING = "other_counter"
COUNTS = Path("/sys/fs/bpf/wd-test-counts")
ARRAY = 2  # BPF_MAP_TYPE_ARRAY
COUNT_AND_PASS = (  # code, destination | source << 4, offset, immediate
    (0x62, 10, -4, 0),  # *(u32 *)(r10 - 4) = 0
    (0xBF, 2 | 10 << 4, 0, 0),  # r2 = r10
    (0x07, 2, 0, -4),  # r2 += -4
    (0x85, 0, 0, 1),  # call bpf_map_lookup_elem
    (0x15, 0, 2, 0),  # if r0 == 0 goto +2
    (0xB7, 1, 0, 1),  # r1 = 1
    (0xDB, 0 | 1 << 4, 0, 0),  # lock *(u64 *)(r0 + 0) += r1
    (0xB7, 0, 0, 1),  # r0 = pass
    (0x95, 0, 0, 0),  # exit
)


def start_counting(cgroup: str) -> None:
    """Attach, as another tool, a program that counts what leaves and lets it pass."""
    counts = _check(_libbpf().bpf_map_create(ARRAY, b"other_counts", 4, 8, 1, None), "make a map")
    the_map = struct.pack("=BBhi", 0x18, 1 | 1 << 4, 0, counts) + bytes(8)  # r1 = the map
    code = the_map + b"".join(struct.pack("=BBhi", *each) for each in COUNT_AND_PASS)
    program = _check(_libbpf().bpf_prog_load(CGROUP_SKB, COUNTING.encode(), b"GPL", code, len(code) // 8, None), "load")
    directory = os.open(f"{CGROUPS}{cgroup}", os.O_RDONLY)
    try:
        _check(_libbpf().bpf_obj_pin(counts, str(COUNTS).encode()), "pin")
        _check(_libbpf().bpf_obj_pin(program, f"{COUNTS}-program".encode()), "pin")
        _check(_libbpf().bpf_prog_attach(program, directory, EGRESS, ALLOW_MULTI), "attach")
    finally:
        for fd in (counts, program, directory):
            os.close(fd)


def counted() -> int:
    """What it has counted."""
    counts = _check(_libbpf().bpf_obj_get(str(COUNTS).encode()), "open pin")
    try:
        value = ctypes.c_uint64()
        _check(_libbpf().bpf_map_lookup_elem(counts, bytes(4), ctypes.byref(value)), "read")
        return value.value
    finally:
        os.close(counts)


def stop_counting(cgroup: str) -> None:
    """Take it away again; an error where it is not there any more."""
    program = _check(_libbpf().bpf_obj_get(f"{COUNTS}-program".encode()), "open pin")
    directory = os.open(f"{CGROUPS}{cgroup}", os.O_RDONLY)
    try:
        _check(_libbpf().bpf_prog_detach2(program, directory, EGRESS), "detach")
    finally:
        os.close(program)
        os.close(directory)
        COUNTS.unlink()
        COUNTS.with_name(f"{COUNTS.name}-program").unlink()
