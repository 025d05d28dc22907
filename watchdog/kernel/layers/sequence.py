"""The whole of an isolation in its order, its mirror image, and the question whether it holds.

The order has reasons. Freezing first, so that nothing of the agent runs while we work; but nobody waits for it before
the packets are stopped. Packets next: the layer that must hold. Then sockets that the agent has from elsewhere; what
is open already is disarmed before the refusals make that impossible. Release goes the other way, packets last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from watchdog.errors import KernelRefused, WatchdogError
from watchdog.kernel import programs
from watchdog.kernel.layers import freeze
from watchdog.kernel.layers.base import Layer, Target
from watchdog.kernel.layers.cookies import Cookies
from watchdog.kernel.layers.descriptors import Descriptors
from watchdog.kernel.layers.freeze import Freeze
from watchdog.kernel.layers.hooked import Hooked
from watchdog.kernel.layers.packets import Packets

PACKETS = Packets()

LAYERS: tuple[Layer, ...] = (
    PACKETS,
    Cookies(),
    Hooked("calls", programs.CALLS),
    Descriptors(),
    Hooked("unix", programs.UNIX),
    Hooked("options", programs.OPTIONS),
    Hooked("devices", programs.DEVICES),
    Freeze(),
)
"""In the order in which they are put in force; packets is the first."""

Step = Callable[[str], None]
"""Told the name of every step once it is done; tests stop there."""


def no_step(_: str) -> None:
    """Nobody wants to know."""


def cut(target: Target, step: Step = no_step, layers: Sequence[Layer] = LAYERS) -> list[str]:
    """Put every layer in force; what does not hold of them afterwards, a sentence each.

    WatchdogError where the packets cannot be stopped: nothing else is worth anything then. Any other layer that
    fails is a gap. The target runs again when this returns or raises, except at level frozen.
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
    return [*not_frozen, *gaps(target, layers, refused)]


def free(target: Target, step: Step = no_step, layers: Sequence[Layer] = LAYERS) -> None:
    """Undo every layer, packets last. WatchdogError says what stays; the others are undone nevertheless."""
    stays: list[str] = []
    for layer in reversed(layers):
        try:
            layer.detach(target)
        except WatchdogError as error:
            stays.append(error.one_line())
        step(layer.name)
    if stays:
        raise KernelRefused("; ".join(stays))


def gaps(target: Target, layers: Sequence[Layer] = LAYERS, refused: dict[str, str] | None = None) -> list[str]:
    """What does not hold, asked of the kernel, each with its layer; `refused` has reasons that are known better."""
    found: list[str] = []
    for layer in layers:
        reason = (refused or {}).get(layer.name)
        found += [f"{layer.name}: {gap}" for gap in ([reason] if reason else _gaps_of(layer, target))]
    return found


def holding(target: Target, layers: Sequence[Layer] = LAYERS) -> frozenset[str]:
    """The names of the layers that hold whole."""
    return frozenset(layer.name for layer in layers if not _gaps_of(layer, target))


def _refusal(layer: Layer, target: Target) -> str:
    try:
        layer.attach(target)
    except WatchdogError as error:
        return error.one_line()
    return ""


def _gaps_of(layer: Layer, target: Target) -> list[str]:
    try:
        return layer.gaps(target)
    except WatchdogError as error:
        return [error.one_line()]
