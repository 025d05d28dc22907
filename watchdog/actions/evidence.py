"""What this host itself says against a silent peer: its unit is down, or nothing of the agent runs any more.

It stands for a second word when an isolation is asked for (watchdog/quorum.py), so it is only what is certain: what
cannot be found out says nothing.
"""

from __future__ import annotations

from pathlib import Path

from watchdog import config
from watchdog.actions.place import selector_of
from watchdog.errors import WatchdogError
from watchdog.host import agents, systemd
from watchdog.host.systemd import UnitState
from watchdog.kernel import cgroups

DOWN = ("failed", "inactive")
"""Not "deactivating": a slow stop proves nothing."""
ACTIVE = "active"
HAVE_MAIN_PROCESS = ("simple", "exec", "notify", "notify-reload", "dbus", "idle")
"""Types of service whose main process systemd always knows; of a forking one it may have to guess."""
EXIT_OF_CGROUP = "cgroup"
"""ExitType= of a service that lives as long as any of its processes."""
TIMEOUT_S = 2.0


def against(peer: config.Peer, root: Path) -> tuple[str, bool]:
    """A sentence, empty for nothing; and whether systemd itself reports the unit failed or dead."""
    try:
        if peer.unit is not None:
            return judge_unit(systemd.query(peer.unit, TIMEOUT_S))
        if peer.cgroup is not None:
            return _of_cgroup(peer.cgroup, root), False
        if peer.selector is not None:
            agents.find(selector_of(peer))
    except agents.NotRunning as error:
        return error.message, False
    except WatchdogError:
        return "", False  # no evidence is no evidence: a hung systemctl says nothing about the peer
    return "", False


def judge_unit(state: UnitState) -> tuple[str, bool]:
    """As `against`. A unit that systemd does not know is a slip in the configuration, and says nothing of the agent."""
    if state.load_state == systemd.NOT_FOUND:
        return "", False
    if state.active_state in DOWN:
        return f"{state.id} is {state.in_words()}", True
    if state.active_state != ACTIVE or not state.type:
        return "", False
    if not state.control_group:
        return f"{state.id} is {state.in_words()}, and has no process", False
    if state.main_pid or state.type not in HAVE_MAIN_PROCESS or state.exit_type == EXIT_OF_CGROUP:
        return "", False
    return f"{state.id} is {state.in_words()}, and its main process is gone", False


def _of_cgroup(path: Path, root: Path) -> str:
    if path.is_relative_to(root) and not path.exists():
        return f"its cgroup {path} is gone"
    return "" if cgroups.processes(cgroups.resolve(path, root)) else f"its cgroup {path} has no process"
