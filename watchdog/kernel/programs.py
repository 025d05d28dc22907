"""What bpf/ holds, as data: the names, types and hooks of our programs and the maps beside them.

The numbers are the kernel's (enum bpf_prog_type, enum bpf_attach_type in <uapi/linux/bpf.h>) and never change.
A new layer is a new C file in bpf/ and a new `ProgramSet` here; builder, slots and stale pins follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

OUR_PREFIX = "wd_"
"""Every name of ours starts with it: programs, maps and pins."""

COUNT_MAP = "wd_count"
"""Packets and bytes dropped, per hook and per CPU (struct wd_traffic in bpf/wd.h)."""


class Hook(IntEnum):
    """Where a program is attached: enum bpf_attach_type."""

    INGRESS = 0
    EGRESS = 1


class ProgramType(IntEnum):
    """What a program may see and call: enum bpf_prog_type."""

    CGROUP_SKB = 8


@dataclass(frozen=True, slots=True)
class Program:
    """One function of a C source; its pin carries the same name."""

    name: str
    type: ProgramType
    hook: Hook


@dataclass(frozen=True, slots=True)
class ProgramSet:
    """One C source: its programs and the maps they share, compiled and pinned together."""

    source: str
    programs: tuple[Program, ...]
    maps: tuple[str, ...]


INGRESS = Program("wd_ingress", ProgramType.CGROUP_SKB, Hook.INGRESS)
EGRESS = Program("wd_egress", ProgramType.CGROUP_SKB, Hook.EGRESS)

CGROUP_SKB = ProgramSet(
    source="cgroup_skb.c",
    programs=(INGRESS, EGRESS),
    maps=(COUNT_MAP,),
)

SETS: tuple[ProgramSet, ...] = (CGROUP_SKB,)
"""What a slot consists of: all of them, or it is no slot."""
