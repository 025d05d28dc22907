"""Our filters on all links of a namespace, and on all namespaces of this host: what was wanted, found, taken away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import netns, tc
from watchdog.kernel.netns import Netns, NetnsGone
from watchdog.kernel.tc_plan import CLSACT, Filter, ahead_of

Links = Mapping[int, str]
"""Index to name."""


@dataclass
class Covered:
    """What came of covering links."""

    newly: list[str] = field(default_factory=list)
    """The links that were without a filter, each with its namespace."""
    refused: list[WatchdogError] = field(default_factory=list)

    def __iadd__(self, more: Covered) -> Covered:
        self.newly += more.newly
        self.refused += more.refused
        return self

    def raise_refusals(self) -> None:
        """KernelRefused with all of them."""
        if len(self.refused) == 1:
            raise self.refused[0]
        if self.refused:
            raise KernelRefused("; ".join(each.message for each in self.refused), hint=self.refused[0].hint)


def cover(place: Netns, wanted: Sequence[Filter], links: Links | None = None) -> Covered:
    """Have the wanted filters on these links of a namespace, or on all. One link's refusal keeps no other back.

    A link or a namespace that goes meanwhile needs none.
    """
    covered = Covered()
    try:
        with tc.opened(place) as door:
            clsacts = door.clsacts()
            for index, name in (netns.links(place) if links is None else links).items():
                try:
                    if door.cover(index, name, wanted, clsacts):
                        covered.newly.append(f"{name} in {place}")
                except KernelRefused as error:
                    covered.refused.append(error)
    except NetnsGone:
        pass
    except WatchdogError as error:
        covered.refused.append(error)
    return covered


def gaps(
    place: Netns, wanted: Sequence[Filter], right_programs: Collection[int], links: Links | None = None
) -> list[str]:
    """The links of a namespace where a wanted filter is missing, or another tool's decides before it.

    A filter is right with any of `right_programs`, or with the very program that is wanted.
    """
    found: list[str] = []
    try:
        with tc.opened(place) as door:
            clsacts = door.clsacts()
            for index, name in (netns.links(place) if links is None else links).items():
                there = door.filters(index) if clsacts.get(index) == CLSACT else []
                found += [
                    f"{name} in {place}: {gap}" for each in wanted for gap in _gaps_at(there, each, right_programs)
                ]
    except NetnsGone:
        return []
    return found


def uncover(unwanted: Callable[[Filter], bool], keep: Collection[int] = ()) -> None:
    """Take away our unwanted filters from every link of every namespace but those of the inodes `keep`.

    KernelRefused names what stays; the others are taken away nevertheless.
    """
    refused: list[WatchdogError] = []
    for place in _others(keep):
        try:
            with tc.opened(place) as door:
                for index in [index for index, kind in door.clsacts().items() if kind == CLSACT]:
                    door.uncover(index, unwanted)
        except NetnsGone:
            continue
        except WatchdogError as error:
            refused.append(error)
    if refused:
        raise KernelRefused("; ".join(each.message for each in refused), hint=refused[0].hint)


def _others(keep: Collection[int]) -> Iterable[Netns]:
    return [place for inode, place in netns.all_visible().items() if inode not in keep]


def _gaps_at(there: Sequence[Filter], wanted: Filter, right_programs: Collection[int]) -> list[str]:
    for program_id in {wanted.program_id, *right_programs}:
        present = replace(wanted, program_id=program_id)
        if any(each.does_what(present) for each in there):
            return [f"another tool's {each} decides before ours" for each in ahead_of(there, present)[:1]]
    return ["no filter of ours"]
