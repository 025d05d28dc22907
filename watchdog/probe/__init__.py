"""One GET to one heartbeat, bounded in time and size whatever the peer does."""

from watchdog.model import Progress
from watchdog.probe.exchange import CannotProbe
from watchdog.probe.judge import Expected, Verdict, judge
from watchdog.probe.prober import Prober
from watchdog.probe.target import OwnerCheck, Ownership, OwnerVerdict, Target

__all__ = [
    "CannotProbe",
    "Expected",
    "OwnerCheck",
    "OwnerVerdict",
    "Ownership",
    "Prober",
    "Progress",
    "Target",
    "Verdict",
    "judge",
]
