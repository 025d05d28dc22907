"""What bpf/ holds, as data: the names, types and hooks of our programs and the maps beside them.

The numbers are the kernel's (enum bpf_prog_type, enum bpf_attach_type in <uapi/linux/bpf.h>) and never change.
A new layer is a new C file in bpf/ and a new `ProgramSet` here; builder, slots and stale pins follow from it.

Two kinds of sets: those of a *slot* have maps that belong to one isolation, so there are as many copies as
isolations; the *common* ones are the same for all of them, so there is one copy, pinned beside the slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

OUR_PREFIX = "wd_"
"""Every name of ours starts with it: programs, maps and pins."""

COUNT_MAP = "wd_count"
"""Packets and bytes dropped and let pass, per hook and per CPU (struct wd_traffic in bpf/wd.h)."""

TALLY_MAP, FLOWS_MAP, EVENTS_MAP = "wd_tally", "wd_flows", "wd_events"
"""Who was talked to: how much of it is known, every flow, and each flow's first packet. kernel/flows.py reads them."""

ALLOW_MAP = "wd_allow"
"""The allow-list, exchanged as a whole. kernel/allow.py writes it."""


class Hook(IntEnum):
    """Where on a cgroup a program is attached: enum bpf_attach_type."""

    INGRESS = 0
    EGRESS = 1
    SOCK_CREATE = 2
    DEVICE = 6
    BIND4 = 8
    BIND6 = 9
    CONNECT4 = 10
    CONNECT6 = 11
    SENDMSG4 = 14
    SENDMSG6 = 15
    GETSOCKOPT = 21
    SETSOCKOPT = 22
    UNIX_CONNECT = 49
    UNIX_SENDMSG = 50


class ProgramType(IntEnum):
    """What a program may see and call: enum bpf_prog_type."""

    SCHED_CLS = 3
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    SK_SKB = 14
    CGROUP_DEVICE = 15
    SK_MSG = 16
    CGROUP_SOCK_ADDR = 18
    CGROUP_SOCKOPT = 25
    LSM = 29


@dataclass(frozen=True, slots=True)
class Program:
    """One function of a C source; its pin carries the same name."""

    name: str
    type: ProgramType


@dataclass(frozen=True, slots=True)
class CgroupProgram(Program):
    """A program for one hook of a cgroup."""

    hook: Hook


@dataclass(frozen=True, slots=True)
class LsmProgram(Program):
    """A program for one hook of the kernel's security modules."""

    hook: str
    """Its name in <linux/lsm_hook_defs.h>."""


P = TypeVar("P", bound=Program, covariant=True)


@dataclass(frozen=True, slots=True)
class ProgramSet(Generic[P]):
    """One C source: its programs and the maps they share, compiled and pinned together."""

    source: str
    programs: tuple[P, ...]
    maps: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its programs."""
        return tuple(program.name for program in self.programs)


INGRESS = CgroupProgram("wd_ingress", ProgramType.CGROUP_SKB, Hook.INGRESS)
EGRESS = CgroupProgram("wd_egress", ProgramType.CGROUP_SKB, Hook.EGRESS)

GUARD_IN = CgroupProgram("wd_guard_in", ProgramType.CGROUP_SKB, Hook.INGRESS)
GUARD_OUT = CgroupProgram("wd_guard_out", ProgramType.CGROUP_SKB, Hook.EGRESS)
SHADOW_IN = CgroupProgram("wd_shadow_in", ProgramType.CGROUP_SKB, Hook.INGRESS)
SHADOW_OUT = CgroupProgram("wd_shadow_out", ProgramType.CGROUP_SKB, Hook.EGRESS)

GATE = (INGRESS, EGRESS, GUARD_IN, GUARD_OUT)
"""An isolation attaches all four. A unit's drop-in names the first two; at every daemon-reload systemd detaches what a
drop-in names and attaches it again, and the guards, which it does not know, hold in between."""

SHADOW = (SHADOW_IN, SHADOW_OUT)
"""These count what the gate would drop, and drop nothing."""

CGROUP_SKB = ProgramSet(
    source="cgroup_skb.c",
    programs=GATE + SHADOW,
    maps=(COUNT_MAP, TALLY_MAP, FLOWS_MAP, EVENTS_MAP, ALLOW_MAP),
)

SLOT_SETS: tuple[ProgramSet[Program], ...] = (CGROUP_SKB,)
"""What a slot consists of: all of them, or it is no slot."""

TRIED_MAP = "wd_tried"
"""Whom refused calls were for (struct wd_tried in bpf/calls.c). kernel/tried.py reads it."""

CALLS = ProgramSet(
    source="calls.c",
    programs=(
        CgroupProgram("wd_sock_create", ProgramType.CGROUP_SOCK, Hook.SOCK_CREATE),
        CgroupProgram("wd_connect4", ProgramType.CGROUP_SOCK_ADDR, Hook.CONNECT4),
        CgroupProgram("wd_connect6", ProgramType.CGROUP_SOCK_ADDR, Hook.CONNECT6),
        CgroupProgram("wd_bind4", ProgramType.CGROUP_SOCK_ADDR, Hook.BIND4),
        CgroupProgram("wd_bind6", ProgramType.CGROUP_SOCK_ADDR, Hook.BIND6),
        CgroupProgram("wd_sendmsg4", ProgramType.CGROUP_SOCK_ADDR, Hook.SENDMSG4),
        CgroupProgram("wd_sendmsg6", ProgramType.CGROUP_SOCK_ADDR, Hook.SENDMSG6),
    ),
    maps=("wd_calls", TRIED_MAP),
)

UNIX = ProgramSet(
    source="unix.c",
    programs=(
        CgroupProgram("wd_unix_connect", ProgramType.CGROUP_SOCK_ADDR, Hook.UNIX_CONNECT),
        CgroupProgram("wd_unix_sendmsg", ProgramType.CGROUP_SOCK_ADDR, Hook.UNIX_SENDMSG),
    ),
    maps=("wd_unix",),
)

OPTIONS = ProgramSet(
    source="options.c",
    programs=(CgroupProgram("wd_setsockopt", ProgramType.CGROUP_SOCKOPT, Hook.SETSOCKOPT),),
    maps=("wd_options",),
)

TAP_MAJORS_MAP = "wd_tap_majors"
"""Which majors are those of taps. kernel/taps.py writes it."""

DEVICES = ProgramSet(
    source="devices.c",
    programs=(CgroupProgram("wd_device", ProgramType.CGROUP_DEVICE, Hook.DEVICE),),
    maps=("wd_devices", TAP_MAJORS_MAP),
)

TC_EGRESS = ProgramSet(
    source="tc_egress.c",
    programs=(Program("wd_tc_egress", ProgramType.SCHED_CLS),),
    maps=("wd_tc_cgroups", "wd_tc_cookies", "wd_tc_count"),
)

TC_DROP = ProgramSet(
    source="tc_drop.c",
    programs=(
        Program("wd_tc_drop_in", ProgramType.SCHED_CLS),
        Program("wd_tc_drop_out", ProgramType.SCHED_CLS),
    ),
    maps=("wd_tc_cut", "wd_tc_tag"),
)

COOKIES_MAP = "wd_cookies"
"""Sockets that isolated agents have from elsewhere (struct wd_elsewhere in bpf/wd_sockets.h, by cookie)."""

MADE_COUNT_MAP, MADE_FLOWS_MAP = "wd_made_count", "wd_made_flows"
"""What was dropped of them by isolation, and who was talked to by them. kernel/elsewhere.py reads both."""

COOKIES = ProgramSet(
    source="cookies.c",
    programs=(
        CgroupProgram("wd_cookie_in", ProgramType.CGROUP_SKB, Hook.INGRESS),
        CgroupProgram("wd_cookie_out", ProgramType.CGROUP_SKB, Hook.EGRESS),
    ),
    maps=(COOKIES_MAP, MADE_COUNT_MAP, MADE_FLOWS_MAP),
)

WHOSE = CgroupProgram("wd_whose", ProgramType.CGROUP_SOCKOPT, Hook.GETSOCKOPT)
BELOW = CgroupProgram("wd_below", ProgramType.CGROUP_SOCKOPT, Hook.GETSOCKOPT)

OWNERS = ProgramSet(source="owners.c", programs=(WHOSE, BELOW), maps=("wd_owners",))

LSM_CONFIG_MAP, LSM_CGROUPS_MAP = "wd_lsm_config", "wd_lsm_cgroups"
"""Where to look, and who is isolated (struct wd_lsm_config, struct wd_lsm_isolated in bpf/lsm.c). kernel/lsm.py."""

LSM = ProgramSet(
    source="lsm.c",
    programs=tuple(
        LsmProgram(f"wd_lsm_{name}", ProgramType.LSM, hook)
        for name, hook in (
            ("create", "socket_create"),
            ("connect", "socket_connect"),
            ("bind", "socket_bind"),
            ("listen", "socket_listen"),
            ("accept", "socket_accept"),
            ("send", "socket_sendmsg"),
            ("receive", "socket_recvmsg"),
            ("option", "socket_setsockopt"),
            ("splice", "file_permission"),
            ("bpf", "bpf"),
            ("ptrace", "ptrace_access_check"),
            ("kill", "task_kill"),
            ("fork", "task_alloc"),
            ("open", "file_open"),
            ("unlink", "inode_unlink"),
            ("rename", "inode_rename"),
        )
    ),
    maps=(LSM_CONFIG_MAP, LSM_CGROUPS_MAP, "wd_lsm_count"),
)

COMMON_SETS: tuple[ProgramSet[Program], ...] = (
    CALLS,
    COOKIES,
    OWNERS,
    UNIX,
    OPTIONS,
    DEVICES,
    TC_EGRESS,
    TC_DROP,
    LSM,
)
"""What all isolations share. What this kernel lacks of it is left out, with the kernel's reason."""

SETS: tuple[ProgramSet[Program], ...] = SLOT_SETS + COMMON_SETS
