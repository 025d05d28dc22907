"""The smallest cgroup_skb programs, without a compiler: for tests of what systemd does with pinned programs.

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
