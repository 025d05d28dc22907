"""What tc.py says to the kernel and hears from it, as messages of pyroute2, which it imports and hands in."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from watchdog.kernel import libbpf
from watchdog.kernel.tc_plan import BPF, CLSACT, ETH_P_ALL, Change, DropClsact, Filter, MakeClsact, Put, Take, TcHook

CLSACT_HANDLE, CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1

_IFF_LOOPBACK = 0x8

_PRIO_SHIFT, _PROTOCOL_MASK = 16, 0xFFFF
_DIRECT_ACTION = 1
"""TCA_BPF_FLAG_ACT_DIRECT: the program's answer is the verdict."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a namespace."""

    index: int
    name: str
    kind: str
    """ "veth", "macvlan" and so on; "" for hardware and lo."""
    other_index: int
    """IFLA_LINK: the veth's other end, or the link below; an index in the namespace `other_nsid`. 0 for none."""
    other_nsid: int | None
    """IFLA_LINK_NETNSID: this namespace's number for the other one; None where it is this one."""
    is_loopback: bool


def link_of(message: Any) -> Link:
    """A link as the kernel told of it."""
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        other_index=message.get_attr("IFLA_LINK") or 0,
        other_nsid=message.get_attr("IFLA_LINK_NETNSID"),
        is_loopback=bool(message["flags"] & _IFF_LOOPBACK),
    )


def filter_of(hook: TcHook, message: Any) -> Filter:
    """A filter as the kernel told of it."""
    kind, options = message.get_attr("TCA_KIND"), message.get_attr("TCA_OPTIONS")
    told = options.get_attr if kind == BPF and options is not None else lambda _: None
    return Filter(
        hook=hook,
        prio=message["info"] >> _PRIO_SHIFT,
        handle=message["handle"],
        kind=kind,
        protocol=socket.ntohs(message["info"] & _PROTOCOL_MASK),
        name=told("TCA_BPF_NAME") or "",
        program_id=told("TCA_BPF_ID") or 0,
        classid=told("TCA_BPF_CLASSID") or 0,
    )


def encode(library: Any, index: int, change: Change, programs: ExitStack) -> Any:
    """The message that asks for a change of one link; `programs` holds what it names open until it is sent."""
    flags = library.netlink.NLM_F_REQUEST | library.netlink.NLM_F_ACK
    new = flags | library.netlink.NLM_F_CREATE | library.netlink.NLM_F_EXCL
    message = library.tcmsg()
    message["index"] = index
    match change:
        case MakeClsact() | DropClsact():
            message["parent"], message["handle"] = CLSACT_PARENT, CLSACT_HANDLE
            message["attrs"] = [["TCA_KIND", CLSACT]]
            making = isinstance(change, MakeClsact)
            kind, flags = (library.rtnl.RTM_NEWQDISC, new) if making else (library.rtnl.RTM_DELQDISC, flags)
        case Put(each, in_place):
            _address(message, each)
            fd = programs.enter_context(libbpf.prog_by_id(each.program_id))
            message["attrs"].append(["TCA_OPTIONS", {"attrs": _options(each, fd)}])
            kind = library.rtnl.RTM_NEWTFILTER
            flags = flags | library.netlink.NLM_F_CREATE if in_place else new
        case Take(each):
            _address(message, each)
            kind = library.rtnl.RTM_DELTFILTER
    message["header"]["type"], message["header"]["flags"] = kind, flags
    return message


def _address(message: Any, each: Filter) -> None:
    message["parent"], message["handle"] = int(each.hook), each.handle
    message["info"] = each.prio << _PRIO_SHIFT | socket.htons(ETH_P_ALL)
    message["attrs"] = [["TCA_KIND", BPF]]


def _options(each: Filter, fd: int) -> list[list[Any]]:
    options: list[list[Any]] = [["TCA_BPF_FD", fd], ["TCA_BPF_NAME", each.name], ["TCA_BPF_FLAGS", _DIRECT_ACTION]]
    return [*options, ["TCA_BPF_CLASSID", each.classid]] if each.classid else options
