"""The helper that agents embed: what it answers, how it serves, and that it costs an agent nothing else."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from tests.unit import hostile
from watchdog.errors import ConfigurationError
from watchdog.heartbeat import Pulse, read_key, serve, signature
from watchdog.probe import Prober, Target

KEY = b"a key that both sides share"
HEAVY = {"requests", "urllib3", "http.server", "bcc", "pyroute2", "msgspec", "psutil", "rich"}


def answer_of(pulse: Pulse, nonce: str | None = None) -> dict[str, Any]:
    fields = json.loads(pulse.answer(nonce).body)
    assert isinstance(fields, dict)
    return fields


def test_what_is_signed_never_changes() -> None:
    """Agents in other languages rely on it. openssl(1) is the other opinion."""
    mac = signature(b"k" * 32, nonce="n", agent="shield", instance="i", seq="7", loop_age_s="0.25")
    command = ["openssl", "dgst", "-sha256", "-hmac", "k" * 32]
    lines = b"watchdog-heartbeat-1\nn\nshield\ni\n7\n0.25"
    assert mac in subprocess.run(command, input=lines, capture_output=True, timeout=30).stdout.decode()


def test_an_answer_before_and_after_beats() -> None:
    now_s = [100.0]
    pulse = Pulse("shield", max_loop_age_s=10, clock=lambda: now_s[0])
    now_s[0] += 1.25
    expected = {"status": "ok", "agent": "shield", "instance": pulse.instance, "seq": 0, "loop_age_s": 1.25}
    assert answer_of(pulse) == expected
    pulse.beat()
    now_s[0] += 10
    assert answer_of(pulse) == expected | {"seq": 1, "loop_age_s": 10.0}
    assert pulse.answer().status is HTTPStatus.OK
    now_s[0] += 0.001
    assert answer_of(pulse)["status"] == "hung"
    assert pulse.answer().status is HTTPStatus.SERVICE_UNAVAILABLE


def test_every_start_is_another_instance() -> None:
    assert Pulse("shield").instance != Pulse("shield").instance


def test_beats_from_many_threads_are_all_counted() -> None:
    pulse = Pulse("shield")

    def beat_often() -> None:
        for _ in range(500):
            pulse.beat()

    threads = [threading.Thread(target=beat_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answer_of(pulse)["seq"] == 4000


@pytest.mark.parametrize("nonce", [None, "", "a b", "a\nb", "x" * 129])
def test_an_unusable_nonce_is_not_signed(nonce: str | None) -> None:
    assert "hmac" not in answer_of(Pulse("shield", key=KEY), nonce)


def test_no_key_no_signature() -> None:
    assert "hmac" not in answer_of(Pulse("shield"), "f00d")


def test_served_and_probed() -> None:
    pulse = Pulse("shield", key=KEY)
    with serve(pulse) as server, Prober(1) as prober:
        target = Target("shield", f"http://127.0.0.1:{server.port}/healthz", 1.0, key=KEY)
        for _ in range(3):
            pulse.beat()
            beat = prober.probe(target)
            assert (beat.healthy, beat.verified, beat.detail) == (True, True, "HTTP 200")
        assert prober.probe(target).detail.startswith("stands still")
    assert prober.probe(target).detail == "connection refused"


def test_a_hung_agent_says_how_long() -> None:
    now_s = [0.0]
    with serve(Pulse("shield", clock=lambda: now_s[0])) as server, Prober(1) as prober:
        now_s[0] = 75.0
        beat = prober.probe(Target("shield", f"http://127.0.0.1:{server.port}/", 1.0))
    assert (beat.healthy, beat.detail) == (False, "HTTP 503: hung: its loop is 75.0 s old")


def test_on_ipv6_and_twice_on_one_connection() -> None:
    with serve(Pulse("shield"), host="::1") as server:
        client = http.client.HTTPConnection("::1", server.port, timeout=2)
        for method in ("GET", "HEAD", "GET"):
            client.request(method, "/anything")
            response = client.getresponse()
            assert response.status == HTTPStatus.OK
            assert (response.read() == b"") == (method == "HEAD")
        client.close()


def test_a_closed_server_does_not_answer_on_kept_connections() -> None:
    server = serve(Pulse("shield"))
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=2)
    client.request("GET", "/")
    client.getresponse().read()
    server.close()
    client.request("GET", "/")
    with pytest.raises(http.client.RemoteDisconnected):
        client.getresponse()
    client.close()


def test_rude_clients_leave_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    with serve(Pulse("shield")) as server:
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET /\r\n", b"POST / HTTP/1.1\r\n\r\n"):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=2)
            client.sendall(data)
            hostile.reset(client)
        with Prober(1) as prober:
            assert prober.probe(Target("shield", f"http://127.0.0.1:{server.port}/", 1.0)).healthy
    assert capfd.readouterr() == ("", "")


def test_as_a_wsgi_application() -> None:
    pulse, started = Pulse("shield", key=KEY), []
    environ: dict[str, Any] = {"HTTP_WATCHDOG_NONCE": "f00d"}
    setup_testing_defaults(environ)
    body = b"".join(pulse.wsgi(environ, lambda *head: started.append(head)))  # type: ignore[arg-type]
    assert started[0][0] == "200 OK"
    assert dict(started[0][1])["Content-Length"] == str(len(body))
    assert json.loads(body)["nonce"] == "f00d"


def test_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.key"
    path.write_bytes(KEY + b"\n")
    assert read_key(path) == KEY


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), (b"", "has 0 bytes"), (b"short\n", "5 bytes")]
)
def test_an_unusable_key_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "heartbeat.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem) as raised:
        read_key(path)
    assert str(path) in raised.value.message


def test_importing_it_costs_an_agent_nothing_else() -> None:
    code = f"import sys, watchdog.heartbeat; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_prober_costs_no_requests() -> None:
    code = "import sys, watchdog.probe; print('requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "False", done.stderr
