"""What the kernel tells of directories and files, and what of it matters."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.errors import HostCannot
from watchdog.kernel.inotify import Inotify, parse


@pytest.fixture
def watch() -> Iterator[Inotify]:
    made = Inotify()
    yield made
    made.close()


def test_only_the_names_that_matter(tmp_path: Path, watch: Inotify) -> None:
    assert watch.follow({tmp_path: {"agent"}})
    assert not watch.news()
    (tmp_path / "other").mkdir()
    assert not watch.news()
    (tmp_path / "agent").mkdir()
    assert watch.news()
    assert not watch.news()
    (tmp_path / "agent").rmdir()
    assert watch.news()


def test_a_file_and_everything_in_a_directory(tmp_path: Path, watch: Inotify) -> None:
    file, folder = tmp_path / "events", tmp_path / "pins"
    file.write_text("populated 1")
    folder.mkdir()
    watch.follow({file: None, folder: None})
    file.write_text("populated 0")
    assert watch.news()
    (folder / "pin").touch()
    assert watch.news()
    (folder / "pin").rename(tmp_path / "elsewhere")
    assert watch.news()


def test_following_the_same_again_is_no_news(tmp_path: Path, watch: Inotify) -> None:
    wanted = {tmp_path: {"agent"}}
    assert watch.follow(wanted)
    assert not watch.follow(wanted)
    assert watch.follow({**wanted, tmp_path / "..": None})
    assert not watch.follow({})
    (tmp_path / "agent").mkdir()
    assert not watch.news()


def test_one_directory_by_two_paths(tmp_path: Path, watch: Inotify) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    watch.follow({tmp_path: {"one"}, tmp_path / "link": {"other"}})
    for name in ("one", "other"):
        (tmp_path / name).touch()
        assert watch.news(), name


def test_what_was_made_anew_is_followed_anew(tmp_path: Path, watch: Inotify) -> None:
    agent = tmp_path / "agent"
    agent.mkdir()
    watch.follow({agent: None})
    agent.rmdir()
    assert watch.news()
    agent.mkdir()
    assert watch.follow({agent: None})
    (agent / "pin").touch()
    assert watch.news()


def test_what_is_not_there_is_left_out(tmp_path: Path, watch: Inotify) -> None:
    assert not watch.follow({tmp_path / "nowhere": None, tmp_path / "no" / "where": None})


def test_a_limit_that_is_reached_is_said(tmp_path: Path, watch: Inotify) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(HostCannot, match="inotify: "):
            watch.follow({tmp_path: None})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert watch.follow({tmp_path: None})


@given(st.binary(max_size=200))
def test_what_is_no_event_is_none(data: bytes) -> None:
    assert all(isinstance(name, str) for _, _, name in parse(data))
