"""A shadow: it counts what an isolation would drop, drops nothing, and is never called an isolation."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.ends import Ends, bind, connect, received, send_udp
from tests.kernel.inside import Inside
from tests.kernel.isolation_bed import NOW, WHY, Host, moment, where
from watchdog.actions import shadow as shadows
from watchdog.actions.reconcile import reconcile
from watchdog.clock import Moment
from watchdog.errors import KernelRefused
from watchdog.intents import State, Until
from watchdog.kernel import gate, hooks
from watchdog.kernel import shadow as kernel
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.programs import Hook

pytestmark = pytest.mark.kernel

OK, FAILED, REFUSED = 0, 1, 3
PORT = 9


@pytest.fixture
def cgroup(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


@pytest.fixture
def agent(cgroup: Cgroup, run_in_cgroup: RunInside) -> Inside:
    return run_in_cgroup(cgroup)


def names_at(cgroup: Cgroup) -> list[str]:
    return sorted(info.name for view in gate.query(cgroup).values() for info in view.programs)


def begin(host: Host, cgroup: Cgroup) -> None:
    shadows.begin(where(cgroup), WHY, host.place)


def test_from_begin_to_end(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    target = ("--cgroup", cgroup.path)
    begun = host.mesh("isolate", *target, "--reason", "curious", "--shadow", "--json")
    assert begun.status == OK
    document = begun.document
    assert (document["state"], document["holds"], document["watched"], document["changed"]) == (
        "shadow",
        False,
        True,
        True,
    )
    assert "isolated" not in begun.out.lower()
    assert names_at(cgroup) == ["wd_shadow_in", "wd_shadow_out"]
    for _ in range(3):
        assert send_udp(agent, 4, "127.0.0.1", PORT) == "pass"

    verified = host.mesh("verify", *target, "--json")
    assert (verified.status, verified.document["state"], verified.document["holds"]) == (FAILED, "shadow", False)
    assert verified.document["would_drop"]["egress"] == {"packets": 3, "bytes": 3 * 29}
    assert [(flow["port"], flow["packets"]) for flow in verified.document["flows"]["top"]] == [(PORT, 3)]
    status = host.mesh("status", "--json").document
    assert status["isolations"] == []
    assert [(each["target"], each["state"]) for each in status["shadows"]] == [(str(cgroup.path), "shadow")]

    ended = host.mesh("release", *target, "--reason", "seen enough", "--json")
    assert (ended.status, ended.document["state"], ended.document["watched"]) == (OK, "ended", False)
    assert names_at(cgroup) == []
    records = host.mesh("history", "--json").document["records"]
    assert [record["kind"] for record in records] == [
        "intent shadow",
        "release asked for",
        "intent ending",
        "intent ended",
    ]
    assert records[-1]["flows"]["top"][0]["packets"] == 3
    assert host.mesh("verify", *target, "--json").document["state"] is None


def test_in_words(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    target = ("--cgroup", cgroup.path)
    begun = host.mesh("isolate", *target, "--reason", "curious", "--shadow").out.splitlines()
    assert begun[0].startswith(f"{cgroup.path} is NOT isolated: a shadow counts what would be dropped, since ")
    assert begun[-1] == f"  end it with: watchdog-mesh release --cgroup {cgroup.path} --reason ..."
    send_udp(agent, 4, "127.0.0.1", PORT)
    for verb in (("verify", *target), ("status",)):
        said = host.mesh(*verb).out
        assert "NOT isolated" in said
        assert "would have been dropped so far: 1 packet (29 bytes) out" in said
    assert "is gone" in host.mesh("release", *target, "--reason", "enough").out.splitlines()[0]


def test_it_is_found_by_the_process_that_it_watches(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    target = ("--pid", str(agent.pid))
    assert host.mesh("isolate", *target, "--reason", "curious", "--shadow").status == OK
    assert "a shadow counts what would be dropped" in host.mesh("verify", *target).out
    assert "is gone" in host.mesh("release", *target, "--reason", "enough").out.splitlines()[0]
    assert names_at(cgroup) == []


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_is_dropped_and_everything_is_counted(host: Host, ends: Ends, family: int) -> None:
    """TCP and UDP, both ways, established and new."""
    port = bind(ends.peer, "s", family, ends.peer_address[family], "STREAM")
    assert connect(ends.agent, ends.peer_address[family], port) == "pass"
    ends.peer.run("c = s.accept()[0]")
    begin(host, ends.cgroup)
    for sender, receiver in ((ends.agent, ends.peer), (ends.peer, ends.agent)):
        sender.run("c.send(b'as before')")
        assert received(receiver, "c") == "as before"
    assert connect(ends.agent, ends.peer_address[family], port) == "pass"
    (intent,) = host.place.intents.shadows()
    seen = shadows.verify(intent, host.place, with_flows=True)
    assert seen.dropped is not None
    assert seen.dropped.egress.packets >= 3
    assert seen.dropped.ingress.packets >= 3
    assert seen.flows is not None
    assert {("out", port), ("in", ends.agent.run("c.getsockname()[1]"))} <= {
        (flow["direction"], flow["port"]) for flow in seen.flows["top"]
    }


def test_a_list_is_tried_before_it_counts(host: Host, cgroup: Cgroup, agent: Inside) -> None:
    target = ("isolate", "--cgroup", cgroup.path, "--reason", "curious", "--shadow", "--json")
    host.mesh(*target)
    send_udp(agent, 4, "127.0.0.1", 53)
    again = host.mesh(*target, "--allow", "127.0.0.1/32:53/udp").document
    assert (again["changed"], again["allow"][0]["entry"]) == (True, "127.0.0.1/32:53/udp")
    for port in (53, 53, 54):
        send_udp(agent, 4, "127.0.0.1", port)
    seen = host.mesh("verify", "--cgroup", cgroup.path, "--json").document
    assert (seen["would_drop"]["egress"]["packets"], seen["would_allow"]["egress"]["packets"]) == (2, 2)
    assert host.mesh(*target).document["changed"] is False


def test_its_time_is_lengthened_and_what_is_not_taken_is_said(host: Host, cgroup: Cgroup) -> None:
    target = ("isolate", "--cgroup", cgroup.path, "--reason", "curious", "--shadow")
    assert host.mesh(*target, "--ttl", "1h").status == OK
    longer = host.mesh(*target, "--ttl", "2h", "--json").document
    assert longer["changed"] is True
    assert longer["changes"][0].startswith(f"until {longer['until']}, was ")
    shorter = host.mesh(*target, "--ttl", "3s")
    assert "  it is not shortened to " in shorter.out
    again = host.mesh(*target, "--ttl", "3s", "--json").document
    assert (again["changed"], again["until"], len(again["not_taken"])) == (False, longer["until"], 1)
    assert "curious; it is not shortened to " in host.mesh("history").out


def test_an_isolation_takes_the_place_of_a_shadow_and_none_comes_beside_it(host: Host, cgroup: Cgroup) -> None:
    target = ("isolate", "--cgroup", cgroup.path, "--reason", "it lies")
    begin(host, cgroup)
    assert host.mesh(*target, "--json").document["state"] == "isolated"
    assert names_at(cgroup) == ["wd_egress", "wd_guard_in", "wd_guard_out", "wd_ingress"]
    assert host.states() == [State.ENDED, State.ISOLATED]
    slots = {intent.held_by.slot for intent in host.intents()}
    assert len(slots) == 2
    refused = host.mesh(*target, "--shadow")
    assert refused.status == REFUSED
    assert "is isolated: a shadow would drop nothing" in refused.err
    assert host.states() == [State.ENDED, State.ISOLATED]


def attach_foreign(cgroup: Cgroup, flags: int) -> None:
    """It stays attached until the cgroup goes."""
    fd = foreign.load("other_fw")
    foreign.attach(fd, cgroup.path, Hook.EGRESS, flags)
    os.close(fd)


def test_other_programs_stay_as_they_were(host: Host, cgroup: Cgroup) -> None:
    attach_foreign(cgroup, foreign.MULTI)
    before = foreign.snapshot(cgroup.path)
    begin(host, cgroup)
    assert [row for row in foreign.snapshot(cgroup.path) if not row[2].name.startswith("wd_shadow")] == before
    host.mesh("release", "--cgroup", cgroup.path, "--reason", "enough")
    assert foreign.snapshot(cgroup.path) == before


def test_one_that_cannot_be_attached_leaves_nothing(host: Host, cgroup: Cgroup) -> None:
    attach_foreign(cgroup, foreign.EXCLUSIVE)
    with pytest.raises(KernelRefused, match="other_fw"):
        begin(host, cgroup)
    assert names_at(cgroup) == ["other_fw"]
    assert host.states() == [State.ENDED]


# --- kept, and ended


@pytest.mark.parametrize("name", ["wd_shadow_in", "wd_shadow_out"])
def test_what_somebody_detached_is_put_back(host: Host, cgroup: Cgroup, name: str) -> None:
    begin(host, cgroup)
    (intent,) = host.place.intents.shadows()
    kernel.detach(cgroup, [intent.held_by.ids[name]])
    assert host.mesh("verify", "--cgroup", cgroup.path, "--json").document["gaps"] == [f"{cgroup.path} is not watched"]
    (repair,) = reconcile(host.place, moment())
    assert (repair.done, repair.failed) == ("watched again", False)
    assert names_at(cgroup) == ["wd_shadow_in", "wd_shadow_out"]
    assert reconcile(host.place, moment()) == []


def test_a_new_cgroup_is_watched_with_new_programs_where_the_old_are_gone(host: Host, cgroup: Cgroup) -> None:
    """As after a reboot: the ids of before mean nothing."""
    begin(host, cgroup)
    (intent,) = host.place.intents.shadows()
    kernel.detach(cgroup, list(intent.held_by.ids.values()))
    host.place.intents.change(intent, State.SHADOW, NOW, held_by=replace(intent.held_by, boot="another boot"))
    assert len(reconcile(host.place, moment())) == 1
    assert names_at(cgroup) == ["wd_shadow_in", "wd_shadow_out"]
    assert reconcile(host.place, moment()) == []


def test_an_end_that_was_cut_short_is_finished(host: Host, cgroup: Cgroup) -> None:
    begin(host, cgroup)
    (intent,) = host.place.intents.shadows()
    host.place.intents.change(intent, State.ENDING, NOW)
    (repair,) = reconcile(host.place, moment())
    assert repair.done == "ended"
    assert (names_at(cgroup), host.states()) == ([], [State.ENDED])


def test_it_ends_when_its_time_is_over(host: Host, cgroup: Cgroup) -> None:
    at = moment()
    until = Until(at.utc, at.s, at.boot)
    shadows.begin(where(cgroup), replace(WHY, until=until), host.place)
    assert reconcile(host.place, Moment(at.s - 1, at.utc, at.boot)) == []
    (repair,) = reconcile(host.place, at)
    assert repair.done == "ended: its time is over"
    assert names_at(cgroup) == []


def test_a_cgroup_that_is_gone_ends_it_without_harm(host: Host, cgroup: Cgroup) -> None:
    begin(host, cgroup)
    cgroup.path.rmdir()
    assert reconcile(host.place, moment()) == []
    assert host.mesh("release", "--cgroup", cgroup.path, "--reason", "gone").status == OK
    assert host.states() == [State.ENDED]


def test_it_is_no_isolation_for_rails_and_adoption(host: Host, cgroup: Cgroup, scratch_cgroup: MakeCgroup) -> None:
    """It uses up no budget, and a lost journal does not make one of it."""
    begin(host, cgroup)
    other = scratch_cgroup("other")
    assert host.mesh("isolate", "--cgroup", other.path, "--reason", "it lies", "--json").document["overruled"] == []
    assert [intent.where.cgroup for intent in host.place.intents.in_force()] == [str(other.path)]
    assert list(gate.find_attached(cgroup)) == []
    assert {each.hook for each in kernel.find_attached(cgroup)} == {Hook.INGRESS, Hook.EGRESS}
    assert not any(kernel.is_ours(info) for info in hooks.infos(list(host.intents()[-1].held_by.ids.values())))
