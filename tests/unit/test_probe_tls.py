"""https: whom the prober trusts, what it shows of itself, and that TLS does not lift the bounds."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import hostile
from tests.unit.certificates import Authority, Identity
from watchdog.errors import ConfigurationError
from watchdog.model import Heartbeat
from watchdog.probe import Prober, Target

TIMEOUT_S = 0.5
SLACK_S = 0.2


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def agent(authority: Authority) -> Identity:
    return authority.issue("agent")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "strangers")


@pytest.fixture
def prober() -> Iterator[Prober]:
    with Prober(4) as made:
        yield made


def probe(prober: Prober, target: Target) -> Heartbeat:
    began_s = time.monotonic()
    beat = prober.probe(target)
    assert time.monotonic() - began_s <= target.timeout_s + SLACK_S
    return beat


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_trusted_peer(prober: Prober, authority: Authority, agent: Identity, host: str) -> None:
    with hostile.peer(hostile.healthy, host=host, tls=agent.server()) as peer:
        target = Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert)
        assert [probe(prober, target).healthy for _ in range(3)] == [True] * 3
    assert peer.connections == 1


def test_by_name(prober: Prober, authority: Authority, agent: Identity) -> None:
    with hostile.peer(hostile.healthy, tls=agent.server()) as peer:
        target = Target("shield", f"https://localhost:{peer.port}/", TIMEOUT_S, ca_file=authority.cert)
        assert probe(prober, target).healthy


def test_an_unknown_authority(prober: Prober, stranger: Authority, agent: Identity) -> None:
    with hostile.peer(hostile.healthy, tls=agent.server()) as peer:
        for ca_file in (stranger.cert, None):
            beat = probe(prober, Target("shield", peer.https_url, TIMEOUT_S, ca_file=ca_file))
            assert beat.detail == "its certificate is not trusted: unable to get local issuer certificate"
    assert peer.requests == []


def test_a_private_authority_excludes_the_public_ones(prober: Prober, authority: Authority) -> None:
    from watchdog.probe.tls import Contexts

    trusted = Contexts().get((authority.cert, None, None)).get_ca_certs()
    assert [one["subject"] for one in trusted] == [((("commonName", "ours"),),)]


def test_an_expired_certificate(prober: Prober, authority: Authority) -> None:
    with hostile.peer(hostile.healthy, tls=authority.issue_expired().server()) as peer:
        beat = probe(prober, Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert))
    assert beat.detail == "its certificate is not trusted: certificate has expired"


def test_a_certificate_for_another_host(prober: Prober, authority: Authority) -> None:
    other = authority.issue("other", names="subjectAltName=DNS:other.example")
    with hostile.peer(hostile.healthy, tls=other.server()) as peer:
        beat = probe(prober, Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert))
    assert beat.detail.startswith("its certificate is not trusted: IP address mismatch")


def test_a_client_certificate(prober: Prober, authority: Authority, agent: Identity, stranger: Authority) -> None:
    watcher, foreign = authority.issue("watcher"), stranger.issue("watcher")
    with hostile.peer(hostile.healthy, tls=agent.server(client_ca=authority.cert)) as peer:
        bare = Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert)
        shown = Target("shield", peer.https_url, TIMEOUT_S, authority.cert, watcher.cert, watcher.key)
        wrong = Target("shield", peer.https_url, TIMEOUT_S, authority.cert, foreign.cert, foreign.key)
        assert probe(prober, bare).detail == "wants a client certificate"
        assert probe(prober, wrong).detail == "does not trust our client certificate"
        assert probe(prober, shown).healthy
        assert probe(prober, bare).detail == "wants a client certificate"


def test_plain_http_where_tls_is_wanted(prober: Prober, authority: Authority) -> None:
    with hostile.peer(hostile.answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as peer:
        target = Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert)

        def babble(here: hostile.Peer, connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with hostile.peer(babble, port=peer.port):
        assert probe(prober, target).detail == "does not speak TLS"


def test_tls_where_plain_http_is_wanted(prober: Prober, agent: Identity) -> None:
    with hostile.peer(hostile.healthy, tls=agent.server()) as peer:
        beat = probe(prober, Target("shield", peer.url, TIMEOUT_S))
    assert not beat.healthy


@pytest.mark.parametrize(
    ("behave", "detail"),
    [
        (hostile.hang, "no answer within 0.5 s"),
        (hostile.header_drip, "no answer within 0.5 s: it sent only part of one"),
        (hostile.body_drip, "no answer within 0.5 s: it sent only part of one"),
        (hostile.huge_body, "its body is larger than 64 KiB"),
        (hostile.continue_flood, "its answer is larger than 256 KiB with all its headers"),
        (hostile.close_early, "its answer breaks off in the middle"),
        (hostile.close_at_once, "closed the connection without an answer"),
    ],
)
def test_bad_answers_inside_tls(
    prober: Prober, authority: Authority, agent: Identity, behave: hostile.Behaviour, detail: str
) -> None:
    with hostile.peer(behave, tls=agent.server()) as peer:
        beat = probe(prober, Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert))
    assert beat.detail == detail


def handshake_hang(here: hostile.Peer, connection: socket.socket) -> None:
    connection.recv(65536)
    here.pause(60)


def handshake_drip(here: hostile.Peer, connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x3f\xff")
    while True:
        here.pause()
        connection.sendall(b"\x02")


def handshake_flood(here: hostile.Peer, connection: socket.socket) -> None:
    """HelloRequest, which a TLS 1.2 client skips, as fast as it goes: OpenSSL alone never comes back from it."""
    connection.recv(65536)
    record = b"\x16\x03\x03\x40\x00" + b"\x00\x00\x00\x00" * 4096
    while True:
        here.pause(0)
        connection.sendall(record * 60)


def handshake_close(here: hostile.Peer, connection: socket.socket) -> None:
    connection.recv(65536)


@pytest.mark.parametrize(
    ("behave", "detail"),
    [
        (handshake_hang, "no answer within 0.5 s: the TLS handshake did not end"),
        (handshake_drip, "no answer within 0.5 s: the TLS handshake did not end"),
        (handshake_flood, "its answer is larger than 256 KiB with all its headers"),
        (handshake_close, "closed the connection in the TLS handshake"),
    ],
)
def test_bad_handshakes(prober: Prober, authority: Authority, behave: hostile.Behaviour, detail: str) -> None:
    with hostile.peer(behave) as peer:
        beat = probe(prober, Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert))
    assert beat.detail == detail


def test_a_tls_connection_closed_between_rounds_is_no_miss(
    prober: Prober, authority: Authority, agent: Identity
) -> None:
    with hostile.peer(hostile.answering(hostile.HEALTHY, keep=False), tls=agent.server()) as peer:
        for _ in range(3):
            assert probe(prober, Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert)).healthy
            time.sleep(hostile.STEP_S)


def test_a_tls_connection_that_ends_under_the_request_is_no_miss(
    prober: Prober, authority: Authority, agent: Identity
) -> None:
    """The goodbye of TLS is bytes too, and still no answer."""

    def behave(here: hostile.Peer, connection: socket.socket) -> None:
        here.read_request(connection)
        connection.sendall(hostile.HEALTHY)
        if here.connections == 1:
            here.read_request(connection)
            assert isinstance(connection, ssl.SSLSocket)
            connection.unwrap()

    with hostile.peer(behave, tls=agent.server()) as peer:
        target = Target("shield", peer.https_url, TIMEOUT_S, ca_file=authority.cert)
        assert probe(prober, target).healthy
        assert probe(prober, target).healthy
    assert peer.connections == 2


def test_renewed_files_are_read_again(prober: Prober, authority: Authority, agent: Identity, tmp_path: Path) -> None:
    """An operator replaces the authority's file under a running watcher."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(Authority(tmp_path, "old").cert.read_bytes())
    with hostile.peer(hostile.healthy, tls=agent.server()) as peer:
        target = Target("shield", peer.https_url, TIMEOUT_S, ca_file=ca_file)
        assert not probe(prober, target).healthy
        (tmp_path / "new").write_bytes(authority.cert.read_bytes())
        (tmp_path / "new").replace(ca_file)
        assert probe(prober, target).healthy


@pytest.mark.parametrize("content", [None, b"", b"not PEM\n"])
def test_unusable_files_are_the_watchers_fault(prober: Prober, tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with hostile.peer(hostile.healthy) as peer, pytest.raises(ConfigurationError, match=str(ca_file)):
        prober.probe(Target("shield", peer.https_url, TIMEOUT_S, ca_file=ca_file))


def test_an_encrypted_client_key_does_not_ask_the_terminal(
    prober: Prober, authority: Authority, tmp_path: Path
) -> None:
    import subprocess

    watcher, locked = authority.issue("locked"), tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(watcher.key), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True, timeout=30, env=dict(os.environ))
    target = Target("shield", "https://127.0.0.1:1/", TIMEOUT_S, authority.cert, watcher.cert, locked)
    with pytest.raises(ConfigurationError, match=r"locked\.key"):
        prober.probe(target)
