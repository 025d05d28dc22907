"""Drift: what differs between what is meant and what is, of which kind it is, and who or what may have done it.

The kernel names no culprit. A cause is suspected from what went together: a new cgroup and a unit, a clsact and all
filters on it. Pure; what it is asked about is looked at in watchdog/actions/suspects.py, before the repair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from watchdog.clock import Moment
from watchdog.intents import IN_FORCE, Drift, Intent
from watchdog.kernel import tc_links

QUIET_S = 600.0
"""Drift that comes again within this time belongs to the same episode."""


class Kind(StrEnum):
    """What drifted. An episode is told once for each kind that it shows."""

    CGROUP = "a cgroup made anew"
    PROGRAMS = "programs detached"
    FILTERS = "filters removed"
    LINKS = "a new link"
    PROCESSES = "processes moved out"
    PINS = "pins removed"
    BPFFS = "bpffs unmounted"
    READ_ONLY = "bpffs read-only"
    DROP_IN = "drop-in removed"
    UNIT = "unit renamed"
    FREEZER = "thawed"
    OTHER = "other"
    FAILED = "could not be repaired"
    REPAIRED = "repaired after all"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was looked at before the repair."""

    unit: str = ""
    is_new_cgroup: bool = False
    """Whether the cgroup is another than the one that was isolated."""
    bpffs: str = ""
    """The pin directory, where no bpffs is mounted any more."""
    drop_in: str = ""
    """The unit's drop-in, where it is gone."""
    capable: str = ""
    """A process of the agent's own that may do such things."""
    mover: str = ""
    """A process of the agent's own that may leave its cgroup."""


NOT_FILTERED, NOT_ATTACHED, NONE_OF_IT = "is not filtered", "not attached to", "has none of it"
ONLY_PARTLY = "are not attached"
PINS_CLOSED = "cannot be opened"
PINS_GONE, DROP_IN_GONE, DROP_IN_UNREAD = "pins", "its drop-in is missing", "has not read its drop-in"
LEFT, RENAMED, NOT_FROZEN = "left its cgroup", "is named", "is not frozen"

_OF: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.PROCESSES, (LEFT,)),
    (Kind.UNIT, (RENAMED,)),
    (Kind.LINKS, (tc_links.NEW_LINK,)),
    (Kind.FILTERS, (tc_links.CLSACT_GONE, tc_links.OURS_GONE, tc_links.NO_FILTER, "decides before ours")),
    (Kind.FREEZER, (NOT_FROZEN,)),
    (Kind.PROGRAMS, (NOT_FILTERED, NOT_ATTACHED, NONE_OF_IT, ONLY_PARTLY)),
    (Kind.DROP_IN, (DROP_IN_GONE, DROP_IN_UNREAD)),
    (Kind.READ_ONLY, (PINS_CLOSED,)),
    (Kind.PINS, (PINS_GONE,)),
)
"""By what a gap says; the first that fits."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Of which kinds a drift is, and a cause for each that has one, as a sentence's part."""

    kinds: tuple[Kind, ...]
    causes: tuple[str, ...]

    @property
    def cause(self) -> str:
        """For people; "" where nothing is suspected."""
        return "; ".join(self.causes)


NOTHING = Suspicion((), ())


def together(stopped: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """What was found at once and what afterwards. Where packets passed, nobody needs to know what else was missing at
    that cgroup."""
    others = [gap for gap in others if not stopped or _kind(gap, Seen()) is not Kind.PROGRAMS]
    return (*stopped, *others)


def suspect(gaps: Sequence[str], seen: Seen) -> Suspicion:
    """What is suspected of what `verify` found."""
    kinds = dict.fromkeys(_kind(gap, seen) for gap in gaps)
    causes = dict.fromkeys(cause for kind in kinds if (cause := _cause(kind, gaps, seen)))
    return Suspicion(tuple(kinds), tuple(causes))


def _kind(gap: str, seen: Seen) -> Kind:
    kind = next((kind for kind, words in _OF if any(word in gap for word in words)), Kind.OTHER)
    if kind is Kind.PROGRAMS and seen.is_new_cgroup:
        return Kind.CGROUP
    return Kind.BPFFS if kind is Kind.PINS and seen.bpffs else kind


def _cause(kind: Kind, gaps: Sequence[str], seen: Seen) -> str:
    if kind is Kind.CGROUP and seen.unit:
        return f"a start or restart of {seen.unit} made a new cgroup"
    if kind is Kind.PROGRAMS and seen.drop_in:
        return f"systemd detached them at a daemon-reload, since {seen.drop_in} was removed; or another process did"
    if kind is Kind.FILTERS and any(tc_links.CLSACT_GONE in gap for gap in gaps):
        return f"another process deleted the clsact qdisc, and every filter with it{_or_itself(seen, kind)}"
    if kind is Kind.PROCESSES and any(LEFT in gap and ".scope" in gap for gap in gaps):
        return f"systemd-run --scope or a login session moved it{_or_itself(seen, kind)}"
    if kind is Kind.BPFFS:
        return f"somebody unmounted the bpffs at {seen.bpffs}"
    return _CAUSES.get(kind, "") + (_or_itself(seen, kind) if kind in _BY_ITSELF else "")


def _or_itself(seen: Seen, kind: Kind) -> str:
    able = seen.mover if kind is Kind.PROCESSES else seen.capable
    return f"; {able} is of the agent, and could have done it" if able else ""


_CAUSES = {
    Kind.CGROUP: "the cgroup was removed and made anew, and what was attached went with the old one",
    Kind.PROGRAMS: "another process detached them",
    Kind.FILTERS: "another process deleted or overrode the filter",
    Kind.LINKS: "the link was made, or moved here, after the isolation",
    Kind.PROCESSES: "another process wrote it to a cgroup.procs",
    Kind.PINS: "somebody removed files below the pin directory",
    Kind.READ_ONLY: "somebody remounted it: mount -o remount,rw puts it right",
    Kind.DROP_IN: "somebody removed or rewrote the drop-in: by hand, or with systemctl revert",
    Kind.UNIT: "somebody renamed the unit file",
    Kind.FREEZER: "another process wrote 0 to cgroup.freeze",
}
_BY_ITSELF = (Kind.PROGRAMS, Kind.FILTERS, Kind.PROCESSES, Kind.FREEZER)
"""What an agent with the right to may do to itself."""


# Episodes


def continued(before: Drift | None, kinds: Iterable[Kind], at: Moment, *, failed: bool) -> tuple[Drift, bool]:
    """The episode with one more drift in it, and whether there is anything to tell: each kind is told once, and once
    that a repair failed, and once that one succeeded after that."""
    found: list[str] = [*kinds, *([Kind.FAILED] if failed else [])]
    if before is None or is_quiet(before, at):
        return Drift(at.utc, at.s, at.boot, 1, tuple(found), failed), True
    if before.failing and not failed:
        found.append(Kind.REPAIRED)
    new = [kind for kind in found if kind not in before.kinds]
    after = replace(before, last_s=at.s, count=before.count + 1, kinds=(*before.kinds, *new), failing=failed)
    return after, bool(new)


def is_quiet(drift: Drift, at: Moment) -> bool:
    """Whether nothing has drifted for long enough; a reboot ends an episode, too."""
    age_s = at.age_s(drift.last_s, drift.boot)
    return age_s is None or age_s >= QUIET_S


def is_over(intent: Intent, at: Moment) -> bool:
    """Whether an episode is to be told as ended: quiet and not because it cannot be repaired, or the isolation is."""
    if intent.drift is None:
        return False
    unsolved = intent.drift.failing and bool(intent.trouble)
    return intent.state not in IN_FORCE or (is_quiet(intent.drift, at) and not unsolved)
