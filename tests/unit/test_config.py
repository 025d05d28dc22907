"""The configuration: every problem with its place and what was wanted, all at once; and no other error."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdog import config
from watchdog.config import EXAMPLE, Config, find, for_watcher, load, parse
from watchdog.errors import ConfigurationError, Exit
from watchdog.model import Severity
from watchdog.probe import transport

PATH = Path("/etc/watchdog-mesh/config.toml")
SHIELD = '[[peer]]\nname = "shield"\nendpoint = "http://127.0.0.1:9103/healthz"\n'
SIDECAR = '[[peer]]\nname = "sidecar"\nendpoint = "http://127.0.0.1:9102/healthz"\n'


def read(text: str, **environment: str) -> Config:
    return parse(text, PATH, environment)


def problems(text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        read(text, **environment)
    assert raised.value.exit_status is Exit.USAGE
    assert str(PATH) in raised.value.one_line()
    assert "\n" not in raised.value.one_line()
    return list(raised.value.problems)


def test_the_mission_s_numbers_are_the_defaults() -> None:
    found = read(f'self = "immune"\n{SHIELD}')
    policy = found.policy
    assert (policy.interval_s, policy.timeout_s) == (30.0, 5.0)
    assert (policy.missed_before_restart, policy.restarts_before_isolation, policy.forgive_after_s) == (3, 3, 300.0)
    assert (found.restart_timeout, found.status.listen, found.isolation.level) == (25.0, "127.0.0.1:9470", "network")
    assert found.paths.state == Path("/var/lib/watchdog-mesh")


def test_every_name_that_is_fixed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_x")
    secret.chmod(0o600)
    found = read(
        f"""
        self = "immune"
        interval = "10s"
        timeout = "500ms"
        missed_before_restart = 4
        restarts_before_isolation = 2
        [[peer]]
        name = "shield"
        endpoint = "https://127.0.0.1:9103/healthz"
        unit = "shield.service"
        restart = ["/usr/local/bin/x", "--now"]
        [isolation]
        level = "network"
        allow = ["192.0.2.10/32:443/tcp"]
        [[webhook]]
        name = "architect"
        url = "https://soc.example/hook"
        secret_file = "{secret}"
        min_severity = "CRITICAL"
        [status]
        listen = "127.0.0.1:9471"
        [paths]
        state = "/a"
        run = "/b"
        bpffs = "/c"
        """
    )
    assert (found.self_name, found.interval, found.timeout) == ("immune", 10.0, 0.5)
    assert (found.policy.missed_before_restart, found.policy.forgive_after_s) == (4, 100.0)
    assert found.peers[0].selector == ("unit", "shield.service")
    assert found.webhooks[0].min_severity is Severity.CRITICAL
    assert [found.paths.state, found.paths.run, found.paths.bpffs] == [Path("/a"), Path("/b"), Path("/c")]


def test_the_example_is_a_configuration() -> None:
    for name in ("immune", "sidecar", "shield"):
        watcher = for_watcher(read(EXAMPLE), name)
        assert name not in [peer.name for peer in watcher.peers]
        assert len(watcher.peers) == 2


@pytest.mark.parametrize(
    ("text", "place", "wanted"),
    [
        ("", "peer", "at least one [[peer]]"),
        (f"peers = 1\n{SHIELD}", "peers", "did you mean peer?"),
        (f"colour = 1\n{SHIELD}", "colour", "unknown setting; known here: "),
        (f"self = 7\n{SHIELD}", "self", "want a text, got 7"),
        (f'self = "a b"\n{SHIELD}', "self", "want letters"),
        (f'self = "shield"\n{SHIELD}', "peer 'shield'", "self is among the peers"),
        (f"interval = 30\n{SHIELD}", "interval", "want a time"),
        (f'interval = "30"\n{SHIELD}', "interval", "want a time"),
        (f'interval = "0s"\n{SHIELD}', "interval", "want a time greater than 0"),
        (f'interval = "-1s"\n{SHIELD}', "interval", "want a time"),
        (f'interval = "1e3s"\n{SHIELD}', "interval", "want a time"),
        (f'interval = "49ms"\ntimeout = "1ms"\n{SHIELD}', "interval", "want 50ms to 24h"),
        (f'interval = "25h"\n{SHIELD}', "interval", "want 50ms to 24h"),
        (f'interval = "{"9" * 400}s"\n{SHIELD}', "interval", "at most 366d"),
        (f'restart_timeout = "367d"\n{SHIELD}', "restart_timeout", "at most 366d"),
        (f'timeout = "30s"\n{SHIELD}', "timeout", "want less than interval (30 s), got 30 s"),
        (f"missed_before_restart = 0\n{SHIELD}", "missed_before_restart", "want a whole number of at least 1, got "),
        (f"missed_before_restart = -3\n{SHIELD}", "missed_before_restart", "want a whole number of at least 1, got "),
        (
            f"missed_before_restart = 1001\n{SHIELD}",
            "missed_before_restart",
            "want a whole number of at most 1000, got 1001",
        ),
        (f"missed_before_restart = {10**40}\n{SHIELD}", "missed_before_restart", "got 1000"),
        (f"missed_before_restart = true\n{SHIELD}", "missed_before_restart", "want a whole number, got "),
        (f"missed_before_restart = 2.5\n{SHIELD}", "missed_before_restart", "want a whole number, got "),
        (f'watchers = ["shield", "scribe"]\n{SHIELD}', "watchers", "'scribe' is no peer and not self"),
        (f"watchers = []\n{SHIELD}", "watchers", "at least one name"),
        (f'watchers = "shield"\n{SHIELD}', "watchers", "want a list of texts, got 'shield'"),
        ("peer = 7", "peer", "want [[peer]] tables, got 7"),
        ("peer = [7]", "peer number 1", "want a table, got 7"),
        (SHIELD + SHIELD, "peer 'shield'", "used twice"),
        ('[[peer]]\nname = "shield"', "peer 'shield'.endpoint", "is missing"),
        ('[[peer]]\nendpoint = "http://h/"', "peer number 1.name", "is missing"),
        ('[[peer]]\nname = ""\nendpoint = "http://h/"', "peer number 1.name", "want letters"),
        ('[[peer]]\nname = "../x"\nendpoint = "http://h/"', "peer '../x'.name", "want letters"),
        (f'{SHIELD}[isolation]\nlevel = "total"', "isolation.level", "want network or frozen"),
        (f"{SHIELD}[isolation]\nmax_isolated = 0", "isolation.max_isolated", "want a whole number of at least 1, got "),
        (f"{SHIELD}[isolation]\nhost_links = 1", "isolation.host_links", "want true or false, got 1"),
        (f'{SHIELD}[isolation]\nallow = ["nowhere"]', "isolation.allow", "nowhere"),
        (f'{SHIELD}[status]\nlisten = "9470"', "status.listen", 'want "ADDRESS:PORT"'),
        (f'{SHIELD}[status]\nlisten = "127.0.0.1:65536"', "status.listen", 'want "ADDRESS:PORT"'),
        (f'{SHIELD}[status]\nlisten = "127.0.0.1:\u00b2"', "status.listen", 'want "ADDRESS:PORT"'),
        (f"{SHIELD}[status]\nport = 1", "status.port", "unknown setting"),
        (f'{SHIELD}[paths]\nstate = "var"', "paths.state", "want an absolute path"),
        (f"{SHIELD}[paths]\nstate = 7", "paths.state", "want an absolute path"),
        ('paths = "x"\n' + SHIELD, "paths", "want a table"),
        (f'{SHIELD}[[webhook]]\nname = "a"', "webhook 'a'.url", "is missing"),
        (f'{SHIELD}[[webhook]]\nname = "a"\nurl = "soc"', "webhook 'a'.url", "want http://HOST:PORT/PATH"),
        (
            f'{SHIELD}[[webhook]]\nname = "a"\nurl = "http://h/"\nmin_severity = "LOUD"',
            "webhook 'a'.min_severity",
            "want MEDIUM or HIGH or CRITICAL, got 'LOUD'",
        ),
    ],
)
def test_a_problem_has_its_place_and_what_was_wanted(text: str, place: str, wanted: str) -> None:
    [problem] = problems(text)
    assert problem.startswith(f"{place}: ")
    assert wanted in problem
    assert len(problem) < 400


@pytest.mark.parametrize(
    "host",
    [
        "h",
        "agent_1.example.",
        "127.0.0.1",
        "[::1]",
        "[fe80::1%25eth0]",
        "xn--bcher-kva.example",
        "a-.-b.example",
        "A",
        "1a",
    ],
)
def test_a_host_that_can_be_asked(host: str) -> None:
    assert read(f'[[peer]]\nname = "shield"\nendpoint = "http://{host}:9103/"\n').peers
    assert transport.prepare(f"http://{host}:9103/").url


@given(st.text(alphabet="aZ9*._-:%[]@\u00fc\u2024 ,~", max_size=12))
def test_what_is_an_endpoint_can_be_asked(host: str) -> None:
    with suppress(ConfigurationError):
        found = read(f'[[peer]]\nname = "shield"\nendpoint = "http://{host}/"\n')
        assert transport.prepare(found.peers[0].endpoint).url


@pytest.mark.parametrize(
    ("line", "place", "wanted"),
    [
        ('endpoint = "ftp://127.0.0.1/"', "endpoint", "want http://"),
        ('endpoint = "http://"', "endpoint", "want http://"),
        ('endpoint = "http://h:0/"', "endpoint", "want http://"),
        ('endpoint = "http://h:99999/"', "endpoint", "want http://"),
        ('endpoint = "http://[::1/"', "endpoint", "want http://"),
        ('endpoint = "http://h /"', "endpoint", "want http://"),
        ('endpoint = "http://*.example/"', "endpoint", "want http://"),
        ('endpoint = "http://.example/"', "endpoint", "want http://"),
        ('endpoint = "http://a..example/"', "endpoint", "want http://"),
        ('endpoint = "http://b\u00fccher.example/"', "endpoint", "want http://"),
        ('endpoint = "http://a,b/"', "endpoint", "want http://"),
        ('endpoint = "http://999.1.1.1/"', "endpoint", "want http://"),
        ('endpoint = "http://1.2.3/"', "endpoint", "want http://"),
        ('endpoint = "http://127.0.0.1./"', "endpoint", "want http://"),
        ('endpoint = "http://010.0.0.1/"', "endpoint", "want http://"),
        ('endpoint = "http://agent.7:80/"', "endpoint", "want http://"),
        ('endpoint = "http://-a/"', "endpoint", "want http://"),
        ('endpoint = "http://-a.example/"', "endpoint", "want http://"),
        ('endpoint = "http://h/#f"', "endpoint", "want no # in it"),
        ('endpoint = "http://h/x#"', "endpoint", "want no # in it"),
        ('endpoint = "http://[::g]/"', "endpoint", "want http://"),
        (f'endpoint = "http://{"a" * 64}.example/"', "endpoint", "want http://"),
        ('endpoint = "http://user:secret@h/"', "endpoint", "no user name or password"),
        ('endpoint = "http://h/\\u0000"', "endpoint", "no control characters"),
        ('unit = ""', "unit", "want the name of a unit that has processes"),
        ('unit = "--now"', "unit", "want the name of a unit that has processes"),
        ('unit = "a/b.service"', "unit", "want the name of a unit that has processes"),
        ('unit = "basic.target"', "unit", "got 'basic.target'; name the service itself"),
        ('unit = "a@.service"', "unit", "got 'a@.service'; name an instance, like a@1.service"),
        ('unit = "a.timer"', "unit", "want the name of a unit that has processes, got 'a.timer'"),
        ('unit = "a b"', "unit", "want the name of a unit that has processes"),
        ('command_line = ""', "command_line", "is empty"),
        ('command_line = "([a-z"', "command_line", "want a regular expression, got '([a-z': unterminated"),
        ('command_line = "a*"', "command_line", "matches every process"),
        ("port = 0", "port", "want a whole number of at least 1, got "),
        ("port = 65536", "port", "want a whole number of at most 65535, got 65536"),
        ('cgroup = "relative"', "cgroup", "want an absolute path"),
        ('cgroup = "/sys/fs/cgroup/../etc"', "cgroup", "without .."),
        ('exec = "/bin/x\\u001b[31m"', "exec", "no control characters"),
        ("restart = 7.5", "restart", "want a list of texts, got 7.5"),
        ('restart = ["/bin/x", 7]', "restart", "want a list of texts, got ['/bin/x', 7]"),
        ("unit = 7", "unit", "want a text, got 7"),
        ('port = "80"', "port", "want a whole number, got '80'"),
        ("restart = []", "restart", "want a list that begins with an absolute path"),
        ('restart = ["systemctl"]', "restart", "want a list that begins with an absolute path"),
        ('restart = ["/bin/x", "a\\u0000b"]', "restart", "no control characters"),
        ('restart = "/bin/x now"', "restart", "want a list of texts, got '/bin/x now'"),
        ('host_end = "lo"', "host_end", "want the name of a veth"),
        ('host_end = "a/b"', "host_end", "want the name of a veth"),
        ('host_end = "sixteen-letters-"', "host_end", "want the name of a veth"),
        ('agent = ""', "agent", "is empty"),
        ('key_file = "/no/such/file"', "key_file", "cannot read /no/such/file: No such file or directory"),
        ('key_file = "/dev/zero"', "key_file", "/dev/zero is no file"),
        ('key_file = "/"', "key_file", "/ is no file"),
        ('client_cert = "/etc/hostname"', "client_cert", "together"),
        ('status_listen = "x"', "status_listen", 'want "ADDRESS:PORT"'),
        ('unit = "a.service"\nport = 80', "port", "want one way to find the agent, got unit, port"),
    ],
)
def test_a_peer_s_problem(line: str, place: str, wanted: str) -> None:
    endpoint = "" if line.startswith("endpoint") else 'endpoint = "http://127.0.0.1:9103/"\n'
    [problem] = problems(f'[[peer]]\nname = "shield"\n{endpoint}{line}\n')
    assert problem.startswith(f"peer 'shield'.{place}: ")
    assert wanted in problem


def pipe(path: Path) -> None:
    os.mkfifo(path)


def nothing(path: Path) -> None:
    path.touch(mode=0o600)


def readable(path: Path) -> None:
    path.write_text("secret")
    path.chmod(0o644)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [(pipe, "is no file"), (nothing, "is empty"), (readable, "can be read by others; want chmod 600")],
)
def test_a_secret_that_is_none(tmp_path: Path, make: Callable[[Path], None], wanted: str) -> None:
    make(tmp_path / "key")
    [problem] = problems(f'{SHIELD}key_file = "{tmp_path}/key"')
    assert problem.startswith("peer 'shield'.key_file: ")
    assert wanted in problem


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        """
        interval = 3
        colour = "red"
        missed_before_restart = 0
        [[peer]]
        name = "shield"
        endpoint = "nowhere"
        port = 0
        [[peer]]
        name = "sidecar"
        endpoint = "elsewhere"
        unit = ""
        [[peer]]
        name = "sidecar"
        [[webhook]]
        name = "architect"
        url = 7
        [status]
        listen = "x"
        """
    )
    assert [problem.split(":")[0] for problem in found] == [
        "colour",
        "interval",
        "missed_before_restart",
        "peer 'shield'.port",
        "peer 'shield'.endpoint",
        "peer 'sidecar'.endpoint",
        "peer 'sidecar'.unit",
        "peer 'sidecar'.endpoint",
        "webhook 'architect'.url",
        "status.listen",
        "peer 'sidecar'",
    ]


def test_a_malformed_value_hides_no_other_problem() -> None:
    found = problems(
        """
        interval = 60
        timeout = "40s"
        [[peer]]
        name = "shield"
        endpoint = "ftp://x"
        port = 70000
        unit = "a b"
        client_cert = 7
        client_key = "/no/such/key"
        [[peer]]
        name = "a b"
        restart = ["x"]
        [[webhook]]
        name = "architect"
        url = "soc"
        timeout = 3
        [[webhook]]
        name = "architect"
        url = "http://h/"
        """
    )
    assert sorted(problem.partition(":")[0] for problem in found) == [
        "interval",
        "peer 'a b'.endpoint",
        "peer 'a b'.name",
        "peer 'a b'.restart",
        "peer 'shield'.client_cert",
        "peer 'shield'.client_key",
        "peer 'shield'.endpoint",
        "peer 'shield'.port",
        "peer 'shield'.port",
        "peer 'shield'.unit",
        "webhook 'architect'",
        "webhook 'architect'.timeout",
        "webhook 'architect'.url",
    ]


def test_what_is_not_toml() -> None:
    with pytest.raises(ConfigurationError, match="is not TOML"):
        read("interval = ")
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        read("x = " + "[" * 5000)


# The environment


def test_the_environment_s_paths_win() -> None:
    found = read(
        f'{SHIELD}[paths]\nstate = "/file"\nrun = "/file"',
        WATCHDOG_MESH_STATE_DIR="/env",
        WATCHDOG_MESH_BPFFS_DIR="/env-bpf",
        WATCHDOG_MESH_RUN_DIR="",
        UNRELATED="/x",
    )
    assert [found.paths.state, found.paths.run, found.paths.bpffs] == [Path("/env"), Path("/file"), Path("/env-bpf")]


def test_a_problem_with_a_path_from_the_environment_is_the_environment_s() -> None:
    [problem] = problems(f'{SHIELD}[paths]\nrun = "/x"', WATCHDOG_MESH_STATE_DIR="relative")
    assert problem == "$WATCHDOG_MESH_STATE_DIR: want an absolute path, got 'relative'"


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(config.PATH_VARIABLE, raising=False)
    assert find() == Path("/etc/watchdog-mesh/config.toml")
    monkeypatch.setenv(config.PATH_VARIABLE, "/elsewhere.toml")
    assert find() == Path("/elsewhere.toml")
    assert find(Path("/given.toml")) == Path("/given.toml")
    with pytest.raises(ConfigurationError, match="--config names no file"):
        find(Path())


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="No such file") as missing:
        load(tmp_path / "config.toml")
    assert "config example" in missing.value.hint
    with pytest.raises(ConfigurationError, match="Is a directory"):
        load(tmp_path)
    pipe(tmp_path / "pipe")
    for waits in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match=f"cannot read the configuration {waits}: it is no file"):
            load(waits)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(tmp_path / "binary")
    (tmp_path / "config.toml").write_text(EXAMPLE)
    assert load(tmp_path / "config.toml").interval == 30.0


def test_a_configuration_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as file:
        file.write(EXAMPLE)
    try:
        assert load(Path(f"/dev/fd/{read_end}")).interval == 30.0
    finally:
        os.close(read_end)


# One file for several watchers


ALL_OF_THEM = f"""
{SHIELD}status_listen = "127.0.0.1:9473"
{SIDECAR}
[status]
listen = "127.0.0.1:9470"
"""


def test_a_watcher_does_not_watch_its_own_agent() -> None:
    shield = for_watcher(read(ALL_OF_THEM), "shield")
    assert (shield.self_name, [peer.name for peer in shield.peers]) == ("shield", ["sidecar"])
    assert shield.status.listen == "127.0.0.1:9473"
    assert shield.voters_on("sidecar") == {"shield"}
    sidecar = for_watcher(read(ALL_OF_THEM), "sidecar")
    assert sidecar.status.listen == "127.0.0.1:9470"
    assert sidecar.voters_on("shield") == {"sidecar"}


def test_a_file_for_one_watcher() -> None:
    immune = for_watcher(read(f'self = "immune"\n{ALL_OF_THEM}'), None)
    assert [peer.name for peer in immune.peers] == ["shield", "sidecar"]
    assert immune.voters_on("shield") == {"immune", "sidecar"}


def test_who_has_a_vote_can_be_said() -> None:
    found = for_watcher(read(f'watchers = ["shield", "sidecar"]\n{ALL_OF_THEM}'), "shield")
    assert found.voters_on("sidecar") == {"shield"}
    assert found.voters_on("nobody") == {"shield", "sidecar"}


@pytest.mark.parametrize(
    ("text", "name", "wrong"),
    [
        (ALL_OF_THEM, None, "was not said"),
        (ALL_OF_THEM, "", "was not said"),
        (ALL_OF_THEM, "scribe", "no such agent"),
        (f'self = "immune"\n{ALL_OF_THEM}', "shield", "disagree"),
    ],
)
def test_whose_watcher_it_is_must_be_clear(text: str, name: str | None, wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        for_watcher(read(text), name)


# Anything


KEYS = st.sampled_from(
    (
        *("self", "interval", "timeout", "missed_before_restart", "restart_timeout", "watchers", "peer", "isolation"),
        *("webhook", "status", "paths", "name", "endpoint", "unit", "port", "restart", "key_file", "listen", "state"),
        *("level", "allow", "url", "min_severity", "agent", "cgroup", "status_listen", "max_isolated"),
    )
)
SCALARS = (
    st.text(max_size=20)
    | st.sampled_from(("30s", "shield", "http://h/", "/etc/hostname", "127.0.0.1:80", "network", "CRITICAL", "/", "0s"))
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.datetimes(timezones=st.just(UTC))
    | st.just(datetime(2026, 1, 1, tzinfo=UTC))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=4),
    max_leaves=8,
)
TABLES = st.dictionaries(KEYS | st.text(max_size=8), VALUES, max_size=6)


def problems_or_none(text: str) -> tuple[str, ...]:
    try:
        found = read(text, WATCHDOG_MESH_RUN_DIR="/run/x")
    except ConfigurationError as error:
        return error.problems
    assert found.peers
    assert found.timeout < found.interval
    return ("none: it is a configuration",)


@settings(max_examples=400, deadline=None)
@given(TABLES)
def test_any_table_is_a_configuration_or_a_list_of_problems(table: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tomllib.loads", lambda _: table)
        found = problems_or_none("")
    assert found
    assert all(": " in problem and problem.isprintable() for problem in found)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_a_configuration_or_an_error(text: str) -> None:
    assert problems_or_none(text)
