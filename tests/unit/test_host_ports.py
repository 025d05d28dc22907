"""Whose socket answers: of this namespace by the kernel's own order, and unknown for the rest."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.unit.own import Start, starting
from watchdog.host import listeners, ports, processes
from watchdog.host.ports import Owner, answering, listener, owner_in_cgroup

NOWHERE = "/wd-test-nowhere"


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as starts:
        yield starts


def own_cgroup() -> str:
    found = processes.cgroup_of(os.getpid())
    assert found is not None
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_owner_inside_and_outside(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert list(listener(port, address)) == [os.getpid()]
        for _ in range(2):  # the second time from the cache
            assert owner_in_cgroup(port, address, own_cgroup()).owner is Owner.INSIDE
            outside = owner_in_cgroup(port, address, NOWHERE)
            assert outside.owner is Owner.OUTSIDE
            assert f"pid {os.getpid()} " in outside.detail


def bound(address: str, port: int = 0) -> socket.socket:
    """A listening socket that shares its port, and takes v4 connections too if it is of v6."""
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if server.family is socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((address, port))
    server.listen()
    return server


@pytest.mark.parametrize(
    ("binds", "asked", "answers"),
    [
        (("0.0.0.0", "127.0.0.1"), "127.0.0.1", "127.0.0.1"),  # a squatter that is more exact than the agent
        (("0.0.0.0", "127.0.0.1"), "127.0.0.2", "0.0.0.0"),
        (("::", "0.0.0.0"), "127.0.0.1", "0.0.0.0"),
        (("::", "0.0.0.0"), "::1", "::"),
        (("::",), "127.0.0.1", "::"),
        (("::", "::1"), "::1", "::1"),
        (("::ffff:127.0.0.1", "0.0.0.0"), "127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_kernels_order_and_that_it_really_is(binds: tuple[str, ...], asked: str, answers: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(bound(binds[0]))
        port = first.getsockname()[1]
        servers = [first, *(stack.enter_context(bound(address, port)) for address in binds[1:])]
        found = answering(port, asked)
        assert not isinstance(found, str)
        assert [str(each.address) for each in found] == [answers]
        with socket.create_connection((asked, port)):
            [reached] = select.select(servers, [], [], 1.0)[0]
            assert os.fstat(reached.fileno()).st_ino == found[0].inode


def test_every_socket_of_a_shared_port_must_be_inside(start: Start) -> None:
    with bound("127.0.0.1") as server:
        port = server.getsockname()[1]
        share = (
            "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
            f"s.bind(('127.0.0.1', {port}))\ns.listen()\nprint('ready', flush=True)\ntime.sleep(600)"
        )
        other = start(sys.executable, "-c", share)
        assert set(listener(port, "127.0.0.1")) == {os.getpid(), other.pid}
        assert owner_in_cgroup(port, "127.0.0.1", own_cgroup()).owner is Owner.INSIDE


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1", "no address of this network namespace"),
        ("2001:db8::1", "no address of this network namespace"),
        ("localhost", "no numeric address"),
        ("", "no numeric address"),
        ("127.0.0.1", "nothing in this network namespace listens"),
        ("::1", "nothing in this network namespace listens"),
    ],
)
def test_what_cannot_be_known_is_said(address: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check = owner_in_cgroup(port, address, "/")
    assert check.owner is Owner.UNKNOWN
    assert why in check.detail


def test_a_new_owner_of_the_port_is_noticed(start: Start) -> None:
    serve = (
        "import socket, time\ns = socket.create_server(('127.0.0.1', {}))\n"
        "print(s.getsockname()[1], flush=True)\ntime.sleep(600)"
    )
    first = start(sys.executable, "-c", serve.format(0), ready=False)
    assert first.stdout is not None
    port = int(first.stdout.readline())
    assert list(listener(port, "127.0.0.1")) == [first.pid]
    assert owner_in_cgroup(port, "127.0.0.1", own_cgroup()).owner is Owner.INSIDE
    first.kill()
    first.wait()
    second = start(sys.executable, "-c", serve.format(port))
    assert list(listener(port, "127.0.0.1")) == [second.pid]
    assert owner_in_cgroup(port, "127.0.0.1", own_cgroup()).owner is Owner.INSIDE


def test_one_scan_answers_for_all_that_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that starts asks for all of its peers at once; a scan reads every descriptor of the host."""
    scans: list[list[int]] = []
    pids = processes.pids

    def counted() -> list[int]:
        scans.append(list(pids()))
        return scans[-1]

    monkeypatch.setattr(ports, "_known_holders", {})
    monkeypatch.setattr(processes, "pids", counted)
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(100)]
        asked = [server.getsockname()[1] for server in servers]
        found = list(pool.map(lambda port: owner_in_cgroup(port, "127.0.0.1", own_cgroup()).owner, asked))
        assert found == [Owner.INSIDE] * len(servers)
        assert len(scans) == 1
        outside = owner_in_cgroup(asked[0], "127.0.0.1", NOWHERE)
        assert outside.owner is Owner.OUTSIDE, "what is remembered accuses nobody and excuses nobody"


def test_both_sources_list_all_that_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, bound("::") as other:
        inodes = {os.fstat(each.fileno()).st_ino for each in (server, other)}
        from_kernel = set(listeners.listening(listeners.ANY_PORT))
        assert inodes <= {each.inode for each in from_kernel}
        assert {each for each in listeners.from_proc(listeners.ANY_PORT) if each.inode in inodes} <= from_kernel


def test_established_connections_cost_nothing_and_are_no_listeners() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert len(listeners.listening(port)) == len(list(listeners.from_proc(port))) == 1


def test_both_sources_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(bound("::"))
        port = first.getsockname()[1]
        for address in ("0.0.0.0", "127.0.0.1", "::1", "::ffff:127.0.0.2"):
            stack.enter_context(bound(address, port))
        found = set(listeners.listening(port))
        assert len(found) == 5
        assert found == set(listeners.from_proc(port))
        monkeypatch.setattr(listeners, "NETLINK_SOCK_DIAG", 31)  # no such protocol
        assert found == set(listeners.listening(port))


def test_more_sockets_than_one_answer_holds() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(bound("127.0.0.1"))
        port = first.getsockname()[1]
        for _ in range(499):
            stack.enter_context(bound("127.0.0.1", port))
        assert len(set(listeners.listening(port))) == 500


def test_what_the_kernel_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match=r"."):
        list(listeners.from_sock_diag(255, 80))
