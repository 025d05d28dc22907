"""What scripts/setup says, and ends with, on hosts it cannot set up; on this one, made worse for the command alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import AS_NOBODY
from tests.unit.certificates import Authority
from tests.unit.receivers import Hook

SETUP = Path(__file__).resolve().parents[2] / "scripts/setup"
TEST = SETUP.with_name("test")
LIMIT_S = 120.0
FAILED, USAGE, HOST_CANNOT, NOT_ROOT = 1, 2, 5, 6
FEDORA = 'NAME="Fedora Linux"\nPRETTY_NAME="Fedora Linux 41"\nID=fedora\n'
BULLSEYE = 'PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nID=debian\nVERSION_ID="11"\n'
ALONE = {"PIP_RETRIES": "1", "PIP_CONFIG_FILE": "/dev/null"}
"""No index of its own that needs no network."""
NO_CGROUP_V2 = """for at in $(awk '$3 == "cgroup2" { print $2 }' /proc/self/mounts); do umount -l "$at"; done"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="to change mounts is root's")


def ran(*command: str | Path, **environment: str) -> tuple[int, str]:
    """Exit status and everything said."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )
    return done.returncode, done.stdout


def in_private_mounts(change: str, *words: str | Path, **environment: str) -> tuple[int, str]:
    """The set-up after `change`, which the host does not see."""
    script = f'{change}\nexec "$@"'
    prefix = ("unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec", script, "-")
    return ran(*prefix, SETUP, *words, **environment)


@needs_root
def test_not_root() -> None:
    status, said = ran(*AS_NOBODY, SETUP)
    assert (status, "needs root" in said, "sudo " in said) == (NOT_ROOT, True, True), said
    assert "To do it by hand:" in said


@needs_root
@pytest.mark.parametrize(
    ("release", "says", "then"),
    [
        (FEDORA, "this is Fedora Linux 41; only Debian 12", "BCC for that same Python"),
        (BULLSEYE, "Debian GNU/Linux 11 (bullseye) is too old", "Upgrade the system first."),
        ("", "this is an unknown system", "To do it by hand"),
    ],
)
def test_another_system(tmp_path: Path, release: str, says: str, then: str) -> None:
    (tmp_path / "os-release").write_text(release)
    status, said = in_private_mounts(f"mount --bind {tmp_path}/os-release /etc/os-release")
    assert (status, says in said, then in said) == (HOST_CANNOT, True, True), said


@needs_root
@pytest.mark.parametrize(
    ("change", "says", "then"),
    [
        (NO_CGROUP_V2, "no cgroup v2 hierarchy is mounted", "mount -t cgroup2"),
        ("umount -l /proc", "/proc is not mounted", "mount -t proc"),
    ],
)
def test_something_is_not_mounted(change: str, says: str, then: str) -> None:
    status, said = in_private_mounts(change)
    assert (status, says in said, then in said) == (HOST_CANNOT, True, True), said


@needs_root
def test_no_network(tmp_path: Path) -> None:
    """All packages of the distribution are there; pip's are not to be had."""
    (tmp_path / "log").mkdir()
    into = tmp_path / "venv"
    status, said = in_private_mounts(f"mount --bind {tmp_path}/log /var/log", "--into", into, **ALONE)
    assert status == FAILED, said
    assert "pip could not install the project: the network, or the server of the packages, cannot be reached" in said
    assert f"{into}/bin/pip install" in said, "the manual steps"


@needs_root
def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    change = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
    with Hook(tls=Authority(tmp_path, "strangers").issue("index").server()) as index:
        script = f'mount --bind {tmp_path}/log /var/log\nexec "$@"'
        into = ("--into", tmp_path / "venv")
        status, said = ran(*change, script, "-", SETUP, *into, **ALONE, PIP_INDEX_URL=index.url.partition("?")[0])
    assert status == FAILED, said
    assert "does not trust the certificate" in said
    assert "update-ca-certificates" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--into", "here"), "wants an absolute directory"), (("--fast",), "unknown argument '--fast'")],
)
def test_words_it_does_not_know(words: tuple[str, ...], says: str) -> None:
    status, said = ran(SETUP, *words)
    assert (status, says in said) == (USAGE, True), said


@pytest.mark.parametrize("script", [SETUP, TEST])
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_given_and_nothing_done(script: Path, word: str) -> None:
    status, said = ran(script, word)
    assert (status, said.startswith(f"usage: scripts/{script.name}")) == (0, True), said
    assert "Setting up" not in said


@needs_root
def test_the_demo_does_not_begin_on_a_set_up_that_was_cut_short(tmp_path: Path) -> None:
    """An interpreter is there, and what it needs is not."""
    demo, python = tmp_path / "scripts/demo", tmp_path / ".venv/bin/python"
    for file, text in ((demo, SETUP.with_name("demo").read_text()), (python, "#!/bin/sh\nexit 0\n")):
        file.parent.mkdir(parents=True)
        file.write_text(text)
        file.chmod(0o755)
    said = f"demo: set-up has not been done, or did not end\nRun: sudo {tmp_path}/scripts/setup\n"
    assert ran(demo, "--no-setup") == (FAILED, said)
    (tmp_path / ".venv/.made-from").touch()
    assert ran(demo, "--no-setup") == (0, "")
