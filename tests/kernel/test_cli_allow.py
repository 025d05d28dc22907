"""What an isolated agent may still reach, from the command line to the kernel, the journal and back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.ends import DROP_S, UDP_HEADERS_BYTES, bind, connect, received, send_udp
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import NOW, WHY, Host, moment
from tests.kernel.netns import VethPair
from watchdog import clock
from watchdog.actions import allowing, programs
from watchdog.actions.reconcile import reconcile
from watchdog.errors import KernelRefused
from watchdog.intents import Allowed, State, Until
from watchdog.kernel import allow, gate, libbpf
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import Hook

pytestmark = pytest.mark.kernel

OK, USAGE, PARTIAL = 0, 2, 4
ADDRESS = {4: "127.0.0.1", 6: "::1"}
LISTED = {4: "127.0.0.1/32:{}/udp", 6: "[::1/128]:{}/udp"}
RULES = {4: "127.0.0.1/32:9/udp", 6: "[::1/128]:9/udp"}


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.fixture
def agent(cgroup: Cgroup, run_in_cgroup: RunInside) -> Inside:
    return run_in_cgroup(cgroup)


def in_kernel(host: Host) -> dict[bytes, int]:
    (intent,) = host.place.intents.in_force()
    map_id = allow.place_of(programs.ids(intent.held_by).values())
    assert map_id is not None
    return allow.installed(map_id)


def history(host: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.mesh("history", "--json").document["records"]
    return found


def meant(*entries: str) -> dict[bytes, int]:
    return allow.compiled(allowing.rules([Allowed(entry) for entry in entries]))


@pytest.mark.parametrize("family", [4, 6])
def test_a_list_is_given_changed_and_taken_away(host: Host, cgroup: Cgroup, agent: Inside, family: int) -> None:
    target = ("isolate", "--cgroup", cgroup.path, "--reason", "it lies", "--json")
    said = LISTED[family]
    first = host.mesh(*target, "--allow", said.format(7), "--allow", "198.51.100.0/24@1h").document
    assert (first["state"], first["changed"], first["gaps"]) == ("partial", True, [])
    assert [(each["entry"], each["heartbeat"]) for each in first["allow"]] == [
        (said.format(7), False),
        ("198.51.100.0/24", False),
    ]
    assert first["allow"][0]["until"] is None
    assert first["allow"][1]["until"] > clock.rfc3339(clock.utc_now() + timedelta(minutes=59))
    assert [send_udp(agent, family, ADDRESS[family], port) for port in (7, 8)] == ["pass", "EPERM"]

    second = host.mesh(*target, "--allow", said.format(8)).document
    assert (second["changed"], second["state"], [each["entry"] for each in second["allow"]]) == (
        True,
        "partial",
        [said.format(8)],
    )
    assert [send_udp(agent, family, ADDRESS[family], port) for port in (7, 8)] == ["EPERM", "pass"]
    assert host.mesh(*target, "--allow", said.format(8)).document["changed"] is False
    assert host.mesh(*target).document["allow"] == second["allow"]

    without = host.mesh(*target, "--no-allow").document
    assert (without["allow"], without["heartbeat_from"]) == ([], None)
    assert [send_udp(agent, family, ADDRESS[family], port) for port in (7, 8)] == ["EPERM", "EPERM"]
    size = UDP_HEADERS_BYTES[family] + 1
    verified = host.mesh("verify", "--cgroup", cgroup.path, "--json").document
    assert verified["allowed"]["egress"] == {"packets": 2, "bytes": 2 * size}
    assert verified["dropped"]["egress"] == {"packets": 2, "bytes": 2 * size}, "the last two were refused as calls"
    trail = [record["allow"] for record in history(host) if record["kind"] == "intent isolated"]
    assert [len(trail), trail[0][0], *trail[1:]] == [3, said.format(7), [said.format(8)], []]


def test_in_words(host: Host, cgroup: Cgroup) -> None:
    target = ("--cgroup", cgroup.path)
    said = host.mesh("isolate", *target, "--reason", "it lies", "--allow", "192.0.2.1:53/udp").out.splitlines()
    assert said[1] == "  allowed: 192.0.2.1/32:53/udp"
    assert "  allowed: 192.0.2.1/32:53/udp" in host.mesh("verify", *target).out.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allow", "soc.example"], "soc.example is a name; want an address"),
        (["--allow", "0.0.0.0/0"], "no isolation"),
        (["--allow", ""], "it is empty"),
        (["--allow", "::/0", "--allow", "192.0.2.1:x"], "'192.0.2.1:x': 'x' is no port"),
        (["--no-allow", "--allow", "192.0.2.1"], "want one of them"),
        (["--no-allow", "--allow-heartbeat"], "want one of them"),
        (["--allow-heartbeat"], "wants a configured peer"),
    ],
)
def test_what_is_refused_changes_nothing(host: Host, cgroup: Cgroup, words: list[str], said: str) -> None:
    before = host.snapshot()
    answer = host.mesh("isolate", "--cgroup", cgroup.path, "--reason", "it lies", *words)
    assert (answer.status, answer.out) == (USAGE, "")
    assert said in answer.err
    assert host.snapshot() == before
    assert gate.query(cgroup)[Hook.EGRESS].ours == ()


def peer(port: int, cgroup: Path, more: str = "") -> str:
    return f"""
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:{port}/healthz"
cgroup = "{cgroup}"
[isolation]
{more}
"""


def be_watcher(inside: Inside, host: Host) -> None:
    """As `watchdog-mesh run` is one, until it ends: it holds the lock."""
    path = host.place.run / "watcher-immune.lock"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    inside.run(f"import fcntl; lock = open({str(path)!r}, 'w'); fcntl.flock(lock, fcntl.LOCK_EX)")


def test_the_heartbeat_still_gets_through_and_nothing_else(
    host: Host, cgroup: Cgroup, agent: Inside, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    watchers = scratch_cgroup("watcher")
    watcher, stranger = run_in_cgroup(watchers), run_in_cgroup(scratch_cgroup("stranger"))
    be_watcher(watcher, host)
    port, closed = (bind(agent, name, 4, ADDRESS[4], "STREAM") for name in ("s", "closed"))
    outward = bind(watcher, "s", 4, ADDRESS[4], "STREAM")
    host.configure(peer(port, cgroup.path))
    document = host.mesh("isolate", "shield", "--reason", "it lies", "--allow-heartbeat", "--force", "--json").document
    assert document["allow"] == [{"entry": f"127.0.0.1/32:{port}/tcp", "heartbeat": True, "until": None}]
    assert connect(watcher, ADDRESS[4], port) == "pass"
    agent.run("c = s.accept()[0]; c.send(b'I am well')")
    assert received(watcher, "c") == "I am well"
    assert document["heartbeat_from"] == [str(watchers.path)]
    assert connect(watcher, ADDRESS[4], closed, DROP_S) == "TimeoutError"
    assert connect(agent, ADDRESS[4], outward, DROP_S) == "TimeoutError"
    assert connect(stranger, ADDRESS[4], port, DROP_S) == "TimeoutError"


def test_a_watcher_that_begins_anew_is_let_in_by_the_next_sweep(
    host: Host, cgroup: Cgroup, agent: Inside, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    """It is in another cgroup then. That is nobody's tampering: there is no gap, and nothing to tell."""
    port = bind(agent, "s", 4, ADDRESS[4], "STREAM")
    host.configure(peer(port, cgroup.path))
    first = host.mesh("isolate", "shield", "--reason", "it lies", "--allow-heartbeat", "--force", "--json").document
    assert (first["state"], first["gaps"], first["heartbeat_from"]) == ("partial", [], [])
    assert "can be asked for by nobody" in host.mesh("verify", "shield").out
    watcher = run_in_cgroup(scratch_cgroup("watcher"))
    be_watcher(watcher, host)
    assert connect(watcher, ADDRESS[4], port, DROP_S) == "TimeoutError"
    assert reconcile(host.place, moment(), patient=True) == []
    assert connect(watcher, ADDRESS[4], port) == "pass"
    assert host.mesh("verify", "shield", "--json").document["gaps"] == []
    watcher.close()
    anew = scratch_cgroup("again")
    again = run_in_cgroup(anew)
    be_watcher(again, host)
    assert reconcile(host.place, moment(), patient=True) == []
    assert connect(again, ADDRESS[4], port) == "pass"
    assert f"its heartbeat can be asked for from {anew.path}" in host.mesh("verify", "shield").out
    status = run_in_cgroup(scratch_cgroup("asks_whether_it_runs"))
    again.close()
    status.run(f"import fcntl; lock = open('{host.place.run}/watcher-immune.lock'); fcntl.flock(lock, fcntl.LOCK_SH)")
    assert reconcile(host.place, moment(), patient=True) == []
    assert connect(status, ADDRESS[4], port, DROP_S) == "TimeoutError"


def test_a_list_that_cannot_name_the_watchers_leaves_the_rest_as_it_is(
    host: Host,
    cgroup: Cgroup,
    agent: Inside,
    scratch_cgroup: MakeCgroup,
    run_in_cgroup: RunInside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What else is amiss is repaired all the same, and it is said."""
    port = bind(agent, "s", 4, ADDRESS[4], "STREAM")
    host.configure(peer(port, cgroup.path))
    host.mesh("isolate", "shield", "--reason", "it lies", "--allow-heartbeat", "--force")
    be_watcher(run_in_cgroup(scratch_cgroup("watcher")), host)
    (intent,) = host.place.intents.in_force()
    gate.detach(cgroup, programs.ids_of([intent]))

    def full(*_: object) -> int:
        raise KernelRefused("no memory for a list")

    monkeypatch.setattr(libbpf, "trie_created", full)
    (repair,) = reconcile(host.place, moment(), patient=True)
    assert repair.failed
    assert "no memory for a list" in repair.done
    assert send_udp(agent, 4, ADDRESS[4], 9) == "EPERM"


HEARTBEAT = """
from watchdog.actions import allowing
from watchdog.config import Peer
[(each.entry, each.far) for each in allowing.heartbeat(Peer(name="shield", endpoint="http://{}:9103/"))]
"""


def test_where_the_way_to_a_heartbeat_leads(cgroup: Cgroup, run_in_cgroup: RunInside, veth: VethPair) -> None:
    """To an address of another network namespace over a link, to one of this namespace over loopback."""
    watcher = run_in_cgroup(cgroup, veth.near)
    source = f"{veth.near_v4}/32:9103/tcp"
    assert watcher.run(HEARTBEAT.format(veth.far_v4)) == [[source, True]]
    assert watcher.run(HEARTBEAT.format(veth.near_v4)) == [[source, False]]


def test_the_configuration_says_what_is_allowed_where_nobody_does(host: Host, cgroup: Cgroup) -> None:
    host.configure(peer(9103, cgroup.path, 'allow = ["192.0.2.1/32:443/tcp"]\nallow_heartbeat = true'))
    target = ("isolate", "shield", "--reason", "it lies", "--force", "--json")
    entries = ["192.0.2.1/32:443/tcp", "127.0.0.1/32:9103/tcp"]
    assert [each["entry"] for each in host.mesh(*target).document["allow"]] == entries
    assert [each["entry"] for each in host.mesh(*target, "--allow", "192.0.2.2").document["allow"]] == ["192.0.2.2/32"]
    host.mesh("release", "shield", "--reason", "sorry")
    assert host.mesh(*target, "--no-allow").document["allow"] == []


def test_a_configured_list_that_is_wrong_is_a_problem_of_the_configuration(host: Host, cgroup: Cgroup) -> None:
    host.configure(peer(9103, cgroup.path, 'allow = ["0.0.0.0/0", "nowhere"]'))
    answer = host.mesh("config", "check")
    assert answer.status == USAGE
    assert "isolation.allow: '0.0.0.0/0': 0.0.0.0/0 is every address" in answer.out + answer.err
    assert "isolation.allow: 'nowhere': nowhere is a name" in answer.out + answer.err


# --- what happens meanwhile


@pytest.mark.parametrize("others", [[], ["192.0.2.0/24"]])
def test_a_list_that_somebody_exchanged_is_drift(host: Host, cgroup: Cgroup, agent: Inside, others: list[str]) -> None:
    host.isolate(cgroup, why=replace(WHY, allow=(Allowed(RULES[4]),)))
    (intent,) = host.place.intents.in_force()
    map_id = allow.place_of(programs.ids(intent.held_by).values())
    assert map_id is not None
    allow.install(map_id, meant(*others))
    verified = host.mesh("verify", "--cgroup", cgroup.path, "--json")
    assert verified.status == PARTIAL
    assert "the allow-list in the kernel is not the one that is meant" in verified.document["gaps"]
    (repair,) = reconcile(host.place, moment())
    assert (repair.done, repair.failed, repair.expected) == ("isolated again", False, False)
    assert in_kernel(host) == meant(RULES[4])
    assert send_udp(agent, 4, ADDRESS[4], 9) == "pass"


def test_killed_between_the_journal_and_the_kernel(host: Host, cgroup: Cgroup) -> None:
    host.isolate(cgroup)

    def die(step: str) -> None:
        if step == "intended":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.isolate(cgroup, step=die, why=replace(WHY, allow=(Allowed(RULES[4]),)))
    assert in_kernel(host) == {}
    assert len(reconcile(host.place, moment())) == 1
    assert in_kernel(host) == meant(RULES[4])


def test_new_programs_get_the_list_with_what_is_left_of_its_time(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    """As after a reboot: nothing is attached, the ids mean nothing, the clock of before says nothing."""
    at = moment()
    later, over = (Until(at.utc + timedelta(hours=hours), at.s + 1e6, "another boot") for hours in (1, -1))
    entries = (Allowed(RULES[4]), Allowed(RULES[6], later), Allowed("192.0.2.1/32:1/udp", over))
    host.isolate(cgroup, why=replace(WHY, allow=entries))
    (intent,) = host.place.intents.in_force()
    gate.detach(cgroup, programs.ids_of([intent]))
    lost = replace(intent.held_by, boot="another boot")
    host.place.intents.change(intent, State.ISOLATED, NOW, held_by=lost)
    assert len(reconcile(host.place, moment())) == 1
    (again,) = host.place.intents.in_force()
    assert again.why.allow is not None
    assert [each.entry for each in again.why.allow] == [each.entry for each in entries]
    untils = [each.until for each in again.why.allow]
    assert untils[0] is None
    now = clock.moment()
    for until, wanted in zip(untils[1:], (later, over), strict=True):
        assert until is not None
        assert (until.utc, until.boot) == (wanted.utc, now.boot)
        assert until.is_over(now) is wanted.is_over(now)
    assert reconcile(host.place, moment()) == []
    assert send_udp(agent, 4, ADDRESS[4], 9) == "pass"


# --- who it talked to


def test_calls_of_an_earlier_isolation_are_not_told_of_the_next(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    target = ("--cgroup", cgroup.path)
    host.mesh("isolate", *target, "--reason", "it lies")
    assert send_udp(agent, 4, "127.0.0.1", 443) == "EPERM"
    (before,) = host.mesh("status", "--json").document["isolations"]
    assert before["dropped"]["calls"] == 1
    host.mesh("release", *target, "--reason", "sorry")
    host.mesh("isolate", *target, "--reason", "it lies again")
    assert send_udp(agent, 4, "127.0.0.1", 53) == "EPERM"
    shown = [line.strip() for line in host.mesh("verify", *target).out.splitlines()]
    assert [line.partition(":")[0] for line in shown if line.startswith("out udp")] == [
        "out udp   -> 127.0.0.1 port 53"
    ]


def test_flows_are_shown_and_kept_with_the_incident(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    target = ("--cgroup", cgroup.path)
    host.mesh("isolate", *target, "--reason", "it lies", "--incident", "INC-7")
    for port, times in ((443, 1), (53, 3)):
        for _ in range(times):
            assert send_udp(agent, 4, "127.0.0.1", port) == "EPERM"
    shown = [line.strip() for line in host.mesh("verify", *target).out.splitlines()]
    first, second = (line for line in shown if line.startswith("out udp"))
    assert first.startswith("out udp   -> 127.0.0.1 port 53: 3 calls refused, ")
    assert second.startswith("out udp   -> 127.0.0.1 port 443: 1 call refused, ")
    released = host.mesh("release", *target, "--reason", "sorry", "--json").document
    (kept,) = [record for record in history(host) if record["kind"] == "intent released"]
    assert kept["flows"] == released["flows"]
    assert (kept["incident"], kept["dropped_packets"]) == ("INC-7", 0)
    flows = kept["flows"]
    assert (flows["seen"], flows["known"], flows["packets_of_unknown"]) == (2, 2, 0)
    busiest = flows["top"][0]
    assert busiest["first"] < busiest["last"] < clock.rfc3339(clock.utc_now())
    assert {key: busiest[key] for key in ("direction", "protocol", "source", "destination", "port", "packets")} == {
        "direction": "out",
        "protocol": "udp",
        "source": "",
        "destination": "127.0.0.1",
        "port": 53,
        "packets": 3,
    }
