"""The hold: a cgroup's packets stop at once, for as long as this process wants and lives, and no longer.

An isolation asks the safety rails, writes down what is meant, and attaches programs that last; each of these takes
longer than to stop the packets. So they stop first, by bpf links that nobody pins: they end with `lift`, and with the
process, however it ends. What cannot outlive us need not be in the journal, and nothing that can is done before it is.

It is asked of bpf(2) itself, and nothing is imported that ctypes does not import anyway: a command holds before it has
imported the rest of itself (watchdog/early.py), and loading libbpf alone would take as long as this.
"""

from __future__ import annotations

import ctypes
import os
import struct

NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
"""Of the system call bpf(2), by machine; anywhere else there is no hold, and an isolation begins with its journal."""
PROG_LOAD, PROG_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD, PROG_QUERY, LINK_CREATE = 5, 13, 15, 16, 28
"""enum bpf_cmd. Links to cgroups since Linux 5.7."""
CGROUP_SKB = 8
EGRESS, INGRESS = 1, 0
"""BPF_CGROUP_INET_EGRESS and _INGRESS: watchdog.kernel.programs.Hook, which takes long to import."""
DROP_ALL = bytes.fromhex("b7000000000000009500000000000000")
"""r0 = 0; exit. The same bytes whatever the byte order: all but the two opcodes are zeros."""
LICENSE = b"GPL\0"
NAME = b"wd_hold"
OUR_PREFIX = b"wd_"
MOST_PROGRAMS = 64
"""BPF_CGROUP_MAX_PROGS."""
ATTRIBUTE_BYTES = 128
"""Of union bpf_attr, the rest zeros: Linux 6.17 and some later write a query's revision at its place, 56, however few
bytes there are."""
INFO_BYTES, NAME_AT, NAME_BYTES = 80, 64, 16
"""struct bpf_prog_info as far as the name."""

_NUMBER = NUMBERS.get(os.uname().machine)
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype, _syscall.argtypes = ctypes.c_long, (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong)

_loaded: list[int] = []


class Hold:
    """Holds nothing until it is told to; a context manager that lifts at its end."""

    def __init__(self) -> None:
        self._links: dict[str, list[int]] = {}

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()

    @property
    def held(self) -> tuple[str, ...]:
        """The cgroups whose packets it stops."""
        return tuple(self._links)

    def stop(self, cgroup: str) -> bool:
        """Drop every packet of the cgroup's sockets, both ways; False where the kernel or another tool refuses."""
        if cgroup in self._links:
            return True
        links: list[int] = []
        try:
            program = load()
            with _Opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)) as place:
                for hook in (EGRESS, INGRESS):  # what it sends first
                    links.append(_bpf(LINK_CREATE, struct.pack("=4I", program, place, hook, 0)))
        except OSError:
            _close(links)
            return False
        except KeyboardInterrupt:
            _close(links)
            raise
        self._links[cgroup] = links
        return True

    def lift(self) -> None:
        """Let the packets pass again, as far as nothing else stops them. Twice is the same as once."""
        for links in self._links.values():
            _close(links)
        self._links.clear()


def carries_ours(cgroup: str) -> bool:
    """Whether a program of the mesh is attached there: it may let pass what an allow-list says, and a hold would not.

    OSError where it cannot be asked.
    """
    return any(name.startswith(OUR_PREFIX) for name in _attached(cgroup).values())


def holders(cgroup: str) -> list[int]:
    """The processes that hold a cgroup, this one among them, as far as /proc shows their descriptors.

    OSError where the cgroup cannot be asked.
    """
    programs = {str(program_id) for program_id, name in _attached(cgroup).items() if name == NAME}
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if programs and _links(pid) & programs]


def _attached(cgroup: str) -> dict[int, bytes]:
    """The programs that see what a cgroup sends, by id, with their names."""
    with _Opened(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)) as place:
        ids = (ctypes.c_uint32 * MOST_PROGRAMS)()
        about = bytearray(struct.pack("=4IQI", place, EGRESS, 0, 0, ctypes.addressof(ids), MOST_PROGRAMS))
        _bpf(PROG_QUERY, about)
        (count,) = struct.unpack_from("=I", about, len(about) - 4)
        return {program_id: _name(program_id) for program_id in ids[:count]}


def _links(pid: int) -> set[str]:
    """The ids of the programs whose links a process has open (fdinfo of a bpf link: proc_pid_fdinfo(5))."""
    found: set[str] = set()
    folder = f"/proc/{pid}/fdinfo"
    try:
        for fd in os.listdir(folder):
            with open(f"{folder}/{fd}", encoding="ascii", errors="replace") as file:
                fields = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
            found |= {fields.get("prog_id", "")} if "link_id" in fields else set()
    except OSError:
        return found  # it ended meanwhile
    return found


class _Opened:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def load() -> int:
    """Have the program ready, once for this process: verifying it takes half of the time. OSError where refused."""
    if not _loaded:
        _loaded.append(_load())
    return _loaded[0]


def _load() -> int:
    code, license_ = (ctypes.create_string_buffer(text, len(text)) for text in (DROP_ALL, LICENSE))
    instructions = len(DROP_ALL) // 8
    addresses = ctypes.addressof(code), ctypes.addressof(license_)
    return _bpf(PROG_LOAD, struct.pack("=IIQQIIQII16s", CGROUP_SKB, instructions, *addresses, 0, 0, 0, 0, 0, NAME))


def _name(program_id: int) -> bytes:
    info = ctypes.create_string_buffer(INFO_BYTES)
    with _Opened(_bpf(PROG_GET_FD_BY_ID, struct.pack("=3I", program_id, 0, 0))) as program:
        _bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, INFO_BYTES, ctypes.addressof(info)))
    return info.raw[NAME_AT : NAME_AT + NAME_BYTES].rstrip(b"\0")


def _bpf(command: int, attributes: bytes | bytearray) -> int:
    """One call; a bytearray gets the kernel's answer. OSError where it refuses, or where its number is not known."""
    if _NUMBER is None:
        raise OSError(f"no bpf(2) known on {os.uname().machine}")
    buffer = ctypes.create_string_buffer(bytes(attributes), ATTRIBUTE_BYTES)
    answer = int(_syscall(_NUMBER, command, buffer, ATTRIBUTE_BYTES))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if isinstance(attributes, bytearray):
        attributes[:] = buffer.raw[: len(attributes)]
    return answer


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
