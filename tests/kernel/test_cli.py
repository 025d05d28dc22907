"""The verbs on the real kernel: their words, their documents, their exit status."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.kernel.agents import harmless
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import NOW, Host, moment, ours_at
from watchdog import clock, config
from watchdog.actions import programs
from watchdog.actions.orders import HostActions
from watchdog.cli.status import OPEN, RELEASED, merge
from watchdog.clock import rfc3339
from watchdog.host.caller import who
from watchdog.intents import State, Until
from watchdog.kernel import gate
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.layers.sequence import LAYERS
from watchdog.kernel.loopback import SILENCE_S, loopback
from watchdog.kernel.programs import GATE
from watchdog.mesh.coordinator import Order, OrderRequest
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action
from watchdog.outbox import Outbox
from watchdog.paths import facts
from watchdog.status import published
from watchdog.status.published import Published
from watchdog.webhook import Receiver

pytestmark = pytest.mark.kernel

OK, FAILED, USAGE, REFUSED, PARTIAL = 0, 1, 2, 3, 4
BY = replace(who(), terminal=None).in_words()
"""Who runs the tests, as a command line that has no terminal is told of."""
LEASE_S = 60.0
MANY_SOCKETS, MANY_CGROUPS = 5000, 500
STATUS_HEALTHY, STATUS_ISOLATED, STATUS_UNKNOWN = 0, 2, 3
STEERING = "\x1b[2J\x1b]0;title\x07 \x9b31m red \r\n over \u202edesrever \x00"
PEER = """
[[peer]]
name = "shield"
endpoint = "http://127.0.0.1:9/healthz"
"""


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


def test_isolate_verify_release_in_words(host: Host, agent: Cgroup) -> None:
    target = ("--cgroup", agent.path)
    isolated = host.mesh("isolate", *target, "--reason", "it lies", "--incident", "INC-7")
    assert (isolated.status, isolated.err) == (OK, "")
    first, second, inside = isolated.out.splitlines()
    assert (first, second) == (
        f"{agent.path} is isolated: {agent.path}",
        f"  let it back with: watchdog-mesh release --cgroup {agent.path} --reason ...",
    )
    assert inside.startswith("  verified from inside (")
    with loopback(agent) as traffic:
        traffic.round(SILENCE_S)
    verified = host.mesh("verify", *target)
    assert verified.status == OK
    assert verified.out.startswith(f"The isolation of {agent.path} holds: {agent.path}\n  verified from inside (")
    again = host.mesh("isolate", *target, "--reason", "again")
    assert (again.status, again.out.splitlines()[0][: len(f"{agent.path} is isolated already")]) == (
        OK,
        f"{agent.path} is isolated already",
    )
    released = host.mesh("release", *target, "--reason", "sorry")
    assert released.status == OK
    assert released.out.startswith(f"{agent.path} is released: {agent.path}\n  dropped so far: ")
    assert ours_at(agent) == []
    told = host.mesh("history").out
    assert [line.split("Z  ")[1].split("  ")[0] for line in told.splitlines() if line[0] != " "] == [
        "intent isolating",
        "intent isolated",
        "release asked for",
        "intent releasing",
        "intent released",
    ]
    assert f"it lies; incident INC-7; by {BY}" in told


def test_a_change_has_its_own_reason_in_the_history_and_what_was_not_taken_is_said(host: Host, agent: Cgroup) -> None:
    target = ("isolate", "--cgroup", agent.path)
    assert host.mesh(*target, "--reason", "it lies", "--incident", "INC-7").status == OK
    frozen = host.mesh(*target, "--reason", "it fights back", "--level", "frozen", "--ttl", "1h", "--incident", "INC-8")
    assert "  its incident stays INC-7, not INC-8" in frozen.out.splitlines()
    assert "  it is not shortened to " in frozen.out
    line = next(line for line in host.mesh("history").out.splitlines() if "INC-8" in line)
    assert "it fights back; level frozen, was network; it is not shortened to " in line
    assert line.endswith(f"; its incident stays INC-7, not INC-8; by {BY}")


def test_every_change_of_an_isolation_is_told_once_with_what_was_changed_and_by_whom(host: Host, agent: Cgroup) -> None:
    host.configure(PEER + f'cgroup = "{agent.path}"\n' + host.receiver())
    target = ("isolate", "shield", "--json")
    for level, reason in (("network", "it lies"), ("frozen", "it fights"), ("frozen", "same"), ("network", "look")):
        assert host.mesh(*target, "--reason", reason, "--level", level).status == OK
    assert host.mesh(*target, "--reason", "patch", "--allow", "192.0.2.1:443").document["changes"] == [
        "allowed 192.0.2.1/32:443, was nothing"
    ]
    told = [json.loads(row["body"])["data"] for row in host.place.journal.read("SELECT body FROM event ORDER BY seq")]
    assert {(each["action"], each["state"]) for each in told} == {("alert_architect", "FIRING")}
    assert [each["reason"] for each in told] == [
        f"isolated in the kernel: it lies (by hand, {BY})",
        f"it fights: level frozen, was network (by hand, {BY})",
        f"look: level network, was frozen (by hand, {BY})",
        f"patch: allowed 192.0.2.1/32:443, was nothing (by hand, {BY})",
    ]


def test_what_the_watchers_said_when_somebody_isolated_it_is_in_the_trail(host: Host, agent: Cgroup) -> None:
    host.configure(PEER + f'cgroup = "{agent.path}"\n')
    row = {"name": "shield", "status": "OFFLINE", "missed_count": 7, "detail": "no answer"}
    with published.only_one(host.run_dir, "immune"):
        published.publish(host.run_dir, "immune", {"peers": [{"name": "sidecar"}, row]})
        assert host.mesh("isolate", "shield", "--reason", "it lies", "--incident", "INC-9").status == OK
        assert host.mesh("release", "shield", "--reason", "it was repaired").status == OK
    found: dict[str, Any] = {str(each["kind"]): each for each in host.place.journal.trail()}
    for kind, reason in (("intent isolating", "it lies"), ("release asked for", "it was repaired")):
        record = found[kind]
        assert (record["reason"], record["incident"], record["by"]["user"]) == (reason, "INC-9", "root")
        assert record["by"]["seen"] == {"immune": "OFFLINE, 7 missed: no answer"}


def test_words_say_that_an_agent_is_frozen(host: Host, agent: Cgroup) -> None:
    target = ("--cgroup", agent.path)
    frozen = host.mesh("isolate", *target, "--reason", "it lies", "--level", "frozen")
    assert (frozen.status, frozen.out.splitlines()[0]) == (OK, f"{agent.path} is isolated and frozen: {agent.path}")
    assert f"ISOLATED {agent.path} and frozen since " in host.mesh("status").out
    assert host.mesh("verify", *target).out.startswith(f"The isolation of {agent.path}, level frozen, holds: ")
    again = host.mesh("isolate", *target, "--reason", "again", "--level", "frozen")
    assert again.out.startswith(f"{agent.path} is isolated and frozen already")
    thawed = host.mesh("isolate", *target, "--reason", "look at it", "--level", "network")
    assert thawed.out.startswith(f"{agent.path} is isolated: ")
    assert host.mesh("release", *target, "--reason", "sorry").status == OK


def test_history_of_a_name_that_is_in_no_record(host: Host) -> None:
    assert host.mesh("history", "--peer", "nobody").out == "No record is about 'nobody'\n"
    assert host.mesh("history").out == "Nothing has happened yet\n"


def test_isolate_verify_release_as_documents(host: Host, agent: Cgroup) -> None:
    """What others read is a contract: this is a copy of it."""
    target = ("--cgroup", agent.path)
    document = host.mesh("isolate", *target, "--reason", "it lies", "--incident", "INC-7", "--ttl", "15m", "--json")
    assert (document.status, document.err) == (OK, "")
    isolated = document.document
    since, until = isolated.pop("since"), isolated.pop("until")
    assert since < until
    tried = isolated.pop("inside")
    assert set(tried) == {"time", "took_s", "passed", "tried", "stopped", "untried", "wrong", "reason"}
    assert (tried["passed"], tried["wrong"], tried["reason"]) == (True, [], None)
    held = {
        "layer": "packets",
        "holds": True,
        "not_applicable": None,
        "missing": None,
        "gaps": [],
    }
    assert isolated["layers"][0] == held
    assert [each["layer"] for each in isolated["layers"]] == [layer.name for layer in LAYERS]
    nothing = {"packets": 0, "bytes": 0}
    same: dict[str, object] = {
        "target": str(agent.path),
        "peer": None,
        "unit": None,
        "cgroup": str(agent.path),
        "moved": None,
        "level": "network",
        "reason": "it lies",
        "incident": "INC-7",
        "overruled": [],
        "changes": [],
        "not_taken": [],
        "partial": False,
        "gaps": [],
        "dropped": {"ingress": nothing, "egress": nothing, "frames": {"ingress": 0, "egress": 0}},
        "allow": [],
        "heartbeat_from": None,
        "allowed": {"ingress": nothing, "egress": nothing},
        "flows": None,
    }
    idle = {
        "runs": False,
        "may": [],
        "given": [],
        "holds": [],
        "abroad": None,
        "traces": False,
        "spliced": False,
        "own_network_namespace": False,
    }
    idle |= {"unix_peers": [], "unix_addresses": []}
    idle |= {"vsock": facts.has_vsock(), "netlink": False, "other_families": sorted(facts.other_families() or ())}
    held_by = {"layers": isolated["layers"], "paths": [], "agent": idle}
    lost = {"packets_lost": 0, "first_packets_lost": 0}
    no_flows = {"flows": {"seen": 0, "known": 0, "packets_of_unknown": 0, **lost, "top": []}}
    standing = {"state": "isolated", "changed": True, "holds": True}
    assert isolated == {"schema": "watchdog-mesh/isolate/1", **same, **held_by, **standing, "notices": []}
    again = host.mesh("isolate", *target, "--reason", "again", "--ttl", "1h", "--json").document
    assert (again["changed"], again["holds"], again["reason"], again["until"] > until) == (True, True, "it lies", True)
    assert again["changes"] == [f"until {again['until']}, was {until}"]
    once_more = host.mesh("isolate", *target, "--reason", "again", "--json").document
    assert once_more.pop("inside") == again["inside"], "nothing changed, so that nothing was tried"
    assert again["until"] == once_more["until"], "a --ttl that is not given takes none away"
    until = again["until"]
    assert once_more == {
        "schema": "watchdog-mesh/isolate/1",
        **same,
        **held_by,
        **standing,
        "changed": False,
        "since": since,
        "until": until,
        "notices": [],
    }
    verified = host.mesh("verify", *target, "--json").document
    assert verified.pop("inside") == again["inside"]
    assert verified == {
        "schema": "watchdog-mesh/verify/1",
        **same,
        **held_by,
        **standing,
        "changed": False,
        "since": since,
        "until": until,
        **no_flows,
    }
    released = host.mesh("release", *target, "--reason", "sorry", "--json").document
    freed = released.pop("inside")
    assert (freed["passed"], freed["stopped"], freed["wrong"]) == (True, 0, [])
    assert released == {
        "schema": "watchdog-mesh/release/1",
        **same,
        "layers": [],
        "paths": [],
        "agent": None,
        "state": "released",
        "changed": True,
        "holds": True,
        "reason": "sorry",
        "since": since,
        "until": until,
        **no_flows,
        "notices": [],
    }


def test_release_of_what_is_not_isolated(host: Host, agent: Cgroup) -> None:
    before = host.snapshot()
    answer = host.mesh("release", "--cgroup", agent.path, "--reason", "to be sure")
    assert (answer.status, answer.out) == (OK, f"{agent.path} is not isolated; nothing was changed\n")
    document = host.mesh("release", "--cgroup", agent.path, "--reason", "to be sure", "--json").document
    assert (document["changed"], document["holds"]) == (False, True)
    assert host.snapshot()[2:] == before[2:]
    assert host.intents() == []


def test_release_twice(host: Host, agent: Cgroup) -> None:
    host.isolate(agent)
    words = ("release", "--cgroup", f"{agent.path}/", "--reason", "once", "--json")
    assert [host.mesh(*words).document["changed"] for _ in range(2)] == [True, False]


def test_verify_ends_with_what_the_kernel_says(host: Host, agent: Cgroup) -> None:
    verify = ("verify", "--cgroup", agent.path)
    never = host.mesh(*verify)
    assert (never.status, never.out) == (FAILED, f"{agent.path} is not isolated\n")
    intent = host.isolate(agent).intent
    assert host.mesh(*verify).status == OK
    gate.detach(agent, [intent.held_by.ids["wd_guard_in"]])
    partly = host.mesh(*verify)
    assert partly.status == PARTIAL
    assert "holds in part" in partly.out
    assert "not covered" in partly.out
    gate.detach(agent, intent.held_by.ids.values())
    gone = host.mesh(*verify)
    assert gone.status == FAILED
    assert "DOES NOT HOLD" in gone.out
    assert "put it back with: watchdog-mesh reconcile" in gone.out
    assert host.mesh(*verify, "--json").document["holds"] is False
    assert ours_at(agent) == [], "verify changes nothing"
    assert host.mesh("reconcile").status == OK
    assert host.mesh(*verify).status == OK


def test_reconcile_says_what_it_did(host: Host, agent: Cgroup) -> None:
    assert host.mesh("reconcile").out == "The kernel is as the journal means it; nothing was changed\n"
    assert host.mesh("reconcile", "--boot", "--json").document == {
        "schema": "watchdog-mesh/reconcile/1",
        "repairs": [],
        "notices": [],
    }
    intent = host.isolate(agent).intent
    gate.detach(agent, intent.held_by.ids.values())
    (repair,) = host.mesh("reconcile", "--json").document["repairs"]
    assert repair == {
        "target": str(agent.path),
        "found": f"{agent.path} is not filtered",
        "done": "isolated again",
        "failed": False,
        "expected": False,
        "cause": "another process detached them",
        "kinds": ["programs detached"],
        "over": False,
        "released": False,
    }


def test_status_needs_no_daemon(host: Host, agent: Cgroup) -> None:
    assert host.mesh("status").status == STATUS_HEALTHY
    host.isolate(agent)
    told = host.mesh("status")
    assert told.status == STATUS_ISOLATED
    assert f"ISOLATED {agent.path}" in told.out
    assert "it lies" in told.out
    document = host.mesh("status", "--json").document
    assert [each["cgroup"] for each in document["isolations"]] == [str(agent.path)]
    host.configure(PEER)
    host.mesh("release", "--cgroup", agent.path, "--reason", "done")
    assert host.mesh("status").status == STATUS_UNKNOWN


@pytest.mark.parametrize(("runs", "how"), [(False, "isolated in the kernel: "), (True, "cut off in part: ")])
def test_a_watcher_says_what_it_did(host: Host, agent: Cgroup, run_in_cgroup: RunInside, runs: bool, how: str) -> None:
    """People are told no more than is so, and what is open."""
    if runs:
        run_in_cgroup(agent)
    settings = config.parse(f'{PEER}cgroup = "{agent.path}"', host.config, host.environment)
    mesh, at = LocalCoordinator(host.place.journal), moment()
    order = mesh.claim(OrderRequest("shield", Action.ISOLATE, "immune", "it is silent", 0, at.s, LEASE_S), at)
    assert isinstance(order, Order)
    assert mesh.begin(order, at)
    told: list[str] = []
    outcome = HostActions(settings, host.place, mesh, lambda: told.append("isolated")).isolate(order)
    assert told == ["isolated"]
    assert (outcome.failed, outcome.detail.startswith(f"{how}it is silent")) == (False, True)
    assert ("; open: " in outcome.detail) is runs


def test_a_process_names_its_cgroup(host: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    inside = harmless(run_in_cgroup(agent))
    assert host.mesh("isolate", "--pid", str(inside.pid), "--reason", "drill").status == PARTIAL
    assert len(ours_at(agent)) == len(GATE)
    again = host.mesh("isolate", "--pid", str(inside.pid), "--reason", "drill")
    assert (again.status, again.out.startswith(f"{agent.path} is cut off in part already, since ")) == (PARTIAL, True)
    status, verified = host.mesh("status"), host.mesh("verify", "--pid", str(inside.pid), "--json")
    assert f"CUT OFF IN PART {agent.path} since " in status.out
    assert "ISOLATED" not in status.out
    assert (verified.status, verified.document["state"], verified.document["partial"]) == (PARTIAL, "partial", True)
    assert host.mesh("release", "--pid", str(inside.pid), "--reason", "drill").status == OK
    assert ours_at(agent) == []


@pytest.mark.parametrize("how", ["pid_file", "cgroup"])
def test_a_peer_is_known_whatever_it_is_named_by(host: Host, agent: Cgroup, run_in_cgroup: RunInside, how: str) -> None:
    inside = harmless(run_in_cgroup(agent))
    pid_file = host.folder / "pid"
    pid_file.write_text(f"{inside.pid}\n")
    host.configure(PEER + f'{how} = "{agent.path if how == "cgroup" else pid_file}"\n')
    document = host.mesh("isolate", "--cgroup", agent.path, "--reason", "drill", "--json").document
    assert (document["peer"], document["target"]) == ("shield", "shield")
    assert host.mesh("isolate", "shield", "--reason", "drill", "--json").document["changed"] is False
    assert host.mesh("verify", "--pid", str(inside.pid)).status == PARTIAL
    assert host.mesh("release", "shield", "--reason", "drill").status == OK
    assert ours_at(agent) == []


def test_a_peer_that_ended_can_still_be_released(host: Host, agent: Cgroup, run_in_cgroup: RunInside) -> None:
    inside = harmless(run_in_cgroup(agent))
    pid_file = host.folder / "pid"
    pid_file.write_text(f"{inside.pid}\n")
    host.configure(PEER + f'pid_file = "{pid_file}"\n')
    assert host.mesh("isolate", "shield", "--reason", "drill").status == PARTIAL
    inside.close()
    assert host.mesh("verify", "shield").status == OK
    assert host.mesh("release", "shield", "--reason", "drill").status == OK
    assert ours_at(agent) == []


def test_what_is_stored_never_steers_a_terminal(host: Host, agent: Cgroup) -> None:
    reason = STEERING.replace("\x00", "")  # no command line can hold it
    target = ("--cgroup", agent.path)
    told = [host.mesh("isolate", *target, "--reason", reason, "--incident", reason)]
    told += [host.mesh("verify", *target), host.mesh("status"), host.mesh("history")]
    told += [host.mesh("release", *target, "--reason", reason), host.mesh("history")]
    assert [answer.status for answer in told] == [OK, OK, STATUS_ISOLATED, OK, OK, OK]
    for answer in told:
        assert all(line.isprintable() for line in (answer.out + answer.err).splitlines())
    records = host.mesh("history", "--json")
    assert all(line.isprintable() for line in records.out.splitlines())
    assert records.document["records"][0]["reason"] == reason
    assert host.intents()[0].why.incident == reason


def test_reasons_may_be_in_any_language_and_long(host: Host, agent: Cgroup) -> None:
    reason = "\u5b83\u5728\u6492\u8c0e \U0001f6a8 " + "x" * 1990
    assert host.mesh("isolate", "--cgroup", agent.path, "--reason", reason).status == OK
    assert host.intents()[0].why.reason == reason


def test_a_receiver_that_cannot_be_told_does_not_undo_what_was_done(host: Host, agent: Cgroup) -> None:
    """The isolation comes first: one document, exit status 0, and the notice in it."""
    host.configure(PEER + f'cgroup = "{agent.path}"\n' + host.receiver())
    answer = host.mesh("isolate", "shield", "--reason", "drill", "--json")
    assert answer.status == OK
    (notice,) = answer.document["notices"]
    assert notice.startswith("architect: 1 pending")
    (event,) = host.place.journal.read("SELECT body FROM event")
    assert "alert_architect" in event["body"]
    assert host.mesh("release", "shield", "--reason", "drill").status == OK
    states = [json.loads(row["body"]).get("data", {}) for row in host.place.journal.read("SELECT body FROM event")]
    assert len(states) == 2


def test_status_names_a_receiver_that_is_gone_and_a_secret_that_is_none(host: Host) -> None:
    host.configure(PEER + host.receiver())
    gone = Receiver("architect", "http://127.0.0.1:9/")
    Outbox(host.place.journal, [gone], host="soc-1").refuse_all(gone, "HTTP 410", NOW)
    assert f"Receiver architect is GONE since {rfc3339(NOW)} (HTTP 410), and gets no more" in host.mesh("status").out
    facts = host.mesh("status", "--json").document["outbox"]["architect"]
    assert facts == {"pending": 0, "oldest_age_s": None, "last_error": "HTTP 410", "gone_since": rfc3339(NOW)}
    (host.folder / "secret").write_text("short")
    assert "Receivers cannot be told of anything: " in host.mesh("status").out


def test_whoever_ends_an_isolation_tells_that_it_has_ended(host: Host, agent: Cgroup) -> None:
    host.configure(PEER + f'cgroup = "{agent.path}"\n' + host.receiver())
    assert host.mesh("isolate", "shield", "--reason", "drill", "--ttl", "10ms").status == OK
    answer = host.mesh("reconcile", "--json").document
    assert [(each["done"], each["released"]) for each in answer["repairs"]] == [("released: its time is over", True)]
    assert [notice[:20] for notice in answer["notices"]] == ["architect: 2 pending"]
    rows = host.place.journal.read("SELECT key, body FROM event ORDER BY seq")
    assert [(row["key"], json.loads(row["body"])["data"]["state"]) for row in rows] == [
        ("intent/1/FIRING", "FIRING"),
        ("intent/1/RESOLVED", "RESOLVED"),
    ]


def test_a_peer_that_is_begun_anew_elsewhere_is_not_called_isolated(
    host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    """Its old cgroup is held still, and empty."""
    pid_file, first = host.folder / "pid", run_in_cgroup(agent)
    pid_file.write_text(f"{first.pid}\n")
    host.configure(PEER + f'pid_file = "{pid_file}"\n')
    assert host.mesh("isolate", "shield", "--reason", "it lies", "--force").status in (OK, PARTIAL)
    first.close()
    again = scratch_cgroup("again")
    pid_file.write_text(f"{run_in_cgroup(again).pid}\n")
    verified = host.mesh("verify", "shield")
    assert verified.status == FAILED
    said = f"in {again.path} now, which is open: if it is, watchdog-mesh isolate --cgroup {again.path}"
    assert said in verified.out
    assert "NOT CUT OFF, as it is meant to be: shield" in host.mesh("status").out
    (repair,) = host.mesh("reconcile", "--json").document["repairs"]
    assert repair["failed"]
    assert "isolated again, but shield seems to be" in repair["done"]
    assert len(ours_at(agent)) == len(GATE), "what is held stays so"
    more = host.mesh("isolate", "--cgroup", again.path, "--reason", "it lies", "--force", "--json").document
    assert (more["peer"], more["cgroup"], more["holds"]) == (None, str(again.path), True)
    assert len(host.place.intents.in_force()) == 2


def test_a_second_process_of_a_peer_elsewhere_is_not_passed_over(
    host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside
) -> None:
    """The first one runs still: which of them is the agent cannot be told."""
    first, second = (run_in_cgroup(each) for each in (agent, scratch_cgroup("second")))
    listen = "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('127.0.0.1', {}))"
    port = first.run(f"{listen.format(0)}; s.listen(); s.getsockname()[1]")
    host.configure(PEER + f"port = {port}\n")
    assert host.mesh("isolate", "shield", "--reason", "it lies", "--force").status in (OK, PARTIAL)
    second.run(f"{listen.format(port)}; s.listen()")
    verified = host.mesh("verify", "shield")
    assert verified.status == PARTIAL
    assert "not covered: whether shield runs elsewhere too is not known: " in verified.out


def test_status_does_not_call_isolated_what_is_open(host: Host, agent: Cgroup) -> None:
    host.configure(PEER + f'cgroup = "{agent.path}"\n')
    assert host.mesh("isolate", "shield", "--reason", "drill").status == OK
    assert "ISOLATED shield since" in host.mesh("status").out
    (intent,) = host.place.intents.in_force()
    gate.detach(agent, programs.ids_of([intent]))
    said = host.mesh("status")
    assert said.status == STATUS_UNKNOWN
    assert "NOT CUT OFF, as it is meant to be: shield since" in said.out
    assert "UNKNOWN" in said.out
    assert not re.search(r"shield +ISOLATED", said.out)
    document = host.mesh("status", "--json").document
    assert [(each["state"], each["holds"]) for each in document["isolations"]] == [("isolated", False)]
    assert [(each["status"], each["detail"]) for each in document["peers"]] == [("UNKNOWN", OPEN)]
    assert "put it back with: watchdog-mesh reconcile" in host.mesh("verify", "shield").out
    host.place.intents.change(intent, State.RELEASING, NOW)
    assert "RELEASING (not done: " in host.mesh("status").out
    assert "its release has not ended; end it with: watchdog-mesh reconcile" in host.mesh("verify", "shield").out
    assert host.mesh("reconcile").status == OK
    assert host.mesh("status", "--json").document["isolations"] == []


@pytest.mark.parametrize(("cut_off", "said"), [(True, "ISOLATED"), (None, "UNKNOWN")])
def test_a_watcher_that_has_not_heard_of_the_release_isolates_nobody(cut_off: bool | None, said: str) -> None:
    """It goes by the journal when it asks the peer next: up to an interval later."""
    row = {"name": "shield", "status": "ISOLATED", "detail": "HTTP 200", "last_seen": rfc3339(NOW), "missed_count": 0}
    watchers = [Published("immune", alive=True, document={"peers": [row]})]
    (merged,) = merge(watchers, ["shield"], {} if cut_off is None else {"shield": cut_off})
    assert (merged["status"], merged["detail"] == RELEASED) == (said, cut_off is None)


def test_verify_and_status_say_when_it_ends_and_that_it_is_overdue(host: Host, agent: Cgroup) -> None:
    """No watcher runs here, so that nobody releases it."""
    target = ("--cgroup", agent.path)
    host.mesh("isolate", *target, "--reason", "it lies", "--ttl", "1h")
    [before] = host.mesh("status", "--json").document["isolations"]
    assert before["overdue"] is False
    for words in (("verify", *target), ("status",)):
        assert f"  until {before['until']}: a watcher, or reconcile, releases it then" in host.mesh(*words).out
    [intent] = host.place.intents.in_force()
    over = Until(intent.why.until.utc, clock.now_s(), clock.boot_id()) if intent.why.until else None
    host.place.intents.change(intent, intent.state, NOW, why=replace(intent.why, until=over))
    [after] = host.mesh("status", "--json").document["isolations"]
    assert (after["until"], after["overdue"]) == (before["until"], True)
    for words in (("verify", *target), ("status",)):
        assert f"  OVERDUE since {before['until']}: " in host.mesh(*words).out


def test_a_large_agent(host: Host, agent: Cgroup, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside) -> None:
    """Thousands of sockets, half of them made elsewhere, in one of hundreds of child cgroups."""
    for number in range(MANY_CGROUPS):
        (agent.path / f"c{number}").mkdir()
    inside = run_in_cgroup(scratch_cgroup("elsewhere"))
    made = f"[socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({MANY_SOCKETS // 2})]"
    inside.run(f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000)); old = {made}")
    inside.move(agent.path / f"c{MANY_CGROUPS - 1}")
    inside.run(f"new = {made}")

    def sent() -> set[str]:
        return {inside.outcome(f"{each}.sendto(b'x', ('127.0.0.1', 9))") for each in ("old[0]", "old[-1]", "new[-1]")}

    target = ("--cgroup", agent.path)
    assert sent() == {"pass"}
    document = host.mesh("isolate", *target, "--reason", "it is large", "--json").document
    assert (document["holds"], document["gaps"], document["inside"]["passed"]) == (True, [], True)
    assert sent() == {"EPERM"}
    assert host.mesh("verify", *target, "--json").document["holds"] is True
    assert host.mesh("release", *target, "--reason", "it was a drill").status == OK
    assert sent() == {"pass"}
    assert ours_at(agent) == []
