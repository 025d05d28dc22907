"""Who may ask, and what they want to read."""

from __future__ import annotations

import pytest

from watchdog.status.request import host_of, is_known_host, prefers_html

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/*", True),
        ("*/*", False),
        ("", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/json;q=0.5, text/html", True),
        ("text/html;q=0.4, application/json;q=0.5", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=nonsense, application/json", False),
        (";;;,,,q=", False),
        ("TEXT/HTML", True),
    ],
)
def test_html_only_where_it_is_wanted_more(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost.:9470", "localhost"),
        ("127.0.0.1:9470", "127.0.0.1"),
        ("[::1]:9470", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("", ""),
        ("[", ""),
    ],
)
def test_host_of_a_header(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    ("header", "hosts", "known"),
    [
        ("localhost:9470", (), True),
        ("127.0.0.1:9470", (), True),
        ("127.8.9.10", (), True),
        ("[::1]:9470", (), True),
        ("evil.example:9470", (), False),
        ("localhost.evil.example", (), False),
        ("127.0.0.1.evil.example", (), False),
        ("127.0.0.1@evil.example", (), False),
        ("localhost, evil.example", (), False),
        ("192.0.2.7:9470", (), False),
        ("192.0.2.7:9470", ("192.0.2.7",), True),
        ("[2001:db8::7]:9470", ("[2001:db8::7]",), True),
        ("Status.Mesh.Example", ("status.mesh.example",), True),
        ("192.0.2.7:9470", ("0.0.0.0",), True),
        ("192.0.2.7:9470", ("::",), True),
        ("evil.example", ("0.0.0.0",), False),
        ("", (), False),
    ],
)
def test_only_known_hosts_are_answered(header: str, hosts: tuple[str, ...], known: bool) -> None:
    assert is_known_host({"HTTP_HOST": header}, hosts) is known


@pytest.mark.parametrize(("protocol", "known"), [("HTTP/1.0", True), ("HTTP/1.1", False)])
def test_without_host_only_what_no_browser_speaks(protocol: str, known: bool) -> None:
    assert is_known_host({"SERVER_PROTOCOL": protocol}, ()) is known
