"""Another tool's programs, loaded and attached as other tools do it: past our door, with any flags."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from watchdog.kernel import libbpf
from watchdog.kernel.programs import Hook

EXCLUSIVE, OVERRIDE, MULTI = 0, 1, 2

_CGROUP_SKB = 8
_MOV64_R0_IMM, _EXIT = 0xB7, 0x95


class _Options(ctypes.Structure):
    """The beginning of struct bpf_prog_load_opts."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_int),
        ("rest", ctypes.c_uint64 * 30),
    )


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(libbpf.SONAMES[0], use_errno=True)


def _ok(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def load(name: str, verdict: int = 1, hook: Hook = Hook.INGRESS, kind: int = _CGROUP_SKB) -> int:
    """The descriptor of a program that answers `verdict` to everything, of a type and for a hook."""
    code = struct.pack("=BBhi", _MOV64_R0_IMM, 0, 0, verdict) + struct.pack("=BBhi", _EXIT, 0, 0, 0)
    options = _Options(size=ctypes.sizeof(_Options), expected_attach_type=hook)
    return _ok(_library().bpf_prog_load(kind, name.encode(), b"GPL", code, len(code) // 8, ctypes.byref(options)))


def attach(fd: int, cgroup: Path, hook: Hook, flags: int) -> None:
    with _opened(cgroup) as cgroup_fd:
        _ok(_library().bpf_prog_attach(fd, cgroup_fd, hook, flags))


def link_tcx(fd: int, index: int, hook: int) -> int:
    """Attach to a link of this network namespace, before all filters; it holds as long as the returned descriptor."""
    return _ok(_library().bpf_link_create(fd, index, hook, None))


def link(fd: int, cgroup: Path, hook: Hook) -> int:
    """Attach by a bpf link; it holds as long as the returned descriptor."""
    with _opened(cgroup) as cgroup_fd:
        return _ok(_library().bpf_link_create(fd, cgroup_fd, hook, None))


def detach(fd: int, cgroup: Path, hook: Hook) -> None:
    with _opened(cgroup) as cgroup_fd:
        _ok(_library().bpf_prog_detach2(fd, cgroup_fd, hook))


def snapshot(cgroup: Path) -> list[tuple[Hook, int, libbpf.ProgramInfo]]:
    """Hook, flags and everything the kernel says of each program attached to the cgroup."""
    with _opened(cgroup) as fd:
        views = {hook: _query(fd, hook) for hook in Hook}
    return [(hook, view.flags, libbpf.prog_info_of(i)) for hook, view in views.items() for i in view.ids]


def _query(fd: int, hook: Hook) -> libbpf.Attached:
    try:
        return libbpf.prog_query(fd, hook)
    except libbpf.BpfRefused as error:
        if error.code == errno.EINVAL:  # a hook that this kernel does not have
            return libbpf.Attached(0, ())
        raise


@contextmanager
def _opened(cgroup: Path) -> Iterator[int]:
    fd = os.open(cgroup, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
