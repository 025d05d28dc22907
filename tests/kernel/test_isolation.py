"""Isolate, release, verify and reconcile on real cgroups: what holds, what is found again, what is put back."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kernel import foreign
from tests.kernel.conftest import MakeCgroup, RunInside
from tests.kernel.isolation_bed import NOW, WHY, Host, await_freed, moment, ours_at, where
from tests.kernel.netns import VethPair
from watchdog.actions import holding, isolation, programs
from watchdog.actions.reconcile import Repair, reconcile
from watchdog.clock import rfc3339
from watchdog.errors import KernelRefused, Refused, WatchdogError
from watchdog.intents import Intent, State, Until, Where, Why, With
from watchdog.keeper import Keeper
from watchdog.kernel import bpffs, cgroups, gate, libbpf, slots, tried
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.loopback import PATIENCE_S, SILENCE_S, loopback
from watchdog.kernel.programs import GATE, GUARD_IN, GUARD_OUT, INGRESS, Hook

pytestmark = pytest.mark.kernel


@pytest.fixture
def agent(scratch_cgroup: MakeCgroup) -> Cgroup:
    return scratch_cgroup("agent")


def remade(cgroup: Cgroup) -> Cgroup:
    """What a restart leaves: another cgroup at the same path."""
    cgroup.path.rmdir()
    cgroup.path.mkdir()
    return cgroups.resolve(cgroup.path)


def found(repairs: list[Repair]) -> list[tuple[str, str]]:
    return [(repair.found, repair.done) for repair in repairs]


# Isolate and release


def test_isolation_drops_and_counts_everything_and_release_gives_it_back(host: Host, agent: Cgroup) -> None:
    with loopback(agent) as traffic:
        before = traffic.round(PATIENCE_S)
        assert before.passed == before.tried
        result = host.isolate(agent)
        assert (result.changed, result.holds, result.gaps) == (True, True, ())
        assert traffic.round(SILENCE_S).passed == frozenset()
        seen = holding.verify(result.intent, host.place)
        assert seen.dropped is not None
        assert seen.dropped.ingress.packets >= 2
        refused = tried.read(result.intent.held_by.common.values(), {agent.inode})
        assert {each.protocol for each in refused} == {socket.IPPROTO_TCP, socket.IPPROTO_UDP}
        released = isolation.release(result.intent, host.place)
        assert (released.changed, released.holds) == (True, True)
        assert released.dropped == seen.dropped
        after = traffic.round(PATIENCE_S)
        assert after.passed == after.tried
    assert ours_at(agent) == []
    assert host.states() == [State.RELEASED]


def test_the_neighbour_talks_on(host: Host, scratch_cgroup: MakeCgroup) -> None:
    agent, neighbour = scratch_cgroup("agent"), scratch_cgroup("neighbour")
    host.isolate(agent)
    with loopback(neighbour) as traffic:
        seen = traffic.round(PATIENCE_S)
    assert seen.passed == seen.tried


def test_a_second_isolation_changes_nothing(host: Host, agent: Cgroup) -> None:
    first = host.isolate(agent)
    before = host.snapshot()
    second = host.isolate(agent, why=Why("again, by somebody else"))
    assert (second.changed, second.holds, second.intent) == (False, True, first.intent)
    assert host.snapshot() == before


def test_release_twice_changes_nothing_more(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    assert isolation.release(intent, host.place).changed
    before = host.snapshot()
    assert not isolation.release(intent, host.place).changed
    assert host.snapshot() == before


def test_each_isolation_counts_for_itself_from_zero(host: Host, scratch_cgroup: MakeCgroup) -> None:
    one, other = scratch_cgroup("one"), scratch_cgroup("other")
    first = host.isolate(one).intent
    with loopback(one) as traffic:
        traffic.round(SILENCE_S)
    assert holding.verify(host.isolate(other).intent, host.place).dropped == slots.Counters(
        slots.Traffic(0, 0), slots.Traffic(0, 0)
    )
    isolation.release(first, host.place)
    again = host.isolate(one)
    assert again.dropped == slots.Counters(slots.Traffic(0, 0), slots.Traffic(0, 0))


def test_a_release_tells_of_an_isolation_above(host: Host, scratch_cgroup: MakeCgroup) -> None:
    above = scratch_cgroup("above")
    below = scratch_cgroup("below", above)
    host.isolate(above)
    result = isolation.release(host.isolate(below).intent, host.place)
    assert result.gaps == (f"{below.path} is still cut off by the isolation of {above.path}, above it",)
    assert len(ours_at(above)) == len(GATE)


def test_a_new_slot_is_built_when_all_are_taken(host: Host, scratch_cgroup: MakeCgroup) -> None:
    ready = len(list(host.pins.glob("*/slot-*")))
    names = [host.isolate(scratch_cgroup(f"agent{n}")).intent.held_by.slot for n in range(ready + 1)]
    assert len(set(names)) == ready + 1


def test_an_isolation_lasts_as_long_as_anybody_wants(host: Host, agent: Cgroup) -> None:
    at = moment()
    short, long = (Until(at.utc + timedelta(hours=h), at.s + h * 3600, at.boot) for h in (1, 2))
    host.isolate(agent, why=replace(WHY, until=short))
    assert host.isolate(agent, why=replace(WHY, until=long)).intent.why.until == long
    shorter = host.isolate(agent, why=replace(WHY, until=short))
    assert (shorter.changed, shorter.intent.why.until, len(shorter.not_taken)) == (False, long, 1)
    assert host.isolate(agent, why=WHY).intent.why.until == long, "nobody said that it has no end"
    assert host.states() == [State.ISOLATED]


def test_what_is_asked_for_and_not_taken_is_said_and_recorded(host: Host, agent: Cgroup) -> None:
    at = moment()
    host.isolate(agent)
    until = Until(at.utc + timedelta(hours=1), at.s + 3600, at.boot)
    asked = replace(WHY, reason="for an hour", incident="INC-8", until=until)
    result = host.isolate(agent, why=asked)
    assert (result.changed, result.intent.why.until, result.intent.why.incident) == (False, None, "INC-7")
    assert result.not_taken == (
        f"it is not shortened to {rfc3339(until.utc)}: it lasts until a release",
        "its incident stays INC-7, not INC-8",
    )
    (record,) = host.place.journal.trail(newest=1)
    assert (record["kind"], record["asked"], record["not_taken"]) == (
        "intent isolated",
        "for an hour",
        list(result.not_taken),
    )


def test_an_isolation_whose_time_is_over_is_released(host: Host, agent: Cgroup) -> None:
    at = moment()
    host.isolate(agent, why=replace(WHY, until=Until(at.utc + timedelta(hours=1), at.s + 3600, at.boot)))
    assert reconcile(host.place, replace(at, s=at.s + 3599)) == []
    (repair,) = reconcile(host.place, replace(at, s=at.s + 3600))
    assert (repair.done, host.states(), ours_at(agent)) == ("released: its time is over", [State.RELEASED], [])


def test_a_peer_that_is_found_elsewhere_is_not_called_isolated(host: Host, scratch_cgroup: MakeCgroup) -> None:
    here, there = scratch_cgroup("here"), scratch_cgroup("there")
    isolation.isolate(replace(where(here), peer="shield"), WHY, host.place)
    with pytest.raises(WatchdogError, match=f"shield is isolated as {here.path}, and is found elsewhere now"):
        isolation.isolate(replace(where(there), peer="shield"), WHY, host.place)
    assert ours_at(there) == []


def test_a_cgroup_that_turns_out_to_be_a_peers_is_isolated_as_that_peer(host: Host, agent: Cgroup) -> None:
    host.isolate(agent)
    result = isolation.isolate(replace(where(agent), peer="shield"), WHY, host.place)
    assert (result.changed, result.intent.where.peer, host.states()) == (True, "shield", [State.ISOLATED])
    (row,) = host.place.journal.read("SELECT peer FROM isolation")
    assert row["peer"] == "shield"


def test_what_the_rails_refuse_leaves_no_trace(host: Host, agent: Cgroup) -> None:
    def rails() -> list[str]:
        raise Refused("no")

    before = host.snapshot()
    with pytest.raises(Refused):
        isolation.isolate(where(agent), WHY, host.place, rails=rails)
    assert host.snapshot() == before


def test_what_was_overruled_is_kept(host: Host, agent: Cgroup) -> None:
    result = isolation.isolate(where(agent), WHY, host.place, rails=lambda: ["it holds sshd"])
    assert result.intent.why.overruled == ("it holds sshd",)
    assert host.place.journal.trail(newest=1)[0]["overruled"] == ["it holds sshd"]


# Other tools' programs


@pytest.fixture
def foreign_program() -> Iterator[Callable[..., int]]:
    fds: list[int] = []

    def load(name: str = "other_fw", hook: Hook = Hook.EGRESS) -> int:
        fds.append(foreign.load(name, hook=hook))
        return fds[-1]

    yield load
    for fd in fds:
        os.close(fd)


def test_shared_programs_of_others_stay_as_they_were(
    host: Host, agent: Cgroup, foreign_program: Callable[..., int]
) -> None:
    for hook in gate.HOOKS:
        foreign.attach(foreign_program(hook=hook), agent.path, hook, foreign.MULTI)
    before = foreign.snapshot(agent.path)
    intent = host.isolate(agent).intent
    during = foreign.snapshot(agent.path)
    assert [row for row in during if not row[2].name.startswith("wd_")] == before
    assert len([row for row in during if row[0] in gate.HOOKS]) == len(before) + len(GATE)
    isolation.release(intent, host.place)
    assert foreign.snapshot(agent.path) == before


@pytest.mark.parametrize("hook", gate.HOOKS)
def test_an_exclusive_program_of_others_is_named_and_nothing_is_changed(
    host: Host, agent: Cgroup, foreign_program: Callable[..., int], hook: Hook
) -> None:
    foreign.attach(foreign_program(hook=hook), agent.path, hook, foreign.EXCLUSIVE)
    before = foreign.snapshot(agent.path)
    with pytest.raises(KernelRefused, match="another tool's program other_fw") as refused:
        host.isolate(agent)
    assert refused.value.hint
    assert foreign.snapshot(agent.path) == before
    assert host.states() == [State.FAILED]
    assert "other_fw" in host.intents()[0].trouble
    assert reconcile(host.place, moment()) == []


def test_it_can_be_isolated_once_the_other_program_is_gone(
    host: Host, agent: Cgroup, foreign_program: Callable[..., int]
) -> None:
    fd = foreign_program()
    foreign.attach(fd, agent.path, Hook.EGRESS, foreign.EXCLUSIVE)
    with pytest.raises(KernelRefused):
        host.isolate(agent)
    foreign.detach(fd, agent.path, Hook.EGRESS)
    assert host.isolate(agent).changed
    assert host.states() == [State.FAILED, State.ISOLATED]


def test_ids_of_another_boot_are_nobodys(host: Host, agent: Cgroup, foreign_program: Callable[..., int]) -> None:
    """After a reboot a program id means another program: it is neither counted on, nor pinned, nor detached."""
    fds = {hook: foreign_program("wd_like", hook) for hook in gate.HOOKS}
    for hook, fd in fds.items():
        foreign.attach(fd, agent.path, hook, foreign.MULTI)
    before = foreign.snapshot(agent.path)
    ids = {hook: info.id for hook, _, info in before}
    stale = With("0123456789abcdef/slot-0", {p.name: ids[p.hook] for p in GATE}, boot="another")
    intent = host.place.intents.begin(where(agent), WHY, stale, NOW, State.ISOLATED)
    assert not holding.verify(intent, host.place).holds
    assert found(reconcile(host.place, moment())) == [(f"{agent.path} is not filtered", "isolated again")]
    isolation.release(intent, host.place)
    assert foreign.snapshot(agent.path) == before


# Found again, put back


def test_another_process_verifies_and_releases_what_this_one_isolated(host: Host, agent: Cgroup) -> None:
    host.isolate(agent)
    assert host.mesh("verify", "--cgroup", agent.path).status == 0
    assert host.mesh("release", "--cgroup", agent.path, "--reason", "done").status == 0
    assert ours_at(agent) == []


def test_a_recreated_cgroup_is_open_until_the_keeper_comes_by(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    anew = remade(agent)
    seen = holding.verify(intent, host.place)
    assert (seen.holds, seen.gaps) == (False, (f"{agent.path} is not filtered",))
    told: list[Repair] = []
    keeper = Keeper(host.place, told.append)
    keeper.sweep()
    assert found(told) == [(f"{agent.path} is not filtered", "isolated again")]
    assert len(ours_at(anew)) == len(GATE)
    assert keeper.views[0].drift == ""
    assert host.intents()[0].where.cgroup_id == anew.inode


def test_what_does_not_run_waits_for_its_cgroup(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    agent.path.rmdir()
    seen = holding.verify(intent, host.place)
    assert (seen.holds, seen.gaps) == (True, ("nothing of it runs, and only a watcher would see its next start",))
    assert reconcile(host.place, moment()) == []
    agent.path.mkdir()
    assert len(reconcile(host.place, moment())) == 1
    assert len(ours_at(cgroups.resolve(agent.path))) == len(GATE)


def test_the_release_of_a_cgroup_that_is_gone(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    agent.path.rmdir()
    assert isolation.release(intent, host.place).changed
    assert host.states() == [State.RELEASED]


def test_programs_that_somebody_detached_are_attached_again(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    gate.detach(agent, [intent.held_by.ids[name] for name in ("wd_egress", "wd_guard_out")])
    assert not holding.verify(intent, host.place).holds
    assert found(reconcile(host.place, moment())) == [(f"{agent.path} is not filtered", "isolated again")]
    assert reconcile(host.place, moment()) == []


def test_missing_guards_are_a_gap_that_is_nobodys_doing(host: Host, agent: Cgroup) -> None:
    """What a restart of a unit leaves: systemd attached what the drop-in names."""
    intent = host.isolate(agent).intent
    gate.detach(agent, [intent.held_by.ids[guard.name] for guard in (GUARD_IN, GUARD_OUT)])
    seen = holding.verify(intent, host.place)
    assert (seen.holds, len(seen.gaps), seen.restarted) == (True, 1, True)
    (repair,) = reconcile(host.place, moment())
    assert (repair.done, repair.expected, repair.failed) == ("isolated again", True, False)
    assert holding.verify(intent, host.place).gaps == ()


@pytest.mark.parametrize("what", ["one pin", "all pins of the slot", "every pin"])
def test_removed_pins_are_reported_and_put_back(host: Host, agent: Cgroup, what: str) -> None:
    intent = host.isolate(agent).intent
    before, slot = host.pinned(), host.pins / intent.held_by.slot
    if what == "one pin":
        (slot / "wd_count").unlink()
    elif what == "all pins of the slot":
        shutil.rmtree(slot)
    else:
        shutil.rmtree(slot.parent)
    seen = holding.verify(intent, host.place)
    gaps = ("the pins of its programs are gone", "the pins of the layers' programs are gone")
    assert (seen.holds, seen.gaps) == (True, gaps if what == "every pin" else gaps[:1])
    assert seen.dropped is not None
    assert found(reconcile(host.place, moment())) == [("; ".join(seen.gaps), "isolated again")]
    assert set(host.pinned()) <= set(before)
    assert programs.held_by(slots.slot_at(slot), host.place) == intent.held_by
    assert isolation.release(intent, host.place).changed


def test_pins_that_are_not_ours_any_more_are_put_right(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    pin = host.pins / intent.held_by.slot / "wd_egress"
    other = programs.take(host.place)
    pin.unlink()
    with libbpf.obj_get(other.path / pin.name) as fd:
        libbpf.obj_pin(fd, pin)
    assert holding.verify(intent, host.place).gaps == ("the pins of its programs are gone",)
    reconcile(host.place, moment())
    assert holding.verify(intent, host.place).gaps == ()


def test_an_unmounted_bpffs_is_reported_and_mounted_again(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    bpffs.unmount(host.pins)
    assert host.mesh("verify", "--cgroup", agent.path).status == 4
    answer = host.mesh("reconcile")
    gone = "the pins of its programs are gone; the pins of the layers' programs are gone"
    suspected = f"somebody unmounted the bpffs at {host.pins}"
    assert (answer.status, answer.out) == (
        0,
        f"{agent.path}: {gone} (suspected: {suspected}); isolated again\n",
    )
    assert bpffs.is_on_bpffs(host.pins)
    assert holding.verify(intent, host.place).gaps == ()
    bpffs.unmount(host.pins)
    assert host.mesh("release", "--cgroup", agent.path, "--reason", "done").status == 0
    assert ours_at(agent) == []


def test_an_isolation_is_possible_after_the_bpffs_is_gone(host: Host, agent: Cgroup) -> None:
    bpffs.unmount(host.pins)
    assert host.isolate(agent).holds


def test_programs_that_ended_with_their_last_cgroup_are_replaced(host: Host, agent: Cgroup) -> None:
    """Pins removed and cgroup gone: nothing keeps the programs, and new ones take their place."""
    intent = host.isolate(agent).intent
    shutil.rmtree(host.pins / intent.held_by.slot)
    anew = remade(agent)
    await_freed(intent.held_by.ids["wd_egress"])
    (repair,) = reconcile(host.place, moment())
    assert (repair.failed, len(ours_at(anew))) == (False, len(GATE))
    assert host.intents()[0].held_by != intent.held_by


# Strays


def test_a_lost_journal_is_adopted_from_the_kernel(host: Host, agent: Cgroup) -> None:
    before = host.isolate(agent).intent
    host.close()
    shutil.rmtree(host.state)
    expected = [("found cut off, and in no intent", "adopted as an isolation; a release ends it")]
    assert found(reconcile(host.place, moment())) == expected
    (adopted,) = host.intents()
    assert (adopted.where, adopted.state, adopted.held_by) == (before.where, State.ISOLATED, before.held_by)
    assert reconcile(host.place, moment()) == []
    isolation.release(adopted, host.place)
    assert ours_at(agent) == []


def test_an_adopted_isolation_gets_its_peers_name_back(host: Host, agent: Cgroup) -> None:
    host.isolate(agent)
    host.close()
    shutil.rmtree(host.state)
    place = replace(host.place, peers={str(agent.path): "shield"})
    (repair,) = reconcile(place, moment())
    assert repair.target == "shield"


def test_half_an_isolation_of_a_lost_journal_is_completed(host: Host, agent: Cgroup) -> None:
    intent = host.isolate(agent).intent
    gate.detach(agent, [intent.held_by.ids["wd_egress"]])
    host.close()
    shutil.rmtree(host.state)
    assert [repair.done for repair in reconcile(host.place, moment())] == [
        "adopted as an isolation; a release ends it",
        "isolated again",
    ]
    assert len(ours_at(agent)) == len(GATE)


def test_a_new_journal_gives_no_program_to_two(host: Host, scratch_cgroup: MakeCgroup) -> None:
    lost, new = scratch_cgroup("lost"), scratch_cgroup("new")
    before = host.isolate(lost).intent
    host.close()
    shutil.rmtree(host.state)
    intent = host.isolate(new).intent
    assert intent.held_by.slot != before.held_by.slot
    isolation.release(intent, host.place)
    assert len(ours_at(lost)) == len(GATE)


def test_release_asks_the_kernel_not_the_journal(host: Host, agent: Cgroup) -> None:
    host.isolate(agent)
    host.close()
    shutil.rmtree(host.state)
    assert host.mesh("verify", "--cgroup", agent.path).status == 4
    assert host.mesh("release", "--cgroup", agent.path, "--reason", "found it").status == 0
    assert ours_at(agent) == []


def test_programs_of_another_instance_are_not_adopted(host: Host, agent: Cgroup, tmp_path: Path) -> None:
    host.isolate(agent)
    other = Host(tmp_path / "other", tmp_path / "other-pins")
    try:
        assert reconcile(other.place, moment()) == []
        answer = other.mesh("release", "--cgroup", agent.path, "--reason", "named, so meant")
        assert (answer.status, ours_at(agent)) == (0, [])
    finally:
        other.close()
        bpffs.unmount(other.pins)


def test_the_scratch_cgroup_of_a_killed_self_test_is_not_adopted(host: Host, v2_root: Path) -> None:
    slot = programs.take(host.place)
    path = v2_root / "watchdog-selftest-4194305"
    path.mkdir()
    try:
        gate.attach(cgroups.resolve(path), slot)
        assert reconcile(host.place, moment()) == []
    finally:
        path.rmdir()


# What cannot be put right


def test_the_same_trouble_is_told_once(host: Host, agent: Cgroup, foreign_program: Callable[..., int]) -> None:
    host.isolate(agent)
    fd = foreign_program()
    foreign.attach(fd, remade(agent).path, Hook.EGRESS, foreign.EXCLUSIVE)
    told: list[Repair] = []
    keepers = [Keeper(host.place, told.append) for _ in range(3)]
    for _ in range(3):
        for keeper in keepers:
            keeper.sweep()
    assert [(repair.failed, "other_fw" in repair.done) for repair in told] == [(True, True)]
    assert "is not filtered" in keepers[0].views[0].drift
    (by_hand,) = reconcile(host.place, moment())
    assert by_hand.failed
    foreign.detach(fd, agent.path, Hook.EGRESS)
    keepers[0].sweep()
    assert told[-1].done == "isolated again"
    assert host.intents()[0].trouble == ""


def test_what_fails_for_one_does_not_keep_the_others_from_being_repaired(
    host: Host, scratch_cgroup: MakeCgroup, foreign_program: Callable[..., int]
) -> None:
    first, second = scratch_cgroup("first"), scratch_cgroup("second")
    for each in (first, second):
        host.isolate(each)
    foreign.attach(foreign_program(), remade(first).path, Hook.EGRESS, foreign.EXCLUSIVE)
    anew = remade(second)
    assert [repair.failed for repair in reconcile(host.place, moment())] == [True, False]
    assert len(ours_at(anew)) == len(GATE)


def test_an_intent_of_an_embedded_monitor_is_left_to_it(host: Host) -> None:
    intent: Intent = host.place.intents.begin(Where("", 0, peer="shield"), WHY, With(), NOW, State.ISOLATED)
    assert reconcile(host.place, moment()) == []
    assert host.place.intents.in_force() == [intent]


def test_frames_dropped_at_links_are_a_figure_of_their_own(
    host: Host, scratch_cgroup: MakeCgroup, run_in_cgroup: RunInside, veth: VethPair
) -> None:
    cgroup = scratch_cgroup()
    agent = run_in_cgroup(cgroup, veth.near)
    agent.run(f"p = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); p.bind(({veth.device!r}, 0x88b5))")
    intent = host.isolate(cgroup).intent
    for _ in range(3):
        agent.outcome("p.send(bytes(12) + bytes([0x88, 0xb5]) + bytes(50))")
    seen = holding.verify(intent, host.place).dropped
    assert seen is not None
    assert (seen.frames_out, seen.frames_in.packets, seen.egress.packets) == (slots.Traffic(3, 3 * 64), 0, 0)
    said = host.mesh("verify", "--cgroup", cgroup.path, "--json").document["dropped"]
    assert said["frames"] == {"ingress": 0, "egress": 3}
    assert "at links 3 frames out, 0 in" in host.mesh("status").out
    assert "at links 3 frames out, 0 in" in host.mesh("release", "--cgroup", cgroup.path, "--reason", "a test").out


def test_what_half_an_isolation_dropped_is_told(host: Host, agent: Cgroup) -> None:
    """As one that was adopted without its first program."""
    intent = host.isolate(agent).intent
    ids = {name: each for name, each in intent.held_by.ids.items() if name != INGRESS.name}
    half = replace(intent, held_by=replace(intent.held_by, ids=ids))
    assert holding.dropped_of(half, host.place) == slots.NOTHING
