"""What isolations are told in for people: as much as is read, and what is true now."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchdog.actions import flow_facts
from watchdog.cli import history, report
from watchdog.cli.app import run
from watchdog.clock import Moment
from watchdog.errors import Exit
from watchdog.intents import Allowed, Until
from watchdog.paths.words import Coverage, Verdict

NOW = Moment(1000.0, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "boot")
FLOW = {
    "direction": "out",
    "protocol": "udp",
    "source": "192.0.2.1",
    "source_port": 40000,
    "destination": "192.0.2.2",
    "port": 53,
    "packets": 3,
    "bytes": 99,
    "first": "2026-01-02T03:00:00Z",
    "last": "2026-01-02T03:01:00Z",
    "whole": True,
    "refused": None,
}
FLOWS = {"seen": 1, "known": 1, "packets_of_unknown": 0, "packets_lost": 0, "first_packets_lost": 0, "top": [FLOW]}
FLOW_LINE = "out udp   192.0.2.1 -> 192.0.2.2 port 53: 3 packets, 03:00:00 to 03:01:00"


def until(left_s: float) -> Until:
    return Until(NOW.utc + timedelta(seconds=left_s), NOW.s + left_s, NOW.boot)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (0, []),
        (1, ["allowed: 0"]),
        (10, [f"allowed: {n}" for n in range(10)]),
        (11, [*(f"allowed: {n}" for n in range(10)), "allowed: 1 more, which --json lists"]),
        (10_000, [*(f"allowed: {n}" for n in range(10)), "allowed: 9,990 more, which --json lists"]),
    ],
)
def test_no_more_entries_than_are_read(entries: int, said: list[str]) -> None:
    assert report.allowed_in_words([Allowed(str(n)) for n in range(entries)], NOW) == said


def test_what_has_expired_is_not_said_to_be_allowed() -> None:
    entries = [
        Allowed("always"),
        Allowed("still", until(1)),
        Allowed("over", until(0)),
        Allowed("long over", until(-9)),
    ]
    assert report.allowed_in_words(entries, NOW) == [
        "allowed: always",
        "allowed: still until 2026-01-02T03:04:06.000000Z",
        "expired, and allows nothing: over until 2026-01-02T03:04:05.000000Z",
        "expired, and allows nothing: long over until 2026-01-02T03:03:56.000000Z",
    ]
    many = [replace(entries[2], entry=str(n)) for n in range(5000)]
    assert len(report.allowed_in_words(many, NOW)) == report.ALLOWED_SHOWN + 1


@pytest.mark.parametrize(
    ("left_s", "said"),
    [
        (1, "until 2026-01-02T03:04:06.000000Z: a watcher, or reconcile, releases it then"),
        (0, "OVERDUE since 2026-01-02T03:04:05.000000Z: a watcher releases it, or: watchdog-mesh reconcile"),
        (-60, "OVERDUE since 2026-01-02T03:03:05.000000Z: a watcher releases it, or: watchdog-mesh reconcile"),
    ],
)
def test_when_it_ends(left_s: float, said: str) -> None:
    end = until(left_s)
    assert report.until_in_words(end.utc, overdue=end.is_over(NOW)) == [said]
    assert report.until_in_words(None, overdue=False) == []


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({}, []),
        ({"packets_lost": 1}, ["1 packet in no flow: no memory was left"]),
        (
            {"packets_lost": 2000, "first_packets_lost": 3},
            [
                "2,000 packets in no flow: no memory was left",
                "3 flows of those began when there was no room for their first packets",
            ],
        ),
    ],
)
def test_what_the_kernel_could_not_keep_is_said(lost: dict[str, int], said: list[str]) -> None:
    assert flow_facts.in_words(FLOWS | lost) == [FLOW_LINE, *said]


def test_flows_that_an_earlier_version_kept() -> None:
    before = {key: FLOWS[key] for key in ("seen", "known", "packets_of_unknown", "top")}
    assert flow_facts.in_words(before) == [FLOW_LINE]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ["was isolated: it lies"]),
        (
            {"incident": "INC-7", "dropped_packets": 0, "dropped_frames": 0},
            ["was isolated: it lies; incident INC-7; dropped 0 packets"],
        ),
        (
            {"dropped_packets": 1234, "dropped_frames": 1, "flows": FLOWS},
            ["was isolated: it lies; dropped 1,234 packets and 1 frame", FLOW_LINE],
        ),
        (
            {"flows": FLOWS | {"top": [FLOW] * 9, "seen": 50}},
            ["was isolated: it lies", FLOW_LINE, FLOW_LINE, FLOW_LINE, "and 47 flows more"],
        ),
    ],
)
def test_history_of_a_release(more: dict[str, Any], said: list[str]) -> None:
    record = {"at": "2026-01-02T03:04:05Z", "kind": "intent released", "target": "shield", "reason": "it lies", **more}
    first, *others = history._lines(record)
    assert first == f"2026-01-02T03:04:05Z  intent released     shield: {said[0]}"
    assert others == [f"{' ' * 22}{line}" for line in said[1:]]


BY_ROOT = {"user": "root", "login": "ann"}


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        (
            "intent isolated",
            {"target": "shield", "reason": "it lies", "by": BY_ROOT},
            "shield: it lies; by root (login ann)",
        ),
        (
            "intent released",
            {"target": "shield", "reason": "it lies", "by": BY_ROOT, "incident": "INC-7"},
            "shield: was isolated by root (login ann): it lies; incident INC-7",
        ),
        ("release asked for", {"target": "shield", "reason": "it was repaired"}, "shield: it was repaired"),
        ("intent ended", {"target": "shield", "reason": "curious"}, "shield: was watched: curious"),
        ("journal set aside", {"found": "the journal is damaged"}, "the journal is damaged"),
        ("silence ended", {"peer": "shield"}, "shield"),
    ],
)
def test_history_says_whose_reason_it_is(kind: str, facts: dict[str, Any], said: str) -> None:
    assert history._lines({"at": "2026-01-02T03:04:05Z", "kind": kind, **facts}) == [
        f"2026-01-02T03:04:05Z  {kind:<18}  {said}"
    ]


def test_every_path_and_what_is_open_in_words() -> None:
    verdicts = [
        Verdict("E1", "TCP", Coverage.COVERED, "packets"),
        Verdict("E15", "AF_VSOCK", Coverage.NOT_COVERED, "no LSM"),
        Verdict("E2", "TUN", Coverage.NOT_APPLICABLE, "no device"),
    ]
    assert report.paths_in_words(verdicts) == [
        "covered         E1     TCP (packets)",
        "not covered     E15    AF_VSOCK (no LSM)",
        "not applicable  E2     TUN (no device)",
    ]
    assert report.paths_in_short(verdicts) == [
        "paths: 1 covered, 1 not covered, 1 not applicable",
        "not covered: AF_VSOCK",
    ]
    assert report.paths_in_short([]) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["isolate", "shield", "--reason"], "Option '--reason' requires an argument; see watchdog-mesh isolate --help"),
        (["isolat", "shield"], "No such command 'isolat'; see watchdog-mesh --help"),
    ],
)
def test_where_the_help_is(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == Exit.USAGE
    assert capsys.readouterr().err == f"watchdog-mesh: {said}\n"
