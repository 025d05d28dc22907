"""Watchdog Mesh: SOC agents that watch each other.

Monitor and what it hands out are imported when first used: an agent that embeds only `watchdog.heartbeat` pays for
that alone.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING to type checkers; importing typing takes longer than Python's own start
if TYPE_CHECKING:
    from watchdog.ladder import Policy
    from watchdog.model import Action, Escalation, PeerStatus, Severity, Stats, Status
    from watchdog.monitor import Monitor

__version__ = "0.1.0"

__all__ = ["Action", "Escalation", "Monitor", "PeerStatus", "Policy", "Severity", "Stats", "Status"]

_HOME = {"Monitor": "watchdog.monitor", "Policy": "watchdog.ladder"}


def __getattr__(name: str) -> object:
    """The public names, from where they live (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME.get(name, "watchdog.model")), name)
