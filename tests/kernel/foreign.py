"""Another tool's programs, loaded and attached as other tools do it: past our door, with any flags."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from watchdog.kernel import libbpf
from watchdog.kernel.programs import Hook

EXCLUSIVE, OVERRIDE, MULTI = 0, 1, 2

_CGROUP_SKB = 8
_MOV64_IMM, _MOV64_REG, _ADD64_IMM, _EXIT = 0xB7, 0xBF, 0x07, 0x95
_LOAD32, _LOAD64, _STORE8_IMM, _STORE32 = 0x61, 0x79, 0x72, 0x63
_JUMP_NE_IMM, _JUMP_GT_REG = 0x55, 0x2D

LEVEL, LENGTH, RESULT = 24, 32, 36
"""Where struct bpf_sockopt in <linux/bpf.h> has level, optlen and retval."""
_VALUE, _VALUE_END = 8, 16


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


def load(name: str, verdict: int = 1, hook: Hook = Hook.INGRESS, kind: int = _CGROUP_SKB, before: bytes = b"") -> int:
    """The descriptor of a program that answers `verdict` to everything, of a type and for a hook, after its code."""
    code = before + _instruction(_MOV64_IMM, imm=verdict) + _instruction(_EXIT)
    options = _Options(size=ctypes.sizeof(_Options), expected_attach_type=hook)
    return _ok(_library().bpf_prog_load(kind, name.encode(), b"GPL", code, len(code) // 8, ctypes.byref(options)))


def sockopt_code(level: int, length: int, value: int, fields: Mapping[int, int]) -> bytes:
    """For options of a level and a length: make the first byte of the value this one, and put numbers into the
    context's fields."""
    put = [
        _instruction(_STORE8_IMM, 3, imm=value),
        *(
            each
            for at, number in fields.items()
            for each in (_instruction(_MOV64_IMM, 2, imm=number), _instruction(_STORE32, 1, 2, at))
        ),
    ]
    bounded = [
        _instruction(_LOAD64, 3, 1, _VALUE),
        _instruction(_LOAD64, 4, 1, _VALUE_END),
        _instruction(_MOV64_REG, 5, 3),
        _instruction(_ADD64_IMM, 5, imm=1),
        _instruction(_JUMP_GT_REG, 5, 4, len(put)),
        *put,
    ]
    chosen = [
        _instruction(_LOAD32, 2, 1, LEVEL),
        _instruction(_JUMP_NE_IMM, 2, 0, len(bounded) + 2, level),
        _instruction(_LOAD32, 2, 1, LENGTH),
        _instruction(_JUMP_NE_IMM, 2, 0, len(bounded), length),
    ]
    return b"".join([*chosen, *bounded])


def _instruction(code: int, to: int = 0, of: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    """struct bpf_insn."""
    return struct.pack("=BBhi", code, of << 4 | to, offset, imm)


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
