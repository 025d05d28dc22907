"""What an agent has open may never answer; who looks at it goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from tests.kernel.agents import agent, harmless
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.fuse import CannotMount, Mount
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import Host
from watchdog import aside
from watchdog.errors import WatchdogError
from watchdog.host import processes
from watchdog.host.agents import AgentSelector, NotRunning, find
from watchdog.kernel import scanning, sockets, taps
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import descriptors, whose
from watchdog.kernel.layers.sequence import DESCRIPTORS
from watchdog.paths import facts

pytestmark = pytest.mark.kernel

PROMPT_S = 8.0
OK, PARTIAL = 0, 4

T = TypeVar("T")

Hanging = Callable[..., Mount]
"""Makes a mount that never answers these."""


@pytest.fixture
def hanging(run_in_cgroup: RunInside, tmp_path: Path) -> Iterator[Hanging]:
    """Ends before the processes that wait for it."""
    with ExitStack() as made:

        def mount(*silent: str) -> Mount:
            try:
                mounted = Mount(tmp_path, *silent)
            except (CannotMount, OSError) as error:
                pytest.skip(f"no FUSE here: {error}")
            made.callback(mounted.close)
            return mounted

        yield mount


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup()


def promptly(work: Callable[[], T]) -> T:
    """Its result; in a thread that can be left alone where it hangs."""
    done: list[T] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(PROMPT_S)
    assert done, "it hangs, or has failed"
    return done[0]


def test_a_file_whose_server_does_not_answer_is_no_tap_and_no_obstacle(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, hanging: Hanging
) -> None:
    """As one on a dead NFS server."""
    inside, target = agent(run_in_cgroup, cgroup), target_of(cgroup)
    mount = hanging("GETATTR", "READ")
    inside.run(f"kept = os.open({str(mount.file)!r}, os.O_RDWR); own = socket.socket(INET, DGRAM)")
    found = promptly(lambda: whose.look(target))
    assert (len(found.sockets), found.tuns, found.unseen) == (1, {}, [])
    files = promptly(lambda: [each for each in taps._open_files(inside.pid) if each.inode == 2])
    assert [taps.is_one(each, {0}) for each in files] == [False]


def hang(inside: Inside, mount: Mount, at: int = 0) -> None:
    """A thread of it waits in send, with the lock of its socket, for a page that never comes."""
    inside.run(
        f"""
import mmap, threading
file = os.open({str(mount.file)!r}, os.O_RDWR)
page = mmap.mmap(file, 4096, prot=mmap.PROT_READ, offset={at})
door = listening(); out = dial(INET, port(door)); taken = door.accept()[0]
def send():
    try: out.sendall(page)
    except OSError: pass
threading.Thread(target=send, daemon=True).start()
"""
    )
    mount.await_asked()


def hang_its_memory(inside: Inside, mount: Mount) -> None:
    """A thread of it waits in mmap for a page to be written, with the lock of its memory: that of a mapping past the
    cache, for what another mapping has in the cache."""
    inside.run(
        f"""
import mmap, threading
dirty = mmap.mmap(os.open({str(mount.file)!r}, os.O_RDWR), 4096)
dirty[0] = 1
past_the_cache = os.open({str(mount.file)!r}, os.O_RDWR | os.O_APPEND)
later = lambda: (time.sleep(0.2), mmap.mmap(past_the_cache, 4096, flags=mmap.MAP_PRIVATE))
import time; threading.Thread(target=later, daemon=True).start()
"""
    )
    mount.await_asked()


def test_a_process_whose_memory_hangs_is_named_and_is_perhaps_the_agent(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside, hanging: Hanging
) -> None:
    """As of one that maps a file on a dead NFS server: ps hangs at it, too."""
    inside = agent(run_in_cgroup, cgroup)
    hang_its_memory(inside, hanging("WRITE"))
    assert promptly(lambda: processes.describe(inside.pid)).startswith(f"pid {inside.pid} [python")
    refused = promptly(lambda: error_of(lambda: find(AgentSelector(command_line="wd-is-nowhere"))))
    assert f"it may be pid {inside.pid} " in str(refused)
    assert not isinstance(refused, NotRunning), "that would be evidence"
    said = promptly(lambda: host.mesh("isolate", "--pid", str(inside.pid), "--reason", "drill"))
    assert (said.status, said.err) == (PARTIAL, ""), said.out
    assert promptly(lambda: host.mesh("release", "--pid", str(inside.pid), "--reason", "drill")).status == OK


def error_of(work: Callable[[], object]) -> WatchdogError | None:
    try:
        work()
    except WatchdogError as error:
        return error
    return None


def ours_waiting() -> int:
    """Children of ours that were left alone."""
    aside._reap()
    return len(aside._left)


def test_a_socket_that_hangs_is_said_and_all_others_are_looked_at(
    cgroup: Cgroup, scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside, hanging: Hanging
) -> None:
    inside, target = agent(run_in_cgroup, scratch_cgroup("elsewhere")), target_of(cgroup)
    inside.run("lent = [socket.socket(INET, DGRAM) for _ in range(2)]")
    inside.move(cgroup.path)
    mount = hanging("READ")
    hang(inside, mount)
    inside.run("lent += [socket.socket(PACKET, RAW, 0)]")
    fd = inside.run("out.fileno()")
    whose.ask(target)
    first = promptly(lambda: whose.look(target))
    assert first.unseen == [f"descriptor {fd} of process {inside.pid}, a socket, hangs: what it is is not known"]
    assert (first.is_whole, len(first.elsewhere()), len(first.of_family(socket.AF_PACKET))) == (False, 2, 1)
    assert facts.look(target.cgroups, first).facts.holds is None
    assert descriptors.NOT_KNOWN in DESCRIPTORS.gaps(target)
    assert ours_waiting() == 1
    began_s = time.monotonic()
    inside.run("lent += [socket.socket(INET, DGRAM)]")
    again = promptly(lambda: whose.look(target))
    assert (again.unseen, len(again.sockets)) == (first.unseen, len(first.sockets) + 1)
    assert time.monotonic() - began_s < aside.SILENCE_S
    assert ours_waiting() == 1, "nobody else is sent there"
    mount.close()
    assert_soon(lambda: whose.look(target).unseen == [])
    assert ours_waiting() == 0
    assert descriptors.NOT_KNOWN not in DESCRIPTORS.gaps(target)


def assert_soon(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PROMPT_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_many_that_hang_are_not_all_tried(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, hanging: Hanging
) -> None:
    target = target_of(cgroup)
    mount = hanging("READ")
    insides = [agent(run_in_cgroup, cgroup) for _ in range(scanning.HANGING_AT_MOST + 1)]
    for number, each in enumerate(insides):
        hang(each, mount, at=number << 20)  # beyond what is read ahead for another
    whose.ask(target)
    found = promptly(lambda: whose.look(target))
    assert ours_waiting() == scanning.HANGING_AT_MOST
    assert f"its descriptors could not be looked at: {aside.HANGS}" in found.unseen
    began_s = time.monotonic()
    assert not promptly(lambda: whose.look(target)).is_whole
    assert time.monotonic() - began_s < aside.SILENCE_S
    mount.close()
    assert_soon(lambda: whose.look(target).unseen == [])


def test_isolating_it_is_cut_off_in_part_and_releasing_it_is_nothing_special(
    host: Host,
    cgroup: Cgroup,
    scratch_cgroup: MakeCgroup,
    run_in_cgroup: RunInside,
    hanging: Hanging,
) -> None:
    inside = agent(run_in_cgroup, scratch_cgroup("elsewhere"))
    inside.run("lent = socket.socket(INET, DGRAM)")
    inside.move(cgroup.path)
    hang(inside, hanging("READ"))
    inside.run("own = socket.socket(INET, DGRAM)")
    harmless(inside)
    target = ("--cgroup", str(cgroup.path))
    answer = promptly(lambda: host.mesh("isolate", *target, "--reason", "drill", "--json"))
    assert answer.status == PARTIAL
    assert "a socket, hangs: what it is is not known" in str(answer.document["gaps"])
    assert [inside.outcome(f"{each}.sendto(b'x', ('127.0.0.1', 9))") for each in ("own", "lent")] == ["EPERM", "EPERM"]
    assert promptly(lambda: host.mesh("verify", *target)).status == PARTIAL
    assert promptly(lambda: host.mesh("release", *target, "--reason", "drill")).status == OK
    assert [inside.outcome(f"{each}.sendto(b'x', ('127.0.0.1', 9))") for each in ("own", "lent")] == ["pass", "pass"]


def test_a_close_that_lingers_holds_up_nobody(cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside) -> None:
    """Ours is the last, and what was sent is not taken by the other end."""
    inside = agent(run_in_cgroup, cgroup)
    inside.run(
        "door = listening(); out = dial(INET, port(door)); taken = door.accept()[0]\n"
        "out.setsockopt(1, socket.SO_LINGER, struct.pack('ii', 1, 60)); out.setblocking(False)\n"
        "try:\n    while True: out.send(bytes(1 << 20))\nexcept BlockingIOError: pass"
    )
    [handle] = [
        each for each in whose.look(target_of(cgroup)).handles.values() if each.fd == inside.run("out.fileno()")
    ]

    def look() -> bool:
        fd = sockets.taken(handle)
        time.sleep(0.5)  # it is closed meanwhile
        return sockets.option(fd, socket.SOL_SOCKET, socket.SO_TYPE) is not None

    began_s = time.monotonic()
    closing = threading.Timer(0.2, lambda: inside.run("out.close()"))
    closing.start()
    assert promptly(lambda: aside.answer("a test's", look))
    closing.join()
    assert time.monotonic() - began_s < aside.SILENCE_S
    assert ours_waiting() == 0
