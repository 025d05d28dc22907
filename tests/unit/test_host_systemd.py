"""Names of units and what systemctl shows of them: pure rules. The rest is tested on a real systemd."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.errors import HostCannot, UsageError
from watchdog.host.systemd import SECTIONS, normalise, parse_state, query, section


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        ("shield", "shield.service"),
        ("shield.service", "shield.service"),
        ("shield.v2", "shield.v2.service"),
        ("shield@1", "shield@1.service"),
        ("a\\x2db.service", "a\\x2db.service"),
        ("x.scope", "x.scope"),
        ("user-0.slice", "user-0.slice"),
        ("service", "service.service"),
        ("_x:y.socket", "_x:y.socket"),
    ],
)
def test_names_that_mean_a_unit(given_name: str, meant: str) -> None:
    assert normalise(given_name) == meant


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-x",
        "--all",
        "-.slice",
        "a/b",
        "../a.service",
        "*",
        "shield*.service",
        "sh?eld",
        "[ab].service",
        "a b",
        "a\nb",
        "a\0b",
        "shield.target",
        "x.timer",
        "shield@.service",
        "schild\u00e9",
        "x" * 250 + ".service",
        ".service.service\n",
    ],
)
def test_names_that_mean_none_or_many(name: str) -> None:
    with pytest.raises(UsageError):
        normalise(name)


@given(st.text(max_size=300))
def test_a_name_is_refused_or_stays_what_it_is(name: str) -> None:
    try:
        full = normalise(name)
    except UsageError:
        return
    assert normalise(full) == full
    assert section(full) in SECTIONS.values()
    assert not set(full) & set("/*?[] \n-") or not full.startswith("-")


def test_what_is_shown_of_a_unit() -> None:
    state = parse_state(
        "MainPID=12\nNRestarts=3\nId=a.service\nNames=a.service b.service\nLoadState=loaded\nActiveState=failed\n"
        "SubState=failed\nResult=exit-code\nJob=57 restart\nIPIngressFilterPath=/a /b\nIPEgressFilterPath=/c\n"
        "ControlGroup=\nnonsense\nDropInPaths=/x/1.conf /x/2.conf\n"
    )
    assert (state.main_pid, state.job) == (12, 57)
    assert state.names == ("a.service", "b.service")
    assert state.ip_ingress_filter_path == ("/a", "/b")
    assert state.drop_in_paths == ("/x/1.conf", "/x/2.conf")
    assert state.control_group == ""
    assert state.in_words() == "failed (failed), result exit-code"


@given(st.text())
def test_whatever_systemctl_prints_is_read(text: str) -> None:
    parse_state(text)


def test_a_host_without_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostCannot, match="no systemctl") as caught:
        query("shield")
    assert "pid_file, exec or port in the configuration, or by --pid or --cgroup" in caught.value.hint
