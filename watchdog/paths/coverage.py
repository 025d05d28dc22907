"""What holds on this very host, path by path: every path is tried in a bed before, during and after an isolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from watchdog.kernel import gate
from watchdog.kernel.common import Common
from watchdog.kernel.layers import sequence
from watchdog.kernel.layers.base import NETWORK, Target
from watchdog.kernel.layers.base import Layer as KernelLayer
from watchdog.kernel.slots import Slot
from watchdog.paths import bed, catalogue
from watchdog.paths.actor import SILENT
from watchdog.paths.bed import FACTS, Bed, Subject
from watchdog.paths.play import Tried
from watchdog.paths.words import Coverage, Facts, Layer, TrafficPath, Verdict

Isolate = Callable[[Subject], AbstractContextManager[frozenset[Layer]]]
"""Isolates the subject and says which layers hold; at the end of the context it is released."""

MISSING = frozenset({"EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "ENOENT", "ENODEV", "ENOPROTOOPT", "ENOSYS"})
"""What a kernel answers that lacks a thing altogether."""


@dataclass(frozen=True, slots=True)
class Row:
    """One path, tried by one of the bed's agents."""

    path: str
    title: str
    who: str
    """ "root" or "user"."""
    before: Tried
    during: Tried
    after: Tried
    verdict: Verdict
    """What the catalogue says of it; of a path that this kernel or this user does not have: not applicable."""
    ended: bool = False
    """A layer did to it what no release takes back."""

    @property
    def disagreement(self) -> str:
        """What was seen that the verdict does not allow; empty where they agree."""
        return disagreement(self.before, self.during, self.after, self.verdict.coverage, ended=self.ended)


def coverage(isolate: Isolate, parent: Path | None = None, arrives_s: float = bed.ARRIVES_S) -> list[Row]:
    """Try everything in a scratch bed below `parent` (default: the v2 root): about 3 s, and nothing stays.

    Both agents' rows of a path follow each other, in the catalogue's order. The kernel may load modules for it (vsock).
    WatchdogError where no bed can be made or where `isolate` fails.
    """
    with bed.opened(parent) as opened:
        return measure(opened, isolate, arrives_s)


def measure(opened: Bed, isolate: Isolate, arrives_s: float = bed.ARRIVES_S) -> list[Row]:
    """The same in a bed that is there. What has not arrived after `arrives_s` counts as stopped."""
    before = opened.attempt(arrives_s)
    with isolate(opened.subject) as layers:
        during = opened.attempt(arrives_s)
    ended = {row.key for row in opened.rows if catalogue.find(row.path).ended_by & layers}
    resuming = {key for key, tried in before.items() if tried.passed} - ended
    after = during | opened.attempt(bed.RESUMES_S, only=resuming)
    seen = [
        Row(
            row.path,
            catalogue.find(row.path).title,
            row.who,
            before[row.key],
            during[row.key],
            after[row.key],
            judge(catalogue.find(row.path), before[row.key], layers, FACTS[row.who]),
            row.key in ended,
        )
        for row in opened.rows
    ]
    order = [path.id for path in catalogue.CATALOGUE]
    return sorted(seen, key=lambda row: order.index(row.path))


def judge(path: TrafficPath, before: Tried, layers: frozenset[Layer], facts: Facts) -> Verdict:
    """The catalogue's verdict, unless the path turned out not to be there."""
    said = catalogue.verdict(path, layers, facts)
    if not before.passed and before.word in MISSING and said.coverage is not Coverage.NOT_APPLICABLE:
        return replace(said, coverage=Coverage.NOT_APPLICABLE, why=f"this kernel has none of it: {before.word}")
    return said


def disagreement(before: Tried, during: Tried, after: Tried, said: Coverage, *, ended: bool = False) -> str:
    """Why what was seen and what is said of a path cannot both be right; empty where they can.

    A process that does not answer is frozen: it shows nothing of what the kernel goes on with.
    """
    if said is Coverage.NOT_APPLICABLE:
        return ""
    if not before.passed:
        return f"it did not pass before the isolation: {before.word}"
    if said is Coverage.COVERED and during.passed:
        return "it is said to be covered, and got through"
    if said is Coverage.NOT_COVERED and not during.passed and during.word != SILENT:
        return f"it is said not to be covered, and was stopped: {during.word}"
    return "" if after.passed or ended else f"it did not pass after the release: {after.word}"


def packets(slot: Slot) -> Isolate:
    """Isolation by the packet hooks alone, with a free slot."""

    @contextmanager
    def isolate(subject: Subject) -> Iterator[frozenset[Layer]]:
        gate.attach(subject.cgroup, slot)
        try:
            yield frozenset({Layer.PACKETS})
        finally:
            gate.detach(subject.cgroup, slot.program_ids)

    return isolate


def layered(
    slot: Slot, common: Common, chosen: Sequence[KernelLayer] = sequence.LAYERS, level: str = NETWORK
) -> Isolate:
    """Isolation by the layers as they are put in force together, or by some of them, with a free slot."""

    @contextmanager
    def isolate(subject: Subject) -> Iterator[frozenset[Layer]]:
        target = Target((subject.cgroup,), slot, common, subject.cgroup.root, level=level)
        sequence.cut(target, layers=chosen)
        try:
            yield frozenset(Layer(each.layer) for each in sequence.standings(target, chosen) if each.holds)
        finally:
            sequence.free(target, layers=chosen)

    return isolate
