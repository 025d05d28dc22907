"""Sending frames through AF_XDP with nothing but the standard library; part of inside.py, imports nothing of ours.

Layouts are <uapi/linux/if_xdp.h>. Copy mode: no driver support is needed, and frames leave past every qdisc.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import socket
import struct

AF_XDP = 44
SOL_XDP = 283
XDP_MMAP_OFFSETS, XDP_TX_RING, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING = 1, 3, 4, 5, 6
XDP_COPY = 2
TX_RING_AT = 0x80000000
"""XDP_PGOFF_TX_RING."""

FRAME_BYTES = 4096
FRAMES = 16
OFFSETS_BYTES = 16 * 8
DESCRIPTOR_BYTES = 16


def register_memory(sock: socket.socket) -> mmap.mmap:
    """Give the socket memory for frames: the first setsockopt that any use of it needs."""
    memory = mmap.mmap(-1, FRAMES * FRAME_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    sock.setsockopt(SOL_XDP, XDP_UMEM_REG, struct.pack("=QQII", address, FRAMES * FRAME_BYTES, FRAME_BYTES, 0))
    return memory


class XdpSender:
    """A socket bound to one queue of a device, ready to send."""

    def __init__(self, sock: socket.socket, device: str, queue: int) -> None:
        self._sock = sock
        self._memory = register_memory(sock)
        for ring in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING):
            sock.setsockopt(SOL_XDP, ring, struct.pack("=I", FRAMES))
        offsets = struct.unpack("=16Q", sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, OFFSETS_BYTES))
        self._producer, _, self._descriptors, _ = offsets[4:8]
        self._bind(device, queue)
        length = self._descriptors + FRAMES * DESCRIPTOR_BYTES
        self._ring = mmap.mmap(sock.fileno(), length, offset=TX_RING_AT, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)

    def send(self, frame: bytes) -> None:
        """Put one frame into the ring and wake the kernel both ways it knows: a send, and a poll."""
        index = struct.unpack_from("=I", self._ring, self._producer)[0]
        slot = index % FRAMES
        self._memory[slot * FRAME_BYTES : slot * FRAME_BYTES + len(frame)] = frame
        at = self._descriptors + slot * DESCRIPTOR_BYTES
        struct.pack_into("=QII", self._ring, at, slot * FRAME_BYTES, len(frame), 0)
        struct.pack_into("=I", self._ring, self._producer, index + 1)
        poller = select.poll()
        poller.register(self._sock, select.POLLOUT)
        poller.poll(0)
        self._checked(_libc().sendto(self._sock.fileno(), None, 0, socket.MSG_DONTWAIT, None, 0))

    def _bind(self, device: str, queue: int) -> None:
        address = struct.pack("=HHIII", AF_XDP, XDP_COPY, socket.if_nametoindex(device), queue, 0)
        self._checked(_libc().bind(self._sock.fileno(), address, len(address)))

    def _checked(self, result: int) -> None:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
