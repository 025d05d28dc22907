"""The whole of an isolation in its order, its mirror image, and the question whether it holds.

The order has reasons. Freezing first, so that nothing of the agent runs while we work; but nobody waits for it before
the packets are stopped. Packets next: the layer that must hold. Then sockets that the agent has from elsewhere; what
is open already is disarmed before the refusals make that impossible. Release goes the other way, packets last, and
only then does a frozen agent run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import programs
from watchdog.kernel.layers import freeze
from watchdog.kernel.layers.base import Layer, Target
from watchdog.kernel.layers.calls import Calls
from watchdog.kernel.layers.cookies import Cookies
from watchdog.kernel.layers.descriptors import Descriptors
from watchdog.kernel.layers.devices import Devices
from watchdog.kernel.layers.freeze import Freeze
from watchdog.kernel.layers.hooked import Hooked
from watchdog.kernel.layers.host_end import HostEnd
from watchdog.kernel.layers.lsm import Lsm
from watchdog.kernel.layers.once import one_look
from watchdog.kernel.layers.packets import Packets
from watchdog.kernel.layers.tc import Tc

PACKETS, COOKIES, DESCRIPTORS, FREEZE = Packets(), Cookies(), Descriptors(), Freeze()

LAYERS: tuple[Layer, ...] = (
    PACKETS,
    COOKIES,
    Calls(),
    DESCRIPTORS,
    Hooked("unix", programs.UNIX),
    Hooked("options", programs.OPTIONS),
    Devices(),
    Tc(),
    HostEnd(),
    Lsm(),
    FREEZE,
)
"""In the order in which they are put in force."""

Step = Callable[[str], None]
"""Told the name of every step once it is done; tests stop there."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one layer stands for one target, as the kernel says."""

    layer: str
    not_applicable: str = ""
    """Why the target needs none of it."""
    missing: str = ""
    """Why this kernel lacks it, or a part of it."""
    gaps: tuple[str, ...] = ()
    """What of it ought to hold and does not."""

    @property
    def holds(self) -> bool:
        """Whether all of it is in force."""
        return not (self.not_applicable or self.missing or self.gaps)


def no_step(_: str) -> None:
    """Nobody wants to know."""


def cut(target: Target, step: Step = no_step, layers: Sequence[Layer] = LAYERS) -> dict[str, str]:
    """Put every layer in force; why not, by the names of those that could not be. `standings` says what holds then.

    WatchdogError where the packets cannot be stopped: nothing else is worth anything then. Any other layer that
    fails opens nothing. The target runs again when this returns or raises, except at level frozen.
    """
    refused: dict[str, str] = {}
    with freeze.standing_still(target) as not_frozen:
        step("stopped")
        for layer in layers:
            if layer is PACKETS:
                layer.attach(target)
                freeze.await_still(target)
            elif reason := _refusal(layer, target):
                refused[layer.name] = reason
            step(layer.name)
    step("running")
    if not_frozen:
        refused.setdefault(FREEZE.name, "; ".join(not_frozen))
    return refused


def free(target: Target, step: Step = no_step, layers: Sequence[Layer] = LAYERS) -> None:
    """Undo every layer, packets last. WatchdogError says what stays; the others are undone nevertheless."""
    stays: list[str] = []
    for layer in (*(each for each in reversed(layers) if each is not FREEZE), FREEZE):
        try:
            layer.detach(target)
        except WatchdogError as error:
            stays.append(error.one_line())
        step(layer.name)
    if stays:
        raise KernelRefused("; ".join(stays))


def standings(target: Target, layers: Sequence[Layer] = LAYERS) -> list[Standing]:
    """How every layer stands, asked of the kernel."""
    return [_standing(layer, target) for layer in layers]


def gaps(found: Sequence[Standing]) -> list[str]:
    """What ought to hold and does not, each with its layer."""
    return [f"{standing.layer}: {gap}" for standing in found for gap in standing.gaps]


def rescan(target: Target) -> list[str]:
    """Look for sockets that have come since, and see to them; what could not be done, a sentence each.

    Cheap while there is nothing new: call it every few seconds, with a target that keeps what it knows.
    """
    with one_look():  # what one does changes nothing of what the other looks for
        refused = {layer.name: _refusal(layer, target) for layer in (COOKIES, DESCRIPTORS)}
    return [f"{name}: {reason}" for name, reason in refused.items() if reason]


def _standing(layer: Layer, target: Target) -> Standing:
    try:
        if not_applicable := layer.not_applicable(target):
            return Standing(layer.name, not_applicable=not_applicable)
        missing = layer.missing(target.common)
        found = tuple(gap for gap in layer.gaps(target) if gap != missing)
    except WatchdogError as error:
        return Standing(layer.name, gaps=(error.one_line(),))
    return Standing(layer.name, missing=missing, gaps=found)


def _refusal(layer: Layer, target: Target) -> str:
    try:
        layer.attach(target)
    except WatchdogError as error:
        return error.one_line()
    return ""
