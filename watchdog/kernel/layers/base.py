"""What a layer is, and what it works on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel.cgroups import Cgroup
from watchdog.kernel.common import Common
from watchdog.kernel.programs import INGRESS
from watchdog.kernel.slots import Slot
from watchdog.kernel.sockets import Known

NETWORK, FROZEN = "network", "frozen"
"""Levels: cut off and running, or cut off and stopped."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one isolation holds, and with what."""

    cgroups: tuple[Cgroup, ...]
    """All that the agent occupies now: more than one while a unit is being restarted, none when it does not run."""
    slot: Slot
    common: Common
    root: Path
    """Where the v2 hierarchy is mounted."""
    level: str = NETWORK
    allows: bool | None = None
    """Whether its isolation lets anything pass; None: as the slot's allow-list says."""
    host_links: bool = False
    """Whether filters may be put on links of the host's own network namespaces. Never unless it was asked for."""
    host_end: str = ""
    """The veth in the host's own network namespace that an operator has named as the other end of the target's."""
    held: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Program ids that the journal has of this isolation, by layer; of an earlier version's programs after an
    upgrade."""
    known: Known = field(default_factory=dict, compare=False)
    """What was found out about its sockets, for who looks again and again."""
    covered: dict[str, set[tuple[int, int]]] = field(default_factory=dict, compare=False)
    """By layer, the links that were seen with its filters, each by its namespace's inode and its index; layers keep it,
    to tell a link that is new from one whose filter was taken away."""

    @property
    def isolation_id(self) -> int:
        """Tells this isolation from others in maps that they share: no two slots that exist have the same."""
        return self.slot.programs[INGRESS.name]

    def seen_links(self, layer: str, spaces: Collection[int]) -> set[tuple[int, int]]:
        """`covered` of one layer, for it to keep; without what was seen in other namespaces than these."""
        seen = self.covered.setdefault(layer, set())
        seen -= {each for each in seen if each[0] not in spaces}
        return seen

    def ids(self, layer: str) -> frozenset[int]:
        """The recorded program ids of one layer."""
        return self.held.get(layer, frozenset())


class Layer(Protocol):
    """One measure. Every method may be called at any time, by any process, twice."""

    @property
    def name(self) -> str:
        """As in watchdog.paths.words.Layer."""

    def missing(self, common: Common) -> str:
        """Why this kernel lacks it, or a part of it; "" where it has it."""

    def not_applicable(self, target: Target) -> str:
        """Why this target needs none of it; "" where it does."""

    def attach(self, target: Target) -> None:
        """Put it in force where it is not. WatchdogError where that is not possible."""

    def gaps(self, target: Target) -> list[str]:
        """What of it does not hold, a sentence each, asked of the kernel; none where all of it does."""

    def detach(self, target: Target) -> None:
        """Undo it, whoever did it, and nothing of others. WatchdogError where something of it stays."""


def raise_together(refused: Sequence[WatchdogError]) -> None:
    """Raise what was refused while everything else was done: as it is when it is one, as one when it is several."""
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise KernelRefused("; ".join(error.one_line() for error in refused))
