"""The prober around the exchange: targets, owners, names, rounds."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.unit import hostile
from watchdog.errors import ConfigurationError
from watchdog.heartbeat import Pulse, serve
from watchdog.probe import Ownership, OwnerVerdict, Prober, Progress, Target
from watchdog.probe.transport import Shelf

TIMEOUT_S = 0.5
SLACK_S = 0.2
HEALTHY_PEERS, HUNG_PEERS, WORKERS = 90, 10, 32


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("ftp://127.0.0.1/", "want http"),
        ("127.0.0.1:80", "want http"),
        ("", "want http"),
        ("http://", "names no host"),
        ("http:///healthz", "names no host"),
        ("http://127.0.0.1:99999/", "Port out of range"),
        ("http://[::1/", "Invalid IPv6"),
    ],
)
def test_what_can_never_be_probed(endpoint: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Target("shield", endpoint)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        Target("shield", "http://127.0.0.1/", timeout_s)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Target("shield", "http://127.0.0.1/", key=b"secret"))


@pytest.mark.parametrize(
    ("owner", "healthy", "detail"),
    [
        (None, True, "HTTP 200"),
        (OwnerVerdict(Ownership.INSIDE), True, "HTTP 200"),
        (OwnerVerdict(Ownership.UNKNOWN, "another host"), True, "HTTP 200"),
        (OwnerVerdict(Ownership.OUTSIDE, "port 9103 is owned by pid 7"), False, "port 9103 is owned by pid 7"),
        (OwnerVerdict(Ownership.OUTSIDE), False, "its port is owned by somebody else"),
    ],
)
def test_who_owns_the_port(owner: OwnerVerdict | None, healthy: bool, detail: str) -> None:
    with hostile.peer(hostile.healthy) as peer, Prober(1, owner_check=lambda *_: owner) as prober:
        beat = prober.probe(Target("shield", peer.url, TIMEOUT_S))
    assert (beat.healthy, beat.impostor, beat.detail) == (healthy, not healthy, detail)


@pytest.mark.parametrize(
    "behaviour", [hostile.close_at_once, hostile.hang, hostile.answering(hostile.says(b"", b"404 Not Found"))]
)
def test_a_squatter_is_found_whatever_it_answers(behaviour: hostile.Behaviour) -> None:
    owner = OwnerVerdict(Ownership.OUTSIDE, "port 9103 is owned by pid 7")
    with hostile.peer(behaviour) as peer, Prober(1, owner_check=lambda *_: owner) as prober:
        beat = prober.probe(Target("shield", peer.url, TIMEOUT_S))
    assert (beat.healthy, beat.impostor, beat.detail) == (False, True, "port 9103 is owned by pid 7")


def test_the_owner_is_asked_for_the_address_that_was_heard() -> None:
    """A name has several addresses, and who answers at one need not be who listens at the other."""
    asked: list[str | None] = []

    def note(_: Target, address: str | None) -> None:
        asked.append(address)

    with hostile.peer(hostile.healthy) as peer, Prober(1, owner_check=note) as prober:
        target = Target("shield", peer.url.replace("127.0.0.1", "localhost"), TIMEOUT_S)
        assert [prober.probe(target).healthy for _ in range(2)] == [True, True]
    assert asked == ["127.0.0.1"] * 2
    with Prober(1, owner_check=note) as prober:
        assert not prober.probe(target).healthy
    assert asked[2:] == [None], "nobody was heard"


def test_an_agent_that_hung_before_this_process_began_stands_still_at_once() -> None:
    pulse = Pulse("shield")
    heard = Progress(pulse.instance, 0)
    with serve(pulse) as agent:
        target = Target("shield", f"http://127.0.0.1:{agent.port}/", TIMEOUT_S)
        with Prober(1) as prober:
            beats = [prober.probe(replace(target, before=heard)), prober.probe(target)]
        assert [(beat.healthy, beat.progress) for beat in beats] == [(False, heard)] * 2
        assert beats[0].detail == "stands still: its seq is 0, as at the last probe"
        with Prober(1) as prober:
            assert prober.probe(replace(target, before=Progress("an earlier start", 0))).healthy


@pytest.mark.parametrize("status", [b"302 Found", b"404 Not Found", b"503 Service Unavailable"])
def test_a_stranger_is_one_with_every_status(status: bytes) -> None:
    """Taken for a plain miss, its 503 had the innocent agent restarted three times and isolated."""
    stranger = hostile.says(Pulse("sidecar").answer(None).body, status, b"Location: http://127.0.0.1:1/")
    with hostile.peer(hostile.answering(stranger)) as peer, Prober(1) as prober:
        beat = prober.probe(Target("shield", peer.url, TIMEOUT_S))
    assert (beat.healthy, beat.impostor) == (False, True)
    assert beat.detail.endswith("answered as 'sidecar', not as 'shield'")


def test_a_squatter_without_the_key() -> None:
    with serve(Pulse("shield")) as squatter, Prober(1) as prober:
        beat = prober.probe(Target("shield", f"http://127.0.0.1:{squatter.port}/", TIMEOUT_S, key=b"k" * 16))
    assert (beat.healthy, beat.impostor, beat.detail) == (False, True, "its answer is not signed")


def test_a_squatter_that_plays_an_old_answer() -> None:
    pulse = Pulse("shield", key=b"k" * 16)
    old = hostile.says(pulse.answer("aSeenNonce").body)
    with hostile.peer(hostile.answering(old)) as squatter, Prober(1) as prober:
        beat = prober.probe(Target("shield", squatter.url, TIMEOUT_S, key=b"k" * 16))
    assert (beat.impostor, beat.detail) == (True, "its answer is signed for another request")


def test_nonces_are_used_once_and_only_with_a_key() -> None:
    with hostile.peer(hostile.healthy) as peer, Prober(1) as prober:
        for key in (b"k" * 16, b"k" * 16, None):
            prober.probe(Target("shield", peer.url, TIMEOUT_S, key=key))
    nonces = [line for request in peer.requests for line in request.splitlines() if b"Nonce" in line]
    assert len(set(nonces)) == len(nonces) == 2


def blocked_until(done: threading.Event) -> Any:
    def lookup(host: str, port: int, **_: object) -> list[Any]:
        done.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    return lookup


def test_name_servers_that_do_not_answer() -> None:
    done = threading.Event()
    with Prober(1, lookup=blocked_until(done)) as prober:
        before = threading.active_count()
        target = Target("shield", "http://agent.example:1/", TIMEOUT_S)
        for _ in range(2):
            began_s = time.monotonic()
            assert prober.probe(target).detail == "no answer within 0.5 s: its name was not resolved"
            assert time.monotonic() - began_s <= TIMEOUT_S + SLACK_S
        assert threading.active_count() == before + 1, "one lookup a name, however often it is probed"
        done.set()


def test_addresses_once_found_outlive_the_name_servers() -> None:
    state = {"answer": "found"}

    def lookup(host: str, port: int, **_: object) -> list[Any]:
        if state["answer"] == "found":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        raise socket.gaierror(getattr(socket, state["answer"]), state["answer"])

    with hostile.peer(hostile.answering(hostile.HEALTHY, keep=False)) as peer, Prober(1, lookup=lookup) as prober:
        target = Target("shield", f"http://agent.example:{peer.port}/", TIMEOUT_S)
        for answer, healthy in (("found", True), ("EAI_AGAIN", True), ("EAI_NONAME", False)):
            state["answer"] = answer
            time.sleep(hostile.STEP_S)  # for the peer to close the kept connection
            assert prober.probe(target).healthy is healthy


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 64 + ".example", "a..b"])
def test_names_that_do_not_resolve(host: str) -> None:
    def lookup(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with Prober(1, lookup=lookup) as prober:
        beat = prober.probe(Target("shield", f"http://{host}:1/", TIMEOUT_S))
    assert not beat.healthy
    assert beat.detail == f"the name {host} cannot be resolved: Name or service not known"


@pytest.mark.parametrize("host", ["...", "*.example"])
def test_names_that_no_request_takes(host: str) -> None:
    with Prober(1) as prober, pytest.raises(ConfigurationError, match="cannot probe 'shield'"):
        prober.probe(Target("shield", f"http://{host}/", TIMEOUT_S))


@pytest.fixture(scope="module")
def mesh() -> Iterator[list[Target]]:
    """A hundred peers, ten of which hang."""
    behaviours = [hostile.healthy] * HEALTHY_PEERS + [hostile.hang] * HUNG_PEERS
    with contextlib.ExitStack() as running:
        peers = [running.enter_context(hostile.peer(behave)) for behave in behaviours]
        yield [Target(f"peer{at}", peer.url, 1.0) for at, peer in enumerate(peers)]


def test_a_round_takes_one_timeout(mesh: list[Target]) -> None:
    with Prober(len(mesh)) as prober, ThreadPoolExecutor(WORKERS) as pool:
        for _ in range(2):
            began_s = time.monotonic()
            beats = list(pool.map(prober.probe, mesh))
            assert time.monotonic() - began_s <= 1.0 + 3 * SLACK_S
            assert [beat.healthy for beat in beats] == [True] * HEALTHY_PEERS + [False] * HUNG_PEERS


def test_one_target_from_many_threads(mesh: list[Target]) -> None:
    with Prober(1) as prober, ThreadPoolExecutor(WORKERS) as pool:
        assert all(beat.healthy for beat in pool.map(prober.probe, mesh[:1] * 200))


def test_a_shelf_keeps_what_has_a_place_and_never_waits() -> None:
    shelf = Shelf(1)
    shelf.put("first", block=False)
    with pytest.raises(queue.Full):
        shelf.put("second")
    assert (shelf.qsize(), shelf.get(timeout=60.0), shelf.qsize()) == (1, "first", 0)
    with pytest.raises(queue.Empty):
        shelf.get()
