"""The documentation knows every setting, every option and every verb there is, and no file that is not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from watchdog import config
from watchdog.cli.app import VERBS

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
STRUCTS = (
    config.Config,
    config.Peer,
    config.Isolation,
    config.Webhook,
    config.StatusServer,
    config.Paths,
)
TOLD_ONCE = {"--config", "--json", "--force", "--help"}


def commands() -> Iterator[tuple[str, click.Command]]:
    for name in VERBS:
        verb: click.Command = importlib.import_module(f"watchdog.cli.{name}").verb
        if isinstance(verb, click.Group):
            yield from ((f"{name} {each}", command) for each, command in verb.commands.items())
        else:
            yield name, verb


def test_every_setting_is_described() -> None:
    said = (PROJECT / "docs/configuration.md").read_text()
    names = [field.encode_name for struct in STRUCTS for field in msgspec.structs.fields(struct)]
    assert [name for name in names if not re.search(rf"[`.\[]{name}[`\]]", said)] == []


def test_every_verb_and_option_is_described() -> None:
    said = (PROJECT / "docs/operations.md").read_text()
    found = {(name, option) for name, each in commands() for known in each.params for option in known.opts}
    options = {(name, option) for name, option in found if option.startswith("--") and option not in TOLD_ONCE}
    assert {each for each in options if each[1] not in said} == set()
    assert [name for name, _ in commands() if f"`{name}" not in said] == []


def test_every_verb_takes_json() -> None:
    assert [name for name, each in commands() if not any("--json" in known.opts for known in each.params)] == []


def test_every_option_has_a_word_of_help() -> None:
    options = [(name, known) for name, each in commands() for known in each.params if isinstance(known, click.Option)]
    assert [(name, known.name) for name, known in options if not known.help] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    local = [link for link in links if link and not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []
