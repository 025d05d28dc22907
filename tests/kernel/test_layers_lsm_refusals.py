"""BPF LSM: what an isolated agent may no longer ask for, what it still may, and that its neighbour notices nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside, TargetOf
from tests.kernel.inside import Inside
from tests.kernel.lsm_bed import LAYER, lsm_or_skip
from watchdog.kernel import libbpf
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.programs import LSM_CGROUPS_MAP

pytestmark = pytest.mark.kernel

PREPARED = """
import subprocess
sink = listening(INET, DGRAM)
NOBODY = ('127.0.0.1', port(sink))
spare = [socket.socket(INET, DGRAM) for _ in range(9)]
joined = socket.socket(INET, DGRAM); joined.connect(NOBODY)
server = listening(); server.setblocking(False)
left, right = socket.socketpair(); left.send(b'xxxxxxxx')
CHILD = subprocess.Popen(['sleep', '1000'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid
BPF, CLONE3 = {'x86_64': 321, 'aarch64': 280}[os.uname().machine], 435


def accept():
    try:
        server.accept()
    except BlockingIOError:
        pass


def next_bpf_program():
    request = ctypes.create_string_buffer(struct.pack('=III', 0, 0, 0))
    checked(LIBC.syscall(BPF, 11, request, len(request)))


def trace(pid):
    checked(LIBC.ptrace(0x4206, pid, 0, 0))
    checked(LIBC.ptrace(0x4207, pid, 0, 0))
    os.waitpid(pid, 0x40000000)
    checked(LIBC.ptrace(17, pid, 0, 0))


def child_in(directory):
    fd = os.open(directory, os.O_PATH)
    wanted = struct.pack('=11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd)
    pid = LIBC.syscall(CLONE3, wanted, len(wanted))
    if pid == 0:
        os._exit(0)
    os.close(fd)
    checked(pid)
    os.waitpid(pid, 0)


def pin_again(old, new):
    os.rename(old, new)
    os.rename(new, old)
"""

SOCKETS = [
    "socket.socket(INET, STREAM)",
    "socket.socket(INET6, DGRAM)",
    "socket.socket(UNIX, STREAM)",
    "socket.socket(40, STREAM)",
    "socket.socket(socket.AF_NETLINK, RAW, 0)",
    "socket.socket(38, 5, 0)",
    "socket.socketpair()",
    "spare.pop().connect(NOBODY)",
    "spare.pop().bind(('127.0.0.1', 0))",
    "server.listen()",
    "accept()",
    "joined.send(b'x')",
    "os.write(joined.fileno(), b'x')",
    "os.sendfile(joined.fileno(), os.open('/proc/self/exe', os.O_RDONLY), 0, 9)",
    "joined.setsockopt(1, 7, 65536)",
    "left.send(b'x')",
    "right.recv(1)",
    "os.read(right.fileno(), 1)",
    "os.splice(right.fileno(), os.pipe()[1], 1)",
]
PRIVILEGED = [
    "socket.socket(PACKET, RAW, 0)",
    "socket.socket(44, RAW, 0)",
    "socket.socket(INET, RAW, 1)",
    "next_bpf_program()",
    "trace(OTHER)",
    "os.kill(OTHER, 18)",
    "open(ELSEWHERE + '/cgroup.procs', 'w').close()",
    "open(ELSEWHERE + '/cgroup.freeze', 'w').close()",
    "child_in(ELSEWHERE)",
    "pin_again(PINS + '/old', PINS + '/new')",
    "os.unlink(PINS + '/gone')",
]
LEFT_ALONE = [
    "os.kill(os.getpid(), 18)",
    "open(OWN + '/cgroup.procs', 'w').write(str(os.getpid()))",
    "os.mkdir(OWN + '/child')",
    "open(OWN + '/child/cgroup.procs', 'w').close()",
    "os.rmdir(OWN + '/child')",
    "subprocess.run(['unshare', '--net', '--mount', 'true'], check=True)",
    "os.kill(CHILD, 18)",
    "os.getsid(OTHER)",
    "open(OWN + '/cgroup.procs').read()",
    "open(f'/proc/{OTHER}/stat').read()",
    "open('mine', 'w').write('x')",
    "os.unlink('mine')",
    "os.close(os.memfd_create('x'))",
    "subprocess.run(['true'], check=True)",
    "joined.getsockname()",
]


@dataclass
class Scene:
    """An agent, its neighbour, and what they are told of."""

    cgroup: Cgroup
    beside: Cgroup
    inside: Inside
    outside: Inside
    pins: Path
    a_map: int

    def prepare(self, folder: Path) -> None:
        """The one's other is the other."""
        for each, other, cgroup in (
            (self.inside, self.outside, self.cgroup),
            (self.outside, self.inside, self.beside),
        ):
            own = folder / str(each.pid)
            for path in (own, self.pins / str(each.pid)):
                path.mkdir()
                path.chmod(0o777)
            each.run(f"OTHER, PINS = {other.pid}, {str(self.pins / str(each.pid))!r}; os.chdir({str(own)!r})")
            each.run(f"OWN, ELSEWHERE = {str(cgroup.path)!r}, {str(cgroup.path.parent)!r}")
            each.run(PREPARED)

    def seen(self, who: Inside, attempts: list[str]) -> dict[str, str]:
        """What becomes of each attempt."""
        for name in ("old", "gone"):
            pin = self.pins / str(who.pid) / name
            pin.unlink(missing_ok=True)
            with libbpf.map_by_id(self.a_map) as fd:
                libbpf.obj_pin(fd, pin)
        return {attempt: who.outcome(attempt) for attempt in attempts}


@pytest.fixture
def scene(
    scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, common_set: Common, built_pins: Path, tmp_path: Path
) -> Iterator[Scene]:
    """An agent and its neighbour, both root, with pins that they may remove."""
    lsm_or_skip(common_set)
    pins = built_pins / "scratch"
    pins.mkdir()
    parent = scratch_cgroup("parent")
    cgroup, beside = scratch_cgroup("agent", parent), scratch_cgroup("beside", parent)
    inside, outside = agent(run_in_cgroup, cgroup), agent(run_in_cgroup, beside)
    made = Scene(cgroup, beside, inside, outside, pins, common_set.maps[LSM_CGROUPS_MAP])
    made.prepare(tmp_path)
    yield made
    for path in sorted(pins.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    pins.rmdir()


def test_root_is_refused_while_it_holds_and_not_a_moment_longer(scene: Scene, target_of: TargetOf) -> None:
    target = target_of(scene.cgroup)
    everything = SOCKETS + PRIVILEGED + LEFT_ALONE
    before = scene.seen(scene.inside, everything)
    there = [attempt for attempt, word in before.items() if word == "pass"]
    assert set(everything) - set(there) <= {"socket.socket(40, STREAM)", "socket.socket(38, 5, 0)"}, before
    LAYER.attach(target)
    assert LAYER.gaps(target) == []
    during = scene.seen(scene.inside, there)
    assert during == {attempt: "pass" if attempt in LEFT_ALONE else "EPERM" for attempt in there}
    assert scene.seen(scene.outside, there) == dict.fromkeys(there, "pass")
    LAYER.detach(target)
    assert scene.seen(scene.inside, there) == dict.fromkeys(there, "pass")
