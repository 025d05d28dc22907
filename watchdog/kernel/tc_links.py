"""Our filters on all links of a namespace, and on all namespaces of this host: what was wanted, found, taken away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import netns, tc
from watchdog.kernel.hooks import ids_at, name_of
from watchdog.kernel.netns import Netns, NetnsGone
from watchdog.kernel.tc_plan import CLSACT, Filter, TcHook, ahead_of

Links = Mapping[int, str]
"""Index to name."""

NO_FILTER = "no filter of ours"
NEW_LINK = "the link is new: no filter of ours"
OURS_GONE = "no filter of ours any more"
CLSACT_GONE = "no clsact any more, nor a filter of ours"


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
    place: Netns,
    wanted: Sequence[Filter],
    right_programs: Collection[int],
    links: Links | None = None,
    covered: set[tuple[int, int]] | None = None,
) -> list[str]:
    """The links of a namespace where a wanted filter is missing, or another tool's filter or tcx program is before it.

    A filter is right with any of `right_programs`, or with the very program that is wanted. `covered` are the links
    that were seen without a gap, each by namespace and index, and kept: what is missing on one of them was taken away.
    """
    before, found = set(covered or ()), dict[tuple[int, int], list[str]]()
    try:
        with tc.opened(place) as door:
            clsacts = door.clsacts()
            every = netns.links(place) if links is None else links
            express = _tcx(place, every, {each.hook for each in wanted})
            for index, name in every.items():
                there = door.filters(index) if clsacts.get(index) == CLSACT else []
                missing = _why_missing((place.inode, index), before, has_clsact=index in clsacts)
                found[place.inode, index] = [
                    f"{name} in {place}: {gap or missing}"
                    for each in wanted
                    for gap in (*_gaps_at(there, each, right_programs), *express.get((index, each.hook), ()))
                ]
    except NetnsGone:
        return []
    if covered is not None:
        covered -= {each for each in before if each[0] == place.inode and each not in found}
        covered |= {link for link, gaps in found.items() if not gaps}
    return [gap for gaps in found.values() for gap in dict.fromkeys(gaps)]


def _tcx(place: Netns, links: Links, sides: Collection[TcHook]) -> dict[tuple[int, TcHook], list[str]]:
    """Programs that see the frames before any filter, by link and side: what they do not pass on is theirs alone."""

    def ask() -> dict[tuple[int, TcHook], list[int]]:
        return {(index, side): list(ids_at(index, side.tcx)) for index in links for side in sides}

    return {
        at: [f"another tool's tcx program {name_of(each)} decides before ours" for each in ids]
        for at, ids in netns.inside(place, ask).items()
        if ids
    }


def _why_missing(link: tuple[int, int], covered: Collection[tuple[int, int]], *, has_clsact: bool) -> str:
    """As far as it is known what was there before."""
    if link in covered:
        return OURS_GONE if has_clsact else CLSACT_GONE
    return NEW_LINK if any(inode == link[0] for inode, _ in covered) else NO_FILTER


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
    return [""]
