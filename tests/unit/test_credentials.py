"""What a thread may do, read from its status file."""

from __future__ import annotations

import os

import pytest

from watchdog.kernel.credentials import Credentials, parse

STATUS = (
    "Name:\tCapPrm: f\nUid:\t{uid}\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t4 27 \n"
    "CapInh:\t0000000000000000\nCapPrm:\t{permitted:016x}\nCapEff:\t0000000000000000\n"
    "CapBnd:\t{bounding:016x}\nCapAmb:\t0000000000000000\nNoNewPrivs:\t{no_new_privs}\n"
)
RAW, SETUID, ALL = 1 << 13, 1 << 7, (1 << 41) - 1


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
        (1000, SETUID, ALL, 0, ALL, ALL),
        (1000, SETUID, ALL, 1, SETUID, 0),
    ],
)
def test_root_takes_what_others_are_given(
    uid: int, permitted: int, bounding: int, no_new_privs: int, capabilities: int, given_by_programs: int
) -> None:
    found = parse(STATUS.format(uid=uid, permitted=permitted, bounding=bounding, no_new_privs=no_new_privs))
    assert (found.capabilities, found.given_by_programs) == (capabilities, given_by_programs)


PTRACE = 1 << 19


@pytest.mark.parametrize(
    ("uid", "permitted", "other_uid", "others", "may"),
    [
        (1000, 0, 1000, 0, True),
        (1000, 0, 1001, 0, False),
        (1000, 0, 1000, RAW, False),
        (1000, RAW, 1000, RAW, True),
        (1000, SETUID, 1001, 0, True),
        (1000, PTRACE, 1001, ALL, True),
    ],
)
def test_who_may_trace_whom(uid: int, permitted: int, other_uid: int, others: int, may: bool) -> None:
    def one(uid: int, permitted: int) -> Credentials:
        return Credentials(frozenset({uid}), frozenset(), permitted, ALL, no_new_privs=True)

    assert one(uid, permitted).may_trace(one(other_uid, others)) is may


@pytest.mark.parametrize(
    ("mode", "owner", "group", "permitted", "may"),
    [
        (0o644, 0, 0, 0, False),
        (0o644, 0, 27, 0, False),
        (0o664, 0, 27, 0, True),
        (0o664, 0, 28, 0, False),
        (0o666, 0, 0, 0, True),
        (0o444, 1000, 0, 0, True),
        (0o644, 0, 0, RAW, False),
        (0o644, 0, 0, 1 << 0, True),
        (0o644, 0, 0, 1 << 1, True),
        (0o644, 0, 0, 1 << 3, True),
        (0o644, 0, 0, SETUID, True),
    ],
)
def test_who_may_write_or_see_to_it(mode: int, owner: int, group: int, permitted: int, may: bool) -> None:
    thread = parse(STATUS.format(uid=1000, permitted=permitted, bounding=0, no_new_privs=1))
    file = os.stat_result((mode, 1, 1, 1, owner, group, 0, 0, 0, 0))
    assert thread.may_write(file) is may
