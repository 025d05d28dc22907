"""Which command lines hold an agent before they have looked at anything, and what is known of it then."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from watchdog import config, early
from watchdog.cli import isolate
from watchdog.kernel import hold, programs
from watchdog.kernel.hold import Hold

PROJECT = Path(early.__file__).parents[1]
ALLOWED = {"ctypes", "os", "struct", "sys", "site", "__future__"}
"""What ctypes imports anyway, and what costs nothing."""
FILES = ("__init__.py", "__main__.py", "early.py", "kernel/__init__.py", "kernel/hold.py", "kernel/slices.py")


@pytest.mark.parametrize(
    ("words", "target"),
    [
        (["isolate", "shield", "--reason", "x"], "PEER shield"),
        (["isolate", "--reason", "x", "shield", "--json"], "PEER shield"),
        (["isolate", "--reason=x", "--unit=shield.service"], "--unit shield.service"),
        (["isolate", "--cgroup", "/cg/a", "--level", "frozen", "--force", "--reason", "x"], "--cgroup /cg/a"),
        (["isolate", "immune", "--reason", "shield"], "PEER immune"),
        (["isolate", "shield"], ""),
        (["isolate", "shield", "--reason", " "], ""),
        (["isolate", "shield", "--reason", "x", "--incident", ""], ""),
        (["isolate", "shield", "--reason", "x", "--level", "nonsense"], ""),
        (["isolate", "shield", "--reason", "x", "--ttl", "1h"], ""),
        (["isolate", "", "--reason", "x"], ""),
        (["isolate", "--reason", "shield"], ""),
        (["isolate", "shield", "sidecar", "--reason", "x"], ""),
        (["isolate", "shield", "--reason", "x", "--unit", "a.service"], ""),
        (["isolate", "shield", "--reason", "x", "--dry-run"], ""),
        (["isolate", "shield", "--reason", "x", "--shadow"], ""),
        (["isolate", "shield", "--reason", "x", "--allow", "192.0.2.1"], ""),
        (["isolate", "shield", "--reason", "x", "--allow=192.0.2.1"], ""),
        (["isolate", "shield", "--reason", "x", "--allow-heartbeat"], ""),
        (["isolate", "shield", "--reason", "x", "--adopt"], ""),
        (["isolate", "shield", "--reason", "x", "--config", "/etc/x"], ""),
        (["isolate", "--pid", "7", "--reason", "x"], ""),
        (["isolate", "shield", "--reason", "x", "--help"], ""),
        (["isolate", "shield", "--reason"], ""),
        (["isolate", "shield", "--reason", "x", "--forse"], ""),
        (["isolate"], ""),
        (["release", "shield", "--reason", "x"], ""),
        ([], ""),
    ],
)
def test_whom_a_command_line_holds(words: list[str], target: str) -> None:
    assert " ".join(early.target_of(words)).strip() == target


def test_its_options_are_those_of_the_verb() -> None:
    options = {name: each for each in isolate.verb.params if isinstance(each, click.Option) for name in each.opts}
    assert {name for name in early.FLAGS if options[name].is_flag} == set(early.FLAGS)
    assert {name for name in (*early.VALUES, *early.TARGETS) if not options[name].is_flag} == {
        *early.VALUES,
        *early.TARGETS,
    }


def test_its_defaults_are_those_of_the_configuration() -> None:
    assert (config.PATH_VARIABLE, str(config.DEFAULT_PATH)) == (early.CONFIG_VARIABLE, early.CONFIG)
    assert (config.VARIABLES["paths.run"], str(config.Paths().run)) == (early.RUN_VARIABLE, early.RUN)
    assert (hold.EGRESS, hold.INGRESS) == (programs.Hook.EGRESS, programs.Hook.INGRESS)


def test_it_imports_nothing_that_takes_long() -> None:
    found = set()
    for name in FILES:
        tree = ast.parse((PROJECT / "watchdog" / name).read_text())
        for node in tree.body:  # what is imported at once
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {each.partition(".")[0] for each in names}
    assert found <= ALLOWED | {"watchdog"}
    loaded = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import watchdog.early; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-IS", "-c", loaded], capture_output=True, text=True, check=True)
    assert not {"typing", "pathlib", "re", "dataclasses", "enum"} & set(done.stdout.split())


class Noted:
    """A run directory and a configuration, as the environment names them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.config, self.run = folder / "cgroup", folder / "config.toml", folder / "run"
        self.run.mkdir()
        self.config.write_text("")
        (self.root / "system.slice" / "shield.service").mkdir(parents=True)
        monkeypatch.setenv("WATCHDOG_MESH_CONFIG", str(self.config))
        monkeypatch.setenv("WATCHDOG_MESH_RUN_DIR", str(self.run))
        self.stopped: list[str] = []
        monkeypatch.setattr(early, "carries_ours", lambda cgroup: False)
        monkeypatch.setattr(Hold, "stop", lambda held, cgroup: self.stopped.append(cgroup))

    def note(self, *agents: tuple[str, str, str]) -> None:
        identity = early.identity_of(str(self.config))
        early.note(str(self.run), str(self.config), identity, str(self.root), agents)

    def held(self, *target: str) -> list[str]:
        self.stopped.clear()
        early.hold(["isolate", *target, "--reason", "x"])
        return list(self.stopped)


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Noted:
    return Noted(tmp_path, monkeypatch)


def test_an_agent_is_found_by_each_of_its_names_and_nobody_by_anothers(noted: Noted) -> None:
    strange = "/sys/fs/cgroup/a\x85b"
    noted.note(
        ("strange", "", strange),
        ("sidecar", "shield.service", ""),
        ("shield", "", "/sys/fs/cgroup/immune"),
        ("gone", "gone.service", ""),
    )
    unit = str(noted.root / "system.slice" / "shield.service")
    assert noted.held("sidecar") == noted.held("--unit", "shield.service") == noted.held("--unit", "shield") == [unit]
    assert noted.held("shield") == noted.held("--cgroup", "/sys/fs/cgroup/immune") == ["/sys/fs/cgroup/immune"]
    for nobody in (("shield.service",), ("--unit", "sidecar"), ("--cgroup", unit), ("gone",), ("nemo",), ("strange",)):
        assert noted.held(*nobody) == [], nobody


def change_in_place(config: Path) -> None:
    config.write_text("# changed")


def put_back_an_older_one(config: Path) -> None:
    other = config.with_name("other.toml")
    other.write_text("")
    os.utime(other, ns=(0, 0))
    other.replace(config)


def remove(config: Path) -> None:
    config.unlink()


@pytest.mark.parametrize("change", [change_in_place, put_back_an_older_one, remove])
def test_what_was_noted_of_another_configuration_holds_nobody(noted: Noted, change: Callable[[Path], None]) -> None:
    noted.note(("shield", "shield.service", ""))
    assert noted.held("shield")
    change(noted.config)
    assert noted.held("shield") == []


def test_a_configuration_that_is_named_from_where_one_stands_holds_nobody(
    noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted.note(("shield", "shield.service", ""))
    monkeypatch.chdir(noted.config.parent)
    monkeypatch.setenv("WATCHDOG_MESH_CONFIG", noted.config.name)
    assert noted.held("shield") == []


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe\n", b"/sys\nshield\n", b"/sys\na\tb\tc\td\n"])
def test_a_note_that_is_none_holds_nobody_and_breaks_nothing(noted: Noted, garbage: bytes) -> None:
    noted.note(("shield", "shield.service", ""))
    [note] = noted.run.iterdir()
    assert note.stat().st_mode & 0o077 == 0
    whole = note.read_bytes()
    for content in (garbage, whole.partition(b"\n")[0] + b"\n" + garbage):
        note.write_bytes(content)
        assert noted.held("shield") == []
    note.write_bytes(whole)
    assert noted.held("shield")
    note.unlink()
    assert noted.held("shield") == []
