"""The bed of the evasion table and the isolations it is tried with.

A new layer: give it an `Isolate` in ISOLATIONS that says which layers hold. The catalogue then says of every path
whether it is covered, and test_evasion.py holds it to that in both directions.
"""

from __future__ import annotations

from collections.abc import Callable

from watchdog.kernel.slots import Slot
from watchdog.paths import coverage
from watchdog.paths.coverage import Isolate

ISOLATIONS: dict[str, Callable[[Slot], Isolate]] = {
    "packets": coverage.packets,
}
"""By name, made with a free slot."""
