"""Bad input through the real command: one line that names thing and remedy, its exit status, and nothing changed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests import AS_NOBODY
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import Answer, Host, ours_at, overwrite_root_page
from watchdog.actions import locate, programs
from watchdog.config import without_file
from watchdog.database import FILE_NAME
from watchdog.errors import UsageError
from watchdog.kernel import bpffs, cgroups, gate
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import GATE

pytestmark = pytest.mark.kernel

OK, FAILED, USAGE, REFUSED, HOST_CANNOT, NOT_ROOT = 0, 1, 2, 3, 5, 6
AGENT = "@agent"
"""Stands for the path of a cgroup that could be isolated."""
WHY = ("--reason", "drill")
PEERS = """
interval = "1s"
timeout = "300ms"
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/healthz"
cgroup = "{agent}"
[[peer]]
name = "lost"
endpoint = "http://127.0.0.1:9/healthz"
"""


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.fixture
def configured(host: Host, agent: Cgroup) -> Host:
    host.configure(PEERS.format(agent=agent.path))
    host.place.journal.data_version()  # it is there before, so that nothing is new afterwards
    host.close()
    return host


def refused(
    host: Host, words: Sequence[str | Path], status: int, says: Sequence[str], prefix: Sequence[str] = ()
) -> None:
    """The command refuses as it should, for people and for machines, and changes nothing."""
    before = host.snapshot()
    with ThreadPoolExecutor(2) as both:
        plain, machine = both.map(lambda more: host.mesh(*words, *more, prefix=prefix), [(), ("--json",)])
    check_words(plain, status, says)
    assert (machine.status, machine.err) == (status, "")
    document = machine.document
    assert (document["schema"], document["exit_status"]) == ("watchdog-mesh/error/1", status)
    assert all(each in f"{document['error']}; {document['hint']}" for each in says)
    assert host.snapshot() == before


def check_words(answer: Answer, status: int, says: Sequence[str]) -> None:
    assert (answer.status, answer.out) == (status, ""), answer.err
    assert answer.err.startswith("watchdog-mesh: ")
    assert answer.err.count("\n") == 1, "one line"
    assert answer.err.strip().isprintable()
    missing = [each for each in says if each not in answer.err]
    assert not missing, f"{missing} not in {answer.err}"


def shown(value: object) -> str:
    """A row's command line as its name."""
    return " ".join(value)[:60].encode("ascii", "replace").decode() if isinstance(value, list) else ""


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        # Whom
        (["isolate", *WHY], USAGE, ["nobody was named", "--unit UNIT"]),
        (["release", *WHY], USAGE, ["nobody was named", "--unit UNIT"]),
        (["verify"], USAGE, ["nobody was named"]),
        (["isolate", "shield", "--cgroup", AGENT, *WHY], USAGE, ["peer and cgroup were given: want one target"]),
        (["isolate", "shield", "sidecar", *WHY], USAGE, ["sidecar", "isolate --help"]),
        (["isolate", "", *WHY], USAGE, ["the target's name is empty: peer", "name a configured PEER, --unit UNIT"]),
        (["isolate", "--cgroup", "", *WHY], USAGE, ["the target's name is empty: cgroup", "name a configured PEER"]),
        (["isolate", "shield", "--config", "", *WHY], USAGE, ["--config names no file", "WATCHDOG_MESH_CONFIG"]),
        (["run", "--self", "shield", "--listen", ""], USAGE, ["--listen: want ADDRESS:PORT, got ''", "127.0.0.1:9470"]),
        (["isolate", "nemo", *WHY], USAGE, ["there is no peer 'nemo'", "known: shield, lost"]),
        (["release", "nemo", *WHY], USAGE, ["there is no peer 'nemo'", "known: shield, lost"]),
        (["verify", "nemo"], USAGE, ["there is no peer 'nemo'"]),
        (["silence", "nemo", "--for", "5m", *WHY], USAGE, ["there is no peer 'nemo'"]),
        (["isolate", "\x1b[2Jnemo", *WHY], USAGE, ["there is no peer"]),
        (["isolate", "lost", *WHY], USAGE, ["does not say how to find lost", "set one of unit"]),
        # --pid
        (["isolate", "--pid", "4194305", *WHY], USAGE, ["there is no process 4194305", "ps -ef"]),
        (["isolate", "--pid", "0", *WHY], USAGE, ["'--pid': 0 is not in the range", "isolate --help"]),
        (["isolate", "--pid", "x", *WHY], USAGE, ["'x' is not a valid process id", "isolate --help"]),
        # --unit
        (["isolate", "--unit", "../x", *WHY], USAGE, ["'../x' is not the name of a unit", "like shield.service"]),
        (["isolate", "--unit", "-.slice", *WHY], USAGE, ["'-.slice' is not the name of a unit"]),
        (["isolate", "--unit", "a\nb", *WHY], USAGE, ["is not the name of a unit"]),
        (["isolate", "--unit", "basic.target", *WHY], USAGE, ["is a target unit: it has no processes"]),
        # --cgroup
        (["isolate", "--cgroup", "/etc", *WHY], USAGE, ["/etc is outside the cgroup v2 tree", "name a cgroup below"]),
        (["isolate", "--cgroup", "agent", *WHY], USAGE, ["'agent' is no absolute path", "name a cgroup below"]),
        (["isolate", "--cgroup", f"{AGENT}/../..", *WHY], USAGE, ["holds '..'", "name the cgroup directly"]),
        (["isolate", "--cgroup", f"{AGENT}/none", *WHY], USAGE, ["there is no cgroup", "systemctl status"]),
        (["isolate", "--cgroup", f"{AGENT}/cgroup.procs", *WHY], USAGE, ["is not a cgroup of"]),
        (["isolate", "--cgroup", "@root", *WHY], REFUSED, ["is the root cgroup", "name a cgroup below"]),
        (["isolate", "--cgroup", "@root/", "--force", *WHY], REFUSED, ["is the root cgroup"]),
        # Why, and until when
        (["isolate", "shield"], USAGE, ["Missing option '--reason'", "isolate --help"]),
        (["history", "--last", "x"], USAGE, ["'x' is not a valid whole number", "history --help"]),
        (["isolate", "shield", "--reason", ""], USAGE, ["--reason says nothing", "in a sentence"]),
        (["isolate", "shield", "--reason", " \t\n"], USAGE, ["--reason says nothing"]),
        (["release", "shield", "--reason", ""], USAGE, ["--reason says nothing"]),
        (["isolate", "shield", "--reason", "x" * 2001], USAGE, ["--reason has 2001 characters, at most 2000"]),
        (["isolate", "shield", "--reason", "\udcff\udcfe"], USAGE, ["--reason is not UTF-8 text"]),
        (["isolate", "shield", *WHY, "--incident", ""], USAGE, ["--incident says nothing"]),
        (["isolate", "shield", *WHY, "--ttl", "0s"], USAGE, ["--ttl 0s: want a time greater than 0"]),
        (["isolate", "shield", *WHY, "--ttl", "-5m"], USAGE, ["--ttl -5m: want a time greater than 0"]),
        (["isolate", "shield", *WHY, "--ttl", ""], USAGE, ["--ttl : want a time greater than 0"]),
        (["isolate", "shield", *WHY, "--ttl", "8770h"], USAGE, ["--ttl 8770h: want a time", "at most 365 days"]),
        (["silence", "shield", "--for", "25h", *WHY], USAGE, ["--for 25h: want a time", "at most a day"]),
        (["silence", "shield", "--for", "5m", "--reason", " "], USAGE, ["--reason says nothing"]),
        # What
        (["isolat", "shield"], USAGE, ["No such command 'isolat'", "watchdog-mesh --help"]),
        (["isolate", "shield", "--all", *WHY], USAGE, ["No such option", "isolate --help"]),
        (["reconcile", "--set-aside-journal"], USAGE, ["is not damaged; it stays", "without the option"]),
        (["run", "--self", "nemo"], USAGE, ["--self nemo: no such agent", "known: shield, lost"]),
        (["run"], USAGE, ["whose watcher this is was not said", "--self NAME"]),
        (["notify", "test", "nobody"], USAGE, ["there is no receiver 'nobody'", "known: none"]),
    ],
    ids=shown,
)
def test_bad_input(
    configured: Host, agent: Cgroup, v2_root: Path, words: list[str], status: int, says: list[str]
) -> None:
    stands_for = {AGENT: str(agent.path), "@root": str(v2_root)}
    for name, path in stands_for.items():
        words = [word.replace(name, path) for word in words]
    refused(configured, words, status, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('endpoint = "http://127.0.0.1:9/healthz"\ncg', 'endpoint = "ftp://x"\ncg'), "shield'.endpoint: want http://"),
        (('endpoint = "http://127.0.0.1:9/healthz"\ncg', 'endpoint = "http://[::1"\ncg'), "shield'.endpoint: want htt"),
        (('name = "lost"', 'name = "shield"'), "the name is used twice"),
        (("interval =", 'self = "lost"\ninterval ='), "self is among the peers"),
        (('"1s"', '"0s"'), "interval: "),
        (('"1s"', '"-1s"'), "interval: "),
        (('"300ms"', '"5s"'), "timeout: want less than interval"),
        (('"300ms"', "5"), "timeout: "),
        (('name = "lost"', 'name = "lost"\nkey_file = "/nowhere/key"'), "cannot read /nowhere/key: No such file"),
        (('name = "lost"', 'name = "lost"\ncolour = "red"'), "colour: unknown setting"),
        (("[[peer]]", "[[peer"), "is not TOML"),
    ],
    ids=lambda value: value[1][:30] if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("verb", [["isolate", "shield", *WHY], ["run", "--self", "shield"]], ids=["isolate", "run"])
def test_bad_configuration(
    configured: Host, agent: Cgroup, change: tuple[str, str], says: str, verb: list[str]
) -> None:
    path = configured.configure(PEERS.format(agent=agent.path).replace(*change, 1))
    refused(configured, verb, USAGE, [str(path), says])


NO_SECRET = '[[webhook]]\nname = "architect"\nurl = "http://127.0.0.1:9/"\nsecret_file = "/nowhere/secret"\n'
BROKEN = ("[isolation]\nlevle = 1\n", "[[webhook", 'watchers = ["nemo"]\n', NO_SECRET)


@pytest.mark.parametrize("broken", BROKEN, ids=["unknown setting", "not TOML", "a wrong name", "no secret"])
def test_in_an_incident_what_is_right_of_a_configuration_is_used(configured: Host, agent: Cgroup, broken: str) -> None:
    """And what is wrong is said, whatever is asked for."""
    good = configured.config.read_text()
    path = configured.configure(broken + good if "nemo" in broken else good + broken)
    commands: list[tuple[list[str], int, str]] = [
        (["isolate", "--cgroup", str(agent.path), *WHY], OK, "is isolated"),
        (["verify", "--cgroup", str(agent.path)], OK, "holds"),
        (["status"], 2, "ISOLATED"),
        (["history"], OK, "isolated"),
        (["reconcile"], OK, "nothing was changed"),
        (["release", "--cgroup", str(agent.path), *WHY], OK, "is released"),
        (["doctor"], FAILED, "This host can isolate."),
    ]
    for words, status, says in commands:
        answer = configured.mesh(*words)
        assert (answer.status, says in answer.out) == (status, True), answer
        warned = answer.err.splitlines()[0]
        assert str(path) in warned
        assert "what is right of it is used" in warned
        owed = [row["receiver"] for row in configured.place.journal.read("SELECT receiver FROM delivery")]
        assert (owed != []) is (broken is NO_SECRET), "told when its secret can be read again"
    assert configured.attached() == []


def test_nobody_is_isolated_by_a_journal_that_may_not_be_meant(configured: Host, agent: Cgroup) -> None:
    path = configured.configure(configured.config.read_text() + "[paths]\nstate = 3\n")
    refused(
        configured,
        ["isolate", "--cgroup", str(agent.path), *WHY],
        USAGE,
        [str(path), "paths.state: want"],
        ["env", "-u", "WATCHDOG_MESH_STATE_DIR"],
    )


@pytest.mark.parametrize("broken", BROKEN, ids=["unknown setting", "not TOML", "a wrong name", "no secret"])
def test_at_boot_a_wrong_configuration_opens_nothing(configured: Host, agent: Cgroup, broken: str) -> None:
    good = configured.config.read_text()
    configured.configure(broken + good if "nemo" in broken else good + broken)
    configured.isolate(agent)
    configured.close()
    assert gate.detach(agent, {program_id for _, program_id in configured.attached()})
    answer = configured.mesh("reconcile", "--boot")
    assert (answer.status, "isolated again" in answer.out) == (OK, True), answer
    assert configured.mesh("verify", "--cgroup", agent.path).status == OK


@pytest.mark.parametrize("where", ["--config", "the environment"])
def test_no_configuration_where_one_was_named(configured: Host, where: str) -> None:
    nowhere = configured.folder / "none.toml"
    given = ["--config", str(nowhere)] if where == "--config" else []
    prefix = [] if given else ["env", f"WATCHDOG_MESH_CONFIG={nowhere}"]
    says = [f"cannot read the configuration {nowhere}: No such file", "watchdog-mesh config example"]
    refused(configured, ["isolate", "shield", *WHY, *given], USAGE, says, prefix)


# The journal


@pytest.fixture
def damaged(configured: Host, agent: Cgroup) -> Host:
    """An isolated agent, and a journal whose pages are garbage."""
    configured.isolate(agent)
    configured.close()
    path = (configured.state / "journal.db").resolve()
    for beside in path.parent.glob(f"{path.name}-*"):
        beside.unlink()
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:100] + b"\xa5" * (size - 100))
    return configured


@pytest.mark.parametrize(
    "words",
    [[verb, "--cgroup", AGENT, *WHY] for verb in ("isolate", "release")] + [["status"], ["history"], ["reconcile"]],
    ids=lambda words: str(words[0]),
)
def test_a_damaged_journal_is_named_and_stays(damaged: Host, agent: Cgroup, words: list[str]) -> None:
    path = damaged.state / "journal.db"
    before, attached = path.read_bytes(), damaged.attached()
    answer = damaged.mesh(*(word.replace(AGENT, str(agent.path)) for word in words))
    check_words(answer, FAILED, [str(path), "is damaged", "it was left as it is", "reconcile --set-aside-journal"])
    assert path.read_bytes() == before
    assert damaged.attached() == attached


@pytest.mark.parametrize(("state", "status"), [("is cut off in the kernel", 4), ("is not cut off", FAILED)])
def test_verify_asks_the_kernel_where_the_journal_is_damaged(
    damaged: Host, agent: Cgroup, state: str, status: int
) -> None:
    if status == FAILED:
        gate.detach(agent, {program_id for _, program_id in damaged.attached()})
    answer = damaged.mesh("verify", "--cgroup", agent.path)
    assert (answer.status, state in answer.out) == (status, True), answer
    assert "is damaged" in answer.err
    assert "--set-aside-journal" in answer.err


def test_a_damaged_journal_is_kept_and_what_the_kernel_holds_is_adopted(damaged: Host, agent: Cgroup) -> None:
    before = (damaged.state / "journal.db").read_bytes()
    answer = damaged.mesh("reconcile", "--set-aside-journal", "--json")
    assert answer.status == 0
    assert [repair["target"] for repair in answer.document["repairs"]] == ["shield"]
    (kept,) = damaged.state.glob("journal.db.damaged-*[0-9]Z")
    assert kept.read_bytes() == before
    first = damaged.mesh("history", "--json").document["records"][0]
    assert (first["kind"], first["kept"], first["by"]["uid"]) == ("journal set aside", str(kept), 0)
    (intent,) = damaged.place.intents.in_force()
    assert (intent.where.peer, intent.where.cgroup) == ("shield", str(agent.path))
    assert damaged.mesh("verify", "--cgroup", agent.path).status == 0


def test_an_isolation_that_cannot_be_read_is_a_damaged_journal(configured: Host, agent: Cgroup) -> None:
    intent = configured.isolate(agent).intent
    with configured.place.journal.transaction() as tx:
        tx.execute("UPDATE isolation SET body = '{\"why\": 7}' WHERE id = ?", (intent.id,))
    configured.close()
    check_words(configured.mesh("reconcile"), FAILED, [f"isolation {intent.id} cannot be read", "--set-aside-journal"])


# The disk and the directories


@pytest.fixture
def full_disk(tmp_path: Path, built_pins: Path, agent: Cgroup) -> Iterator[Host]:
    """A state directory on a disk that is full, with a journal from better days."""
    host = Host(tmp_path / "full", built_pins)
    host.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(host.state)], check=True)
    try:
        host.place.journal.data_version()
        host.close()
        yield host
    finally:
        host.close()
        subprocess.run(["umount", str(host.state)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk(full_disk: Host, agent: Cgroup) -> None:
    fill(full_disk.state)
    attached = full_disk.attached()
    for _ in range(2):
        answer = full_disk.mesh("isolate", "--cgroup", agent.path, *WHY)
        check_words(answer, FAILED, [str(full_disk.state), "free space"])
    assert full_disk.attached() == attached == []
    (full_disk.state / "ballast").unlink()
    assert full_disk.intents() == []
    assert full_disk.mesh("isolate", "--cgroup", agent.path, *WHY).status == 0


def read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True, timeout=10)


@pytest.mark.parametrize(("taken", "remedy"), [(fill, "free space"), (read_only, "remount,rw")])
def test_what_a_disk_that_takes_nothing_holds_is_told(
    full_disk: Host, agent: Cgroup, taken: Callable[[Path], None], remedy: str
) -> None:
    full_disk.isolate(agent)
    full_disk.close()
    journal = (full_disk.state / FILE_NAME).read_bytes()
    taken(full_disk.state)
    for command, status, said in (
        (("verify", "--cgroup", agent.path), 0, "holds"),
        (("status",), 2, "ISOLATED"),
        (("history",), 0, "isolated"),
    ):
        answer = full_disk.mesh(*command)
        assert (answer.status, said in answer.out) == (status, True), answer
        assert remedy in answer.err
        [line] = answer.err.splitlines()
        assert line.endswith("nothing is kept")
        assert json.loads(full_disk.mesh(*command, "--json").out)["schema"]
    assert (full_disk.state / FILE_NAME).read_bytes() == journal
    assert [path for path in full_disk.run_dir.iterdir() if path.name.startswith("journal")] == []


def test_a_disk_that_is_full_at_the_release(full_disk: Host, agent: Cgroup) -> None:
    """It stays isolated, and is released once there is room again."""
    full_disk.isolate(agent)
    full_disk.close()
    fill(full_disk.state)
    attached = full_disk.attached()
    answer = full_disk.mesh("release", "--cgroup", agent.path, *WHY)
    check_words(answer, FAILED, [str(full_disk.state), "free space"])
    assert full_disk.attached() == attached != []
    (full_disk.state / "ballast").unlink()
    assert full_disk.mesh("release", "--cgroup", agent.path, *WHY).status == 0
    assert full_disk.attached() == []


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("WATCHDOG_MESH_RUN_DIR", ["cannot open the lock", "set paths.run"]),
        ("WATCHDOG_MESH_STATE_DIR", ["cannot make the journal", "check [paths] state"]),
        ("WATCHDOG_MESH_BPFFS_DIR", ["cannot make the pin directory", "set paths.bpffs"]),
    ],
)
def test_a_directory_that_cannot_be_made(configured: Host, agent: Cgroup, variable: str, says: list[str]) -> None:
    blocked = configured.folder / "file" / "below"
    blocked.parent.write_text("")
    status = HOST_CANNOT if "BPFFS" in variable else FAILED
    prefix = ["env", f"{variable}={blocked}"]
    refused(configured, ["isolate", "--cgroup", str(agent.path), *WHY], status, [str(blocked), *says], prefix)
    if "RUN_DIR" in variable:  # a watcher starts without its journal, which may come back
        refused(configured, ["run", "--self", "shield"], status, [str(blocked), *says], prefix)


def test_a_watcher_of_a_cgroup_that_can_be_none(host: Host) -> None:
    host.configure(PEERS.format(agent="/etc"))
    refused(host, ["run", "--self", "immune"], USAGE, ["peer 'shield'.cgroup", "want a cgroup below", "got /etc"])


# What this process, or this host, cannot


EVERY_VERB = (
    ["isolate", "--cgroup", AGENT, *WHY],
    ["release", "--cgroup", AGENT, *WHY],
    ["verify", "--cgroup", AGENT],
    ["reconcile"],
    ["status"],
    ["history"],
    ["doctor"],
    ["run"],
    ["silence", "shield", "--end"],
    ["notify", "test"],
)


@pytest.mark.parametrize("words", EVERY_VERB, ids=lambda words: str(words[0]))
def test_not_root(configured: Host, agent: Cgroup, words: list[str]) -> None:
    words = [word.replace(AGENT, str(agent.path)) for word in words]
    refused(configured, words, NOT_ROOT, ["only root may do this", "sudo"], AS_NOBODY)


@pytest.mark.parametrize("lost", ["-bpf,-sys_admin", "-sys_admin,-net_admin"])
def test_a_process_that_may_use_no_bpf(configured: Host, agent: Cgroup, lost: str) -> None:
    words = ["isolate", "--cgroup", str(agent.path), *WHY]
    attached = configured.attached()
    answer = configured.mesh(*words, prefix=["setpriv", f"--bounding-set={lost}"])
    check_words(answer, HOST_CANNOT, ["this process may not use BPF", "CAP_BPF"])
    assert configured.attached() == attached == []
    assert configured.place.intents.in_force() == []


def in_private_mounts(*commands: str) -> list[str]:
    """A prefix that changes mounts for the command alone."""
    script = " && ".join([*commands, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "-"]


def test_no_headers(configured: Host, agent: Cgroup) -> None:
    hidden = [f"mount -t tmpfs none {path}" for path in ("/lib/modules", "/usr/src", "/sys/kernel")]
    pins = configured.folder / "new-pins"
    prefix = [*in_private_mounts(*hidden), "env", f"WATCHDOG_MESH_BPFFS_DIR={pins}"]
    says = ["no kernel headers for BCC", "install linux-headers-"]
    refused(configured, ["isolate", "--cgroup", str(agent.path), *WHY], HOST_CANNOT, says, prefix)


def test_no_cgroup_v2(configured: Host, agent: Cgroup, v2_root: Path) -> None:
    prefix = in_private_mounts(f"umount -l {v2_root}")
    says = ["this host has no cgroup v2 hierarchy", "mount -t cgroup2"]
    for verb in ("isolate", "release"):
        refused(configured, [verb, "--cgroup", str(agent.path), *WHY], HOST_CANNOT, says, prefix)


def test_no_systemd(configured: Host) -> None:
    hidden = in_private_mounts("{ [ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd; }")
    says = ["systemd is not running on this host", "name the agent by pid_file"]
    refused(configured, ["isolate", "--unit", "shield", *WHY], HOST_CANNOT, says, hidden)


def test_a_pin_directory_that_others_can_write(configured: Host, agent: Cgroup) -> None:
    pins = configured.folder / "open-pins"
    bpffs.prepare(pins)
    try:
        pins.chmod(0o777)
        prefix = ["env", f"WATCHDOG_MESH_BPFFS_DIR={pins}"]
        says = [f"{pins} is open to others", "chmod 0700"]
        refused(configured, ["isolate", "--cgroup", str(agent.path), *WHY], HOST_CANNOT, says, prefix)
    finally:
        bpffs.unmount(pins)


def test_a_process_that_is_in_the_root_cgroup(configured: Host, v2_root: Path) -> None:
    says = ["it is the root cgroup", "name a child cgroup"]
    joined = ["sh", "-c", 'echo 0 >"$0" && echo in && exec sleep 600', str(v2_root / "cgroup.procs")]
    with subprocess.Popen(joined, stdout=subprocess.PIPE, text=True) as there:
        try:
            assert there.stdout is not None
            assert there.stdout.readline() == "in\n"
            refused(configured, ["isolate", "--pid", str(there.pid), "--force", *WHY], REFUSED, says)
        finally:
            there.kill()


def test_a_pid_whose_process_ended(configured: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    gone = run_in_cgroup(agent)
    gone.close()
    says = [f"there is no process {gone.pid}", "ps -ef"]
    refused(configured, ["isolate", "--pid", str(gone.pid), *WHY], USAGE, says)


def test_a_pid_that_became_another_s_while_it_was_looked_at(
    host: Host, agent: Cgroup, run_in_cgroup: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cgroup was read by its number: it may have been another process's already."""
    inside, of_pid = run_in_cgroup(agent), cgroups.of_pid

    def of_pid_and_it_ends(pid: int, root: Path) -> Cgroup:
        found = of_pid(pid, root)
        inside.process.kill()
        inside.process.wait()
        return found

    monkeypatch.setattr(cgroups, "of_pid", of_pid_and_it_ends)
    with pytest.raises(UsageError, match=f"process {inside.pid} ended while it was looked at"):
        locate.locate(locate.Named(pid=inside.pid), without_file({}), host.place)


def test_the_example_is_a_configuration_in_a_document_too(configured: Host, tmp_path: Path) -> None:
    shown, document = configured.mesh("config", "example"), configured.mesh("config", "example", "--json").document
    assert document == {"schema": "watchdog-mesh/config-example/1", "toml": shown.out}
    (tmp_path / "example.toml").write_text(shown.out)
    assert configured.mesh("config", "check", "--config", tmp_path / "example.toml").out.endswith(
        "3 peers, 0 webhooks\n"
    )


def test_a_configuration_that_cannot_be_read_is_named_once(configured: Host, tmp_path: Path) -> None:
    said = configured.mesh("config", "check", "--config", tmp_path)
    assert (said.status, said.out.count(str(tmp_path))) == (USAGE, 1)


def test_a_command_that_others_stop_waiting_for_says_nothing_strange(configured: Host) -> None:
    """`watchdog-mesh config example | head -1`."""
    command = f"{sys.executable} -m watchdog config example | head -1"
    done = subprocess.run(
        ["sh", "-c", command], env=configured.environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stderr == ""


@pytest.mark.parametrize("table", ["isolation", "orders", "peer", "event", "delivery"])
def test_a_journal_damaged_deep_inside_is_found_before_anything_is_done(host: Host, agent: Cgroup, table: str) -> None:
    """Each is read or written only after the agent has been let back."""
    target = ("--cgroup", agent.path, "--reason", "drill")
    assert host.mesh("isolate", *target).status == OK
    held, trail = ours_at(agent), list(host.place.journal.trail())
    host.close()
    overwrite_root_page(host.state / "journal.db", table)
    for words in (("release", *target), ("isolate", *target), ("reconcile",)):
        answer = host.mesh(*words)
        assert (answer.status, answer.out) == (FAILED, "")
        assert "is damaged (" in answer.err
        assert "reconcile --set-aside-journal" in answer.err
    assert ours_at(agent) == held
    with closing(sqlite3.connect(host.state / "journal.db")) as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone()[0] == len(trail)
    assert host.mesh("reconcile", "--set-aside-journal").status == OK
    assert host.mesh("release", *target).status == OK
    assert ours_at(agent) == []


@pytest.mark.parametrize("table", ["event", "delivery", "gone"])
def test_at_boot_a_damaged_journal_holds_what_can_be_read_of_it(host: Host, agent: Cgroup, table: str) -> None:
    """Agents are about to start: closed, not open."""
    assert host.mesh("isolate", "--cgroup", agent.path, "--reason", "drill").status == OK
    gate.detach(agent, programs.ids_of(host.place.intents.in_force()))
    host.close()
    overwrite_root_page(host.state / "journal.db", table)
    assert host.mesh("reconcile", "--boot").status == OK
    assert len(ours_at(agent)) == len(GATE)
    assert host.mesh("reconcile").status == FAILED
