"""`notify test`: what it says each receiver answered, and what it ends with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.unit.receivers import Hook, answers
from watchdog.cli import app
from watchdog.errors import Exit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the verb is root's")

CONFIG = '[[peer]]\nname = "shield"\nendpoint = "http://127.0.0.1:9/"\n[paths]\nstate = "{state}"\nrun = "{state}"\n'
HOOK = '[[webhook]]\nname = "{name}"\nurl = "{url}"\ntimeout = "2s"\n'


@pytest.mark.parametrize(
    ("named", "status", "delivered"),
    [
        ([], Exit.FAILED, {"takes": True, "refuses": False}),
        (["takes"], Exit.OK, {"takes": True}),
        (["refuses"], Exit.FAILED, {"refuses": False}),
    ],
)
def test_what_receivers_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: list[str], status: Exit, delivered: dict[str, bool]
) -> None:
    with Hook() as takes, Hook(answers(500, body=b"boom")) as refuses:
        hooks = HOOK.format(name="takes", url=takes.url) + HOOK.format(name="refuses", url=refuses.url)
        config = tmp_path / "config.toml"
        config.write_text(CONFIG.format(state=tmp_path / "state") + hooks)
        assert app.run(["notify", "test", *named, "--config", str(config), "--json"]) == status
        told = json.loads(capsys.readouterr().out)["receivers"]
        assert {each["name"]: each["delivered"] for each in told} == delivered
        assert len(takes.received) == ("takes" in delivered)
        if "refuses" in delivered:
            assert "HTTP 500: boom" in next(each["why"] for each in told if each["name"] == "refuses")
