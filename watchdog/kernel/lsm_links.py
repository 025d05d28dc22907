"""BPF programs at the hooks of the kernel's security modules, through libbpf: load them, attach them by links.

Such an attachment is a bpf link, and lives as long as somebody holds the link: a pin does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path

from watchdog.errors import KernelRefused
from watchdog.kernel import btf, libbpf
from watchdog.kernel.libbpf import BpfRefused, ProgramInfo

LSM_TYPE = 29
"""BPF_PROG_TYPE_LSM."""
_LSM_MAC = 27
"""BPF_LSM_MAC, the only attach type such programs have here."""

_HOOK_PREFIX = "bpf_lsm_"
"""Of the functions in the kernel that such programs are attached to."""

_LICENSE = b"GPL"
"""bpf_probe_read_kernel() demands it; the sources are under it, too."""

_RETURN_0 = struct.pack("=QQ", 0xB7, 0x95)
"""BPF_MOV64_IMM of 0 to R0, and BPF_EXIT."""

_LOG_BYTES = 65536
_INSTRUCTION_BYTES = 8


class _LoadOptions(ctypes.Structure):
    """The beginning of struct bpf_prog_load_opts of libbpf 1."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_char_p),
    )


class _LinkInfo(ctypes.Structure):
    """The beginning of struct bpf_link_info, and room for what a kernel adds."""

    _fields_ = (("type", c_uint32), ("id", c_uint32), ("prog_id", c_uint32), ("rest", c_uint32 * 61))


def load(name: str, hook: str, code: bytes) -> int:
    """Load instructions as a program for one hook; the descriptor is the caller's.

    KernelRefused says whether it is the hook, the kernel's policy or the verifier.
    """
    btf_id = btf.function_id(f"{_HOOK_PREFIX}{hook}")
    if btf_id is None:
        raise KernelRefused(f"this kernel has no BPF LSM hook {hook}")
    fd, said = _load(name, code, btf_id, with_log=False)
    if fd >= 0:
        return fd
    if -fd == errno.EPERM:
        raise KernelRefused(f"the kernel refuses BPF LSM programs: EPERM ({os.strerror(errno.EPERM)})")
    fd, said = _load(name, code, btf_id, with_log=True)
    raise KernelRefused(f"the kernel refused to load {name}: {os.strerror(-fd)}: {_last_line(said)}")


def try_one() -> None:
    """Load the smallest such program and let it go. KernelRefused as for any: nothing then needs to be compiled."""
    os.close(load("wd_lsm_try", "bpf", _RETURN_0))


def attach(prog_fd: int, pin: Path) -> None:
    """Attach a program and pin the link. BpfRefused where either fails; nothing is attached then."""
    # Not bpf_link_create(): before Linux 6.0 it does not know such programs.
    link_fd = _library().bpf_raw_tracepoint_open(None, prog_fd)
    if link_fd < 0:
        code = ctypes.get_errno()
        raise BpfRefused(f"cannot attach {pin.name} to its LSM hook: {os.strerror(code)}", code=code)
    try:
        libbpf.obj_pin(link_fd, pin)
    finally:
        os.close(link_fd)


def linked_program(pin: Path) -> ProgramInfo | None:
    """The program that a pinned link attaches; None where there is no such pin."""
    try:
        with libbpf.obj_get(pin) as link_fd:
            info = _LinkInfo()
            length = c_uint32(ctypes.sizeof(info))
            if _library().bpf_obj_get_info_by_fd(link_fd, ctypes.byref(info), ctypes.byref(length)) < 0:
                code = ctypes.get_errno()
                raise BpfRefused(f"cannot read the link {pin}: {os.strerror(code)}", code=code)
            return libbpf.prog_info_of(info.prog_id)
    except BpfRefused as error:
        if error.code == errno.ENOENT:
            return None
        raise


def _load(name: str, code: bytes, btf_id: int, *, with_log: bool) -> tuple[int, str]:
    """The descriptor or -errno, and what the verifier said."""
    log = ctypes.create_string_buffer(_LOG_BYTES if with_log else 1)
    options = _LoadOptions(
        sz=ctypes.sizeof(_LoadOptions),
        expected_attach_type=_LSM_MAC,
        attach_btf_id=btf_id,
        log_level=1 if with_log else 0,
        log_size=_LOG_BYTES if with_log else 0,
        log_buf=ctypes.cast(log, c_char_p) if with_log else None,
    )
    count = len(code) // _INSTRUCTION_BYTES
    fd = _library().bpf_prog_load(LSM_TYPE, name.encode(), _LICENSE, code, count, ctypes.byref(options))
    return fd if fd >= 0 else -ctypes.get_errno(), log.value.decode(errors="replace")


def _last_line(text: str) -> str:
    """Of the verifier's words, the reason; statistics come after it."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("processed ")]
    return lines[-1] if lines else "it said nothing"


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(libbpf.SONAMES[0], use_errno=True)
    except OSError as error:
        raise KernelRefused(f"BPF LSM needs libbpf 1: {error}", hint="install libbpf1") from error
    library.bpf_prog_load.argtypes = (c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p)
    library.bpf_raw_tracepoint_open.argtypes = (c_char_p, c_int)
    library.bpf_obj_get_info_by_fd.argtypes = (c_int, c_void_p, c_void_p)
    return library
