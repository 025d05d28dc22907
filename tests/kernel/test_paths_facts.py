"""What is found out about an agent by looking, and what is said of it then."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.agents import ROOT, UNPRIVILEGED_UID, USER, agent, harmless
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.isolation_bed import Host
from tests.kernel.netns import Netns
from watchdog.kernel import cgroups, credentials, splicing, tracing
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers import whose
from watchdog.kernel.layers.base import Target
from watchdog.kernel.programs import Hook, ProgramType
from watchdog.paths import facts
from watchdog.paths.facts import Looked
from watchdog.paths.words import Holding, Need

pytestmark = pytest.mark.kernel

OK, PARTIAL = 0, 4

needs_vsock = pytest.mark.skipif(not Path("/sys/class/misc/vsock").exists(), reason="this kernel has loaded no vsock")


def look(target: Target) -> Looked:
    whose.ask(target)
    return facts.look(target.cgroups, whose.look(target))


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup()


def test_nothing_runs(cgroup: Cgroup, target_of: TargetOf) -> None:
    found = look(target_of(cgroup))
    assert (found.runs, found.facts.may, found.facts.holds) == (False, frozenset(), frozenset())


def test_who_may_what(cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside) -> None:
    target = target_of(cgroup)
    user = agent(run_in_cgroup, cgroup, USER)
    assert look(target).facts.may == frozenset()
    assert not look(target).is_privileged
    unarmed = harmless(run_in_cgroup(cgroup))
    assert look(target).facts.may == frozenset({Need.CGROUP_WRITE})
    agent(run_in_cgroup, cgroup, ROOT)
    assert look(target).facts.may == frozenset(Need)
    assert look(target).is_privileged
    assert user.run("os.getuid()") != unarmed.run("os.getuid()")


def test_a_thread_in_effect_without_what_it_may_take_back_counts(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    """Permitted, and not effective."""
    inside = agent(run_in_cgroup, cgroup)
    header = "struct.pack('Ii', 0x20080522, 0)"
    inside.run(f"checked(LIBC.capset({header}, struct.pack('6I', 0, 1 << 13, 0, 0, 0, 0)))")
    assert Need.NET_RAW in (look(target_of(cgroup)).facts.may or ())


def test_every_thread_counts(cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside) -> None:
    inside = agent(run_in_cgroup, cgroup)
    inside.run("import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    harmless(inside)  # the thread that began it, and no other
    assert look(target_of(cgroup)).facts.may == frozenset(Need)


def test_root_without_capabilities_has_them_again_with_its_next_program(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    inside = agent(run_in_cgroup, cgroup)
    inside.run("checked(LIBC.capset(struct.pack('Ii', 0x20080522, 0), bytes(24)))")
    assert look(target_of(cgroup)).facts.may == frozenset(Need)
    inside.run("LIBC.prctl(38, 1, 0, 0, 0)")
    assert look(target_of(cgroup)).facts.may == frozenset({Need.CGROUP_WRITE})


@pytest.mark.parametrize("no_new_privs", [False, True])
def test_what_a_program_could_give_it(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, program: Path, no_new_privs: bool
) -> None:
    """One with CAP_NET_RAW of its own. It is seen once it runs."""
    target, user = target_of(cgroup), agent(run_in_cgroup, cgroup, USER)
    user.run(f"LIBC.prctl(38, {int(no_new_privs)}, 0, 0, 0)" if no_new_privs else "None")
    before = look(target).facts
    assert (before.may, before.given) == (frozenset(), frozenset() if no_new_privs else frozenset(Need))
    user.run(f"import subprocess; child = subprocess.Popen([{str(program)!r}, '60'])")
    assert look(target).facts.may == (frozenset() if no_new_privs else frozenset({Need.NET_RAW}))
    user.run("child.kill(); child.wait()")


@pytest.fixture
def program() -> Iterator[Path]:
    """A program with a capability of its own, that any user may start."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(shutil.copy("/usr/bin/sleep", folder))
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
        yield path


@pytest.mark.parametrize("mode", [0o644, 0o664])
def test_who_may_write_above_its_cgroup_may_leave_it(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside, mode: int
) -> None:
    """As below user@UID.service, or with Delegate=."""
    parent = scratch_cgroup()
    own = scratch_cgroup("own", parent)
    user = agent(run_in_cgroup, own, USER)
    assert look(target_of(own)).facts.may == frozenset()
    door = parent.path / "cgroup.procs"
    os.chown(door, UNPRIVILEGED_UID if mode == 0o644 else 0, UNPRIVILEGED_UID)
    door.chmod(mode)
    assert look(target_of(own)).facts.may == frozenset({Need.CGROUP_WRITE})
    assert look(target_of(own)).is_privileged
    user.run(f"open({str(door)!r}, 'w').write('0')")
    assert cgroups.of_pid(user.pid) == parent


@pytest.mark.parametrize(
    ("made", "holds"),
    [
        ("socket.socket(INET, STREAM), socket.socket(socket.AF_NETLINK, RAW, 0), socket.socketpair()", set()),
        ("socket.socket(INET, RAW, 1)", {Holding.RAW}),
        ("socket.socket(INET6, RAW, 58)", {Holding.RAW}),
        ("socket.socket(PACKET, RAW, 0)", {Holding.PACKET}),
        ("socket.socket(PACKET, DGRAM, 0)", {Holding.PACKET}),
        ("socket.socket(44, RAW, 0)", {Holding.XDP}),
        ("os.open('/dev/net/tun', os.O_RDWR)", {Holding.TUN}),
        pytest.param("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", {Holding.VSOCK}, marks=needs_vsock),
    ],
)
def test_what_is_open(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, made: str, holds: set[Holding]
) -> None:
    agent(run_in_cgroup, cgroup).run(f"kept = {made}; None")
    assert look(target_of(cgroup)).facts.holds == frozenset(holds)


def test_a_socket_from_elsewhere(
    cgroup: Cgroup, scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    inside = agent(run_in_cgroup, scratch_cgroup("elsewhere"))
    inside.run("made = socket.socket(INET, DGRAM)")
    inside.move(cgroup.path)
    assert look(target_of(cgroup)).facts.holds == frozenset({Holding.ELSEWHERE})


def test_a_unix_connection_to_a_process_outside_is_named(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    inside = agent(run_in_cgroup, cgroup)
    name = f"\0wd-test-{inside.pid}"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(name)
        server.listen()
        inside.run(f"out = socket.socket(UNIX); out.connect({name!r})")
        found = look(target_of(cgroup))
    assert found.facts.holds == frozenset({Holding.UNIX})
    assert found.unix_peers in {(f"@wd-test-{inside.pid}",), ("",)}


def test_the_journal_is_known_by_its_file_and_not_by_its_name(
    cgroup: Cgroup, scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside, tmp_path: Path
) -> None:
    """In a mount namespace of its own anybody has a file of that name."""
    inside, impostor = agent(run_in_cgroup, cgroup), agent(run_in_cgroup, scratch_cgroup("impostor"))
    journal = tmp_path / "stdout"
    impostor.run(
        "checked(LIBC.unshare(0x20000)); import subprocess; name = " + repr(str(journal)) + "\n"
        "subprocess.run(['mount', '--make-rprivate', '/'], check=True)\n"
        f"subprocess.run(['mount', '-t', 'tmpfs', 'none', {str(tmp_path)!r}], check=True)\n"
        "server = socket.socket(UNIX); server.bind(name); server.listen()"
    )
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(journal))
        server.listen()
        inside.run(f"out = socket.socket(UNIX); out.connect({str(journal)!r})")
        accepted = server.accept()[0]
        target = target_of(cgroup)
        assert facts.look(target.cgroups, whose.look(target), [journal]).unix_peers == ()
        assert look(target).unix_peers == (str(journal),)
        inside.run(f"out = socket.socket(UNIX); out.connect('/proc/{impostor.pid}/root{journal}')")
        impostor.run("accepted = server.accept()[0]")
        accepted.close()
        assert facts.look(target.cgroups, whose.look(target), [journal]).unix_peers == (str(journal),)


@pytest.mark.parametrize(
    ("made", "is_reachable"),
    [
        ("made.bind(name); made.listen()", True),
        ("made.bind(name)", False),
        ("made = socket.socket(UNIX, DGRAM); made.bind(name)", True),
        ("made = socket.socket(UNIX, DGRAM)", False),
        ("made = socket.socket(UNIX, DGRAM); made.bind(name); made.connect(name)", False),
        ("made = socket.socket(UNIX, socket.SOCK_SEQPACKET); made.bind(name); made.listen()", True),
    ],
)
def test_where_others_can_connect_is_named(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, made: str, is_reachable: bool
) -> None:
    inside = agent(run_in_cgroup, cgroup)
    inside.run(f"name = '\\0wd-test-{inside.pid}'; made = socket.socket(UNIX); {made}")
    found = look(target_of(cgroup))
    assert (Holding.LISTENING in (found.facts.holds or ())) is is_reachable
    assert found.unix_addresses == ((f"@wd-test-{inside.pid}",) if is_reachable else ())


def test_whose_namespace_it_is(
    cgroup: Cgroup,
    scratch_cgroup: MakeCgroup,
    target_of: TargetOf,
    run_in_cgroup: RunInside,
    new_netns: Callable[[], Netns],
) -> None:
    netns, other = new_netns(), scratch_cgroup("other")
    target = target_of(cgroup)
    agent(run_in_cgroup, cgroup, netns=netns)
    assert look(target).facts.own_netns is False, "who holds the namespace lives there too"
    inside = agent(run_in_cgroup, other)
    assert look(target_of(other)).facts.own_netns is False
    inside.run("checked(LIBC.unshare(0x40000000))")
    assert look(target_of(other)).facts.own_netns is True


@pytest.mark.parametrize(
    ("made", "holding"),
    [
        ("socket.socket(INET, RAW, 1)", Holding.RAW),
        ("socket.socket(PACKET, RAW, 0)", Holding.PACKET),
        ("socket.socket(44, RAW, 0)", Holding.XDP),
        ("os.open('/dev/net/tun', os.O_RDWR)", Holding.TUN),
    ],
)
def test_whose_namespace_a_socket_is_of(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, made: str, holding: Holding
) -> None:
    inside = agent(run_in_cgroup, cgroup)
    inside.run(f"kept = {made}; checked(LIBC.unshare(0x40000000))")
    assert look(target_of(cgroup)).facts.abroad == frozenset({holding})
    inside.run(f"del kept; kept = {made}" if "socket(" in made else f"os.close(kept); kept = {made}")
    assert look(target_of(cgroup)).facts.abroad == frozenset()


def test_a_socket_from_elsewhere_may_be_of_another_namespace(
    cgroup: Cgroup, scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    inside = agent(run_in_cgroup, scratch_cgroup("elsewhere"))
    inside.run("made = socket.socket(INET, DGRAM); checked(LIBC.unshare(0x40000000))")
    inside.move(cgroup.path)
    assert look(target_of(cgroup)).facts.abroad == frozenset({Holding.ELSEWHERE})


def test_sockets_that_io_uring_keeps_are_not_known(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside
) -> None:
    inside = agent(run_in_cgroup, cgroup)
    setup, register = 425, 427
    made = inside.outcome(f"ring = checked(LIBC.syscall({setup}, 2, ctypes.create_string_buffer(120)))")
    if made != "pass":
        pytest.skip(f"no io_uring here: {made}")
    assert look(target_of(cgroup)).facts.holds == frozenset({Holding.RING})
    inside.run(
        "made = socket.socket(INET, DGRAM); fds = (ctypes.c_int * 1)(made.fileno())\n"
        f"checked(LIBC.syscall({register}, ring, 2, fds, 1)); made.close()"
    )
    target = target_of(cgroup)
    found = whose.look(target)
    assert found.unseen == [f"process {inside.pid} has 1 files registered with io_uring"]
    assert look(target).facts.holds is None


@pytest.mark.parametrize(("scope", "may"), [(0, True), (1, None), (2, False), (3, False)])
def test_what_a_process_of_the_same_user_has_open_can_be_taken(
    cgroup: Cgroup, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, scope: int, may: bool | None
) -> None:
    inside = agent(run_in_cgroup, cgroup, USER)
    own, threads = {inside.pid}, list(credentials.of_threads(inside.pid))
    assert tracing.may_trace_others(threads, own, scope) is False
    mate = agent(run_in_cgroup, scratch_cgroup("mate"), USER)
    set_dumpable = "LIBC.prctl(4, {}, 0, 0, 0)"
    mate.run(set_dumpable.format(0))
    assert tracing.may_trace_others(threads, own, scope) is False
    mate.run(set_dumpable.format(1))
    assert tracing.may_trace_others(threads, own, scope) is may


@pytest.mark.parametrize(("scope", "may"), [(0, True), (1, True), (2, True), (3, False)])
def test_who_may_trace_everybody(cgroup: Cgroup, run_in_cgroup: RunInside, scope: int, may: bool) -> None:
    inside = agent(run_in_cgroup, cgroup)
    assert tracing.may_trace_others(list(credentials.of_threads(inside.pid)), {inside.pid}, scope) is may


@pytest.mark.parametrize("kind", [ProgramType.SK_MSG, ProgramType.SK_SKB])
def test_another_tools_program_that_passes_data_from_socket_to_socket(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside, kind: ProgramType
) -> None:
    agent(run_in_cgroup, cgroup, USER)
    target = ("--cgroup", str(cgroup.path))
    host.mesh("isolate", *target, "--reason", "drill")
    if splicing.is_loaded():
        pytest.skip("this host has such a program")
    fd = foreign.load("somebodys", kind=kind, hook=Hook.INGRESS)
    try:
        document = host.mesh("verify", *target, "--json").document
        said = {each["path"]: each["coverage"] for each in document["paths"]}
        assert (said["E1e"], said["E2c"], document["agent"]["spliced"]) == ("not covered", "covered", True)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "sending",
    [
        "near, far = socket.socketpair(); socket.send_fds(near, [b'x'], [made.fileno()])",
        "far = socket.socket(UNIX); far.bind(''); far.listen(); near = socket.socket(UNIX)\n"
        "near.connect(far.getsockname()); socket.send_fds(near, [b'x'], [made.fileno()]); near.close()",
    ],
)
def test_what_waits_in_a_queue_of_its_own_is_not_known(
    cgroup: Cgroup, scratch_cgroup: MakeCgroup, target_of: TargetOf, run_in_cgroup: RunInside, sending: str
) -> None:
    """A socket that it sent to itself is its own again whenever it likes."""
    inside = agent(run_in_cgroup, scratch_cgroup("elsewhere"))
    inside.run(f"made = socket.socket(INET, DGRAM)\n{sending}; made.close()")
    inside.move(cgroup.path)
    target = target_of(cgroup)
    found = whose.look(target)
    assert found.unseen == [f"process {inside.pid} has 1 descriptors waiting in a unix socket's queue"]
    assert look(target).facts.holds is None
    if "socketpair" in sending:
        inside.run("made = socket.socket(fileno=socket.recv_fds(far, 1, 1)[1][0])")
        assert look(target).facts.holds == frozenset({Holding.ELSEWHERE})


@pytest.mark.parametrize(
    ("who", "made", "reaches"),
    [
        (USER, "None", False),
        (USER, "socket.socket(16, RAW, 2)", False),
        (USER, "socket.socket(16, RAW, 0); made.bind((0, 0))", False),
        (USER, "socket.socket(16, RAW, 2); made.bind((0, 0))", True),
        ("CAP_NET_ADMIN", "None", False),
        ("CAP_NET_ADMIN", "socket.socket(16, RAW, 0); made.bind((0, 0))", True),
    ],
)
def test_whether_a_netlink_socket_takes_its_messages(
    cgroup: Cgroup,
    scratch_cgroup: MakeCgroup,
    target_of: TargetOf,
    run_in_cgroup: RunInside,
    new_netns: Callable[[], Netns],
    who: str,
    made: str,
    reaches: bool,
) -> None:
    space = new_netns()
    inside = agent(run_in_cgroup, cgroup, netns=space)
    with_admin = "struct.pack('Ii', 0x20080522, 0), struct.pack('6I', 0, 1 << 12, 0, 0, 0, 0)"
    inside.run(f"LIBC.prctl(38, 1, 0, 0, 0); checked(LIBC.capset({with_admin}))") if who != USER else harmless(inside)
    agent(run_in_cgroup, scratch_cgroup("mate"), netns=space).run(f"made = {made}")
    assert look(target_of(cgroup)).facts.netlink is reaches


def test_its_own_netlink_socket_takes_messages_of_others(
    cgroup: Cgroup, target_of: TargetOf, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    inside = harmless(agent(run_in_cgroup, cgroup, netns=new_netns()))
    inside.run("made = socket.socket(16, RAW, 0); made.bind((0, 0))")
    assert look(target_of(cgroup)).facts.netlink is False
    inside.run("made = socket.socket(16, RAW, 2); made.bind((0, 0))")
    assert look(target_of(cgroup)).facts.netlink is True


# --- as the command tells it


def test_a_socket_that_can_be_taken_from_outside_is_said(
    host: Host, cgroup: Cgroup, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    """As it is: where it may, it takes the socket of a process that knows nothing of it, and sends."""
    inside, mate = (agent(run_in_cgroup, each, USER) for each in (cgroup, scratch_cgroup("mate")))
    mate.run("LIBC.prctl(4, 1, 0, 0, 0)")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(1.0)
        fd = mate.run(f"out = socket.socket(INET, DGRAM); out.connect({peer.getsockname()}); out.fileno()")
        answer = host.mesh("isolate", "--cgroup", str(cgroup.path), "--reason", "drill", "--json")
        said = {each["path"]: each["coverage"] for each in answer.document["paths"]}
        taken = inside.outcome(f"pid = os.pidfd_open({mate.pid}); taken = checked(LIBC.syscall(438, pid, {fd}, 0))")
        if taken == "pass":
            inside.run("os.write(taken, b'out')")
            assert peer.recv(3) == b"out"
        assert (taken, said["E10b"]) in {("pass", "not covered"), ("EPERM", "covered"), ("EPERM", "not applicable")}


def test_filters_do_not_hold_who_may_take_them_off(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    """CAP_NET_ADMIN and CAP_NET_RAW alone."""
    inside = agent(run_in_cgroup, cgroup, netns=new_netns())
    inside.run("frames = socket.socket(PACKET, RAW, 0); import subprocess")
    capabilities = "1 << 12 | 1 << 13"
    inside.run(
        f"os.setgroups([]); LIBC.prctl(8, 1, 0, 0, 0); os.setresuid(*[{UNPRIVILEGED_UID}] * 3)\n"
        f"LIBC.prctl(38, 1, 0, 0, 0); wanted = struct.pack('6I', *[{capabilities}] * 3, 0, 0, 0)\n"
        "checked(LIBC.capset(struct.pack('Ii', 0x20080522, 0), wanted)); LIBC.prctl(47, 2, 12, 0, 0)"
    )
    answer = host.mesh("isolate", "--cgroup", str(cgroup.path), "--reason", "drill", "--json")
    said = {each["path"]: each["coverage"] for each in answer.document["paths"]}
    assert (answer.status, said["E5b"], said["E14"], said["E14b"]) == (
        PARTIAL,
        "covered",
        "not applicable",
        "not covered",
    )
    inside.run("subprocess.run(['tc', 'qdisc', 'del', 'dev', 'lo', 'clsact'], check=True)")
    after = host.mesh("verify", "--cgroup", str(cgroup.path))
    assert after.status == PARTIAL
    assert "it can take filters off its links" in after.out


def test_a_packet_socket_in_a_queue_of_its_own_is_not_said_to_be_none(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside, new_netns: Callable[[], Netns]
) -> None:
    inside = agent(run_in_cgroup, cgroup, netns=new_netns())
    inside.run("near, far = socket.socketpair(); made = socket.socket(PACKET, RAW, 0)")
    inside.run("socket.send_fds(near, [b'x'], [made.fileno()]); made.close()")
    harmless(inside)
    answer = host.mesh("isolate", "--cgroup", str(cgroup.path), "--reason", "drill", "--json")
    said = {each["path"]: each["coverage"] for each in answer.document["paths"]}
    assert (answer.status, said["E5b"], said["E9c"]) == (PARTIAL, "not covered", "not covered")
    assert f"process {inside.pid} has 1 descriptors waiting in a unix socket's queue" in str(answer.document["gaps"])


def test_an_agent_that_begins_to_listen_is_cut_off_in_part(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside
) -> None:
    """Nothing refuses that without BPF LSM, and anybody may connect then."""
    inside = agent(run_in_cgroup, cgroup, USER)
    target = ("--cgroup", str(cgroup.path))
    before = host.mesh("isolate", *target, "--reason", "drill", "--json").document
    said = {each["path"]: each["coverage"] for each in before["paths"]}
    assert (said["E10a"], said["E16f"]) == ("not applicable", "not applicable")
    name = f"\0wd-test-{inside.pid}"
    inside.run(f"server = socket.socket(UNIX); server.bind({name!r}); server.listen()")
    with closing(socket.socket(socket.AF_UNIX)) as caller:
        caller.connect(name)
        inside.run("server.accept()[0].send(b'out')")
        assert caller.recv(3) == b"out"
    after = host.mesh("verify", *target)
    assert after.status == PARTIAL
    assert "not covered: unix connection made to it from outside: answering: only lsm or freeze" in after.out
    assert f"others can connect to it at @wd-test-{inside.pid}" in after.out


def test_a_privileged_agent_is_cut_off_in_part_and_only_frozen_holds_it(
    host: Host, cgroup: Cgroup, run_in_cgroup: RunInside
) -> None:
    inside = agent(run_in_cgroup, cgroup)
    target = ("--cgroup", str(cgroup.path))
    answer = host.mesh("isolate", *target, "--reason", "drill")
    assert answer.status == PARTIAL
    assert "is cut off in part" in answer.out
    assert "not covered: process that moved out: new UDP socket: only lsm or freeze would stop it" in answer.out
    assert "it can leave its cgroup and take programs off that hold it" in answer.out
    assert "only --level frozen holds against that" in answer.out
    document = host.mesh("verify", *target, "--json")
    assert document.status == PARTIAL
    said = {each["path"]: each["coverage"] for each in document.document["paths"]}
    assert (said["E1a"], said["E8b"], said["E9a"]) == ("covered", "not covered", "not applicable")

    frozen = host.mesh("isolate", *target, "--reason", "drill", "--level", "frozen", "--json")
    assert frozen.status == OK
    assert (frozen.document["level"], frozen.document["changed"]) == ("frozen", True)
    assert host.mesh("isolate", *target, "--reason", "again", "--json").document["changed"] is False
    running = host.mesh("isolate", *target, "--reason", "drill", "--level", "network", "--json")
    assert (running.status, running.document["level"]) == (PARTIAL, "network")
    assert inside.outcome("socket.socket(INET, STREAM).bind(('127.0.0.1', 0))") == "EPERM"
    host.mesh("isolate", *target, "--reason", "drill", "--level", "frozen")
    assert host.mesh("release", *target, "--reason", "sorry").status == OK
    assert inside.outcome("socket.socket(INET, STREAM).bind(('127.0.0.1', 0))") == "pass"


def test_an_agent_without_privilege_has_fewer_ways(host: Host, cgroup: Cgroup, run_in_cgroup: RunInside) -> None:
    agent(run_in_cgroup, cgroup, USER)
    target = ("--cgroup", str(cgroup.path))
    host.mesh("isolate", *target, "--reason", "drill")
    document = host.mesh("verify", *target, "--json").document
    open_ones = {each["path"] for each in document["paths"] if each["coverage"] == "not covered"}
    assert open_ones == ({"E12a"} if facts.has_vsock() else set())
    assert "only --level frozen" not in host.mesh("verify", *target).out
