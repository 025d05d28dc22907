"""The heartbeat as docs/heartbeat.md describes it, spoken by an agent with none of our code: the one in Perl there."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.heartbeat import read_key
from watchdog.probe import Target
from watchdog.probe.prober import Prober

DOCS = Path(__file__).resolve().parents[2] / "docs" / "heartbeat.md"
KEY = "a key that both of them know"
PATIENCE_S = 10.0
TIMEOUT_S = 2.0
HEADING = "## In any other language"


def has_perl() -> bool:
    """With the module that signs: Debian's perl-base does without."""
    perl = shutil.which("perl")
    return perl is not None and subprocess.run([perl, "-MDigest::SHA", "-e", "1"], check=False).returncode == 0


pytestmark = pytest.mark.skipif(not has_perl(), reason="perl with Digest::SHA is not installed")


def example() -> str:
    """The program below the heading: its indented lines."""
    text = DOCS.read_text().split(HEADING, 1)[1].split("\n## ", 1)[0]
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") or not line)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    port, key_file = free_port(), tmp_path / "key"
    key_file.write_text(KEY + "\n")
    with subprocess.Popen(["perl", "-e", example(), "shield", str(port), str(key_file)]) as process:
        try:
            wait_for(port)
            endpoint = f"http://127.0.0.1:{port}/healthz"
            yield Target("shield", endpoint, TIMEOUT_S, agent="shield", key=read_key(key_file)), process
        finally:
            process.kill()


def wait_for(port: int) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end_s, "it never listened"
            time.sleep(0.05)


def test_it_is_healthy_and_verified_heartbeat_after_heartbeat(agent: tuple[Target, subprocess.Popen[bytes]]) -> None:
    target, process = agent
    prober = Prober(1)
    try:
        beats = [prober.probe(target) for _ in range(4)]
        assert [(beat.healthy, beat.verified, beat.impostor) for beat in beats] == [(True, True, False)] * 4, beats
        others_key = dataclasses.replace(target, key=b"a key that only we know")
        assert prober.probe(others_key).impostor
        another = dataclasses.replace(target, agent="sidecar", key=None)
        assert prober.probe(another).impostor
        process.send_signal(signal.SIGSTOP)
        hung = prober.probe(target)
        assert (hung.healthy, hung.impostor) == (False, False)
        process.send_signal(signal.SIGCONT)
    finally:
        prober.close()


def test_each_key_means_what_is_said(agent: tuple[Target, subprocess.Popen[bytes]]) -> None:
    """Asked with a plain socket, and the signature made by hand from the six lines."""
    target, _ = agent
    first, second = (asked(target, nonce) for nonce in ("n-1", "n_2"))
    assert (first["agent"], first["instance"]) == ("shield", second["instance"])
    assert int(str(second["seq"])) > int(str(first["seq"]))
    assert (first["nonce"], second["nonce"]) == ("n-1", "n_2")
    for answer in (first, second):
        lines = ("watchdog-heartbeat-1", answer["nonce"], "shield", answer["instance"], answer["seq"], answer["age"])
        signed = "\n".join(str(line) for line in lines).encode()
        assert answer["hmac"] == hmac.new(KEY.encode(), signed, hashlib.sha256).hexdigest()
    assert "hmac" not in asked(target, "no nonce at all")


def asked(target: Target, nonce: str) -> dict[str, object]:
    host, port = target.endpoint.removeprefix("http://").split("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as sock:
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nWatchdog-Nonce: {nonce}\r\n\r\n".encode())
        said = b"".join(iter(lambda: sock.recv(4096), b""))
    body = said.split(b"\r\n\r\n", 1)[1].decode()
    written = re.search(r'"loop_age_s": ([0-9.]+)', body)
    assert written is not None
    return {**json.loads(body), "age": written[1]}
