"""The verbs that need the journal alone: silences, and the history and what was done to it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from watchdog import clock
from watchdog.cli import app
from watchdog.database import FILE_NAME
from watchdog.errors import Exit
from watchdog.host import caller
from watchdog.journal import Journal
from watchdog.mesh.local import LocalCoordinator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the verbs are root's")

CONFIG = """
self = "immune"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/"
[paths]
state = "{state}"
run = "{run}"
bpffs = "{bpffs}"
"""
HALF_HOUR_S = 1800.0
SILENCE = ("silence", "shield", "--for", "30m", "--reason", "upgrade")
Mesh = Callable[..., Any]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def mesh(tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mesh:
    """Runs one verb with --json: its exit status and its document, or what it said where it failed."""
    for name in ("WATCHDOG_MESH_CONFIG", "WATCHDOG_MESH_STATE_DIR", "WATCHDOG_MESH_RUN_DIR", "WATCHDOG_MESH_BPFFS_DIR"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(state=state, run=tmp_path / "run", bpffs=tmp_path / "bpffs"))

    def run(*words: str) -> tuple[int, Any]:
        status = app.run([*words, "--config", str(config), "--json"])
        said = capsys.readouterr()
        return status, json.loads(said.out or said.err)

    return run


# Silences


def test_a_silence_says_until_when_why_and_who(
    mesh: Mesh, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loginuid").write_text("0\n")
    monkeypatch.setattr(caller, "LOGIN_UID", tmp_path / "loginuid")
    monkeypatch.setenv("SUDO_USER", "alice")
    status, document = mesh(*SILENCE)
    assert (status, document["changed"]) == (Exit.OK, True)
    left_s = (clock.from_rfc3339(document["until"]) - clock.utc_now()).total_seconds()
    assert HALF_HOUR_S - 60 < left_s <= HALF_HOUR_S
    with closing(Journal.open(state)) as journal:
        silence = LocalCoordinator(journal).silences(clock.moment())["shield"]
    assert silence.reason == "upgrade"
    assert "sudo alice" in silence.by
    [record] = mesh("history")[1]["records"]
    assert (record["kind"], record["peer"], record["reason"]) == ("silenced", "shield", "upgrade")
    assert record["until"] == document["until"]
    assert record["by"] | {"terminal": None} == {
        "user": "root",
        "uid": 0,
        "login": "root",
        "login_uid": 0,
        "sudo_user": "alice",
        "terminal": None,
    }
    _, shown = mesh("status")
    assert [(each["peer"], each["reason"]) for each in shown["silences"]] == [("shield", "upgrade")]


@pytest.mark.parametrize(
    "words",
    [
        ("--reason", "upgrade"),
        ("--for", "30m"),
        ("--for", "0s", "--reason", "x"),
        ("--for", "25h", "--reason", "x"),
        (),
    ],
)
def test_no_silence_without_an_end_and_a_reason(mesh: Mesh, words: tuple[str, ...]) -> None:
    assert mesh("silence", "shield", *words)[0] == Exit.USAGE
    assert mesh("status")[1]["silences"] == []


def test_a_silence_is_ended_by_hand(mesh: Mesh) -> None:
    assert mesh("silence", "shield", "--end")[1]["changed"] is False
    mesh(*SILENCE)
    assert mesh("silence", "shield", "--end")[1]["changed"] is True
    assert mesh("status")[1]["silences"] == []
    assert [record["kind"] for record in mesh("history")[1]["records"]] == ["silenced", "silence ended"]


# The history


def test_the_newest_records_are_read_without_the_rest(mesh: Mesh, state: Path) -> None:
    for _ in range(3):
        mesh(*SILENCE)
    with closing(sqlite3.connect(state / FILE_NAME)) as edited:
        edited.execute("UPDATE audit SET record = 'no JSON' WHERE seq = 1")
        edited.commit()
    assert [record["seq"] for record in mesh("history", "--last", "2")[1]["records"]] == [2, 3]


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (["UPDATE audit SET record = replace(record, 'upgrade', 'nothing') WHERE seq = 2"], "record 2 was changed"),
        (["DELETE FROM audit WHERE seq = 2"], "record 2 is missing"),
        (["DELETE FROM audit WHERE seq = 1"], "record 1 is missing"),
        (["DELETE FROM audit WHERE seq > 3"], "record 4 is cut off at the end"),
        (["DELETE FROM audit"], "records 1 to 4 are cut off at the end"),
        (
            [
                "UPDATE audit SET seq = 99 WHERE seq = 2",
                "UPDATE audit SET seq = 2 WHERE seq = 3",
                "UPDATE audit SET seq = 3 WHERE seq = 99",
            ],
            "record 2 was changed",
        ),
    ],
    ids=["edited", "cut", "first cut", "newest cut", "all cut", "reordered"],
)
def test_what_was_done_to_the_history_is_found(mesh: Mesh, state: Path, done: list[str], problem: str) -> None:
    for _ in range(4):
        mesh(*SILENCE)
    assert mesh("history", "--verify") == (Exit.OK, mesh("history", "--verify")[1])
    assert mesh("history", "--verify")[1]["whole"] is True
    with closing(sqlite3.connect(state / FILE_NAME)) as edited:
        for statement in done:
            edited.execute(statement)
        edited.commit()
    status, found = mesh("history", "--verify")
    assert (status, found["whole"]) == (Exit.FAILED, False)
    assert any(problem in each for each in found["problems"])
    mesh(*SILENCE)
    assert mesh("history", "--verify")[0] == Exit.FAILED, "and for ever"
