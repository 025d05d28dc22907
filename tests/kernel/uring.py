"""io_uring for an agent of the tests: chains of timeouts and sends, and an instance without a descriptor."""

from __future__ import annotations

import pytest

from tests.kernel.inside import Inside

RING = r"""
import mmap

SETUP, ENTER, REGISTER = 425, 426, 427
REGISTER_FILES, REGISTER_RING_FDS = 2, 20
OP_TIMEOUT, OP_SEND = 11, 26
FIXED_FILE, IO_LINK = 1, 4
ETIME_IS_SUCCESS = 1 << 5
ENTER_REGISTERED = 1 << 4
OFF_SQES = 0x10000000
SQE_BYTES, CQE_BYTES = 64, 16


class Ring:
    def __init__(self):
        params = ctypes.create_string_buffer(120)
        self.fd = self.at = checked(LIBC.syscall(SETUP, 8, params))
        self.flags, self.kept = 0, []
        words = struct.unpack('30I', params.raw)
        self.tail, self.mask, self.array = words[11], words[12], words[16]
        self.ring = mmap.mmap(self.fd, words[25] + words[1] * CQE_BYTES + words[0] * 4)
        self.entries = mmap.mmap(self.fd, words[0] * SQE_BYTES, offset=OFF_SQES)

    def keep(self, data):
        self.kept.append(ctypes.create_string_buffer(data, len(data)))
        return ctypes.addressof(self.kept[-1])

    def register(self, number, data, count):
        checked(LIBC.syscall(REGISTER, self.fd, number, ctypes.c_void_p(self.keep(data)), count))

    def register_file(self, fd):
        self.register(REGISTER_FILES, struct.pack('i', fd), 1)

    def hide(self):
        self.register(REGISTER_RING_FDS, struct.pack('IIQ', 0xffffffff, 0, self.fd), 1)
        self.at, self.flags = struct.unpack_from('I', self.kept[-1].raw)[0], ENTER_REGISTERED
        for name in os.listdir('/proc/self/fd'):
            path = '/proc/self/fd/' + name
            if os.path.islink(path) and 'io_uring' in os.readlink(path):  # mmap.mmap has one of its own
                os.close(int(name))

    def submit(self, *entries):
        begin = struct.unpack_from('I', self.ring, self.tail)[0]
        mask = struct.unpack_from('I', self.ring, self.mask)[0]
        for step, entry in enumerate(entries):
            place = begin + step & mask
            self.entries[place * SQE_BYTES : (place + 1) * SQE_BYTES] = entry
            struct.pack_into('I', self.ring, self.array + 4 * place, place)
        struct.pack_into('I', self.ring, self.tail, begin + len(entries))
        checked(LIBC.syscall(ENTER, self.at, len(entries), 0, self.flags, 0, 0))

    def wait(self, seconds):
        until = self.keep(struct.pack('qq', seconds, 0))
        return struct.pack('BBHiQQIIQ24x', OP_TIMEOUT, IO_LINK, 0, -1, 0, until, 1, ETIME_IS_SUCCESS, 0)

    def send(self, fd, data, flags=0):
        return struct.pack('BBHiQQIIQ24x', OP_SEND, flags, 0, fd, 0, self.keep(data), len(data), 0, 0)
"""


def with_ring(inside: Inside) -> Inside:
    """Give an agent that has its helpers a `ring`; a skip where this kernel gives it none."""
    inside.run(RING)
    made = inside.outcome("ring = Ring()")
    if made != "pass":
        pytest.skip(f"no io_uring here: {made}")
    return inside
