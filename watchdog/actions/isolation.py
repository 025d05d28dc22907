"""Isolate and release: what is meant goes to the journal, then the kernel is changed, then the kernel is asked.

Both run to the end from wherever a dead process left them, both can run twice, and neither needs a daemon. The order
of isolate is: the kernel's layers, the packet hooks of the cgroup first (watchdog.kernel.layers.sequence), then the
drop-in (every later start of the unit). Release is the mirror image.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from watchdog import clock
from watchdog.actions import adopt, allowing, changing, flow_facts, holding, moving, noted, programs, renamed, targets
from watchdog.actions.holding import Result
from watchdog.actions.place import Place, glance, look
from watchdog.errors import KernelRefused, WatchdogError
from watchdog.host import unit_filters
from watchdog.host.caller import in_words
from watchdog.intents import IN_FORCE, Intent, State, Where, Why
from watchdog.kernel import gate
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.hold import Hold, carries_ours
from watchdog.kernel.layers import sequence
from watchdog.kernel.layers.base import NETWORK, Target
from watchdog.kernel.layers.packets import Packets
from watchdog.kernel.programs import EGRESS, INGRESS
from watchdog.kernel.slots import Slot

Step = Callable[[str], None]
"""Told the name of every step once it is done; tests stop there, the demo prints them."""

Rails = Callable[[], list[str]]
"""Asked with the lock held: raises Refused, or says which objections were overruled."""


ATTACHED = "attached"
"""The step after which every layer is in force."""
NOTED = "what was asked for is in the journal, and a watcher, or reconcile, goes on trying"


def no_step(_: str) -> None:
    """Nobody wants to know."""


def no_rails() -> list[str]:
    """For what a safety rail has nothing to say about."""
    return []


def isolate(
    where: Where,
    why: Why,
    place: Place,
    step: Step = no_step,
    rails: Rails = no_rails,
    default_allow: allowing.Default = allowing.nothing,
    default_level: str = NETWORK,
    held: Hold | None = None,
    *,
    stands: Callable[[], None] = lambda: None,
    at_once: bool = False,
) -> Result:
    """Cut the target off and see that it is. One that is cut off already gets allow-list and level of `why`, if any.

    A new one to which nothing is allowed is held meanwhile (watchdog.kernel.hold): from before the rails are asked with
    `at_once`, for an agent of the configuration that has its cgroup for itself, else from when they have let it pass;
    `held` may do so already, and is lifted here. `stands` is asked first of all, with the lock held, and once more
    before the intent is written, and raises where nothing is to be done any more. Raises WatchdogError when it cannot
    be cut off, and Refused when the rails do; what was begun is undone then.
    """
    with held or Hold() as hold, place.alone(waits=hold.lift):  # it may take a minute, and end in a refusal
        stands()
        allow = default_allow() if why.allow is None else why.allow
        if at_once and not allow and where.cgroup and not _carries_ours(where.cgroup):
            hold.stop(where.cgroup)
            step("held")
        intent = find(place, where)
        if not place.intents.last(1):
            adopt.adopt(place)  # a journal that knows nothing may be a lost one: no program is to serve two
            intent = find(place, where)
        if intent is not None and intent.state is State.ISOLATED:
            hold.lift()  # what is allowed to it goes on
            asked = changing.wanted(intent, where, why)
            not_taken = changing.not_taken(asked.why, why)
            changes = changing.changes(intent, asked)
            facts = changing.facts_of(why, changes, not_taken)
            before = holding.verify(intent, place)
            same = asked == intent
            if same and before.holds and not before.gaps:
                if not_taken:
                    place.intents.change(intent, State.ISOLATED, place.now(), facts=facts)
                return replace(before, not_taken=not_taken)
            intent = place.intents.change(asked, State.ISOLATED, place.now(), facts=facts)
            step("intended")
            after = _cut_or_undo(intent, place, step)
            changed = not same or after.gaps != before.gaps
            return replace(after, changed=changed, changes=changes, not_taken=not_taken)
        if allow:
            hold.lift()
        why = replace(why, overruled=tuple(rails()), allow=allow, level=why.level or default_level)
        if not allow and where.moved is None:
            for cgroup in glance(where, place.root):
                hold.stop(str(cgroup.path))
        intent, slot = _begin(intent, where, why, place, stands)
        step("intended")
        return _cut_or_undo(intent, place, _lifting(hold, step), slot)


def _carries_ours(cgroup: str) -> bool:
    try:
        return carries_ours(cgroup)
    except OSError:
        return True  # gone, or not to be asked: nothing to hold


def _lifting(hold: Hold, step: Step) -> Step:
    """Whether the layers hold is judged without what holds for a moment only."""

    def stepped(name: str) -> None:
        if name == ATTACHED:
            hold.lift()
        step(name)

    return stepped


def _begin(
    unfinished: Intent | None, where: Where, why: Why, place: Place, stands: Callable[[], None]
) -> tuple[Intent, Slot | None]:
    """A new intent with its programs, or one that a dead process left half way: it is this one's now.

    `stands` is asked once more, in the transaction that the cut follows from: this process may have been stopped since.
    """
    if unfinished is not None:
        where = changing.joined(unfinished.where, where)
        with place.journal.transaction():
            stands()
            now = place.now()
            return place.intents.change(unfinished, State.ISOLATING, now, where=where, why=why, trouble=""), None
    slot = programs.take(place)
    with place.journal.transaction(flushed=False):
        stands()
        return place.intents.begin(where, why, programs.held_by(slot, place), place.now()), slot


def _cut_or_undo(intent: Intent, place: Place, step: Step, slot: Slot | None = None) -> Result:
    try:
        return cut(intent, place, step, slot)
    except WatchdogError as error:
        if intent.state is not State.ISOLATED:  # one that held in part stays: never open because something failed
            begun = place.intents.change(
                place.intents.get(intent), State.UNDOING, place.now(), trouble=error.one_line()
            )
            finish_undo(begun, place)
        else:
            error.hint = "; ".join(filter(None, [error.hint, NOTED]))
        raise


def cut(intent: Intent, place: Place, step: Step = no_step, slot: Slot | None = None) -> Result:
    """Bring the kernel and systemd to what the intent says, and the intent to `isolated`. With the lock held.

    `slot` is for who has just taken it; without it the intent's programs are found again.
    """
    if slot is None:
        intent, slot = _with_programs(renamed.follow(intent, place), place)
    not_allowed = allowing.put_in_force(intent, slot, place)  # first of all: what it lets pass never stops
    intent = moving.move_in(intent, slot, place, step)
    seen = glance(intent.where, place.root)
    if moved := noted.moved_out(intent, place, seen):
        seen = seen or noted.made_again(intent, place)
    _hold(intent, slot, place, seen, step)
    if moved:
        noted.bring_back(moved, seen)
        _hold(intent, slot, place, seen)  # what they have made outside, and what only they need
    step(ATTACHED)
    place.journal.flush()
    trouble = ""
    if intent.where.unit:
        trouble = _make_lasting(intent, slot, place)
        step("lasting")
    sight = look(intent.where, place.root)
    _hold_again(intent, slot, place, seen, sight.cgroups)
    result = holding.judge(intent, place, sight, trouble)
    if not_allowed:
        result = replace(result, gaps=(*result.gaps, not_allowed))
    if not (result.holds or result.elsewhere) or (result.idle and intent.state is State.ISOLATING):
        raise KernelRefused(f"{intent.name} is not cut off: {'; '.join(result.gaps)}", hint="watchdog-mesh doctor")
    where = intent.where
    if sight.cgroups:
        where = replace(where, cgroup=str(sight.cgroups[-1].path), cgroup_id=sight.cgroups[-1].inode)
    begins = intent.state is State.ISOLATING and not intent.by_a_watcher
    told = result.told(f"{intent.why.reason} (by hand, {in_words(intent.why.by)})")
    also = place.news(replace(intent, state=State.ISOLATED), told) if begins else lambda: None
    intent = place.intents.change(
        intent, State.ISOLATED, place.now(), where=where, trouble="; ".join(result.gaps), also=also
    )
    noted.note(intent, place, sight.cgroups, sight.unit)
    step("isolated")
    return replace(result, intent=intent, changed=True)


def stop_again(intent: Intent, place: Place) -> list[str]:
    """Before anything else is asked: stop the packets of a cgroup that lets them pass, as one that was made anew does.

    What was found, a sentence each. Programs that are gone are left to `cut`. With the lock held.
    """
    slot, found = programs.recorded(intent.held_by, place), []
    for cgroup in glance(intent.where, place.root):
        try:
            if not gate.stops(cgroup, slot) and (gap := gate.gap(cgroup, slot)):
                gate.attach(cgroup, slot)
                found.append(gap)
        except WatchdogError:
            continue  # cut() says why
    return found


def rescan(intent: Intent, place: Place) -> list[str]:
    """See to sockets that the target has got from elsewhere since; why not, a sentence each. With the lock held."""
    cgroups = glance(intent.where, place.root)
    if not cgroups:
        return []
    slot = programs.recorded(intent.held_by, place)
    return sequence.rescan(targets.target_of(intent, slot, place, cgroups, build=False))


def release(intent: Intent, place: Place, step: Step = no_step, *, reason: str = "released") -> Result:
    """Let the target back and see that nothing of ours is left on it; people are told the reason."""
    with place.alone():
        current = place.intents.get(intent)
        if current.state not in IN_FORCE:
            return Result(current, changed=False, holds=True)
        return finish_release(current, place, step, reason=reason)


def finish_release(intent: Intent, place: Place, step: Step = no_step, *, reason: str) -> Result:
    """The release itself, with the lock held; also what a killed one left to do."""
    dropped = holding.dropped_of(intent, place)
    flows = flow_facts.of(intent, place, dropped, clock.moment())
    intent = place.intents.change(intent, State.RELEASING, place.now())
    step("intended")
    stays = _free(intent, place, step)
    flow_facts.forget(intent)
    facts: dict[str, object] = {"flows": flows} if flows else {}
    if dropped:
        facts["dropped_packets"] = dropped.ingress.packets + dropped.egress.packets
        facts["dropped_frames"] = dropped.frames_in.packets + dropped.frames_out.packets
    above = holding.cut_off_above(intent, place)
    also = place.news(replace(intent, state=State.RELEASED), reason)
    intent = place.intents.change(intent, State.RELEASED, place.now(), trouble="", facts=facts, also=also)
    noted.forget(intent, place)
    step("released")
    return Result(intent, changed=True, holds=True, gaps=(*stays, *above), dropped=dropped, flows=flows)


def finish_undo(intent: Intent, place: Place) -> None:
    """Take back what an isolation that failed had begun; also what a killed one left to do. With the lock held."""
    stays = _free(intent, place)
    flow_facts.forget(intent)
    place.intents.change(
        intent, State.FAILED, place.now(), trouble="; ".join([*filter(None, [intent.trouble]), *stays])
    )
    noted.forget(intent, place)


def _free(intent: Intent, place: Place, step: Step = no_step) -> list[str]:
    """Take away what holds the target, the drop-in first, the packet hooks last; raises when something stays.

    Processes that were moved go back at the very end; returns what of them could not, a sentence each.
    """
    if intent.where.unit:
        unit_filters.remove_filters(intent.where.unit, base=place.drop_ins)
        step("unlasting")
    mine = programs.ids_of([intent])
    others = programs.ids_of(other for other in place.intents.in_force() if other.id != intent.id)
    here = look(intent.where, place.root).cgroups
    found: dict[Cgroup, set[int]] = {}
    for each in gate.find_attached(place.top):
        if (each.program_id in mine or each.cgroup in here) and each.program_id not in others:
            found.setdefault(each.cgroup, set()).add(each.program_id)
    every = dict.fromkeys([*here, *found])
    target = targets.target_of(intent, programs.recorded(intent.held_by, place), place, every)
    sequence.free(target, step, (_Found(found, step), *sequence.LAYERS[1:]))
    if left := holding.still_over(intent.where, place):
        raise KernelRefused(
            f"{intent.name} is not free: {'; '.join(left)}", hint="run the release again; watchdog-mesh verify says why"
        )
    return moving.move_back(intent.where, place, step)


class _Found(Packets):
    """The packet hooks of a release: what is found at them, wherever that is."""

    def __init__(self, found: Mapping[Cgroup, Collection[int]], step: Step) -> None:
        self._found, self._step = found, step

    def detach(self, target: Target) -> None:
        """Detach it, cgroup by cgroup."""
        for cgroup, program_ids in self._found.items():
            gate.detach(cgroup, program_ids)
            self._step("detached")


def find(place: Place, where: Where) -> Intent | None:
    """The intent in force for the same unit or cgroup.

    Raises WatchdogError when the peer is isolated elsewhere: the other place is open, and must be named.
    """
    for intent in place.intents.in_force():
        if where.unit and intent.where.unit:
            if where.unit == intent.where.unit:
                return intent
        elif where.cgroup and where.cgroup == intent.where.cgroup:
            return intent
        if where.peer and where.peer == intent.where.peer:
            raise WatchdogError(
                f"{where.peer} is isolated as {intent.where.unit or intent.where.cgroup}, and is found elsewhere now: "
                f"{where.unit or where.cgroup}",
                hint="name that with --unit or --cgroup, or release the peer first",
            )
    return None


# What holds it


def _with_programs(intent: Intent, place: Place) -> tuple[Intent, Slot]:
    """The intent with programs that are there: its own, pins put back where they were removed, or new ones."""
    if (slot := programs.restored(intent.held_by, place)) is not None:
        return intent, slot
    if programs.ids(intent.held_by):  # what the layers know it by is gone with its programs
        gone = targets.target_of(intent, programs.recorded(intent.held_by, place), place, ())
        sequence.free(gone, layers=sequence.LAYERS[1:])
    slot = programs.take(place)
    why = replace(intent.why, allow=allowing.on_this_boot(intent.why.allow or (), clock.moment()))
    return place.intents.change(intent, intent.state, place.now(), why=why, held_by=programs.held_by(slot, place)), slot


def _hold(intent: Intent, slot: Slot, place: Place, found: Iterable[Cgroup], step: Step = no_step) -> None:
    """Put every layer in force on these cgroups; the packets must be, what else could not be is judged afterwards."""
    cgroups = tuple(found)
    if cgroups:
        sequence.cut(targets.target_of(intent, slot, place, cgroups), step)


def _hold_again(intent: Intent, slot: Slot, place: Place, held: Collection[Cgroup], now: Collection[Cgroup]) -> None:
    """The unit may have been restarted before its drop-in was there, and a reload takes programs off for a moment."""
    sequence.PACKETS.attach(targets.target_of(intent, slot, place, now))
    _hold(intent, slot, place, set(now) - set(held))


def _make_lasting(intent: Intent, slot: Slot, place: Place) -> str:
    """Have systemd isolate every later start of the unit. What went wrong leaves a gap, not an open target."""
    try:
        if holding.no_drop_in(intent, place, look(intent.where, place.root)):
            unit_filters.install_filters(intent.where.unit, slot.pin(INGRESS), slot.pin(EGRESS), base=place.drop_ins)
    except WatchdogError as error:
        return error.one_line()
    return ""
