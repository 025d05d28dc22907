"""The stand-ins of drills, as the journal has them: what may be done about one that its drill has left behind.

A drill that is killed leaves an isolation in force. Nobody is cut off by it once the stand-in is gone: it counts for no
rail then, and needs no time to be over.
"""

from __future__ import annotations

import re
from pathlib import Path

from watchdog.intents import Intent
from watchdog.kernel import cgroups
from watchdog.kernel.cgroups import DRILL_PREFIX, Cgroup

REASON = "a drill, on a stand-in"
"""Of every isolation by a drill."""
_NAME = re.compile(rf"{re.escape(DRILL_PREFIX)}[0-9]+-[0-9]+")


def is_gone(intent: Intent, root: Path) -> bool:
    """Whether this is a drill's isolation, and the cgroup that the drill made for it is there no more.

    Everything must be as a drill writes it: no agent is ever let back because it looks like a stand-in.
    """
    where, path = intent.where, Path(intent.where.cgroup)
    if where.unit or where.peer or where.moved is not None or not where.cgroup_id:
        return False
    made_by_a_drill = path.parent == root and _NAME.fullmatch(path.name) is not None and intent.why.reason == REASON
    return made_by_a_drill and intent.why.until is not None and not cgroups.exists(Cgroup(path, where.cgroup_id, root))
