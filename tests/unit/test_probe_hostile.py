"""Whatever a peer does, the probe ends at its deadline, stays small and says what happened."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection as PlainConnection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit import hostile
from watchdog.model import Heartbeat
from watchdog.probe import Prober, Target

TIMEOUT_S = 0.5
SLACK_S = 0.2
RSS_GROWTH_MAX_KIB = 5 * 1024
CHUNKED = hostile.OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def prober() -> Iterator[Prober]:
    with Prober(4) as made:
        yield made


def probe(prober: Prober, url: str, timeout_s: float = TIMEOUT_S) -> Heartbeat:
    """Probe once, and hold the deadline."""
    began_s = time.monotonic()
    beat = prober.probe(Target("shield", url, timeout_s))
    assert time.monotonic() - began_s <= timeout_s + SLACK_S
    return beat


@pytest.mark.parametrize(
    ("behave", "detail"),
    [
        (hostile.hang, "no answer within 0.5 s"),
        (hostile.status_drip, "no answer within 0.5 s: it sent only part of one"),
        (hostile.header_drip, "no answer within 0.5 s: it sent only part of one"),
        (hostile.body_drip, "no answer within 0.5 s: it sent only part of one"),
        (hostile.huge_body, "its body is larger than 64 KiB"),
        (hostile.endless_body, "its body is larger than 64 KiB"),
        (hostile.endless_chunks, "its body is larger than 64 KiB"),
        (hostile.empty_chunks, "its answer is larger than 256 KiB with all its headers"),
        (hostile.header_flood, "its answer is no valid HTTP: got more than 100 headers"),
        (hostile.one_long_header, "its answer is no valid HTTP: got more than 65536 bytes when reading header line"),
        (hostile.continue_flood, "its answer is larger than 256 KiB with all its headers"),
        (hostile.trailer_flood, "its answer is larger than 256 KiB with all its headers"),
        (hostile.reset_in_answer, "reset the connection"),
        (hostile.reset_at_once, "reset the connection"),
        (hostile.close_early, "its answer breaks off in the middle"),
        (hostile.close_at_once, "closed the connection without an answer"),
        (hostile.answering(b"\x00\xff\x1b[2Jgarbage\r\n\r\n"), "does not speak HTTP: ?\xff?[2Jgarbage"),
        (
            hostile.answering(b"just a page, as in HTTP/0.9\n", keep=False),
            "does not speak HTTP: just a page, as in HTTP/0.9",
        ),
        (hostile.answering(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak HTTP: SSH-2.0-OpenSSH_9.2"),
        (hostile.answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), "HTTP 503"),
        (hostile.answering(b"HTTP/1.1 204 No Content\r\n\r\n"), "HTTP 204"),
        (hostile.answering(hostile.OK_HEAD + b"Content-Length: 1, 2\r\n\r\nok"), "its answer is no valid HTTP: "),
        (hostile.breaks_off(b"HTTP/1.1 200"), "its answer breaks off in the status line"),
        (hostile.breaks_off(b"HTTP/1.1 200 OK\r"), "its answer breaks off in the status line"),
        (hostile.breaks_off(hostile.CONTINUE), "its answer breaks off in the status line"),
        (hostile.breaks_off(hostile.OK_HEAD), "its answer breaks off in the headers"),
        (hostile.breaks_off(hostile.OK_HEAD + b"Content-Le"), "its answer breaks off in the headers"),
        (hostile.breaks_off(hostile.OK_HEAD + b"Content-Length: 0\r\n"), "its answer breaks off in the headers"),
        (hostile.breaks_off(hostile.CONTINUE + hostile.OK_HEAD), "its answer breaks off in the headers"),
        (hostile.breaks_off(b"SSH-2.0"), "does not speak HTTP: SSH-2.0"),
        (hostile.length(b"abc"), "its answer is no valid HTTP: Content-Length: abc"),
        (hostile.length(b"-5"), "its answer is no valid HTTP: Content-Length: -5"),
        (hostile.length(b""), "its answer is no valid HTTP: Content-Length: "),
        (hostile.length(b"2\r\nContent-Length: x"), "its answer is no valid HTTP: Content-Length: 2, x"),
        (
            hostile.answering(hostile.says(b"ok", b"200 OK", b"no colon here")),
            "its answer is no valid HTTP: not a header: no colon here",
        ),
        (
            hostile.answering(hostile.says(b"ok", b"200 OK", b": no name")),
            "its answer is no valid HTTP: not a header: : no name",
        ),
        (hostile.answering(CHUNKED + b"zz\r\n"), "its answer breaks off in the middle"),
        (hostile.answering(CHUNKED + b"-3\r\nabc\r\n"), "its answer is no valid HTTP: read length must be"),
    ],
)
def test_a_bad_answer_is_a_miss(prober: Prober, behave: hostile.Behaviour, detail: str) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile.peer(behave) as peer:
        beat = probe(prober, peer.url)
    assert not beat.healthy
    assert not beat.impostor
    assert beat.detail.startswith(detail)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib <= RSS_GROWTH_MAX_KIB


@pytest.mark.parametrize(
    "answer",
    [
        hostile.OK_HEAD + b"\r\nok",
        hostile.OK_HEAD + b"Content-Length: 2, 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\n\nok",
        hostile.says(b"ok", b"200 OK", b"X-Folded: one", b"  two"),
        hostile.CONTINUE + hostile.HEALTHY,
    ],
)
def test_an_answer_in_an_old_manner_is_one(prober: Prober, answer: bytes) -> None:
    with hostile.peer(hostile.breaks_off(answer)) as peer:
        assert probe(prober, peer.url).detail == "HTTP 200"


def test_a_peer_that_never_accepts(prober: Prober) -> None:
    with hostile.deaf() as port:
        beat = probe(prober, f"http://127.0.0.1:{port}/")
    assert beat == Heartbeat("shield", False, "no answer within 0.5 s: the connection was not accepted")


def test_nobody_listens(prober: Prober) -> None:
    with hostile.peer(hostile.healthy) as peer:
        url = peer.url
    assert probe(prober, url).detail == "connection refused"


def test_a_compressed_body_is_not_expanded(prober: Prober) -> None:
    bomb = hostile.gzip_bomb()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile.peer(hostile.answering(bomb)) as peer:
        assert probe(prober, peer.url).healthy
    assert b"Accept-Encoding: identity" in peer.requests[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib <= RSS_GROWTH_MAX_KIB


def test_a_redirect_is_not_followed(prober: Prober) -> None:
    with hostile.peer(hostile.healthy) as other:
        moved = hostile.says(b"", b"302 Found", b"Location: " + other.url.encode())
        with hostile.peer(hostile.answering(moved)) as peer:
            beat = probe(prober, peer.url)
    assert beat.detail == f"HTTP 302: answered a redirect to {other.url}"
    assert not beat.healthy
    assert other.connections == 0


def test_cookies_are_not_sent_back(prober: Prober) -> None:
    with hostile.peer(hostile.answering(hostile.says(b"", b"200 OK", b"Set-Cookie: a=b"))) as peer:
        for _ in range(2):
            assert probe(prober, peer.url).healthy
    assert b"cookie" not in b"".join(peer.requests).lower()


def test_the_environments_proxy_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile.peer(hostile.healthy) as proxy, hostile.peer(hostile.healthy) as peer:
        gone = f"http://127.0.0.1:{peer.port}/"
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with Prober(1) as prober:
            assert probe(prober, gone).healthy
        assert (proxy.connections, peer.connections) == (0, 1)


def test_one_connection_is_kept(prober: Prober) -> None:
    with hostile.peer(hostile.healthy) as peer:
        for _ in range(5):
            beat = probe(prober, peer.url)
            assert beat.healthy
            assert beat.response_time_ms is not None
            assert 0 < beat.response_time_ms < TIMEOUT_S * 1000
    assert peer.connections == 1


def test_a_connection_closed_between_rounds_is_no_miss(prober: Prober) -> None:
    with hostile.peer(hostile.answering(hostile.HEALTHY, keep=False)) as peer:
        for _ in range(5):
            assert probe(prober, peer.url).healthy
            time.sleep(hostile.STEP_S)
    assert peer.connections == 5


@pytest.mark.parametrize("end", [socket.socket.close, hostile.reset])
def test_a_kept_connection_that_ends_under_the_request_is_no_miss(prober: Prober, end: Any) -> None:
    """The race: the peer closes after we looked and before it read the request."""

    def behave(here: hostile.Peer, connection: socket.socket) -> None:
        here.read_request(connection)
        connection.sendall(hostile.HEALTHY)
        if here.connections == 1:
            here.read_request(connection)
            end(connection)

    with hostile.peer(behave) as peer:
        assert probe(prober, peer.url).healthy
        assert probe(prober, peer.url).healthy
    assert peer.connections == 2


def test_a_fresh_connection_is_tried_only_once(prober: Prober) -> None:
    """Also when the kept one was stale: a peer that closes every connection is a miss, not a loop."""

    def behave(here: hostile.Peer, connection: socket.socket) -> None:
        if here.connections == 1:
            here.read_request(connection)
            connection.sendall(hostile.HEALTHY)
        here.read_request(connection)

    with hostile.peer(behave) as peer:
        assert probe(prober, peer.url).healthy
        assert probe(prober, peer.url).detail == "closed the connection without an answer"
    assert peer.connections == 2


def test_bytes_nobody_asked_for_are_not_the_next_answer(prober: Prober) -> None:
    """A peer that answers twice and dies must not be healthy on its old word."""

    def behave(here: hostile.Peer, connection: socket.socket) -> None:
        here.read_request(connection)
        connection.sendall(hostile.HEALTHY)
        here.pause()
        connection.sendall(hostile.HEALTHY)
        here.pause(60)

    with hostile.peer(behave) as peer:
        assert probe(prober, peer.url).healthy
        time.sleep(2 * hostile.STEP_S)
        assert probe(prober, peer.url).healthy
    assert peer.connections == 2


def test_ipv6(prober: Prober) -> None:
    with hostile.peer(hostile.healthy, host="::1") as peer:
        assert probe(prober, peer.url).healthy
    assert f"Host: [::1]:{peer.port}".encode() in peer.requests[0]


def both_families(host: str, port: int, **_: object) -> list[Any]:
    v6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
    return [v6, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.mark.parametrize("first", ["deaf", "refused"])
def test_a_dead_first_address_leaves_time_for_the_second(first: str) -> None:
    with (
        Prober(1, lookup=both_families) as prober,
        hostile.peer(hostile.healthy) as peer,
        hostile.deaf("::1", peer.port) if first == "deaf" else contextlib.nullcontext(),
    ):
        assert probe(prober, f"http://agent.example:{peer.port}/").healthy


def test_all_addresses_dead() -> None:
    with Prober(1, lookup=both_families) as prober, hostile.deaf() as port, hostile.deaf("::1", port):
        beat = probe(prober, f"http://agent.example:{port}/")
    assert beat.detail == "no answer within 0.5 s: the connection was not accepted"


def test_what_a_peer_sends_is_not_logged(prober: Prober, caplog: pytest.LogCaptureFixture) -> None:
    bad_header = hostile.OK_HEAD + b"Content-Length: 0\r\nno colon here\r\n\r\n"
    with caplog.at_level("DEBUG"), hostile.peer(hostile.answering(bad_header, keep=False)) as peer:
        probe(prober, peer.url)
    assert caplog.records == []


def answers() -> st.SearchStrategy[bytes]:
    """Random bytes, and random bytes where a real answer has something else."""
    head = st.sampled_from([b"", hostile.OK_HEAD, b"HTTP/1.1 ", b"HTTP/1.0 302 Found\r\nLocation: "])
    line = st.sampled_from(
        [
            b"Content-Length: ",
            b"Transfer-Encoding: chunked\r\n",
            b"Set-Cookie: ",
            b"Connection: ",
            b"\r\n",
            b"0\r\n",
            b"-3\r\nabc\r\n",
            b"2\r\n",
        ]
    )
    return st.tuples(head, st.lists(line | st.binary(max_size=40), max_size=8)).map(
        lambda parts: parts[0] + b"".join(parts[1])
    )


def test_random_bytes_never_raise() -> None:
    current = [b""]

    def behave(here: hostile.Peer, connection: socket.socket) -> None:
        here.read_request(connection)
        connection.sendall(current[0])

    with Prober(1) as prober, hostile.peer(behave) as peer:

        @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
        @given(answers())
        def run(answer: bytes) -> None:
            current[0] = answer
            beat = probe(prober, peer.url)
            assert beat.detail.isprintable()
            assert beat.healthy <= answer.startswith(b"HTTP/1.")

        run()


def test_a_urllib3_without_the_hook_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, urllib3 changed how it opens connections: see watchdog/probe/transport.py, _Bounded."""
    import urllib3.connection

    from watchdog.probe import CannotProbe, transport

    assert callable(urllib3.connection.HTTPConnection._new_conn)
    with hostile.peer(hostile.healthy) as peer, Prober(1) as prober:
        assert probe(prober, peer.url).healthy
        monkeypatch.setattr(
            transport._Bounded,
            "_new_conn",
            lambda self: socket.create_connection((self.host, self.port)),
        )
        with pytest.raises(CannotProbe, match=r"urllib3 .* has no deadline"):
            Prober(1).probe(Target("shield", peer.url))
    assert issubclass(transport.BoundedHTTPConnection, PlainConnection)


def test_a_watcher_out_of_descriptors_says_nothing_about_the_peer(prober: Prober) -> None:
    from watchdog.probe import CannotProbe

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with hostile.peer(hostile.healthy) as peer:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(CannotProbe, match="too many open files"):
                prober.probe(Target("shield", peer.url))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
