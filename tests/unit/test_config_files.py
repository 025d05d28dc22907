"""What a configuration names is read as its users read it: a file that is there may still be of no use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.certificates import Authority
from watchdog import config_files, daemon
from watchdog.config import parse
from watchdog.errors import ConfigurationError
from watchdog.kernel.cgroups import find_v2_root

SHIELD = '[[peer]]\nname = "shield"\nendpoint = "https://127.0.0.1:9103/healthz"\n'
ARCHITECT = '[[webhook]]\nname = "architect"\nurl = "https://soc.example/hook"\n'


def problems(text: str, folder: Path) -> list[str]:
    return config_files.problems(parse(text, folder / "config.toml", {}))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("table", "setting", "content", "wanted"),
    [
        (SHIELD, "key_file", b"short", "has 5 bytes, at least 16 are wanted"),
        (SHIELD, "ca_file", b"bare words", "cannot use the TLS files"),
        (ARCHITECT, "secret_file", b"whsec_%%%", "want base64 after whsec_"),
        (ARCHITECT, "secret_file", b"short", "has 5 bytes, at least 24 are wanted"),
        (ARCHITECT, "previous_secret_file", b"short", "has 5 bytes, at least 24 are wanted"),
        (ARCHITECT, "ca_file", b"bare words", "cannot use the TLS files"),
    ],
)
def test_a_file_of_no_use(tmp_path: Path, table: str, setting: str, content: bytes, wanted: str) -> None:
    line = f'{setting} = "{written(tmp_path, content)}"\n'
    [problem] = problems(f"{SHIELD}{line}" if table is SHIELD else f"{SHIELD}{ARCHITECT}{line}", tmp_path)
    who = "peer 'shield'" if table is SHIELD else "webhook 'architect'"
    assert problem.startswith(f"{who}.{setting}: ")
    assert wanted in problem
    assert content.decode() not in problem


def test_a_client_certificate_of_no_use(tmp_path: Path) -> None:
    path = written(tmp_path, b"neither")
    [problem] = problems(f'{SHIELD}client_cert = "{path}"\nclient_key = "{path}"\n', tmp_path)
    assert problem.startswith("peer 'shield'.client_cert: cannot use the TLS files")


def test_files_that_can_be_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    watcher = authority.issue("watcher")
    watcher.key.chmod(0o600)
    secret = written(tmp_path, b"a" * 24)
    tls = f'ca_file = "{authority.cert}"\nclient_cert = "{watcher.cert}"\nclient_key = "{watcher.key}"\n'
    peer = f'{SHIELD}key_file = "{secret}"\n{tls}status_listen = "localhost:9471"\n'
    assert problems(f'{peer}{ARCHITECT}secret_file = "{secret}"\nca_file = "{authority.cert}"\n', tmp_path) == []


@pytest.mark.parametrize("listen", ["256.0.0.1:80", "::1:80", "[::1:80"])
def test_an_address_that_is_none(tmp_path: Path, listen: str) -> None:
    [problem] = problems(f'{SHIELD}[status]\nlisten = "{listen}"\n', tmp_path)
    assert problem.startswith("status.listen: ")


AGENTS = (
    '[[peer]]\nname = "immune"\nendpoint = "http://h/"\n{immune}\n[[peer]]\nname = "shield"\nendpoint = "http://h/"\n'
)


@pytest.mark.parametrize(
    ("top", "immune", "shield", "shared"),
    [
        ("", "", "", "127.0.0.1:9470"),
        ("", 'status_listen = "127.0.0.1:9471"', "", ""),
        ("", 'status_listen = "127.0.0.1:9471"', 'status_listen = "127.0.0.1:9471"', "127.0.0.1:9471"),
        ("", 'status_listen = "127.0.0.1:0"', 'status_listen = "127.0.0.1:0"', ""),
        ('watchers = ["shield"]', "", "", ""),
        ('self = "sidecar"', "", "", ""),
    ],
)
def test_watchers_of_one_file_at_one_address(tmp_path: Path, top: str, immune: str, shield: str, shared: str) -> None:
    found = problems(f"{top}\n{AGENTS.format(immune=immune)}{shield}\n", tmp_path)
    told = f"want an address of its own watcher's, got {shared}, where the one of 'immune' serves"
    wanted = [f"peer 'shield'.status_listen: {told}"] if shared else []
    assert found == wanted


@pytest.mark.parametrize(
    ("immune", "shield", "shared"),
    [
        ('unit = "agent"', 'unit = "agent.service"', "unit: want its own, got agent.service, that of 'immune'"),
        ('unit = "agent@1"', 'unit = "agent@2"', ""),
        ('unit = "a"', "", ""),
        ('cgroup = "{root}/a"', 'cgroup = "{root}//a/"', "cgroup: want its own, got {root}/a, that of 'immune'"),
        ('cgroup = "{root}/a"', 'cgroup = "{root}/a/b"', ""),
    ],
)
def test_one_agent_under_two_names(tmp_path: Path, immune: str, shield: str, shared: str) -> None:
    text = f'self = "sidecar"\n{AGENTS.format(immune=immune)}{shield}\n'.replace("{root}", str(find_v2_root()))
    wanted = [f"peer 'shield'.{shared}".replace("{root}", str(find_v2_root()))] if shared else []
    assert problems(text, tmp_path) == wanted


@pytest.mark.parametrize("cgroup", ["/", "/etc", "{root}", "{root}-elsewhere/x"])
def test_a_cgroup_that_no_agent_can_have(tmp_path: Path, cgroup: str) -> None:
    root = find_v2_root()
    named = cgroup.format(root=root)
    assert problems(f'{SHIELD}cgroup = "{named}"\n', tmp_path) == [
        f"peer 'shield'.cgroup: want a cgroup below {root}, got {named}"
    ]


def test_a_cgroup_need_not_be_there(tmp_path: Path) -> None:
    assert problems(f'{SHIELD}cgroup = "{find_v2_root()}/wd-not-there"\n', tmp_path) == []


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("/nowhere/x", "cannot find the program /nowhere/x: No such file or directory; name one by its path"),
        ("/etc", "/etc is no file; name a program by its path"),
        ("{file}", "{file} cannot be executed; chmod +x {file}"),
        ("/bin/true", ""),
    ],
)
def test_a_restart_that_would_run_nothing(tmp_path: Path, program: str, wanted: str) -> None:
    file = written(tmp_path, b"#!/bin/sh\n")
    text = f'{SHIELD}restart = ["{program.format(file=file)}", "now"]\n'
    told = [f"peer 'shield'.restart: {wanted.format(file=file)}"] if wanted else []
    assert problems(text, tmp_path) == told
    assert config_files.restarts_in_vain(parse(text, tmp_path / "config.toml", {})) == told


@pytest.mark.parametrize(
    ("table", "setting"), [(SHIELD, "key_file"), (ARCHITECT, "secret_file"), (ARCHITECT, "previous_secret_file")]
)
def test_who_starts_a_watcher_is_told_whose_secret_is_none(tmp_path: Path, table: str, setting: str) -> None:
    line = f'{setting} = "{written(tmp_path, b"short")}"\n'
    found = parse(f"{SHIELD}{line}" if table is SHIELD else f"{SHIELD}{ARCHITECT}{line}", tmp_path / "config.toml", {})
    who = "peer 'shield'" if table is SHIELD else "webhook 'architect'"
    with pytest.raises(ConfigurationError, match=f"^{who}.{setting}: ") as caught:
        [daemon.target_of(peer, 5.0) for peer in found.peers] + [daemon.receivers(found)]
    assert "openssl rand -hex" in caught.value.hint
