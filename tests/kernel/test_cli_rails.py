"""The safety rails on real things: what is refused with nothing changed, and what --force says it overruled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import Answer, Host, ours_at
from watchdog import clock, config
from watchdog.actions import locate
from watchdog.actions.locate import Named
from watchdog.errors import Refused
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import GATE
from watchdog.status import published

pytestmark = pytest.mark.kernel

OK, REFUSED, PARTIAL = 0, 3, 4
STARTED_S = 20.0
HOLD_LOCK = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
)
TWO_PEERS = """
[isolation]
max_isolated = {most}
[[peer]]
name = "immune"
endpoint = "http://127.0.0.1:9/healthz"
cgroup = "{first}"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/healthz"
cgroup = "{second}"
"""


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.fixture
def start_in() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command inside a cgroup; it ends with its standard input."""
    with ExitStack() as started:

        def start(cgroup: Cgroup, *command: str) -> subprocess.Popen[str]:
            joined = ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(cgroup.path), *command]
            process = subprocess.Popen(joined, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.callback(process.communicate)
            started.callback(process.kill)
            deadline_s = time.monotonic() + STARTED_S
            while Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[0].decode() != command[0]:
                assert time.monotonic() < deadline_s, f"{command} does not start"
                time.sleep(0.005)
            return process

        yield start


def inside(cgroup: Cgroup) -> list[str]:
    """A prefix: this very command runs in the cgroup, without what started it."""
    return ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(cgroup.path)]


def started_from(cgroup: Cgroup, elsewhere: Cgroup) -> list[str]:
    """A prefix: a shell in the cgroup starts the command, which itself runs elsewhere."""
    script = 'echo 0 >"$0/cgroup.procs" && sh -c \'echo 0 >"$0/cgroup.procs" && exec "$@"\' "$@"'
    return ["sh", "-c", script, str(cgroup.path), str(elsewhere.path)]


def refused_then_forced(host: Host, agent: Cgroup, objection: str, prefix: list[str] | None = None) -> Answer:
    """Refused with the objection and nothing changed; with --force done, and the objection told and recorded."""
    words = ["isolate", "--cgroup", str(agent.path), "--reason", "drill"]
    before = host.snapshot()
    no = host.mesh(*words, prefix=prefix or ())
    assert (no.status, no.out) == (REFUSED, ""), no.err
    assert objection in no.err
    assert "if that is meant, say --force" in no.err
    assert host.snapshot() == before
    yes = host.mesh(*words, "--force", prefix=prefix or ())
    assert yes.status == PARTIAL, yes.err  # it runs as root: that is never wholly cut off
    assert f"Although {objection}" in yes.out
    assert len(ours_at(agent)) == len(GATE)
    (intent,) = host.place.intents.in_force()
    assert any(objection in each for each in intent.why.overruled)
    assert objection in str(host.place.journal.trail(newest=1)[0]["overruled"])
    return no


def test_this_very_process(host: Host, agent: Cgroup) -> None:
    refused_then_forced(host, agent, "it holds this very process", inside(agent))


def test_the_session_the_command_was_given_in(host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup) -> None:
    prefix = started_from(agent, scratch_cgroup("elsewhere"))
    no = refused_then_forced(host, agent, "it holds the session this command was given in", prefix)
    assert "very process" not in no.err


def test_a_child_cgroup_counts(host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup) -> None:
    refused_then_forced(host, agent, "it holds this very process", inside(scratch_cgroup("child", agent)))


@pytest.mark.parametrize("name", ["sshd", "sshd-session"])
def test_sshd(host: Host, agent: Cgroup, start_in: Callable[..., object], tmp_path: Path, name: str) -> None:
    stand_in = tmp_path / name
    shutil.copy("/bin/cat", stand_in)
    start_in(agent, str(stand_in))
    refused_then_forced(host, agent, "it holds sshd: the way into this host would be cut")


def test_a_watcher_of_this_host(host: Host, agent: Cgroup, start_in: Callable[..., subprocess.Popen[str]]) -> None:
    host.run_dir.mkdir()
    watcher = start_in(agent, sys.executable, "-c", HOLD_LOCK, str(host.run_dir / "watcher-immune.lock"))
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "held\n"
    refused_then_forced(host, agent, "it holds a watcher of this mesh")


def test_pid_1(host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup) -> None:
    """The init of a pid namespace, asked from within."""
    outside = scratch_cgroup("outside")
    script = (
        'echo 0 >"$0/cgroup.procs" && '  # this shell is PID 1 here
        'sh -c \'echo 0 >"$0/cgroup.procs" && exec "$@"\' "$@"; exit $?'
    )
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, str(agent.path), str(outside.path)]
    refused_then_forced(host, agent, "it holds PID 1", prefix)


def test_strangers_are_listed(
    host: Host, agent: Cgroup, run_in_cgroup: RunInside, start_in: Callable[..., subprocess.Popen[str]]
) -> None:
    """A process names its cgroup: who else is in there would be cut off with it."""
    meant, stranger = run_in_cgroup(agent), start_in(agent, "cat")
    words = ["isolate", "--pid", str(meant.pid), "--reason", "drill"]
    before = host.snapshot()
    no = host.mesh(*words)
    assert no.status == REFUSED
    assert f"it holds processes that are not the agent's: pid {stranger.pid} cat" in no.err
    assert str(meant.pid) not in no.err
    assert host.snapshot() == before
    assert (
        f"Although it holds processes that are not the agent's: pid {stranger.pid} cat"
        in host.mesh(*words, "--force").out
    )


def test_a_refusal_is_of_the_same_kind_whoever_it_names(
    host: Host, agent: Cgroup, run_in_cgroup: RunInside, start_in: Callable[..., subprocess.Popen[str]]
) -> None:
    """A watcher tries again at every miss, and tells people once of each kind."""
    settings, meant, refused = config.without_file(host.environment), run_in_cgroup(agent), []
    for _ in range(2):
        start_in(agent, "cat")
        located = locate.locate(Named(pid=meant.pid), settings, host.place)
        with pytest.raises(Refused) as found:
            locate.check_rails(located, settings, host.place, force=False)
        refused.append(found.value)
    assert refused[0].message != refused[1].message
    assert {each.kind for each in refused} == {"it holds processes that are not the agent's"}


def test_children_of_the_named_process_are_the_agent(host: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    parent = run_in_cgroup(agent)
    parent.run("import subprocess; child = subprocess.Popen(['sleep', '60'], stdin=-3, stdout=-3)")
    assert host.mesh("isolate", "--pid", str(parent.pid), "--reason", "drill").status == PARTIAL


def test_children_that_are_born_while_it_is_looked_at_are_the_agent(host: Host, agent: Cgroup) -> None:
    """An agent that forks without end cannot keep itself from being isolated by that."""
    forks = (
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n    os.fork() or os._exit(0)"
    )
    process = subprocess.Popen([*inside(agent), sys.executable, "-c", forks])
    try:
        words = ["isolate", "--pid", str(process.pid), "--reason", "drill", "--dry-run"]
        said = {host.mesh(*words).status for _ in range(5)}
    finally:
        process.kill()
        process.wait()
    assert said == {OK}


def test_a_child_in_another_cgroup_would_go_on(
    host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    parent, elsewhere = run_in_cgroup(agent), scratch_cgroup("elsewhere")
    child = parent.run("import subprocess; child = subprocess.Popen(['sleep', '60'], stdin=-3, stdout=-3); child.pid")
    (elsewhere.path / "cgroup.procs").write_text(str(child))
    words = ["isolate", "--pid", str(parent.pid), "--reason", "drill"]
    no = host.mesh(*words)
    assert (no.status, ours_at(agent)) == (REFUSED, [])
    assert f"processes of it are in other cgroups, and would not be cut off: pid {child} sleep 60" in no.err
    assert "with --adopt" in no.err
    assert host.mesh(*words, "--adopt").status == PARTIAL
    assert Path(f"/proc/{child}/cgroup").read_text() == Path(f"/proc/{parent.pid}/cgroup").read_text()
    assert host.mesh("release", "--pid", str(parent.pid), "--reason", "drill").status == OK
    assert Path(f"/proc/{child}/cgroup").read_text().endswith(f"{elsewhere.relative()}\n")


def test_processes_that_cannot_be_seen_are_strangers(
    host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup, start_in: Callable[..., object]
) -> None:
    """Asked from a pid namespace: the kernel has no number there for who is outside of it."""
    start_in(agent, "cat")
    script = '( echo 0 >"$0/cgroup.procs"; exec sleep 60 ) & sleep 0.2; "$@" --pid $!; status=$?; kill $!; exit $status'
    prefix = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, str(agent.path)]
    no = host.mesh("isolate", "--reason", "drill", prefix=prefix)
    assert no.status == REFUSED
    assert "processes of another pid namespace, which cannot be seen from here" in no.err


def test_more_than_the_budget(host: Host, scratch_cgroup: MakeCgroup) -> None:
    first, second = scratch_cgroup("first"), scratch_cgroup("second")
    host.isolate(first)
    words = ["isolate", "--cgroup", str(second.path), "--reason", "drill"]
    no = host.mesh(*words)
    assert (no.status, ours_at(second)) == (REFUSED, [])
    assert f"the limit max_isolated = 1 is reached: {first.path} is isolated" in no.err
    yes = host.mesh(*words, "--force", "--json").document
    assert yes["overruled"] == [f"the limit max_isolated = 1 is reached: {first.path} is isolated"]


def test_what_is_isolated_itself_takes_nothing_of_the_budget(host: Host, agent: Cgroup) -> None:
    """The second isolation of the same, by another name for it, is no second isolation."""
    host.isolate(agent)
    host.configure(TWO_PEERS.format(most=1, first=agent.path, second="/nowhere"))
    answer = host.mesh("isolate", "immune", "--reason", "drill", "--json")
    assert (answer.status, answer.document["peer"]) == (OK, "immune")


def test_the_last_peer(host: Host, scratch_cgroup: MakeCgroup) -> None:
    first, second = scratch_cgroup("first"), scratch_cgroup("second")
    host.configure(TWO_PEERS.format(most=2, first=first.path, second=second.path))
    assert host.mesh("isolate", "immune", "--reason", "drill").status == OK
    no = host.mesh("isolate", "shield", "--reason", "drill")
    assert (no.status, ours_at(second)) == (REFUSED, [])
    assert "it is the last peer that is still on the network" in no.err
    assert host.mesh("isolate", "immune", "--reason", "drill").status == OK, "it is isolated already"
    yes = host.mesh("isolate", "shield", "--reason", "drill", "--force")
    assert (yes.status, "Although it is the last peer" in yes.out) == (OK, True)


def run_watcher(
    host: Host, scratch: Cgroup, start: Callable[..., subprocess.Popen[str]], name: str, age_s: float
) -> None:
    """What a watcher shows of itself as long as it runs: a held lock, and when it last said something."""
    host.run_dir.mkdir(exist_ok=True)
    holder = start(scratch, sys.executable, "-c", HOLD_LOCK, str(host.run_dir / f"watcher-{name}.lock"))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said = {"self": name, "generated_at": clock.rfc3339(clock.utc_now() - timedelta(seconds=age_s))}
    published.publish(host.run_dir, name, said)


@pytest.mark.parametrize(
    ("running", "objects"),
    [
        ({}, False),
        ({"shield": 1.0}, True),
        ({"shield": 1.0, "immune": 1.0}, False),
        ({"immune": 1.0}, False),
        ({"shield": 1.0, "immune": 3600.0}, True),
        ({"immune": 3600.0}, True),
    ],
    ids=["none runs", "its own", "another", "only another", "another hangs", "the only one hangs"],
)
def test_the_last_watcher(
    host: Host,
    scratch_cgroup: MakeCgroup,
    start_in: Callable[..., subprocess.Popen[str]],
    running: dict[str, float],
    objects: bool,
) -> None:
    first, second = scratch_cgroup("first"), scratch_cgroup("second")
    host.configure(TWO_PEERS.format(most=1, first=first.path, second=second.path))
    for name, age_s in running.items():
        run_watcher(host, scratch_cgroup("watchers"), start_in, name, age_s)
    answer = host.mesh("isolate", "shield", "--reason", "drill")
    assert answer.status == (REFUSED if objects else OK), answer.err
    assert ("no watcher but its own is alive and on time" in answer.err) is objects
    assert host.mesh("isolate", "shield", "--reason", "drill", "--force").status == OK


def test_every_objection_is_told_at_once(host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup) -> None:
    host.isolate(scratch_cgroup("other"))
    no = host.mesh("isolate", "--cgroup", agent.path, "--reason", "drill", prefix=inside(agent))
    assert no.status == REFUSED
    for objection in ("this very process", "the limit max_isolated = 1 is reached"):
        assert objection in no.err
    assert os.linesep not in no.err.strip()
