"""Other tools' programs that pass data from socket to socket (sockmap): no packet of it is ever made.

Which sockets are in their maps the kernel does not show: that one is loaded is enough to count.
"""

from __future__ import annotations

import errno
from functools import lru_cache

from watchdog.kernel import libbpf
from watchdog.kernel.libbpf import BpfRefused
from watchdog.kernel.programs import ProgramType

REMEMBERED = 8192


def is_loaded() -> bool:
    """Whether any such program is. BpfRefused where we may not look."""
    return any(_splices(program_id) for program_id in libbpf.program_ids())


def _splices(program_id: int) -> bool:
    try:
        return _type_of(program_id) in {ProgramType.SK_SKB, ProgramType.SK_MSG}
    except BpfRefused as error:
        if error.code == errno.ENOENT:  # gone meanwhile
            return False
        raise


@lru_cache(maxsize=REMEMBERED)
def _type_of(program_id: int) -> int:
    """An id is not given out again."""
    return libbpf.prog_info_of(program_id).type
