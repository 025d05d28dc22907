"""The layers that refuse at once, each alone: what passed before is refused while it holds, and passes again after."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.agents import ROOT, USER, agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.foreign import EXCLUSIVE, MULTI, OVERRIDE
from tests.kernel.inside import Inside
from tests.kernel.netns import VethPair
from watchdog.errors import KernelRefused
from watchdog.kernel import builder, common, hooks
from watchdog.kernel.builder import BuildInputs
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import Layer
from watchdog.kernel.layers.sequence import LAYERS
from watchdog.kernel.programs import CALLS, DEVICES, OPTIONS, UNIX, CgroupProgram, Hook, ProgramSet
from watchdog.kernel.sources import source_dir, source_key

pytestmark = pytest.mark.kernel

BY_NAME: dict[str, Layer] = {layer.name: layer for layer in LAYERS}

PREPARED = """
sink, sink6 = listening(INET, DGRAM), listening(INET6, DGRAM)
NOBODY, NOBODY6 = ('127.0.0.1', port(sink)), ('::1', port(sink6))
own = socket.socket(INET, DGRAM)
own6 = socket.socket(INET6, DGRAM)
joined = socket.socket(INET, DGRAM); joined.connect(NOBODY)
server, server6 = listening(), listening(INET6)
there, client = ('127.0.0.1', port(server)), dial(INET, port(server))
served, _ = server.accept()
heard = socket.socket(UNIX, DGRAM); heard.bind('heard')
unix = socket.socket(UNIX, STREAM); unix.bind('unix'); unix.listen()
hidden = socket.socket(UNIX, STREAM); hidden.bind('\\0' + FOLDER); hidden.listen()
left, right = socket.socketpair()
unbound = [socket.socket(INET, STREAM) for _ in range(9)]; unbound6 = [socket.socket(INET6, DGRAM) for _ in range(9)]
datagrams = socket.socket(UNIX, DGRAM)
"""

REFUSED_CALLS = [
    "socket.socket(INET, STREAM).connect(there)",
    "socket.socket(INET6, STREAM).connect(('::1', port(server6)))",
    "socket.socket(INET6, STREAM).connect(('::ffff:127.0.0.1', port(server)))",
    "socket.socket(INET, STREAM, 262)",
    "socket.socket(INET6, STREAM, 262)",
    "socket.socket(INET, DGRAM).sendto(b'x', NOBODY)",
    "own.sendto(b'x', NOBODY)",
    "own6.sendto(b'x', NOBODY6)",
    "own6.sendto(b'x', ('::ffff:127.0.0.1', port(sink)))",
    "own.sendmsg([b'x'], [], 0, NOBODY)",
    "own.connect(NOBODY)",
    "own6.connect(NOBODY6)",
    "unbound.pop().bind(('127.0.0.1', 0))",
    "unbound6.pop().bind(('::1', 0))",
]
LEFT_ALONE_BY_CALLS = [
    "socket.socket(INET, STREAM)",
    "socket.socket(INET6, DGRAM)",
    "joined.send(b'x')",
    "client.send(b'x')",
    "served.send(b'x')",
    "left.send(b'x')",
    "socket.socket(UNIX, STREAM).connect('unix')",
    "socket.socket(socket.AF_NETLINK, RAW, 0)",
]

REFUSED_UNIX = [
    "socket.socket(UNIX, STREAM).connect('unix')",
    "socket.socket(UNIX, STREAM).connect('\\0' + FOLDER)",
    "socket.socket(UNIX, DGRAM).connect('heard')",
    "socket.socket(UNIX, DGRAM).sendto(b'x', 'heard')",
    "datagrams.sendmsg([b'x'], [], 0, 'heard')",
]
LEFT_ALONE_BY_UNIX = [
    "left.send(b'x')",
    "socket.socketpair()",
    "socket.socket(UNIX, STREAM).bind('\\0' + FOLDER + str(time.time_ns()))",
    "own.sendto(b'x', NOBODY)",
]

PACKETS_PREPARED = (
    PREPARED
    + """
frames = socket.socket(PACKET, RAW, 0)
fresh_xdp = [socket.socket(44, RAW, 0) for _ in range(9)]
"""
)
REFUSED_OPTIONS = [
    "frames.setsockopt(263, 20, 1)",
    "frames.setsockopt(263, 10, 1)",
    "fresh_xdp.pop().setsockopt(283, 5, struct.pack('I', 64))",
]
LEFT_ALONE_BY_OPTIONS = [
    "frames.setsockopt(263, 20, 0)",
    "frames.setsockopt(1, 7, 65536)",
    "joined.setsockopt(1, 7, 65536)",
    "joined.setsockopt(0, 2, 8)",
    "client.setsockopt(6, 1, 1)",
    "own.setsockopt(1, 7, struct.pack('i', 65536) + bytes(8000))",
    "client.getsockopt(6, 11, 256)",
]

MEMBERSHIPS_PREPARED = (
    PREPARED
    + """
LO, GROUP, SOURCE = 1, socket.inet_aton('233.252.0.1'), socket.inet_aton('192.0.2.1')
GROUP6, SOURCE6 = (socket.inet_pton(INET6, each) for each in ('ff3e:40:2001:db8::1', '2001:db8::1'))
stored = {
    4: [struct.pack('=HH4s120x', INET, 0, each) for each in (GROUP, SOURCE)],
    6: [struct.pack('=HHI16s104x', INET6, 0, 0, each) for each in (GROUP6, SOURCE6)],
}
request = {family: struct.pack('=I4x128s', LO, group) for family, (group, _) in stored.items()}
request_of = {family: struct.pack('=I4x128s128s', LO, *both) for family, both in stored.items()}
filtered = {family: struct.pack('=I4x128sII128s', LO, both[0], 1, 1, both[1]) for family, both in stored.items()}
mreqn, mreq6 = GROUP + bytes(4) + struct.pack('=I', LO), GROUP6 + struct.pack('=I', LO)
source = GROUP + socket.inet_aton('127.0.0.1') + SOURCE
members = {}
for family, kind, level in ((4, INET, 0), (6, INET6, 41)):
    members[family] = [socket.socket(kind, DGRAM) for _ in range(29)]
    for each in members[family]: each.setsockopt(level, 42, request[family])
    members[family, 'of'] = [socket.socket(kind, DGRAM) for _ in range(29)]
    for each in members[family, 'of']: each.setsockopt(level, 46, request_of[family])
def member(which):
    members[which].append(members[which].pop(0))
    return members[which][-1]
"""
)
REFUSED_MEMBERSHIPS = [
    "socket.socket(INET, DGRAM).setsockopt(0, 35, mreqn)",
    "socket.socket(INET6, DGRAM).setsockopt(0, 35, mreqn)",
    "member(4).setsockopt(0, 36, mreqn)",
    "blocking = member(4); blocking.setsockopt(0, 38, source)",
    "blocking.setsockopt(0, 37, source)",
    "socket.socket(INET, DGRAM).setsockopt(0, 39, source)",
    "member((4, 'of')).setsockopt(0, 40, source)",
    "member((4, 'of')).setsockopt(0, 41, source[:8] + struct.pack('=II', 1, 1) + SOURCE)",
    "socket.socket(INET6, DGRAM).setsockopt(41, 20, mreq6)",
    "member(6).setsockopt(41, 21, mreq6)",
    *(
        attempt.replace("KIND", kind).replace("FAMILY", family).replace("LEVEL", level)
        for kind, family, level in (("INET", "4", "0"), ("INET6", "6", "41"))
        for attempt in (
            "socket.socket(KIND, DGRAM).setsockopt(LEVEL, 42, request[FAMILY])",
            "socket.socket(KIND, STREAM).setsockopt(LEVEL, 42, request[FAMILY])",
            "blocking = member(FAMILY); blocking.setsockopt(LEVEL, 43, request_of[FAMILY])",
            "blocking.setsockopt(LEVEL, 44, request_of[FAMILY])",
            "member(FAMILY).setsockopt(LEVEL, 45, request[FAMILY])",
            "socket.socket(KIND, STREAM).setsockopt(LEVEL, 46, request_of[FAMILY])",
            "member((FAMILY, 'of')).setsockopt(LEVEL, 47, request_of[FAMILY])",
            "member((FAMILY, 'of')).setsockopt(LEVEL, 48, filtered[FAMILY])",
        )
    ),
]
LEFT_ALONE_BY_MEMBERSHIPS = [
    *(f"own.setsockopt(0, {name}, 1)" for name in (33, 34, 49)),
    "own.setsockopt(0, 32, mreqn)",
    "own.setsockopt(0, 50, struct.pack('!I', 1))",
    *(f"own6.setsockopt(41, {name}, 1)" for name in (17, 18, 19, 25, 29, 49)),
    *(f"own.setsockopt(1, {name}, 1)" for name in (35, 42)),
    "server.setsockopt(6, 36, 1)",
    "member(4).close(), member(6).close()",
]

REFUSED_DEVICES = [
    "os.close(os.open('/dev/net/tun', os.O_RDWR))",
    "os.close(os.open('/dev/net/tun', os.O_RDONLY))",
    "os.close(os.open('../tun_by_another_name', os.O_RDWR))",
    "os.close(os.open('../tun_by_another_name', os.O_RDONLY))",
]
LEFT_ALONE_BY_DEVICES = [
    "os.close(os.open('/dev/null', os.O_RDWR))",
    "os.close(os.open('/dev/urandom', os.O_RDONLY))",
]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where any agent may bind sockets, and open the TUN device: /dev/net/tun may be root's alone."""
    path = Path(f"/run/wd-test-{os.getpid()}-{tmp_path_factory.getbasetemp().name}")
    path.mkdir()
    path.chmod(0o777)
    tun = path / "tun_by_another_name"
    os.mknod(tun, stat.S_IFCHR, os.makedev(10, 200))
    tun.chmod(0o666)
    yield path
    shutil.rmtree(path)


CASES = [
    ("calls", ROOT, PREPARED, REFUSED_CALLS, LEFT_ALONE_BY_CALLS),
    ("calls", USER, PREPARED, REFUSED_CALLS, LEFT_ALONE_BY_CALLS),
    ("unix", ROOT, PREPARED, REFUSED_UNIX, LEFT_ALONE_BY_UNIX),
    ("unix", USER, PREPARED, REFUSED_UNIX, LEFT_ALONE_BY_UNIX),
    ("options", ROOT, PACKETS_PREPARED, REFUSED_OPTIONS, LEFT_ALONE_BY_OPTIONS),
    ("options", ROOT, MEMBERSHIPS_PREPARED, REFUSED_MEMBERSHIPS, LEFT_ALONE_BY_MEMBERSHIPS),
    ("options", USER, MEMBERSHIPS_PREPARED, REFUSED_MEMBERSHIPS, LEFT_ALONE_BY_MEMBERSHIPS),
    ("devices", ROOT, PREPARED, REFUSED_DEVICES, LEFT_ALONE_BY_DEVICES),
    ("devices", USER, PREPARED, REFUSED_DEVICES[2:], LEFT_ALONE_BY_DEVICES),
]


@pytest.mark.parametrize(("name", "who", "prepared", "refused", "left_alone"), CASES)
def test_refused_while_it_holds_and_not_a_moment_longer(
    scratch_cgroup: MakeCgroup,
    run_in_cgroup: RunInside,
    target_of: TargetOf,
    folder: Path,
    name: str,
    who: str,
    prepared: str,
    refused: list[str],
    left_alone: list[str],
) -> None:
    cgroup, neighbour = scratch_cgroup("agent"), scratch_cgroup("neighbour")
    inside, outside = agent(run_in_cgroup, cgroup, who), agent(run_in_cgroup, neighbour, who)
    for each in (inside, outside):
        each.run(f"FOLDER = {str(folder)!r} + '/{each.pid}'; os.mkdir(FOLDER); os.chdir(FOLDER)")
        each.run(prepared)
    layer, target = BY_NAME[name], target_of(cgroup)

    def seen(process: Inside) -> dict[str, str]:
        return {attempt: process.outcome(attempt) for attempt in refused + left_alone}

    passes = dict.fromkeys(refused + left_alone, "pass")
    assert seen(inside) == passes
    layer.attach(target)
    assert layer.gaps(target) == []
    assert seen(inside) == passes | dict.fromkeys(refused, "EPERM")
    assert seen(outside) == passes
    layer.detach(target)
    assert seen(inside) == passes


def test_anycast_groups_are_refused(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, target_of: TargetOf, veth: VethPair
) -> None:
    """They need a link with a prefix, and CAP_NET_ADMIN."""
    cgroup = scratch_cgroup()
    inside = agent(run_in_cgroup, cgroup, netns=veth.near)
    anycast = IPv6Address(int(IPv6Address(veth.near_v6)) | 0xFFFF)
    inside.run(f"wanted = socket.inet_pton(INET6, '{anycast}')")
    inside.run(f"wanted += struct.pack('=I', socket.if_nametoindex({veth.device!r}))")
    inside.run("was, new = socket.socket(INET6, DGRAM), socket.socket(INET6, DGRAM); was.setsockopt(41, 27, wanted)")
    layer, target = BY_NAME["options"], target_of(cgroup)
    layer.attach(target)
    for attempt in ("new.setsockopt(41, 27, wanted)", "was.setsockopt(41, 28, wanted)"):
        assert inside.outcome(attempt) == "EPERM"
    layer.detach(target)
    assert inside.outcome("was.setsockopt(41, 28, wanted); new.setsockopt(41, 27, wanted)") == "pass"


# --- beside others, and again


@pytest.fixture
def loaded() -> Iterator[Callable[..., int]]:
    """Loads foreign programs; their descriptors are closed at the end."""
    with ExitStack() as fds:

        def load(*arguments: object, **named: object) -> int:
            fd = foreign.load(*arguments, **named)  # type: ignore[arg-type]
            fds.callback(os.close, fd)
            return fd

        yield load


HOOKED = [(CALLS, "calls"), (UNIX, "unix"), (OPTIONS, "options"), (DEVICES, "devices")]
EVERY_PROGRAM = [(program, name) for programs, name in HOOKED for program in programs.programs]


@pytest.mark.parametrize(("programs", "name"), HOOKED)
def test_attach_and_detach_are_idempotent(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, programs: ProgramSet[CgroupProgram], name: str
) -> None:
    cgroup = scratch_cgroup()
    layer, target = BY_NAME[name], target_of(cgroup)
    where = [program.hook for program in programs.programs]
    assert layer.gaps(target) == [f"{cgroup.path} has none of it"]
    for _ in range(2):
        layer.attach(target)
        assert layer.gaps(target) == []
        assert len(hooks.placed(cgroup, where)) == len(where)
    for _ in range(2):
        layer.detach(target)
        assert hooks.placed(cgroup, where) == set()
    assert layer.gaps(target) == [f"{cgroup.path} has none of it"]


@pytest.mark.parametrize(("program", "name"), EVERY_PROGRAM)
@pytest.mark.parametrize("flags", [MULTI, EXCLUSIVE, OVERRIDE])
def test_foreign_programs_stay_as_they_are(
    scratch_cgroup: MakeCgroup,
    target_of: TargetOf,
    loaded: Callable[..., int],
    program: CgroupProgram,
    name: str,
    flags: int,
) -> None:
    cgroup = scratch_cgroup()
    foreign.attach(loaded("other_tool", hook=program.hook, kind=program.type), cgroup.path, program.hook, flags)
    before = foreign.snapshot(cgroup.path)
    layer, target = BY_NAME[name], target_of(cgroup)
    if flags == MULTI:
        layer.attach(target)
        assert layer.gaps(target) == []
    else:
        with pytest.raises(
            KernelRefused, match=rf"other_tool \(BPF program {before[0][2].id}, {program.hook.name.lower()}"
        ):
            layer.attach(target)
        [gap] = layer.gaps(target)
        assert gap.startswith(f"{program.name} is not attached to {cgroup.path}: another tool's program other_tool (")
    theirs = [row for row in foreign.snapshot(cgroup.path) if not row[2].name.startswith("wd_")]
    assert theirs == before
    layer.detach(target)
    assert foreign.snapshot(cgroup.path) == before


@pytest.mark.parametrize(("level", "fields", "tos"), [(0, {}, 16), (77, {foreign.LENGTH: -1}, 0)])
def test_what_another_tool_makes_of_an_option_is_left(
    scratch_cgroup: MakeCgroup,
    run_in_cgroup: RunInside,
    target_of: TargetOf,
    loaded: Callable[..., int],
    level: int,
    fields: dict[int, int],
    tos: int,
) -> None:
    """It gives the kernel another value (IP_TOS), or keeps from it what the kernel does not have (length -1)."""
    cgroup = scratch_cgroup()
    inner = scratch_cgroup("inner", cgroup)
    inside = agent(run_in_cgroup, inner)
    inside.run("own = socket.socket(INET, DGRAM)")
    fd = loaded("other_opts", hook=Hook.SETSOCKOPT, kind=25, before=foreign.sockopt_code(level, 4, 16, fields))
    foreign.attach(fd, inner.path, Hook.SETSOCKOPT, MULTI)
    BY_NAME["options"].attach(target_of(cgroup))
    inside.run(f"own.setsockopt({level}, 1, 8)")
    assert inside.run("own.getsockopt(0, 1)") == tos


def test_an_impostor_of_our_name_is_left(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, loaded: Callable[..., int]
) -> None:
    cgroup = scratch_cgroup()
    foreign.attach(loaded("wd_device", hook=Hook.DEVICE, kind=15), cgroup.path, Hook.DEVICE, MULTI)
    before = foreign.snapshot(cgroup.path)
    layer, target = BY_NAME["devices"], target_of(cgroup)
    assert layer.gaps(target) != []
    layer.attach(target)
    layer.detach(target)
    assert foreign.snapshot(cgroup.path) == before


def test_a_hook_that_somebody_emptied_is_a_gap_and_filled_again(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, common_set: Common
) -> None:
    cgroup = scratch_cgroup()
    layer, target = BY_NAME["calls"], target_of(cgroup)
    layer.attach(target)
    hooks.detach(cgroup, [Hook.BIND4, Hook.CONNECT6], set(common_set.programs.values()))
    gaps = layer.gaps(target)
    assert gaps == [f"{name} is not attached to {cgroup.path}" for name in ("wd_connect6", "wd_bind4")]
    layer.attach(target)
    assert layer.gaps(target) == []


def test_what_this_kernel_lacks_is_told_and_the_rest_is_attached(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, common_set: Common
) -> None:
    cgroup = scratch_cgroup()
    programs = {name: number for name, number in common_set.programs.items() if name != "wd_bind6"}
    older = replace(common_set, programs=programs, missing={"wd_bind6": "Invalid argument"})
    layer, target = BY_NAME["calls"], replace(target_of(cgroup), common=older)
    assert layer.missing(older) == "Invalid argument"
    assert layer.missing(common_set) == ""
    layer.attach(target)
    assert layer.gaps(target) == []
    assert {each.hook for each in hooks.placed(cgroup, list(Hook))} == {
        program.hook for program in CALLS.programs if program.name != "wd_bind6"
    }


def test_what_an_earlier_version_attached_holds_and_is_undone(
    scratch_cgroup: MakeCgroup, target_of: TargetOf, pins: Path, tmp_path: Path
) -> None:
    """After an upgrade: recorded, it counts; not recorded, it is known by name and map. Either way it goes."""
    sources = Path(shutil.copytree(source_dir(), tmp_path / "sources"))
    (sources / "wd.h").write_text((sources / "wd.h").read_text() + "/* an older version */\n")
    builder.ensure_slots(pins, tmp_path / "lock", 0, inputs=BuildInputs(sources=sources))
    older = common.find(pins, source_key(sources))
    assert older is not None
    cgroup = scratch_cgroup()
    layer, target = BY_NAME["unix"], target_of(cgroup)
    layer.attach(replace(target, common=older))
    recorded = replace(target, held={"unix": frozenset(older.programs[name] for name in UNIX.names)})
    assert layer.gaps(recorded) == []
    layer.attach(recorded)
    assert len(hooks.placed(cgroup, [Hook.UNIX_CONNECT, Hook.UNIX_SENDMSG])) == 2
    assert layer.gaps(target) == [f"{cgroup.path} has none of it"]
    layer.detach(target)
    assert hooks.placed(cgroup, [Hook.UNIX_CONNECT, Hook.UNIX_SENDMSG]) == set()


def test_a_cgroup_that_is_gone_is_no_error(v2_root: Path, target_of: TargetOf, scratch_cgroup: MakeCgroup) -> None:
    cgroup = scratch_cgroup()
    target = target_of(cgroup)
    cgroup.path.rmdir()
    for name in ("calls", "unix", "options", "devices"):
        BY_NAME[name].attach(target)
        BY_NAME[name].detach(target)
