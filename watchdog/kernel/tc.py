"""Links and their filters: the only import of pyroute2, which takes 0.1 s and is made inside the one function.

The kernel is the only record of what we put there: a filter says by its name whether the clsact under it is of our
making, so that whoever comes after a killed process knows what to take away. A clsact and the first filter on it are
asked for in one message, and the kernel finishes a message even for a sender that is killed meanwhile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from watchdog.errors import HostCannot, KernelRefused
from watchdog.kernel import netns
from watchdog.kernel.netns import Netns
from watchdog.kernel.tc_messages import CLSACT_PARENT, Link, encode, filter_of, link_of
from watchdog.kernel.tc_plan import (
    CLSACT,
    Change,
    DropClsact,
    Filter,
    MakeClsact,
    NoPlace,
    TcHook,
    plan_cover,
    plan_removal,
    plan_unmark,
)

_NO_NUMBER = 0xFFFFFFFF
"""NETNSA_NSID_NOT_ASSIGNED, which pyroute2 reads as unsigned."""

ATTEMPTS = 3

_HINTS = {
    errno.EPERM: "this needs root with CAP_NET_ADMIN",
    errno.ENOENT: "this kernel may lack sch_ingress or cls_bpf: modprobe them, or see CONFIG_NET_CLS_BPF",
    errno.EOPNOTSUPP: "another tool shares a filter block there: tc qdisc show",
    errno.ENODEV: "the link went meanwhile",
}


class TcRefused(KernelRefused):
    """The kernel refused an rtnetlink request; `code` is the errno."""

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


@contextmanager
def opened(place: Netns) -> Iterator[Door]:
    """The links of one namespace. NetnsGone where it is gone; HostCannot where pyroute2 cannot be imported.

    The socket is made in a thread inside the namespace: pyroute2 would fork for it, which takes 8 ms and is no good
    in a process with threads. It is closed at the end, since it keeps the namespace alive.
    """
    library = load()
    sock = netns.netlink_socket(place)
    ipr = library.IPRoute(fileno=sock.detach(), ext_ack=True)
    try:
        yield Door(place, ipr)
    finally:
        ipr.close()


def check() -> None:
    """Raises HostCannot where pyroute2 is not installed. It is not imported: 12 MiB, and few isolate anybody."""
    if find_spec("pyroute2") is None:
        raise HostCannot("pyroute2 is not installed", hint="run scripts/setup")


@cache
def load() -> Any:
    """Import pyroute2, and teach it to read a filter's program id. HostCannot where it cannot be imported."""
    try:
        from pyroute2 import IPRoute, NetlinkError, netlink
        from pyroute2.netlink import rtnl
        from pyroute2.netlink.rtnl.tcmsg import sched_bpf, tcmsg
    except ImportError as error:
        raise HostCannot(f"pyroute2 cannot be imported: {error}", hint="run scripts/setup") from error
    known = [name for name, _ in sched_bpf.options.nla_map]
    unread = (("TCA_BPF_FLAGS_GEN", "uint32"), ("TCA_BPF_TAG", "hex"), ("TCA_BPF_ID", "uint32"))
    sched_bpf.options.nla_map += tuple(each for each in unread if each[0] not in known)
    return SimpleNamespace(IPRoute=IPRoute, NetlinkError=NetlinkError, netlink=netlink, rtnl=rtnl, tcmsg=tcmsg)


class Door:
    """rtnetlink in one namespace; to be used by the thread that opened it."""

    def __init__(self, place: Netns, ipr: Any) -> None:
        self.place = place
        self._ipr = ipr

    def links(self) -> list[Link]:
        """Every link, with what is on its other side."""
        with self._translated("list the links"):
            return [link_of(message) for message in self._ipr.get_links()]

    def number_of(self, other_fd: int) -> int | None:
        """This namespace's number for another one; None where it has none, since no link joins the two."""
        with self._translated("ask for the number of a namespace"):
            answer = self._ipr.get_netnsid(fd=other_fd)
        number: int | None = answer["nsid"] if answer else None
        return None if number == _NO_NUMBER else number

    def clsacts(self) -> dict[int, str]:
        """What stands in clsact's place, by link: "clsact" or "ingress". The kernel lists all links' or none's."""
        with self._translated("list the qdiscs"):
            found = [each for each in self._ipr.get_qdiscs() if each["parent"] == CLSACT_PARENT]
        return {message["index"]: message.get_attr("TCA_KIND") for message in found}

    def filters(self, index: int) -> list[Filter]:
        """The filters at both hooks of a link, each hook's in the order in which they run; none where it is gone."""
        return [each for hook in TcHook for each in self._filters_at(index, hook)]

    def cover(self, index: int, name: str, wanted: Sequence[Filter], clsacts: Mapping[int, str]) -> bool:
        """Have these filters stand on a link. False where they did, or where the link went meanwhile.

        `clsacts` is what `clsacts()` said; where others changed that since, it is asked again. KernelRefused where
        another tool holds the place, or the kernel does not want it.
        """
        refused: TcRefused | None = None
        for _ in range(ATTEMPTS):
            changes = self._plan(index, name, wanted, (self.clsacts() if refused else clsacts).get(index))
            if not changes:
                return refused is not None
            try:
                self._submit(index, name, changes)
            except TcRefused as error:
                if index not in netns.links(self.place):
                    return False
                refused = error
                if MakeClsact() in changes:
                    self._undo_half(index, name, error)
            else:
                return True
        assert refused is not None
        raise refused

    def uncover(self, index: int, unwanted: Callable[[Filter], bool]) -> bool:
        """Take away our filters for which `unwanted` holds, and a clsact of ours with the last of all. False: none."""
        changes = plan_removal(self.filters(index), unwanted)
        if not changes:
            return False
        try:
            self._submit(index, f"link {index}", changes)
        except TcRefused:
            if plan_removal(self.filters(index), unwanted):
                raise
        return True

    def _plan(self, index: int, name: str, wanted: Sequence[Filter], stands: str | None) -> list[Change]:
        found = self.filters(index) if stands == CLSACT else []
        try:
            return plan_cover(stands, found, wanted)
        except NoPlace as error:
            raise KernelRefused(
                f"no filter on {name} in {self.place}: {error}",
                hint=f"nsenter --net={self.place.path} tc filter show dev {name}; a clsact does what `ingress` does",
            ) from error

    def _undo_half(self, index: int, name: str, error: TcRefused) -> None:
        """A message that was to make a clsact was refused somewhere: leave no clsact, and no filter that claims one."""
        found = self.filters(index)
        if error.code == errno.EEXIST:  # somebody made one since we looked
            self._submit(index, name, plan_unmark(found))
        elif not found and self.clsacts().get(index) == CLSACT:
            self._submit(index, name, [DropClsact()])

    def _submit(self, index: int, name: str, changes: Sequence[Change]) -> None:
        """All changes in one message: the kernel carries it out whole or up to what it refuses."""
        with self._translated(f"change the filters of {name}"), ExitStack() as programs:
            messages = [encode(load(), index, each, programs) for each in changes]
            self._ipr.nlm_request_batch(messages)

    def _filters_at(self, index: int, hook: TcHook) -> list[Filter]:
        with self._translated(f"list the filters of link {index}"):
            messages = list(self._ipr.get_filters(index=index, parent=hook))
        return [filter_of(hook, message) for message in messages if message["handle"]]  # 0: the head of a prio

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (load().NetlinkError, OSError) as error:
            code = int(getattr(error, "code", None) or getattr(error, "errno", None) or errno.EIO)
            said = str(error.args[-1]) if error.args else os.strerror(code)
            raise TcRefused(f"cannot {what} in {self.place}: {said}", code=code, hint=_HINTS.get(code, "")) from error
