"""A FUSE mount with one file, whose server does not answer everything: whoever asks for that waits, unkillable.

Run as a file of its own it is the server (`python -I fuse.py DEVICE FOLDER SILENT...`): it mounts, says so in one line
and answers until it is killed. Only what a test needs is answered, <linux/fuse.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

NAME = "file"
SIZE_BYTES = 1 << 24
READ_BYTES = 1 << 18
ASKED_TIMEOUT_S = 8.0
MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2
ROOT_NODE, FILE_NODE = 1, 2

HEADER_IN = struct.Struct("=IIQQIIIHH")
"""struct fuse_in_header: length, opcode, unique, node, uid, gid, pid, and extensions."""
HEADER_OUT = struct.Struct("=IiQ")
"""struct fuse_out_header: length, error, unique."""
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
ENTRY_OUT = struct.Struct("=QQQQII")
"""struct fuse_entry_out without the attributes: node, generation, and how long each is good for."""
ATTR_OUT = struct.Struct("=QII")
ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
OPEN_OUT = struct.Struct("=QII")
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE = 1, 2
"""Without the second who opens the file waits for what is being read of it."""
READ_IN = struct.Struct("=QQI")
"""The first of struct fuse_read_in: file handle, offset, size."""

OPS = {
    1: "LOOKUP",
    2: "FORGET",
    3: "GETATTR",
    14: "OPEN",
    15: "READ",
    16: "WRITE",
    18: "RELEASE",
    25: "FLUSH",
    26: "INIT",
    36: "INTERRUPT",
    42: "BATCH_FORGET",
}
UNANSWERED = frozenset({"FORGET", "BATCH_FORGET", "INTERRUPT"})
"""Nobody waits for an answer to these."""


class CannotMount(Exception):
    """There is no FUSE here."""


class Mount:
    """A server in a process of its own, and what it serves."""

    def __init__(self, folder: Path, *silent: str) -> None:
        """`silent` names what is never answered: "READ", "WRITE", "GETATTR", "FLUSH"."""
        self.folder, self._device = folder / "mounted", folder / "fuse"
        self.folder.mkdir()
        os.mknod(self._device, stat.S_IFCHR | 0o600, os.makedev(10, 229))
        command = [sys.executable, "-I", __file__, str(self._device), str(self.folder), *silent]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "mounted\n":
            self._server.kill()
            raise CannotMount(self._server.communicate()[1].strip())
        self._connection = _connection(self.folder)

    @property
    def file(self) -> Path:
        """The only one."""
        return self.folder / NAME

    def await_asked(self) -> None:
        """Until somebody waits for what is not answered."""
        assert self._server.stdout is not None
        assert select.select([self._server.stdout], [], [], ASKED_TIMEOUT_S)[0], "nobody asks"
        os.read(self._server.stdout.fileno(), 1)

    def close(self) -> None:
        """End whoever waits. A server that is gone ends its connection, too."""
        with suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{self._connection}/abort").write_text("1")
        self._server.kill()
        self._server.communicate()
        ctypes.CDLL(None).umount2(os.fsencode(self.folder), MNT_DETACH)


def _connection(folder: Path) -> int:
    """By the list of mounts: nothing that is there may be asked for."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return int(next(words[2] for words in lines if words[4] == str(folder)).partition(":")[2])


def serve(device: str, folder: str, silent: list[str]) -> None:
    """Mount and answer."""
    fd = os.open(device, os.O_RDWR)
    options = f"fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"wd-test", folder.encode(), b"fuse", MS_NOSUID | MS_NODEV, options) < 0:
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    while True:
        with suppress(InterruptedError, FileNotFoundError):  # the second: who asked has gone
            answer(fd, os.read(fd, READ_BYTES), silent)


def answer(fd: int, asked: bytes, silent: list[str]) -> None:
    """One question."""
    _, opcode, unique, node, *_ = HEADER_IN.unpack_from(asked)
    op = OPS.get(opcode, "")
    if op in silent:
        os.write(1, b".")
        return
    if op in UNANSWERED:
        return
    error, body = answer_to(op, node, asked[HEADER_IN.size :])
    os.write(fd, HEADER_OUT.pack(HEADER_OUT.size + len(body), -error, unique) + body)


def answer_to(op: str, node: int, body: bytes) -> tuple[int, bytes]:
    """An error or what is asked for. Nothing may be kept: the next one asks again."""
    if op == "INIT":
        major, minor, read_ahead, *_ = struct.unpack_from("=IIII", body)
        return 0, INIT_OUT.pack(major, min(minor, 31), read_ahead, 0, 16, 12, 1 << 16, 1, 0, 0, 0)
    if op == "LOOKUP" and body.rstrip(b"\0") == NAME.encode():
        return 0, ENTRY_OUT.pack(FILE_NODE, 0, 0, 0, 0, 0) + attributes(FILE_NODE)
    if op == "LOOKUP":
        return errno.ENOENT, b""
    if op == "GETATTR":
        return 0, ATTR_OUT.pack(0, 0, 0) + attributes(node)
    if op == "OPEN":
        past_the_cache = FOPEN_DIRECT_IO if int.from_bytes(body[:4], sys.byteorder) & os.O_APPEND else 0
        return 0, OPEN_OUT.pack(0, FOPEN_KEEP_CACHE | past_the_cache, 0)
    if op == "READ":
        return 0, bytes(READ_IN.unpack_from(body)[2])
    return (0, b"") if op in {"RELEASE", "FLUSH"} else (errno.ENOSYS, b"")


def attributes(node: int) -> bytes:
    """struct fuse_attr."""
    mode = stat.S_IFDIR | 0o755 if node == ROOT_NODE else stat.S_IFREG | 0o666
    return ATTR.pack(node, SIZE_BYTES, SIZE_BYTES >> 9, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3:])
