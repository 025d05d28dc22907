"""Sockets that an agent has from elsewhere: found whosever they are, dropped where they were made, given back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.inside import Inside
from tests.kernel.netns import Netns, VethPair
from watchdog.errors import KernelRefused
from watchdog.kernel import elsewhere, flows, hooks, scanning, sockets
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.flows import Flows
from watchdog.kernel.hooks import Placed
from watchdog.kernel.layers import whose
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.cookies import POINT_HOOKS, Cookies
from watchdog.kernel.layers.once import one_look
from watchdog.kernel.layers.reach import reach_of
from watchdog.kernel.programs import BELOW, COOKIES, COOKIES_MAP, MADE_COUNT_MAP, MADE_FLOWS_MAP, WHOSE, Hook
from watchdog.kernel.slots import NOTHING, Counters, Slot, Traffic

pytestmark = pytest.mark.kernel

COOKIES_LAYER = Cookies()

SILENCE_S = 0.3
"""Nothing is on its way longer than this over loopback, but what TCP repeats."""

MANY_SOCKETS, MANY_CGROUPS = 5000, 500


@dataclass
class Bed:
    """An agent whose sockets were made in `elsewhere`, beside a neighbour who stays there."""

    top: Cgroup
    home: Cgroup
    elsewhere: Cgroup
    agent: Inside
    neighbour: Inside

    def move_in(self) -> None:
        self.agent.move(self.home.path)

    def points(self) -> dict[str, int]:
        """How many programs of ours are attached where sockets may have been made."""
        places = {"top": self.top, "elsewhere": self.elsewhere, "home": self.home}
        found = {name: len(hooks.ours_at(cgroup, POINT_HOOKS, POINT_NAMES)) for name, cgroup in places.items()}
        return {name: number for name, number in found.items() if number}


POINT_NAMES = (*COOKIES.names, BELOW.name)


@pytest.fixture
def bed(scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> Bed:
    top = scratch_cgroup("top")
    home, away = scratch_cgroup("home", top), scratch_cgroup("elsewhere", top)
    return Bed(top, home, away, agent(run_in_cgroup, away), agent(run_in_cgroup, away))


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    """What is sent to it arrives, or was dropped."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(SILENCE_S)
        yield bound


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """A listening TCP socket outside."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(SILENCE_S)
        yield server


def port(of: socket.socket) -> int:
    return int(of.getsockname()[1])


def arrives(bound: socket.socket, data: bytes) -> bool:
    try:
        while bound.recv(64) != data:
            pass
    except TimeoutError:
        return False
    return True


def entries(common_set: Common) -> list[elsewhere.Entry]:
    return elsewhere.entries(common_set.maps[COOKIES_MAP])


def test_what_is_asked_at_once_is_looked_at_once_and_anew_the_next_time(bed: Bed, target_of: TargetOf) -> None:
    bed.move_in()
    target = target_of(bed.home)
    with one_look():
        before = whose.look(target)
        bed.agent.run("own = socket.socket(INET, DGRAM)")
        assert whose.look(target) is before
        assert reach_of(target.cgroups) is reach_of(target.cgroups)
    assert len(whose.look(target).sockets) == len(before.sockets) + 1
    assert reach_of(target.cgroups) is not reach_of(target.cgroups)


def test_udp_from_elsewhere_and_nobody_else(
    bed: Bed, target_of: TargetOf, common_set: Common, sink: socket.socket
) -> None:
    for each in (bed.agent, bed.neighbour):
        each.run(f"made = listening(INET, DGRAM); PORT = {port(sink)}")
    bed.move_in()
    bed.agent.run("own = socket.socket(INET, DGRAM)")
    send = "made.sendto(b'x', ('127.0.0.1', PORT))"
    target = target_of(bed.home)
    assert bed.agent.outcome(send) == "pass"
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    assert bed.agent.outcome(send) == "EPERM"
    assert bed.agent.outcome(send.replace("made", "own")) == "pass"  # that is what the packet hooks are for
    assert bed.neighbour.outcome(send) == "pass"
    assert bed.points() == {"elsewhere": 3}
    COOKIES_LAYER.detach(target)
    assert bed.agent.outcome(send) == "pass"
    assert bed.points() == {}
    assert entries(common_set) == []


def test_what_is_dropped_of_them_is_counted_and_is_flows(
    bed: Bed, target_of: TargetOf, common_set: Common, sink: socket.socket, two_slots: tuple[Slot, Slot]
) -> None:
    bed.agent.run(f"made = listening(INET, DGRAM); PORT = {port(sink)}")
    bed.neighbour.run(f"made = listening(INET, DGRAM); PORT = {port(sink)}")
    bed.move_in()
    target, other = target_of(bed.home), target_of(bed.home, of=two_slots[1])
    COOKIES_LAYER.attach(target)
    for _ in range(3):
        bed.agent.outcome("made.sendto(b'x' * 10, ('127.0.0.1', PORT))")
    bed.neighbour.run("made.sendto(b'x', ('127.0.0.1', PORT))")
    own = bed.agent.run("made.getsockname()[1]")
    sink.sendto(b"y" * 20, ("127.0.0.1", own))
    assert arrives(sink, b"x")  # what came before it was dropped, or would have arrived by now
    ids = common_set.programs.values()
    counted, seen = elsewhere.dropped(ids, target.isolation_id), elsewhere.flows_of(ids, target.isolation_id)
    assert counted == Counters(Traffic(1, 48), Traffic(3, 3 * 38))
    assert [(f.direction, f.port, f.source_port, f.packets, f.bytes) for f in seen.listed] == [
        (Hook.EGRESS, port(sink), own, 3, 3 * 38),
        (Hook.INGRESS, own, port(sink), 1, 48),
    ]
    assert seen.seen == 2
    assert elsewhere.dropped(ids, other.isolation_id) == NOTHING
    assert elsewhere.flows_of(ids, other.isolation_id).listed == ()
    COOKIES_LAYER.attach(target)
    assert elsewhere.dropped(ids, target.isolation_id) == counted
    COOKIES_LAYER.detach(target)
    assert elsewhere.dropped(ids, target.isolation_id) == NOTHING
    assert elsewhere.flows_of(ids, target.isolation_id) == Flows((), 0)


def test_their_flows_are_bounded_and_their_packets_are_not(bed: Bed, target_of: TargetOf, common_set: Common) -> None:
    bed.agent.run("made = socket.socket(INET, DGRAM)")
    bed.move_in()
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    many = 2 * elsewhere.FLOWS_MAX
    bed.agent.run(
        f"for n in range({many}):\n"
        "    try: made.sendto(b'x', (f'127.0.{n >> 12}.1', 1 + n % 4096))\n"
        "    except PermissionError: pass\n"
    )
    seen = elsewhere.flows_of(common_set.programs.values(), target.isolation_id)
    assert elsewhere.FLOWS_MAX / 2 < len(seen.listed) <= elsewhere.FLOWS_MAX
    assert seen.seen == many == elsewhere.dropped(common_set.programs.values(), target.isolation_id).egress.packets


def test_tcp_from_elsewhere_both_ways(bed: Bed, target_of: TargetOf, peer: socket.socket) -> None:
    bed.agent.run(f"out = dial(INET, {port(peer)}); server = listening(); server.settimeout(0.3)")
    accepted, _ = peer.accept()
    accepted.settimeout(SILENCE_S)
    with closing(accepted):
        bed.move_in()
        target = target_of(bed.home)
        COOKIES_LAYER.attach(target)
        bed.agent.run("out.send(b'lost for now')")
        accepted.send(b"lost too")
        assert not arrives(accepted, b"lost for now")
        assert bed.agent.outcome("out.settimeout(0.2); out.recv(64)") == "TimeoutError"
        server = ("127.0.0.1", bed.agent.run("port(server)"))
        with pytest.raises(TimeoutError):
            socket.create_connection(server, timeout=SILENCE_S)
        COOKIES_LAYER.detach(target)
        accepted.settimeout(8)
        assert arrives(accepted, b"lost for now")
        assert bed.agent.run("out.settimeout(8); out.recv(64).decode()") == "lost too"
        socket.create_connection(server, timeout=2).close()


def test_nothing_is_attached_where_nothing_is_from_elsewhere(bed: Bed, target_of: TargetOf, common_set: Common) -> None:
    bed.move_in()
    bed.agent.run("made = [socket.socket(INET, DGRAM), listening(), socket.socket(INET6, STREAM), socket.socketpair()]")
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    assert bed.points() == {}
    assert entries(common_set) == []


def test_a_socket_that_is_passed_in_later_is_found_by_looking_again(
    bed: Bed, target_of: TargetOf, sink: socket.socket
) -> None:
    name = f"\0wd-test-{os.getpid()}-{time.monotonic_ns()}"
    bed.move_in()
    bed.agent.run(f"door = socket.socket(UNIX, DGRAM); door.bind({name!r})")
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    bed.neighbour.run("given = listening(INET, DGRAM); way = socket.socket(UNIX, DGRAM)")
    bed.neighbour.run(f"way.connect({name!r}); socket.send_fds(way, [b'x'], [given.fileno()])")
    bed.agent.run("_, [fd], _, _ = socket.recv_fds(door, 1, 1); taken = socket.socket(fileno=fd)")
    send = f"taken.sendto(b'x', ('127.0.0.1', {port(sink)}))"
    assert bed.agent.outcome(send) == "pass"
    [gap] = COOKIES_LAYER.gaps(target)
    assert "not cut off" in gap
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    assert bed.agent.outcome(send) == "EPERM"
    COOKIES_LAYER.detach(target)
    assert bed.agent.outcome(send) == "pass"


def test_connections_that_wait_to_be_accepted_are_cut_off_before_anybody_has_them(
    bed: Bed, target_of: TargetOf
) -> None:
    bed.agent.run("server = listening()")
    waiting = socket.create_connection(("127.0.0.1", bed.agent.run("port(server)")), timeout=2)
    waiting.settimeout(SILENCE_S)
    bed.move_in()
    target = target_of(bed.home)
    with closing(waiting):
        COOKIES_LAYER.attach(target)
        bed.agent.run("served, _ = server.accept(); served.send(b'hello')")
        assert not arrives(waiting, b"hello")
        assert COOKIES_LAYER.gaps(target) == []
        COOKIES_LAYER.detach(target)
        waiting.settimeout(8)
        assert arrives(waiting, b"hello")


def test_raw_and_ping_sockets_whose_origin_nobody_lists(
    bed: Bed, target_of: TargetOf, new_netns: Callable[[], Netns]
) -> None:
    bed.agent.run("raw = socket.socket(INET, RAW, 1); raw6 = socket.socket(INET6, RAW, 58)")
    bed.move_in()
    send = "raw.sendto(bytes([8, 0, 247, 253, 0, 1, 0, 1]), ('127.0.0.1', 0))"
    send6 = "raw6.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]), ('::1', 0))"
    target = target_of(bed.home)
    assert (bed.agent.outcome(send), bed.agent.outcome(send6)) == ("pass", "pass")
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    assert (bed.agent.outcome(send), bed.agent.outcome(send6)) == ("EPERM", "EPERM")
    COOKIES_LAYER.detach(target)
    assert (bed.agent.outcome(send), bed.agent.outcome(send6)) == ("pass", "pass")
    assert bed.points() == {}


def test_multipath_tcp_from_elsewhere(bed: Bed, target_of: TargetOf, peer: socket.socket) -> None:
    """Its packets are those of sockets below it, which nobody has a descriptor of."""
    if bed.agent.outcome("socket.socket(INET, STREAM, 262).close()") != "pass":
        pytest.skip("this kernel has no multipath TCP")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        bed.agent.run(f"out = dial(INET, {port(server)}, 262)")
        accepted, _ = server.accept()
        accepted.settimeout(SILENCE_S)
        with closing(accepted):
            bed.move_in()
            target = target_of(bed.home)
            COOKIES_LAYER.attach(target)
            bed.agent.run("out.send(b'lost for now')")
            assert not arrives(accepted, b"lost for now")
            COOKIES_LAYER.detach(target)
            accepted.settimeout(8)
            assert arrives(accepted, b"lost for now")


def test_sockets_of_another_network_namespace(
    bed: Bed, target_of: TargetOf, run_in_cgroup: RunInside, veth: VethPair
) -> None:
    inside = agent(run_in_cgroup, bed.elsewhere, netns=veth.near)
    inside.run("made = socket.socket(INET, DGRAM); made6 = socket.socket(INET6, DGRAM)")
    inside.move(bed.home.path)
    send = f"made.sendto(b'x', ({veth.far_v4!r}, 9)); made6.sendto(b'x', ({veth.far_v6!r}, 9))"
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert inside.outcome(send) == "EPERM"
    assert inside.outcome(send.split("; ")[1]) == "EPERM"
    COOKIES_LAYER.detach(target)
    assert inside.outcome(send) == "pass"


def test_what_was_made_in_the_root_cgroup_is_a_gap_and_the_root_is_never_touched(
    bed: Bed, target_of: TargetOf, v2_root: Path, common_set: Common
) -> None:
    before = foreign.snapshot(v2_root)
    bed.agent.move(v2_root)
    bed.agent.run("made = listening(INET, DGRAM); made2 = listening()")
    bed.move_in()
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    [gap] = COOKIES_LAYER.gaps(target)
    assert "made in the root cgroup, which is never touched" in gap
    assert f"of process {bed.agent.pid}" in gap
    assert foreign.snapshot(v2_root) == before
    assert bed.points() == {}
    assert entries(common_set) == []


def test_what_was_made_in_a_cgroup_that_is_gone(
    bed: Bed, target_of: TargetOf, scratch_cgroup: MakeCgroup, sink: socket.socket
) -> None:
    """As a unit's before it was restarted, kept by systemd and handed to the next. Programs further up still see it."""
    gone = scratch_cgroup("gone", bed.top)
    bed.agent.move(gone.path)
    bed.agent.run("made = socket.socket(INET, DGRAM)")
    bed.move_in()
    gone.path.rmdir()
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    send = f"made.sendto(b'x', ('127.0.0.1', {port(sink)}))"
    assert bed.agent.outcome(send) == "EPERM"
    assert bed.points() == {"top": 3}
    COOKIES_LAYER.detach(target)
    assert bed.agent.outcome(send) == "pass"
    assert bed.points() == {}


def test_two_isolations_share_the_place_and_not_the_end(
    bed: Bed,
    target_of: TargetOf,
    two_slots: tuple[Slot, Slot],
    scratch_cgroup: MakeCgroup,
    common_set: Common,
    sink: socket.socket,
) -> None:
    other_home = scratch_cgroup("other", bed.top)
    send = f"made.sendto(b'x', ('127.0.0.1', {port(sink)}))"
    for each in (bed.agent, bed.neighbour):
        each.run("made = socket.socket(INET, DGRAM)")
    bed.move_in()
    bed.neighbour.move(other_home.path)
    first, second = target_of(bed.home), target_of(other_home, of=two_slots[1])
    COOKIES_LAYER.attach(first)
    COOKIES_LAYER.attach(second)
    COOKIES_LAYER.detach(first)
    assert bed.agent.outcome(send) == "pass"
    assert bed.neighbour.outcome(send) == "EPERM"
    assert COOKIES_LAYER.gaps(second) == []
    COOKIES_LAYER.detach(second)
    assert bed.points() == {}
    assert entries(common_set) == []


@pytest.mark.parametrize("done", ["nothing", "entries", "half", "all", "tried elsewhere"])
def test_what_a_dead_process_began_is_finished_and_undone(
    bed: Bed, target_of: TargetOf, common_set: Common, sink: socket.socket, done: str
) -> None:
    bed.agent.run("made = socket.socket(INET, DGRAM)")
    bed.move_in()
    target = target_of(bed.home)
    for then in ("attach", "detach"):
        begin(done, bed, target, common_set)
        if then == "attach":
            COOKIES_LAYER.attach(target)
            assert COOKIES_LAYER.gaps(target) == []
            assert bed.agent.outcome(f"made.sendto(b'x', ('127.0.0.1', {port(sink)}))") == "EPERM"
        COOKIES_LAYER.detach(target)
        COOKIES_LAYER.detach(target)
        assert bed.points() == {}
        assert entries(common_set) == []
        assert hooks.ours_at(bed.home, (WHOSE.hook,), (WHOSE.name,)) == set()


def begin(done: str, bed: Bed, target: Target, common_set: Common) -> None:
    """As far as a process that was killed got."""
    cookie = int(bed.agent.run("int.from_bytes(made.getsockopt(1, 57, 8), 'little')"))
    entry = elsewhere.Entry(cookie, target.isolation_id, bed.elsewhere.inode)
    programs = [Placed(program.hook, common_set.programs[program.name]) for program in COOKIES.programs]
    if done in {"entries", "half", "all"}:
        elsewhere.add(common_set.maps[COOKIES_MAP], [entry])
    if done in {"half", "all"}:
        hooks.attach(bed.elsewhere, programs[:1] if done == "half" else programs)
    if done == "tried elsewhere":
        hooks.attach(bed.top, programs)
    if done != "nothing":
        whose.ask(target)


def test_foreign_programs_there_stay_and_one_that_does_not_share_is_named(
    bed: Bed, target_of: TargetOf, sink: socket.socket
) -> None:
    bed.agent.run("made = listening(INET, DGRAM)")
    bed.move_in()
    target = target_of(bed.home)
    with ExitStack() as fds:
        for flags in (foreign.MULTI, foreign.EXCLUSIVE):
            fd = foreign.load("other_fw")
            fds.callback(os.close, fd)
            foreign.attach(fd, bed.elsewhere.path, Hook.EGRESS, flags)
            before = [foreign.snapshot(each.path) for each in (bed.top, bed.home, bed.elsewhere)]
            if flags == foreign.MULTI:
                COOKIES_LAYER.attach(target)
                assert COOKIES_LAYER.gaps(target) == []
            else:
                with pytest.raises(KernelRefused, match=rf"other_fw .*holds {bed.elsewhere.path}"):
                    COOKIES_LAYER.attach(target)
                [gap] = COOKIES_LAYER.gaps(target)
                assert f"holds {bed.elsewhere.path} without sharing it" in gap
            COOKIES_LAYER.detach(target)
            assert [foreign.snapshot(each.path) for each in (bed.top, bed.home, bed.elsewhere)] == before
            foreign.detach(fd, bed.elsewhere.path, Hook.EGRESS)


def test_where_nothing_can_tell_whose_a_socket_is_sock_diag_does(
    bed: Bed, target_of: TargetOf, sink: socket.socket
) -> None:
    bed.agent.run("made = listening(INET, DGRAM)")
    bed.move_in()
    bed.agent.run("own = listening(INET, DGRAM); own2 = listening()")
    fd = foreign.load("other_opts", hook=Hook.GETSOCKOPT, kind=25)
    with ExitStack() as undo:
        undo.callback(os.close, fd)
        foreign.attach(fd, bed.home.path, Hook.GETSOCKOPT, foreign.EXCLUSIVE)
        target = target_of(bed.home)
        with pytest.raises(KernelRefused, match="other_opts"):
            COOKIES_LAYER.attach(target)
        assert COOKIES_LAYER.gaps(target) == []
        assert bed.agent.outcome(f"made.sendto(b'x', ('127.0.0.1', {port(sink)}))") == "EPERM"
        assert bed.points() == {"elsewhere": 3}


def test_options_are_answered_as_before_while_our_questions_are_attached(bed: Bed, target_of: TargetOf) -> None:
    questions = (
        "made.getsockopt(1, 7)",
        "made.getsockopt(1, 3)",
        "len(made.getsockopt(1, 57, 8))",
        "len(tcp.getsockopt(6, 11, 1024))",
        "(lambda b, n: (LIBC.getsockopt(made.fileno(), 1, 4, b, ctypes.byref(n)), n.value))"
        "(ctypes.create_string_buffer(70000), ctypes.c_uint32(70000))",
        "(lambda b, n: (LIBC.getsockopt(made.fileno(), 1, 4, b, ctypes.byref(n)), n.value))"
        "(ctypes.create_string_buffer(1), ctypes.c_uint32(1))",
    )
    refused = "made.getsockopt(6, 11, 100)", "made.getsockopt(77, 1, 4)", "made.getsockopt(77, 1, 70000)"
    for each in (bed.agent, bed.neighbour):
        each.run("made = listening(INET, DGRAM); tcp = listening()")
    bed.move_in()
    bed.agent.run("made = socket.socket(INET, DGRAM); kept = socket.socket(INET, DGRAM)")
    target = target_of(bed.home)
    before = [
        [each.run(q) for q in questions] + [each.outcome(q) for q in refused] for each in (bed.agent, bed.neighbour)
    ]
    COOKIES_LAYER.attach(target)
    assert bed.points() == {"elsewhere": 3}
    after = [
        [each.run(q) for q in questions] + [each.outcome(q) for q in refused] for each in (bed.agent, bed.neighbour)
    ]
    assert after == before


def test_own_sockets_are_known_where_the_other_question_is_asked_further_up(bed: Bed, target_of: TargetOf) -> None:
    """An unconnected TCP socket is listed nowhere, so it is dropped at the parent of the agent's cgroup."""
    bed.agent.run("made = socket.socket()")
    bed.move_in()
    bed.agent.run("own = [socket.socket(INET6, DGRAM), socket.socket(PACKET, RAW, 0), *socket.socketpair()]")
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert bed.points() == {"top": 3}
    seen = scanning.scan(target.cgroups).sockets.values()
    own = sorted((each.family, each.type) for each in seen if each.own)
    assert own == sorted(
        [
            (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_INET6, socket.SOCK_DGRAM),
            (socket.AF_PACKET, socket.SOCK_RAW),
        ]
    )
    assert [each.family for each in seen if not each.own] == [socket.AF_INET]


@pytest.mark.parametrize(("level", "length"), [(0, 4), (77, 8)])
@pytest.mark.parametrize("place", ["top", "home"])
def test_another_tool_answers_as_before(bed: Bed, target_of: TargetOf, level: int, length: int, place: str) -> None:
    """An option that the kernel has, and one that it has not: it is shown the length, and its answer is left."""
    bed.agent.run("made = socket.socket()")
    bed.move_in()
    bed.agent.run("own = socket.socket(INET, DGRAM)")
    ask = f"own.getsockopt({level}, 1, 8).decode()"
    code = foreign.sockopt_code(level, length, ord("x"), {foreign.LENGTH: 1, foreign.RESULT: 0})
    fd = foreign.load("other_opts", hook=Hook.GETSOCKOPT, kind=25, before=code)
    with ExitStack() as undo:
        undo.callback(os.close, fd)
        COOKIES_LAYER.attach(target_of(bed.home))
        assert bed.points() == {"top": 3}
        foreign.attach(fd, {"top": bed.top, "home": bed.home}[place].path, Hook.GETSOCKOPT, foreign.MULTI)
        assert bed.agent.run(ask) == "x"


def test_a_thread_with_descriptors_of_its_own_is_looked_at(bed: Bed, target_of: TargetOf, sink: socket.socket) -> None:
    bed.agent.run(
        """
import threading
def alone():
    checked(LIBC.unshare(0x400))
    names['hidden'] = socket.socket(INET, DGRAM)
    ready.set()
    while True:
        go.wait(); go.clear()
        try: hidden.sendto(b'x', ('127.0.0.1', PORT)); names['came'] = 'pass'
        except OSError as error: names['came'] = error.errno
        done.set()
ready, go, done = threading.Event(), threading.Event(), threading.Event()
names = globals()
"""
        + f"PORT = {port(sink)}\nthreading.Thread(target=alone, daemon=True).start(); ready.wait()"
    )
    bed.move_in()
    send = "go.set(); done.wait(); done.clear(); came"
    assert bed.agent.run(send) == "pass"
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    assert bed.agent.run(send) == 1
    COOKIES_LAYER.detach(target)
    assert bed.agent.run(send) == "pass"


def test_what_is_known_of_a_socket_is_its_own_also_where_descriptors_are_exchanged_all_the_time(
    bed: Bed, target_of: TargetOf
) -> None:
    bed.agent.run("there = os.dup(0); made = socket.socket(INET, DGRAM), socket.socket(UNIX)")  # the first to be seen
    bed.move_in()
    inodes = bed.agent.run("[os.fstat(each.fileno()).st_ino for each in made]")
    bed.agent.run(
        """
import threading
stop = threading.Event()
def exchange():
    while not stop.is_set():
        for each in made:
            os.dup2(each.fileno(), there)
exchanging = threading.Thread(target=exchange); exchanging.start()
"""
    )
    target = target_of(bed.home)
    whose.ask(target)
    seen = set()
    for _ in range(300):
        known: sockets.Known = {}
        handles = scanning.scan(target.cgroups, known).handles
        seen |= {(inode, each.family) for inode, each in known.items()}
        for each in handles.values():
            with suppress(sockets.Exchanged):
                fd = sockets.taken(each)
                assert os.fstat(fd).st_ino == each.inode
                os.close(fd)
    bed.agent.run("stop.set(); exchanging.join()")
    assert seen == set(zip(inodes, (socket.AF_INET, socket.AF_UNIX), strict=True))


def test_thousands_of_sockets_from_elsewhere(bed: Bed, target_of: TargetOf, common_set: Common) -> None:
    bed.agent.run(
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))\n"
        f"made = [socket.socket(INET, DGRAM) for _ in range({MANY_SOCKETS})]"
    )
    bed.move_in()
    bed.agent.run(f"own = [socket.socket(INET, DGRAM) for _ in range({MANY_SOCKETS})]")
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert COOKIES_LAYER.gaps(target) == []
    assert len(entries(common_set)) == MANY_SOCKETS
    assert {bed.agent.outcome(f"made[{n}].sendto(b'x', ('127.0.0.1', 9))") for n in (0, 2500, -1)} == {"EPERM"}
    COOKIES_LAYER.detach(target)
    assert entries(common_set) == []


def test_hundreds_of_child_cgroups(
    bed: Bed, target_of: TargetOf, run_in_cgroup: RunInside, sink: socket.socket
) -> None:
    for number in range(MANY_CGROUPS):
        (bed.home.path / f"c{number}").mkdir()
    bed.agent.run("made = socket.socket(INET, DGRAM)")
    bed.agent.move(bed.home.path / f"c{MANY_CGROUPS - 1}")
    target = target_of(bed.home)
    COOKIES_LAYER.attach(target)
    assert bed.agent.outcome(f"made.sendto(b'x', ('127.0.0.1', {port(sink)}))") == "EPERM"
    COOKIES_LAYER.detach(target)


def test_the_set_is_as_large_as_it_says(common_set: Common) -> None:
    from watchdog.kernel import libbpf

    with libbpf.map_by_id(common_set.maps[COOKIES_MAP]) as fd:
        info = libbpf.map_info(fd)
    assert (info.key_bytes, info.value_bytes) == (elsewhere.COOKIE.size, elsewhere.ELSEWHERE.size)
    with libbpf.map_by_id(common_set.maps[MADE_COUNT_MAP]) as fd:
        info = libbpf.map_info(fd)
    assert (info.key_bytes, info.value_bytes) == (elsewhere.ISOLATION.size, 8 * elsewhere.COUNT_FIELDS)
    with libbpf.map_by_id(common_set.maps[MADE_FLOWS_MAP]) as fd:
        info = libbpf.map_info(fd)
    assert (info.key_bytes, info.value_bytes) == (elsewhere.FLOW_KEY.size, flows.VALUE.size)
    assert info.max_entries == elsewhere.FLOWS_MAX
    assert sockets.OWNED.size == 12
