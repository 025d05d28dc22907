"""What to change at the hooks of one link, decided without touching it; tc.py carries it out.

All filters of ours on a link say by their names whether the clsact under them is of our making, so that any of them
can go first. Ours run before other tools' filters: one of those that says OK ends the matter for a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

FIRST_PRIO = 1
"""0 would let the kernel choose, and it chooses behind everybody."""

NAME_PREFIX = "wd_tc_"
MADE_CLSACT = "+clsact"
"""How the name of a filter ends where we made the clsact that it stands on."""

BPF = "bpf"
ETH_P_ALL = 0x0003

CLSACT, INGRESS = "clsact", "ingress"


class TcHook(IntEnum):
    """The two sides of a clsact: the parent that a filter names (TC_H_MIN_INGRESS and _EGRESS)."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3

    @property
    def tcx(self) -> int:
        """The hook of the same side that runs before clsact since Linux 6.6: BPF_TCX_INGRESS and _EGRESS."""
        return 46 if self is TcHook.INGRESS else 47


class Handle(IntEnum):
    """The handles of our filters: "WD" and a number, where others count up from 1."""

    EGRESS = 0x57440001
    DROP = 0x57440002


_HANDLES = frozenset(Handle)


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter at one hook of a link, ours or another tool's."""

    hook: TcHook
    prio: int
    handle: int
    kind: str = BPF
    protocol: int = ETH_P_ALL
    """Host byte order."""
    name: str = ""
    program_id: int = 0
    classid: int = 0
    """Of ours: the isolation's tag where a filter belongs to one; 0 where all share it."""

    @property
    def is_ours(self) -> bool:
        """By its handle and its name together, whatever version made it."""
        return self.kind == BPF and self.handle in _HANDLES and self.name.startswith(NAME_PREFIX)

    @property
    def made_clsact(self) -> bool:
        """Whether it says that the clsact is of our making."""
        return self.is_ours and self.name.endswith(MADE_CLSACT)

    def does_what(self, wanted: Filter) -> bool:
        """Whether it is the wanted one, wherever it stands and whatever it says of the clsact."""
        mine = (self.is_ours, self.hook, self.handle, self.program_id, self.classid)
        return mine == (True, wanted.hook, wanted.handle, wanted.program_id, wanted.classid)

    def __str__(self) -> str:
        """As `tc filter show` helps to find it."""
        return f"{self.kind} filter {self.name or hex(self.handle)} (prio {self.prio}, {self.hook.name.lower()})"


@dataclass(frozen=True, slots=True)
class MakeClsact:
    """Add a clsact, which must not be there."""


@dataclass(frozen=True, slots=True)
class DropClsact:
    """Delete the clsact and all filters on it."""


@dataclass(frozen=True, slots=True)
class Put:
    """Add a filter, or put it in the place of the one with its address, with no moment in between."""

    filter: Filter
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Take:
    """Delete exactly this filter."""

    filter: Filter


Change = MakeClsact | DropClsact | Put | Take


class NoPlace(Exception):
    """Another tool is where our filter would have to be; the text says what of it."""


def plan_cover(stands: str | None, found: Sequence[Filter], wanted: Iterable[Filter]) -> list[Change]:
    """What makes the wanted filters stand, in front wherever that can be. Nothing where they do.

    `stands` is the kind of qdisc in clsact's place, `found` the filters on it in the order in which they run; the
    prio of what is wanted is chosen here. Raises NoPlace.
    """
    if stands == INGRESS:
        raise NoPlace("another tool's ingress qdisc leaves no place for a clsact")
    made = stands is None or any(each.made_clsact for each in found)
    changes = [change for each in wanted for change in _cover_one(found, _named(each, made))]
    return [MakeClsact(), *changes] if changes and stands is None else changes


def plan_removal(found: Sequence[Filter], unwanted: Callable[[Filter], bool]) -> list[Change]:
    """What takes our unwanted filters away: with the clsact where we made it and nothing else is on it."""
    going = [each for each in found if each.is_ours and unwanted(each)]
    if going and len(going) == len(found) and any(each.made_clsact for each in going):
        return [DropClsact()]
    return [Take(each) for each in going]


def plan_unmark(found: Iterable[Filter]) -> list[Change]:
    """Have ours no longer say that the clsact is of our making: somebody was quicker."""
    marked = [each for each in found if each.made_clsact]
    return [Put(replace(each, name=each.name.removesuffix(MADE_CLSACT)), in_place=True) for each in marked]


def ahead_of(found: Sequence[Filter], wanted: Filter) -> list[Filter]:
    """Other tools' filters that run before ours."""
    at_hook = [each for each in found if each.hook == wanted.hook]
    place = next((index for index, each in enumerate(at_hook) if each.does_what(wanted)), 0)
    return [each for each in at_hook[:place] if not each.is_ours]


def _named(wanted: Filter, made: bool) -> Filter:
    return replace(wanted, name=wanted.name + MADE_CLSACT) if made else wanted


def _cover_one(found: Sequence[Filter], wanted: Filter) -> list[Change]:
    at_hook = [each for each in found if each.hook == wanted.hook]
    wanted = replace(wanted, prio=_best_prio(at_hook))
    holder = next((each for each in at_hook if (each.prio, each.handle) == (wanted.prio, wanted.handle)), None)
    if holder is not None and not holder.is_ours:
        raise NoPlace(f"another tool's {holder} has our handle")
    present = next((each for each in at_hook if each.is_ours and each.handle == wanted.handle), None)
    if present is None:
        return [Put(wanted)]
    if present.prio != wanted.prio or _could_be_further_ahead(at_hook, present):
        return [Take(present), Put(wanted)]
    return [] if present.does_what(wanted) else [Put(wanted, in_place=True)]


def _best_prio(at_hook: Iterable[Filter]) -> int:
    """The first prio that we can have: a prio holds filters of one kind and protocol."""
    closed = {each.prio for each in at_hook if (each.kind, each.protocol) != (BPF, ETH_P_ALL)}
    return next(prio for prio in range(FIRST_PRIO, len(closed) + FIRST_PRIO + 1) if prio not in closed)


def _could_be_further_ahead(at_hook: Sequence[Filter], present: Filter) -> bool:
    """Within a prio the kernel runs the newest first (cls_bpf_change adds to the head of its list)."""
    before = at_hook[: at_hook.index(present)]
    return any(each.prio == present.prio and not each.is_ours for each in before)
