"""What a thread may do, read from its status file."""

from __future__ import annotations

import pytest

from watchdog.kernel.credentials import Credentials, parse

STATUS = (
    "Name:\tCapPrm: f\nUid:\t{uid}\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t4 27 \n"
    "CapInh:\t0000000000000000\nCapPrm:\t{permitted:016x}\nCapEff:\t0000000000000000\n"
    "CapBnd:\t{bounding:016x}\nCapAmb:\t0000000000000000\nNoNewPrivs:\t{no_new_privs}\n"
)
RAW, ALL = 1 << 13, (1 << 41) - 1


def test_all_of_it_is_read() -> None:
    found = parse(STATUS.format(uid=0, permitted=RAW, bounding=ALL, no_new_privs=1))
    assert found == Credentials(frozenset({0, 1000}), frozenset({1000, 4, 27}), RAW, ALL, no_new_privs=True)


def test_what_is_not_said_is_none() -> None:
    assert parse("Name:\tsh\n") == Credentials(frozenset(), frozenset(), 0, 0, no_new_privs=False)


@pytest.mark.parametrize(
    ("uid", "permitted", "bounding", "no_new_privs", "capabilities", "given_by_programs"),
    [
        (1000, RAW, ALL, 0, RAW, ALL),
        (1000, RAW, ALL, 1, RAW, 0),
        (1000, 0, RAW, 0, 0, RAW),
        (0, 0, ALL, 0, ALL, ALL),
        (0, 0, RAW, 0, RAW, RAW),
        (0, 0, ALL, 1, 0, 0),
    ],
)
def test_root_takes_what_others_are_given(
    uid: int, permitted: int, bounding: int, no_new_privs: int, capabilities: int, given_by_programs: int
) -> None:
    found = parse(STATUS.format(uid=uid, permitted=permitted, bounding=bounding, no_new_privs=no_new_privs))
    assert (found.capabilities, found.given_by_programs) == (capabilities, given_by_programs)
