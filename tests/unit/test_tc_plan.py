"""What is changed at a link's hooks: decided here, and carried out on a model of the kernel's lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.kernel.tc_plan import (
    BPF,
    CLSACT,
    INGRESS,
    MADE_CLSACT,
    Change,
    DropClsact,
    Filter,
    Handle,
    MakeClsact,
    NoPlace,
    Put,
    Take,
    TcHook,
    ahead_of,
    plan_cover,
    plan_removal,
    plan_unmark,
)

ETH_P_IP = 0x0800

OURS = Filter(TcHook.EGRESS, 1, Handle.EGRESS, name="wd_tc_egress", program_id=7)
MARKED = replace(OURS, name=OURS.name + MADE_CLSACT)
CUT = Filter(TcHook.EGRESS, 1, Handle.DROP, name="wd_tc_drop_out", program_id=8, classid=5)
BPF_OF_OTHERS = Filter(TcHook.EGRESS, 1, 1, name="cil_to_netdev", program_id=3)
FLOWER_FIRST = Filter(TcHook.EGRESS, 1, 1, kind="flower", protocol=ETH_P_IP)
MATCHALL_LATER = Filter(TcHook.EGRESS, 49152, 1, kind="matchall")
NAMESAKE = Filter(TcHook.EGRESS, 1, Handle.EGRESS, name="other", program_id=3)

Stand = tuple[str | None, list[Filter]]


@pytest.mark.parametrize(
    ("stands", "found", "changes"),
    [
        (None, [], [MakeClsact(), Put(MARKED)]),
        (CLSACT, [], [Put(OURS)]),
        (CLSACT, [OURS], []),
        (CLSACT, [MARKED], []),
        (CLSACT, [MATCHALL_LATER], [Put(OURS)]),
        (CLSACT, [BPF_OF_OTHERS], [Put(OURS)]),
        (CLSACT, [OURS, BPF_OF_OTHERS], []),
        (CLSACT, [BPF_OF_OTHERS, OURS], [Take(OURS), Put(OURS)]),
        (CLSACT, [CUT, OURS], []),
        (CLSACT, [FLOWER_FIRST], [Put(replace(OURS, prio=2))]),
        (CLSACT, [FLOWER_FIRST, replace(OURS, prio=2)], []),
        (CLSACT, [replace(OURS, prio=2)], [Take(replace(OURS, prio=2)), Put(OURS)]),
        (CLSACT, [replace(OURS, program_id=6)], [Put(OURS, in_place=True)]),
        (CLSACT, [replace(MARKED, program_id=6)], [Put(MARKED, in_place=True)]),
        (CLSACT, [replace(CUT, name=CUT.name + MADE_CLSACT)], [Put(MARKED)]),
        (CLSACT, [replace(OURS, hook=TcHook.INGRESS)], [Put(OURS)]),
    ],
)
def test_covering_a_link(stands: str | None, found: list[Filter], changes: list[Change]) -> None:
    assert plan_cover(stands, found, [OURS]) == changes


@pytest.mark.parametrize(("stands", "found"), [(INGRESS, []), (CLSACT, [NAMESAKE])])
def test_no_place(stands: str, found: list[Filter]) -> None:
    with pytest.raises(NoPlace, match="another tool's"):
        plan_cover(stands, found, [OURS])


@pytest.mark.parametrize(
    ("found", "changes"),
    [
        ([], []),
        ([BPF_OF_OTHERS], []),
        ([NAMESAKE], []),
        ([OURS], [Take(OURS)]),
        ([MARKED], [DropClsact()]),
        ([MARKED, BPF_OF_OTHERS], [Take(MARKED)]),
        ([MARKED, replace(MATCHALL_LATER, hook=TcHook.INGRESS)], [Take(MARKED)]),
        ([MARKED, CUT], [Take(MARKED)]),
    ],
)
def test_removal(found: list[Filter], changes: list[Change]) -> None:
    assert plan_removal(found, lambda each: each.handle == Handle.EGRESS) == changes


def test_somebody_elses_clsact_is_claimed_no_longer() -> None:
    assert plan_unmark([MARKED, BPF_OF_OTHERS, OURS]) == [Put(OURS, in_place=True)]


@pytest.mark.parametrize(
    ("found", "ahead"),
    [
        ([OURS, BPF_OF_OTHERS], []),
        ([CUT, OURS], []),
        ([FLOWER_FIRST, replace(OURS, prio=2), MATCHALL_LATER], [FLOWER_FIRST]),
        ([replace(FLOWER_FIRST, hook=TcHook.INGRESS), OURS], []),
    ],
)
def test_who_decides_before_ours(found: list[Filter], ahead: list[Filter]) -> None:
    assert ahead_of(found, OURS) == ahead


def test_an_operator_finds_a_filter_by_what_an_error_says() -> None:
    assert str(FLOWER_FIRST) == "flower filter 0x1 (prio 1, egress)"
    assert str(OURS) == "bpf filter wd_tc_egress (prio 1, egress)"


# On a model of the kernel: any filters of others, any order of our own work


def carry_out(stand: Stand, changes: Sequence[Change]) -> Stand:
    """As the kernel does it: by prio, the newest first within one, and an address only once."""
    stands, filters = stand[0], list(stand[1])
    for change in changes:
        match change:
            case MakeClsact():
                assert stands is None
                stands = CLSACT
            case DropClsact():
                assert stands == CLSACT
                stands, filters = None, []
            case Put(each, in_place):
                assert stands == CLSACT
                at = [i for i, f in enumerate(filters) if address(f) == address(each)]
                assert bool(at) == in_place
                if in_place:
                    assert filters[at[0]].is_ours
                    filters[at[0]] = each
                else:
                    same_prio = [f for f in filters if (f.hook, f.prio) == (each.hook, each.prio)]
                    assert all((f.kind, f.protocol) == (BPF, each.protocol) for f in same_prio)
                    filters = sorted([each, *filters], key=lambda f: (f.hook, f.prio))
            case Take(each):
                assert each.is_ours
                filters.remove(each)
    return stands, filters


def address(each: Filter) -> tuple[int, int, int]:
    return each.hook, each.prio, each.handle


def _kind_of(prio: int) -> tuple[str, int]:
    """A prio holds one kind and protocol."""
    return [(BPF, 3), ("flower", ETH_P_IP), ("matchall", 3)][prio % 3]


@st.composite
def others_filters(draw: st.DrawFn) -> list[Filter]:
    spots = draw(st.sets(st.tuples(st.sampled_from(TcHook), st.integers(1, 4), st.integers(1, 3)), max_size=5))
    shift = draw(st.integers(0, 2))
    made = []
    for hook, prio, handle in spots:
        kind, protocol = _kind_of(prio + shift)
        made.append(Filter(hook, prio, handle, kind=kind, protocol=protocol, name="other"))
    return sorted(made, key=lambda each: (each.hook, each.prio))


WANTED = {
    "egress": [OURS],
    "cut": [CUT, replace(CUT, hook=TcHook.INGRESS, name="wd_tc_drop_in", program_id=9)],
}
WORK = st.lists(st.tuples(st.sampled_from(["cover", "remove"]), st.sampled_from(sorted(WANTED))), max_size=6)


@given(others_filters(), st.booleans(), WORK)
def test_others_keep_what_they_have_and_ours_stand_in_front(
    others: list[Filter], clsact_there: bool, work: list[tuple[str, str]]
) -> None:
    before: Stand = (CLSACT, others) if others or clsact_there else (None, [])
    stand = before
    for verb, what in work:
        if verb == "cover":
            stand = carry_out(stand, plan_cover(*stand, WANTED[what]))
            assert plan_cover(*stand, WANTED[what]) == []
            for each in WANTED[what]:
                [present] = [found for found in stand[1] if found.does_what(each)]
                assert all(ahead.prio < present.prio for ahead in ahead_of(stand[1], each))
        else:
            stand = remove(stand, what)
        assert [each for each in stand[1] if not each.is_ours] == others
    for what in WANTED:
        stand = remove(stand, what)
    assert stand == before


def remove(stand: Stand, what: str) -> Stand:
    handles = {each.handle for each in WANTED[what]}
    after = carry_out(stand, plan_removal(stand[1], lambda each: each.handle in handles))
    assert not any(each.is_ours and each.handle in handles for each in after[1])
    return after
