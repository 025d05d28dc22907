"""One POST to receivers broken in every way: over in time, never followed, never wrongly taken for delivered."""

from __future__ import annotations

import os
import resource
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit import receivers
from tests.unit.certificates import Authority
from tests.unit.receivers import Hook, Manner, answers
from watchdog.clock import utc_now
from watchdog.webhook import Answer, Delivered, Gone, Receiver, Retry, example_body, post, verify

TIMEOUT_S = 0.5
SLACK_S = 0.2
AT = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
BODY = example_body("soc-1", AT)
MEMORY_SLACK_KIB = 16 * 1024


def bounded_post(receiver: Receiver) -> Answer:
    began_s = time.monotonic()
    answer = post(receiver, "evt_1", AT, BODY, timeout_s=TIMEOUT_S)
    assert time.monotonic() - began_s <= TIMEOUT_S + SLACK_S
    if isinstance(answer, Retry | Gone):
        assert "keep-me-out" not in answer.why, "the URL's path may be a secret"
    return answer


def test_what_arrives() -> None:
    with Hook() as hook:
        secrets = (b"new secret", b"old secret")
        assert post(Receiver("a", hook.url, secrets), "evt_1", utc_now(), BODY) == Delivered(200)
    (received,) = hook.received
    assert received.body == BODY
    assert received.headers["Content-Type"] == "application/json"
    for secret in secrets:
        assert verify(received.headers, received.body, (secret,), utc_now()) == "evt_1"


@pytest.mark.parametrize(
    ("manner", "answer"),
    [
        (answers(204), Delivered(204)),
        (answers(202, {"Content-Length": "999999999"}, b"ok"), Delivered(202)),
        (receivers.huge(200), Delivered(200)),
        (receivers.drip_body(200), Delivered(200)),
        (receivers.huge(500), Retry("HTTP 500")),
        (receivers.drip_body(500), Retry("HTTP 500")),
        (answers(500, body=b"boom"), Retry("HTTP 500: boom")),
        (answers(410, body=b"moved on"), Gone("HTTP 410: moved on")),
        (answers(429, {"Retry-After": "17"}), Retry("HTTP 429", 17.0)),
        (answers(503, {"Retry-After": "Fri, 31 Dec 2199 23:59:59 GMT"}), Retry("HTTP 503", 3600.0)),
        (receivers.garbage, Retry("")),
        (receivers.reset, Retry("reset the connection", reached=False)),
        (receivers.close, Retry("closed the connection without an answer", reached=False)),
        (receivers.hang, Retry(f"no answer within {TIMEOUT_S:g} s", reached=False)),
        (receivers.drip_headers, Retry(f"no answer within {TIMEOUT_S:g} s: it sent only part of one", reached=False)),
    ],
)
def test_every_manner(manner: Manner, answer: Answer) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Hook(manner) as hook:
        got = bounded_post(Receiver("a", hook.url))
    assert type(got) is type(answer)
    if not (isinstance(answer, Retry) and answer.why == ""):
        assert got == answer
    assert len(hook.received) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < MEMORY_SLACK_KIB


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with Hook() as elsewhere, Hook(answers(status, {"Location": elsewhere.url, "Set-Cookie": "a=b"})) as hook:
        assert bounded_post(Receiver("a", hook.url)) == Retry(f"HTTP {status}: it redirects, which is not followed")
        bounded_post(Receiver("a", hook.url))
    assert elsewhere.received == []
    assert "Cookie" not in hook.received[1].headers


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    with Hook() as proxy, Hook() as hook:
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert bounded_post(Receiver("a", hook.url)) == Delivered(200)
    assert proxy.received == []
    assert "Authorization" not in hook.received[0].headers


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        receiver = Receiver("a", f"http://127.0.0.1:{taken.getsockname()[1]}/keep-me-out")
        assert bounded_post(receiver) == Retry("connection refused", reached=False)


@pytest.mark.parametrize("url", ["http://a..b/keep-me-out", "http://[::zz]/keep-me-out", "ftp://a/keep-me-out"])
def test_urls_that_cannot_be_asked(url: str) -> None:
    assert isinstance(bounded_post(Receiver("a", url)), Retry)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


def test_tls_trusted_with_a_client_certificate(authority: Authority) -> None:
    server, client = authority.issue("server"), authority.issue("client")
    with Hook(tls=server.server(client_ca=authority.cert)) as hook:
        known = Receiver("a", hook.url, ca_file=authority.cert, client_cert=client.cert, client_key=client.key)
        assert bounded_post(known) == Delivered(200)
        assert isinstance(bounded_post(Receiver("a", hook.url, ca_file=authority.cert)), Retry)
    assert len(hook.received) == 1


def test_tls_wrong(authority: Authority, tmp_path: Path) -> None:
    """Signed by nobody we know, for another name, expired, or no TLS at all: nothing is told to it."""
    stranger = Authority(tmp_path, "strangers").issue("server")
    elsewhere = authority.issue("elsewhere", names="subjectAltName=DNS:elsewhere.example")
    for identity in (stranger, elsewhere, authority.issue_expired()):
        with Hook(tls=identity.server()) as hook:
            answer = bounded_post(Receiver("a", hook.url, ca_file=authority.cert))
            assert isinstance(answer, Retry)
            assert "its certificate is not trusted" in answer.why
        assert hook.received == []
    with Hook() as plain:
        answer = bounded_post(Receiver("a", plain.url.replace("http:", "https:"), ca_file=authority.cert))
        assert answer == Retry("does not speak TLS", reached=False)


def test_tls_system_authorities_do_not_trust_ours(authority: Authority) -> None:
    with Hook(tls=authority.issue("unknown").server()) as hook:
        assert isinstance(bounded_post(Receiver("a", hook.url)), Retry)
    assert hook.received == []


def test_a_certificate_file_that_went_away_is_no_traceback(tmp_path: Path) -> None:
    answer = bounded_post(Receiver("a", "https://127.0.0.1:1/keep-me-out", ca_file=tmp_path / "none.pem"))
    assert isinstance(answer, Retry)
    assert "none.pem" in answer.why


def test_no_descriptor_stays_open() -> None:
    with Hook(answers(200), receivers.reset, receivers.huge(200), receivers.garbage) as hook:
        bounded_post(Receiver("a", hook.url))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the descriptors themselves, not paths
        for _ in range(4):
            bounded_post(Receiver("a", hook.url))
        assert len(os.listdir("/proc/self/fd")) <= before + 4  # noqa: PTH208 - and the server's own
