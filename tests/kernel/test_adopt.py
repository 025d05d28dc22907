"""isolate --adopt: an agent that shares its cgroup is cut off alone, and is put back where it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.kernel.agents import agent
from tests.kernel.conftest import MakeCgroup, RunInside, remove_cgroup
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import NOW, WHY, Host, moment, ours_at
from watchdog.actions import holding, isolation, locate, moving, whereabouts
from watchdog.actions.isolation import Step, no_step
from watchdog.actions.locate import Named
from watchdog.actions.reconcile import Repair, reconcile
from watchdog.config import without_file
from watchdog.errors import KernelRefused, Refused, WatchdogError
from watchdog.host import processes
from watchdog.intents import Intent, State, Where
from watchdog.kernel import cgroups, moves
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.base import FROZEN
from watchdog.moved import Moved, Was

pytestmark = pytest.mark.kernel

OK, USAGE, REFUSED, PARTIAL = 0, 2, 3, 4
SILENCE_S = 0.3
"""Nothing is on its way longer than this over loopback, but what TCP repeats."""
RESUME_S = 8.0
MANY = 120
SLEEP = "def sleep():\n os.close(0); os.close(1); time.sleep(600)\n"
CHILD = "child = os.fork()\nif child == 0: sleep()\n"
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@dataclass
class Bed:
    """An agent and a stranger in one cgroup."""

    host: Host
    old: Cgroup
    agent: Inside
    stranger: Inside

    def where(self) -> Where:
        """What `--pid N --adopt` names."""
        settings = without_file(self.host.environment)
        return locate.locate(Named(pid=self.agent.pid), settings, self.host.place, adopt_it=True).where

    def adopt(self, step: Step = no_step, level: str = "") -> Intent:
        where = self.where()
        return isolation.isolate(where, replace(WHY, level=level), self.host.place, step).intent

    def release(self, step: Step = no_step) -> tuple[str, ...]:
        (intent,) = self.host.place.intents.in_force()
        return isolation.release(intent, self.host.place, step).gaps

    def new(self) -> list[Path]:
        """The cgroups that were made."""
        return sorted(self.old.path.glob(f"{moving.PREFIX}*"))


@pytest.fixture
def bed(host: Host, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> Iterator[Bed]:
    old = scratch_cgroup("shared")
    named, stranger = agent(run_in_cgroup, old), agent(run_in_cgroup, old)
    named.run(SLEEP)
    yield Bed(host, old, named, stranger)
    (old.path / "cgroup.kill").write_text("1")  # children, too: they have the pipes that the fixtures wait for


def repaired(bed: Bed) -> list[Repair]:
    """What a reconcile found of the bed's."""
    return [each for each in reconcile(bed.host.place, moment()) if str(bed.old.path) in each.target]


def place_of(pid: int, bed: Bed) -> Path:
    return cgroups.of_pid(pid, bed.old.root).path


def arrives(bound: socket.socket, data: bytes, wait_s: float = SILENCE_S) -> bool:
    bound.settimeout(wait_s)
    try:
        while data not in bound.recv(64):
            pass
    except TimeoutError:
        return False
    return True


@dataclass
class Line:
    """What one process inside has to the test: a TCP connection and a UDP socket, both ways."""

    inside: Inside
    tcp: socket.socket
    udp: socket.socket
    address: str

    def sends(self, data: bytes, wait_s: float = SILENCE_S) -> dict[str, bool]:
        """Which of what it sends arrives."""
        self.inside.outcome(f"tcp.send({data!r})")
        self.inside.outcome(f"udp.send({data!r})")
        return {"tcp": arrives(self.tcp, data, wait_s), "udp": arrives(self.udp, data)}

    def hears(self, data: bytes, wait_s: float = SILENCE_S) -> dict[str, bool]:
        """Which of what is sent to it arrives."""
        self.tcp.send(data)
        self.udp.sendto(data, (self.address, self.inside.run("udp.getsockname()[1]")))
        heard = "{0}.settimeout({1}); got = {0}.recv(64)\nwhile {2!r} not in got: got = {0}.recv(64)"
        return {
            "tcp": self.inside.outcome(heard.format("tcp", wait_s, data)) == "pass",
            "udp": self.inside.outcome(heard.format("udp", SILENCE_S, data)) == "pass",
        }


BOTH = {"tcp": True, "udp": True}
NEITHER = {"tcp": False, "udp": False}


def lined_up(inside: Inside, family: socket.AddressFamily, held: ExitStack) -> Line:
    address = LOOPBACK[family]
    with closing(socket.create_server((address, 0), family=family)) as server:
        port = server.getsockname()[1]
        inside.run(f"tcp = dial(socket.AddressFamily({int(family)}), {port}); tcp.settimeout(0.3)")
        tcp = held.enter_context(closing(server.accept()[0]))
    udp = held.enter_context(closing(socket.socket(family, socket.SOCK_DGRAM)))
    udp.bind((address, 0))
    inside.run(
        f"udp = socket.socket({int(family)}, DGRAM); udp.bind(('{address}', 0)); "
        f"udp.connect(('{address}', {udp.getsockname()[1]}))"
    )
    return Line(inside, tcp, udp, address)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    chosen: socket.AddressFamily = request.param
    return chosen


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_its_old_sockets_are_silent_and_strangers_talk_on(
    bed: Bed, family: socket.AddressFamily, held: ExitStack
) -> None:
    mine, theirs = lined_up(bed.agent, family, held), lined_up(bed.stranger, family, held)
    assert (mine.sends(b"before"), mine.hears(b"before")) == (BOTH, BOTH)
    intent = bed.adopt()
    assert place_of(bed.agent.pid, bed) == Path(intent.where.cgroup) == bed.new()[0]
    assert place_of(bed.stranger.pid, bed) == bed.old.path
    assert (mine.sends(b"during"), mine.hears(b"during")) == (NEITHER, NEITHER)
    assert (theirs.sends(b"theirs"), theirs.hears(b"theirs")) == (BOTH, BOTH)
    new = f"socket.socket({int(family)}, DGRAM).sendto(b'new', ('{LOOPBACK[family]}', 9))"
    assert (bed.agent.outcome(new), bed.stranger.outcome(new)) == ("EPERM", "pass")
    seen = holding.verify(intent, bed.host.place)
    assert (seen.holds, seen.gaps) == (True, ())
    assert bed.release() == ()
    assert place_of(bed.agent.pid, bed) == bed.old.path
    assert bed.new() == []
    assert mine.sends(b"after", RESUME_S) == BOTH
    assert mine.hears(b"after", RESUME_S) == BOTH
    assert (theirs.sends(b"still"), ours_at(bed.old)) == (BOTH, [])


def test_what_its_old_sockets_sent_is_told_as_dropped(bed: Bed, held: ExitStack) -> None:
    """Also when another process asks, and in what the journal keeps of the release."""
    mine, name = lined_up(bed.agent, socket.AF_INET, held), bed.adopt().where.cgroup
    for _ in range(3):
        bed.agent.outcome("udp.send(b'during')")
    mine.udp.sendto(b"during", (mine.address, bed.agent.run("udp.getsockname()[1]")))
    seen = bed.host.mesh("verify", "--cgroup", name, "--json").document
    assert (seen["dropped"]["egress"]["packets"], seen["dropped"]["ingress"]["packets"]) == (3, 1)
    assert [(flow["direction"], flow["protocol"], flow["packets"]) for flow in seen["flows"]["top"]] == [
        ("out", "udp", 3),
        ("in", "udp", 1),
    ]
    assert (seen["flows"]["seen"], seen["flows"]["packets_of_unknown"]) == (2, 0)
    assert "dropped: 3 packets out, 1 in" in bed.host.mesh("status").out
    said = bed.host.mesh("release", "--cgroup", name, "--reason", "a test").out
    assert "dropped so far: 3 packets" in said
    assert "out udp" in said
    record = bed.host.mesh("history", "--json").document["records"][-1]
    assert (record["dropped_packets"], record["dropped_frames"]) == (4, 0)
    assert record["flows"]["seen"] == 2


def test_its_children_go_with_it_and_come_back_with_those_born_since(bed: Bed) -> None:
    before = bed.agent.run(CHILD + "child")
    intent = bed.adopt()
    new = Path(intent.where.cgroup)
    after = bed.agent.run(CHILD + "child")
    assert {place_of(pid, bed) for pid in (bed.agent.pid, before, after)} == {new}
    assert intent.where.moved is not None
    assert [was.pid for was in intent.where.moved.processes] == [bed.agent.pid, before]
    assert bed.release() == ()
    assert {place_of(pid, bed) for pid in (bed.agent.pid, before, after)} == {bed.old.path}
    assert bed.new() == []


def test_a_child_in_another_cgroup_goes_back_there(bed: Bed, scratch_cgroup: MakeCgroup) -> None:
    other = scratch_cgroup("other")
    child = bed.agent.run(CHILD + "child")
    (other.path / "cgroup.procs").write_text(str(child))
    new = Path(bed.adopt().where.cgroup)
    assert {place_of(pid, bed) for pid in (bed.agent.pid, child)} == {new}
    assert bed.release() == ()
    assert (place_of(child, bed), place_of(bed.agent.pid, bed)) == (other.path, bed.old.path)


def test_another_uid_is_still_its_child(bed: Bed) -> None:
    child = bed.agent.run("child = os.fork()\nif child == 0: os.setuid(65534); sleep()\nchild")
    new = Path(bed.adopt().where.cgroup)
    assert place_of(child, bed) == new


def test_all_threads_move_and_a_zombie_is_left_alone(bed: Bed) -> None:
    bed.agent.run("import threading; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    zombie = bed.agent.run("child = os.fork()\nif child == 0: os._exit(0)\nchild")
    intent = bed.adopt()
    threads = Path(intent.where.cgroup, "cgroup.threads").read_text().split()
    assert sorted(threads) == sorted(path.name for path in Path(f"/proc/{bed.agent.pid}/task").iterdir())
    assert intent.where.moved is not None
    assert not intent.where.moved.knows([processes.Process(zombie, 0)])
    assert bed.release() == ()


def test_a_process_without_its_first_thread_moves_and_what_it_has_open_is_told(bed: Bed) -> None:
    """The kernel lists such a process where its first thread ended: its descriptors are not found in the new cgroup."""
    child = bed.agent.run(
        "child = os.fork()\nif child == 0:\n import threading\n"
        " threading.Thread(target=time.sleep, args=(600,)).start()\n"
        " LIBC.pthread_exit(None)\nchild"
    )
    while not processes.has_lost_leader(child):
        assert processes.of_pid(child) is not None
    intent = bed.adopt()
    assert place_of(processes.running_thread(child), bed) == Path(intent.where.cgroup)
    said = holding.verify(intent, bed.host.place).gaps
    assert said == (f"what process {child} has open is not found: its first thread has ended",)
    assert bed.release() == ()
    assert place_of(processes.running_thread(child), bed) == bed.old.path
    os.kill(child, signal.SIGKILL)  # cgroup.kill leaves such a process alive


def test_more_than_a_hundred_processes(bed: Bed) -> None:
    bed.agent.run(f"for _ in range({MANY}):\n if os.fork() == 0: sleep()\n")
    intent = bed.adopt()
    assert len(cgroups.processes(Cgroup(Path(intent.where.cgroup), intent.where.cgroup_id, bed.old.root))) == MANY + 1
    assert bed.release() == ()
    assert bed.new() == []
    assert len(cgroups.own_processes(bed.old)) == MANY + 2


def test_it_forks_while_it_is_moved(bed: Bed) -> None:
    """Chains of children, each of which goes on to fork until it is stopped: whoever is left behind is a stranger."""
    chain = "def chain(n):\n while n and os.fork() == 0: n -= 1; time.sleep(0.002)\n sleep()\n"
    bed.agent.run(chain + "for _ in range(2):\n if os.fork() == 0: chain(30)\n")
    intent = bed.adopt()
    assert len(cgroups.own_processes(bed.old)) == 1
    assert place_of(bed.stranger.pid, bed) == bed.old.path
    assert holding.verify(intent, bed.host.place).gaps == ()
    assert bed.release() == ()


def test_one_that_never_stays_is_told_and_put_back(bed: Bed) -> None:
    def out_again(step: str) -> None:
        if step == "moved":
            (bed.old.path / "cgroup.procs").write_text(str(bed.agent.pid))

    with pytest.raises(KernelRefused, match="it forks faster than it is scanned"):
        bed.adopt(out_again)
    assert nothing_left(bed)


def test_an_orphan_that_may_be_its_own_is_told(bed: Bed) -> None:
    """It forks, and ends before its parent is moved: nothing says any more whose child it is."""
    middle, pipe = bed.agent.run(
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}); r, w = os.pipe()\n"
        "middle = os.fork()\nif middle == 0:\n signal.sigwait({signal.SIGUSR1}); child = os.fork()\n"
        " if child: os.write(w, b'%d\\n' % child); os._exit(0)\n sleep()\nmiddle, r"
    )
    told: list[int] = []

    def at(step: str) -> None:
        if step == "moved" and not told:
            os.kill(middle, signal.SIGUSR1)
            with Path(f"/proc/{bed.agent.pid}/fd/{pipe}").open() as read:
                told.append(int(read.readline()))
            while processes.of_pid(middle):  # until then the next scan finds it by its parent
                pass

    intent = bed.adopt(at)
    (orphan,) = told
    with suppress(ProcessLookupError):
        assert place_of(orphan, bed) == bed.old.path
        (said,) = holding.verify(intent, bed.host.place).gaps
        assert f"pid {orphan}" in said
        assert "lost its parent while the agent was moved" in said
        os.kill(orphan, signal.SIGKILL)
    assert holding.verify(intent, bed.host.place).gaps == ()


def nothing_left(bed: Bed) -> bool:
    assert bed.host.place.intents.in_force() == []
    assert (bed.new(), bed.host.attached()) == ([], [])
    assert cgroups.own_processes(bed.old) >= {bed.stranger.pid}
    assert "0" in (bed.old.path / "cgroup.freeze").read_text()
    return True


@pytest.mark.parametrize("when", ["intended", "made", "noted", "running"])
def test_it_ends_before_it_is_moved(bed: Bed, when: str) -> None:
    def end(step: str) -> None:
        if step == when and bed.agent.process.poll() is None:
            bed.agent.process.kill()
            bed.agent.process.wait()

    with pytest.raises(WatchdogError, match="ended"):
        bed.adopt(end)
    assert nothing_left(bed)


def test_one_of_two_ends_midway(bed: Bed) -> None:
    child = bed.agent.run(CHILD + "child")

    def end(step: str) -> None:
        if step == "moved" and processes.of_pid(child):
            os.kill(child, signal.SIGKILL)

    assert bed.adopt(end).state is State.ISOLATED
    assert bed.release() == ()


def test_all_of_it_ends_while_isolated(bed: Bed) -> None:
    intent = bed.adopt(level=FROZEN)
    bed.agent.process.kill()
    bed.agent.process.wait()
    while cgroups.processes(Cgroup(bed.new()[0], intent.where.cgroup_id, bed.old.root)):
        pass
    assert repaired(bed) == []
    seen = holding.verify(intent, bed.host.place)
    assert (seen.idle, seen.gaps) == (True, (whereabouts.ENDED,))
    told = [bed.host.mesh("status").out, bed.host.mesh("verify", "--cgroup", intent.where.cgroup).out]
    for out in told:
        assert "release it, and isolate again" in out
        assert "reconcile" not in out
        assert "IN PART" not in out.upper()
        assert "frozen" not in out
    assert f"HOLDS NOTHING NOW: the isolation of {intent.where.cgroup} since " in told[0]
    assert f"The isolation of {intent.where.cgroup} holds nothing now: " in told[1]
    assert bed.release() == ()
    assert bed.new() == []


def test_frozen_it_stays_and_is_back_running(bed: Bed) -> None:
    intent = bed.adopt(level=FROZEN)
    assert "frozen 1" in Path(intent.where.cgroup, "cgroup.events").read_text()
    assert bed.stranger.outcome("pass") == "pass"
    assert bed.release() == ()
    assert bed.agent.outcome("pass") == "pass"


def test_one_that_was_taken_out_is_brought_back(bed: Bed) -> None:
    intent = bed.adopt()
    (bed.old.path / "cgroup.procs").write_text(str(bed.agent.pid))
    (said,) = holding.verify(intent, bed.host.place).gaps
    assert f"pid {bed.agent.pid} " in said
    (repair,) = repaired(bed)
    assert (repair.failed, repair.done) == (False, "isolated again")
    assert place_of(bed.agent.pid, bed) == bed.new()[0]
    assert "frozen 0" in (bed.new()[0] / "cgroup.events").read_text()
    assert bed.release() == ()


def test_its_old_cgroup_is_gone(bed: Bed) -> None:
    """What was removed and made again is another one, whatever is in it now."""
    intent = bed.adopt()
    assert intent.where.moved is not None
    moved = replace(intent.where.moved, cgroup_id=intent.where.moved.cgroup_id + 1_000_000, processes=())
    bed.host.place.intents.change(intent, State.ISOLATED, NOW, where=replace(intent.where, moved=moved))
    (said,) = bed.release()
    assert f"its processes stay in {intent.where.cgroup} (pid {bed.agent.pid} " in said
    assert f"the cgroup they were in, {bed.old.path}, is gone" in said
    assert place_of(bed.agent.pid, bed) == Path(intent.where.cgroup)
    assert (bed.host.attached(), bed.agent.outcome("dial(INET, 9)")) == ([], "ECONNREFUSED")


def test_the_journal_is_lost(bed: Bed) -> None:
    """The cgroup itself says where its processes were."""
    intent = bed.adopt()
    bed.host.close()
    bed.host.state = bed.host.folder / "another"
    (repair,) = repaired(bed)
    assert "adopted as an isolation" in repair.done
    (found,) = bed.host.place.intents.in_force()
    assert (found.where.cgroup, found.where.moved is not None) == (intent.where.cgroup, True)
    assert bed.release() == ()
    assert place_of(bed.agent.pid, bed) == bed.old.path
    assert nothing_left(bed)


def test_from_the_root_cgroup(host: Host, run_in_cgroup: RunInside, v2_root: Path) -> None:
    """Where everything is that nobody has put anywhere. What it made there is not dropped, and that is said."""
    root = Cgroup(v2_root, v2_root.stat().st_ino, v2_root)
    bed = Bed(host, root, agent(run_in_cgroup, root), agent(run_in_cgroup, root))
    bed.agent.run("made = listening(INET, DGRAM)")
    new = Path(bed.where().cgroup)
    try:
        intent = bed.adopt()
        assert (Path(intent.where.cgroup), place_of(bed.agent.pid, bed)) == (new, new)
        said = "; ".join(holding.verify(intent, host.place).gaps)
        assert "made in the root cgroup, which is never touched" in said
        assert bed.agent.outcome("socket.socket(INET, DGRAM).sendto(b'new', ('127.0.0.1', 9))") == "EPERM"
        assert bed.release() == ()
        assert place_of(bed.agent.pid, bed) == v2_root
        assert not new.exists()
    finally:
        remove_cgroup(new)


def test_another_boot(bed: Bed) -> None:
    """The numbers in the journal are anybody's then: nobody is moved by them, and the intent says that it is over."""
    intent = bed.adopt()
    assert intent.where.moved is not None
    bed.release()
    gone = replace(intent.where, moved=replace(intent.where.moved, boot="another"))
    for state, over in ((State.ISOLATED, False), (State.ISOLATING, True)):
        again = bed.host.place.intents.begin(gone, WHY, intent.held_by, NOW, state)
        assert whereabouts.ENDED in holding.verify(again, bed.host.place).gaps
        reconcile(bed.host.place, moment())
        assert bed.host.place.intents.get(again).state is (State.FAILED if over else State.ISOLATED)
        assert place_of(bed.agent.pid, bed) == bed.old.path
        isolation.release(again, bed.host.place)
    assert nothing_left(bed)


def test_another_process_with_its_number_stays(bed: Bed) -> None:
    started = Was(bed.agent.pid, 1, str(bed.old.path), bed.old.inode)
    moved = Moved(str(bed.old.path), bed.old.inode, moment().boot, (started,))
    where = Where(str(bed.old.path / f"{moving.PREFIX}1-1"), 0, moved=moved)
    with pytest.raises(KernelRefused, match="ended"):
        isolation.isolate(where, WHY, bed.host.place)
    assert place_of(bed.agent.pid, bed) == bed.old.path
    assert nothing_left(bed)


def test_who_has_a_cgroup_of_its_own_is_not_moved(bed: Bed) -> None:
    bed.stranger.process.kill()
    bed.stranger.process.wait()
    intent = bed.adopt()
    assert (intent.where.cgroup, intent.where.moved, bed.new()) == (str(bed.old.path), None, [])
    bed.release()


def test_a_cgroup_that_takes_no_child(bed: Bed) -> None:
    (bed.old.path / "cgroup.max.descendants").write_text("0")
    with pytest.raises(KernelRefused, match="no cgroup can be made in"):
        bed.adopt()
    assert nothing_left(bed)


def test_a_cgroup_that_is_divided_by_threads(scratch_cgroup: MakeCgroup) -> None:
    """A threaded child makes its parent a domain of threads: a new child could hold nobody."""
    top = scratch_cgroup("top")
    (scratch_cgroup("threads", top).path / "cgroup.type").write_text("threaded")
    with pytest.raises(KernelRefused, match="is divided by threads"):
        moves.make(top, "new")
    assert not (top.path / "new").exists()


# The command


def test_the_command(bed: Bed) -> None:
    words = ("isolate", "--pid", str(bed.agent.pid), "--reason", "drill")
    before = bed.host.snapshot()
    refused = bed.host.mesh(*words)
    assert (refused.status, "--adopt" in refused.err) == (REFUSED, True)
    plan = bed.host.mesh(*words, "--adopt", "--dry-run")
    assert plan.status == OK, plan.err
    assert f"would be moved there: pid {bed.agent.pid} " in plan.out
    assert (bed.host.snapshot(), bed.new()) == (before, [])
    done = bed.host.mesh(*words, "--adopt", "--json")
    assert (done.status, done.document["moved"]["from"]) == (PARTIAL, str(bed.old.path))
    assert done.document["moved"]["processes"] == [bed.agent.pid]
    again = bed.host.mesh(*words, "--adopt", "--json")
    assert (again.document["changed"], again.document["cgroup"]) == (False, str(bed.new()[0]))
    assert "moved there from" in bed.host.mesh("verify", "--pid", str(bed.agent.pid)).out
    assert "moved there from" in bed.host.mesh("status").out
    back = bed.host.mesh("release", "--pid", str(bed.agent.pid), "--reason", "over")
    assert back.status == OK, back.err
    assert f"moved back to {bed.old.path}, and the cgroup that was made is gone" in back.out
    assert "verified from inside" in back.out
    assert f"moved there from {bed.old.path}" in bed.host.mesh("history").out
    assert nothing_left(bed)


def test_one_that_has_ended_is_not_said_to_be_moved_back(bed: Bed) -> None:
    pid = str(bed.agent.pid)
    assert bed.host.mesh("isolate", "--pid", pid, "--reason", "drill", "--adopt").status == PARTIAL
    (new,) = bed.new()
    bed.agent.close()
    released = bed.host.mesh("release", "--cgroup", new, "--reason", "over")
    assert released.status == OK, released.err
    assert "nothing of it runs any more, and the cgroup that was made is gone" in released.out
    assert "moved back" not in released.out
    assert bed.new() == []


@pytest.mark.parametrize("more", [(), ("--force",)])
def test_what_is_never_moved(bed: Bed, more: tuple[str, ...]) -> None:
    """The command itself is a child of this test."""
    for pid, says in ((os.getpid(), "this very process would be stopped"), (1, "PID 1 and all that descends from it")):
        said = bed.host.mesh("isolate", "--pid", str(pid), "--reason", "drill", "--adopt", "--dry-run", *more)
        assert (said.status, says in said.err) == (REFUSED, True), said.err
    assert nothing_left(bed)


def test_what_is_no_process(bed: Bed) -> None:
    said = bed.host.mesh("isolate", "--cgroup", bed.old.path, "--reason", "drill", "--adopt")
    assert (said.status, "is named with all that is in it" in said.err) == (USAGE, True)
    both = bed.host.mesh("isolate", "--pid", str(bed.agent.pid), "--reason", "drill", "--adopt", "--shadow")
    assert (both.status, "exclude each other" in both.err) == (USAGE, True)
    assert nothing_left(bed)


def test_rails_refuse_even_so(bed: Bed) -> None:
    settings = without_file(bed.host.environment)
    located = locate.locate(Named(pid=os.getpid()), settings, bed.host.place, adopt_it=True)
    with pytest.raises(Refused, match="this very process"):
        locate.check_rails(located, settings, bed.host.place, force=True)
