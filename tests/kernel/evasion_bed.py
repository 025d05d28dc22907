"""The bed of the evasion table and the isolations it is tried with.

A new layer: give it an `Isolate` in ISOLATIONS that says which layers hold. The catalogue then says of every path
whether it is covered, and test_evasion.py holds it to that in both directions.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.kernel.lsm_bed import is_worth_trying
from watchdog.kernel.common import Common
from watchdog.kernel.layers.base import FROZEN
from watchdog.kernel.layers.sequence import LAYERS
from watchdog.kernel.slots import Slot
from watchdog.paths import coverage
from watchdog.paths.coverage import Isolate

Make = Callable[[Slot, Common], Isolate]

ALONE = ("packets", "cookies", "calls", "unix", "options", "devices", "tc", *(["lsm"] if is_worth_trying() else []))


def alone(name: str) -> Make:
    """One layer and nothing else."""
    chosen = [layer for layer in LAYERS if layer.name == name]
    return lambda slot, common: coverage.layered(slot, common, chosen)


ISOLATIONS: dict[str, Make] = {
    **{name: alone(name) for name in ALONE},
    "network": coverage.layered,
    "frozen": lambda slot, common: coverage.layered(slot, common, level=FROZEN),
}
"""By name, made with a free slot and the common programs."""
