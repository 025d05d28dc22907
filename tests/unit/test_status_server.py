"""The status over real HTTP: every path, hostile clients, slow views."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.status_views import health, hostile, incident, large
from tests.unit.test_status_document import GOLDEN
from watchdog.errors import ConfigurationError, KernelRefused, WatchdogError
from watchdog.heartbeat import Pulse
from watchdog.model import Heartbeat
from watchdog.probe import Prober, Target
from watchdog.status.app import create_app
from watchdog.status.document import MeshView
from watchdog.status.page import CONTENT_SECURITY_POLICY
from watchdog.status.server import StatusServer, parse_listen
from watchdog.status.serving import CONNECTIONS_MAX

KEY = b"a key of more than sixteen bytes"
PROMPT_S = 2.0
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def facts(self) -> dict[str, object]:
        assert self.headers["Content-Type"] == "application/json"
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


def ask(server: StatusServer, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@contextmanager
def serving_view(view: Callable[[], MeshView], listen: str = "127.0.0.1:0") -> Iterator[StatusServer]:
    with StatusServer(create_app(view), listen) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[StatusServer]:
    with serving_view(incident) as running:
        yield running


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_document(server: StatusServer) -> None:
    answer = ask(server, "/")
    assert answer.status == 200
    assert answer.facts == GOLDEN
    assert answer.headers["Vary"] == "Accept"


@pytest.mark.parametrize(("path", "headers"), [("/", BROWSER), ("/page", {}), ("/page?from=bookmark", {})])
def test_page(server: StatusServer, path: str, headers: dict[str, str]) -> None:
    answer = ask(server, path, **headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert b"1 ISOLATED, 1 HEALTHY" in answer.body


def test_metrics(server: StatusServer) -> None:
    answer = ask(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert list(text_string_to_metric_families(answer.body.decode()))


@pytest.mark.parametrize(("ok", "status", "word"), [(True, 200, "ok"), (False, 503, "hung")])
def test_healthz_from_the_view_alone(ok: bool, status: int, word: str) -> None:
    with serving_view(lambda: incident(health=health(ok=ok))) as server:
        answer = ask(server, "/healthz")
        assert ask(server, "/").status == 200
    assert answer.status == status
    assert (answer.facts["agent"], answer.facts["status"]) == ("immune", word)
    assert "seq" not in answer.facts


def no_view() -> MeshView:
    raise AssertionError("/healthz needs no view")


@contextmanager
def probed(pulse: Pulse, **expected: object) -> Iterator[Callable[[], Heartbeat]]:
    """Another watcher's prober at /healthz."""
    app = create_app(no_view, heartbeat=pulse.answer)
    with StatusServer(app, "127.0.0.1:0") as server, Prober(1) as prober:
        target = Target("immune", f"http://127.0.0.1:{server.port}/healthz", **expected)  # type: ignore[arg-type]
        yield lambda: prober.probe(target)


def test_another_watcher_verifies_this_one() -> None:
    pulse = Pulse("immune", key=KEY)
    with probed(pulse, key=KEY) as probe:
        for _ in range(3):
            pulse.beat()
            beat = probe()
            assert (beat.healthy, beat.verified, beat.impostor) == (True, True, False), beat.detail


def test_another_watcher_sees_this_one_stand_still() -> None:
    with probed(Pulse("immune")) as probe:
        assert probe().healthy
        assert "stands still" in probe().detail


def test_another_watcher_sees_a_late_loop() -> None:
    now_s = iter([0.0, 61.0, 61.0])
    pulse = Pulse("immune", clock=lambda: next(now_s))
    with probed(pulse) as probe:
        beat = probe()
    assert not beat.healthy
    assert beat.detail.startswith("HTTP 503")
    assert "61.0 s" in beat.detail


def test_another_watcher_sees_an_impostor() -> None:
    pulse = Pulse("immune", key=b"another key of many bytes")
    with probed(pulse, key=KEY) as probe:
        assert probe().impostor


@pytest.mark.parametrize("path", ["/", "/page", "/healthz", "/metrics", "/nothing"])
def test_head_is_get_without_a_body(server: StatusServer, path: str) -> None:
    got, head = ask(server, path), ask(server, path, "HEAD")
    assert head.body == b""
    assert head.status == got.status
    volatile = {"Date"}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in got.headers.items() if k not in volatile
    }


def test_head_leaves_the_connection_usable(server: StatusServer) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    for method in ("HEAD", "GET", "HEAD", "GET"):
        connection.request(method, "/healthz")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


@pytest.mark.parametrize("path", ["/healthz/", "/Metrics", "/../etc/passwd", "/page.html", "/%00", "/%ff"])
def test_anything_else_is_not_there(server: StatusServer, path: str) -> None:
    answer = ask(server, path)
    assert answer.status == 404
    assert answer.facts["error"] == "Not Found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_read_only(server: StatusServer, method: str) -> None:
    answer = ask(server, "/", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/page", "/healthz", "/metrics", "/nothing"])
def test_no_other_host_is_answered(server: StatusServer, path: str) -> None:
    answer = ask(server, path, Host="evil.example:9470")
    assert answer.status == 421
    assert b"immune" not in answer.body


def test_configured_host_is_answered() -> None:
    with StatusServer(create_app(incident, hosts=["status.mesh.example"]), "127.0.0.1:0") as server:
        assert ask(server, "/", Host="status.mesh.example").status == 200


@pytest.mark.parametrize(
    ("path", "method", "host"),
    [
        ("/", "GET", "localhost"),
        ("/page", "GET", "localhost"),
        ("/healthz", "GET", "localhost"),
        ("/metrics", "GET", "localhost"),
        ("/nothing", "GET", "localhost"),
        ("/", "POST", "localhost"),
        ("/", "GET", "evil.example"),
    ],
)
def test_every_answer_is_hardened(server: StatusServer, path: str, method: str, host: str) -> None:
    headers = ask(server, path, method, Host=host).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Server"] is None
    assert headers["Via"] is None
    assert headers["Access-Control-Allow-Origin"] is None


def test_hostile_text_reaches_every_form_harmless() -> None:
    with serving_view(hostile) as server:
        assert ask(server, "/").status == 200
        assert ask(server, "/metrics").status == 200
        assert b"<script" not in ask(server, "/page").body


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KernelRefused("the journal is locked", hint="see who: fuser journal.db"), "the journal is locked; see who"),
        (ZeroDivisionError("division <b>by</b> zero"), "ZeroDivisionError: division"),
        (RuntimeError("\udcff\x1b[31m"), "RuntimeError"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/page", "/healthz", "/metrics"])
def test_what_cannot_be_shown_is_said_without_traceback(path: str, error: Exception, reason: str) -> None:
    def view() -> MeshView:
        raise error

    with serving_view(view) as server:
        answer = ask(server, path)
    assert answer.status == 503
    assert reason.encode() in answer.body
    assert b"Traceback" not in answer.body
    assert b".py" not in answer.body
    assert b"<b>by" not in answer.body or path != "/page"


def test_many_at_once(server: StatusServer) -> None:
    paths = ["/", "/page", "/healthz", "/metrics"] * 30
    with ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(lambda path: ask(server, path).status, paths))
    assert statuses == [200] * len(paths)


def test_healthz_does_not_wait_for_slow_views() -> None:
    hold = threading.Event()

    def view() -> MeshView:
        hold.wait(30)
        return incident()

    with ExitStack() as cleanup:
        server = cleanup.enter_context(StatusServer(create_app(view, heartbeat=Pulse("immune").answer), "127.0.0.1:0"))
        pool = cleanup.enter_context(ThreadPoolExecutor(16))
        cleanup.callback(hold.set)
        slow = [pool.submit(ask, server, "/metrics") for _ in range(16)]
        until_s = time.monotonic() + PROMPT_S
        answers = [ask(server, "/healthz").status for _ in range(10)]
        assert time.monotonic() < until_s
        assert answers == [200] * 10
        assert not any(one.done() for one in slow)
        hold.set()
        assert [one.result().status for one in slow] == [200] * 16


def test_slow_readers_and_writers_block_nobody() -> None:
    with ExitStack() as cleanup:
        server = cleanup.enter_context(serving_view(lambda: large(5000)))
        for request in [b"GET / HTTP/1.1\r\nHost: loc"] * 20 + [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 20:
            client = cleanup.enter_context(socket.create_connection((server.host, server.port)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(request)
        until_s = time.monotonic() + PROMPT_S
        assert ask(server, "/healthz").status == 200
        assert time.monotonic() < until_s
        assert len(ask(server, "/").facts["peers"]) == 5000  # type: ignore[arg-type]


@pytest.mark.parametrize("request_bytes", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_crowd_of_connections_leaves_room(request_bytes: bytes) -> None:
    with ExitStack() as cleanup:
        server = cleanup.enter_context(serving_view(lambda: large(200)))
        for _ in range(CONNECTIONS_MAX + 20):
            client = cleanup.enter_context(socket.create_connection((server.host, server.port)))
            client.sendall(request_bytes)
        until_s = time.monotonic() + 5
        assert ask(server, "/healthz").status == 200
        assert time.monotonic() < until_s


def test_dripping_a_request_ends() -> None:
    served = StatusServer(create_app(incident), "127.0.0.1:0", request_timeout_s=0.5)
    with served as server, socket.create_connection((server.host, server.port)) as client:
        client.settimeout(0.1)
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert drip(client, until_s=time.monotonic() + 8)
        assert ask(server, "/healthz").status == 200


def drip(client: socket.socket, until_s: float) -> bool:
    """Send a byte of a header at a time; whether the server ended it."""
    while time.monotonic() < until_s:
        try:
            client.sendall(b"x")
            if client.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def exchange(server: StatusServer, request: bytes) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=5) as client:
        try:
            client.sendall(request)
        except OSError:
            return b""
        answer = b""
        try:
            while piece := client.recv(65_536):
                answer += piece
        except ConnectionError:
            pass
        return answer


@pytest.mark.parametrize(
    ("request_bytes", "first_lines"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", (b"HTTP/1.1 431", b"HTTP/1.0 431")),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", (b"HTTP/1.1 413", b"HTTP/1.0 413")),
        (b"GET / HTTP/1.0\r\n\r\n", (b"HTTP/1.0 200",)),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", (b"HTTP/1.1 421",)),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: a\r\nConnection: close\r\n\r\n", (b"HTTP/1.1 421",)),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", (b"HTTP/1.0 400",)),
    ],
)
def test_odd_requests(server: StatusServer, request_bytes: bytes, first_lines: tuple[bytes, ...]) -> None:
    answer = exchange(server, request_bytes)
    assert answer.startswith(first_lines)
    assert b"waitress" not in answer.lower()
    assert b"Traceback" not in answer
    assert ask(server, "/healthz").status == 200


def test_ipv6() -> None:
    with serving_view(incident, "[::1]:0") as server:
        assert server.host == "::1"
        assert ask(server, "/healthz").status == 200


def test_port_in_use_names_port_and_setting(server: StatusServer) -> None:
    other = StatusServer(create_app(incident), f"127.0.0.1:{server.port}")
    before = threads()
    with pytest.raises(WatchdogError) as refused:
        other.start()
    assert f"127.0.0.1:{server.port}" in refused.value.message
    assert "status_listen" in refused.value.hint
    assert threads() == before
    other.stop()
    assert ask(server, "/healthz").status == 200


@pytest.mark.parametrize("listen", ["192.0.2.1:9470", "no-such-host.invalid:9470"])
def test_address_that_is_not_ours(listen: str) -> None:
    with pytest.raises(WatchdogError, match=r"cannot serve the status at") as refused:
        StatusServer(create_app(incident), listen).start()
    assert "status.listen" in refused.value.hint


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("127.0.0.1:9470", ("127.0.0.1", 9470)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9470", ("::1", 9470)),
    ],
)
def test_listen(listen: str, place: tuple[str, int]) -> None:
    assert parse_listen(listen) == place


@pytest.mark.parametrize(
    "listen",
    ["", "9470", ":9470", "127.0.0.1", "127.0.0.1:", "::1:9470", "[127.0.0.1]:1", "a:65536", "a:-1", "a:x", "a:²"],
)
def test_unusable_listen(listen: str) -> None:
    with pytest.raises(ConfigurationError, match=r"status\.listen"):
        parse_listen(listen)


def test_start_and_stop_again_and_again() -> None:
    server = StatusServer(create_app(incident), "127.0.0.1:0")
    before = threads()
    server.stop()
    for _ in range(3):
        server.start()
        server.start()
        place = (server.host, server.port)
        assert ask(server, "/healthz").status == 200
        server.stop()
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
    assert threads() == before


def test_stop_with_open_connections_and_a_stuck_view() -> None:
    hold = threading.Event()

    def view() -> MeshView:
        hold.wait(30)
        return incident()

    server = StatusServer(create_app(view), "127.0.0.1:0")
    server.start()
    with ExitStack() as cleanup:
        cleanup.callback(hold.set)
        idle = cleanup.enter_context(socket.create_connection((server.host, server.port), timeout=5))
        stuck = cleanup.enter_context(socket.create_connection((server.host, server.port), timeout=5))
        stuck.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until_s = time.monotonic() + PROMPT_S
        server.stop(timeout_s=0.5)
        assert time.monotonic() < until_s
        assert is_cut(idle)
        assert is_cut(stuck)


def is_cut(client: socket.socket) -> bool:
    """Closed by the server, or reset while it still waited to be accepted."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
