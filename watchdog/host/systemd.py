"""The only door to systemd: `systemctl`, found on PATH, always with a deadline.

Unit properties are those of org.freedesktop.systemd1(5). Restarts are in unit_restart, lasting packet
filters in unit_filters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import HostCannot, SystemdFailed, UsageError
from watchdog.host import command

QUERY_TIMEOUT_S = 10.0
RELOAD_TIMEOUT_S = 30.0
FILTER_PATHS_SINCE = 243
"""The first systemd with IPIngressFilterPath= and IPEgressFilterPath= (systemd.resource-control(5))."""
NAME_LIMIT_BYTES = 255
"""UNIT_NAME_MAX of systemd is 256 with the final zero."""
NAME = re.compile(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*")
"""systemd.unit(5): digits, letters and : - _ . \\ @; ours may not begin like an option."""
SECTIONS = {
    "service": "Service",
    "scope": "Scope",
    "slice": "Slice",
    "socket": "Socket",
    "mount": "Mount",
    "swap": "Swap",
}
"""Unit types that have a cgroup, and the section of their settings."""
OTHER_TYPES = ("target", "device", "timer", "path", "automount")
SYSTEMD_RUNTIME = Path("/run/systemd/system")
"""Exists exactly when systemd is PID 1: sd_booted(3)."""
SEE_UNITS = "see which there are: systemctl list-units --all"
NOT_FOUND = "not-found"
"""LoadState of a unit that systemd does not know."""
WITHOUT = "name the agent by pid_file, exec or port in the configuration, or by --pid or --cgroup"
ANSWERS = ("initializing", "starting", "running", "degraded", "maintenance", "stopping")
PROPERTIES = (
    "Id",
    "Names",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "Type",
    "ExitType",
    "MainPID",
    "ControlGroup",
    "InvocationID",
    "FragmentPath",
    "DropInPaths",
    "Job",
    "IPIngressFilterPath",
    "IPEgressFilterPath",
)


@dataclass(frozen=True, slots=True)
class Support:
    """Whether this host can do something, with the reason for people."""

    ok: bool
    detail: str

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd knows of one unit at one moment; "", 0 or () where the unit type has no such property."""

    id: str
    names: tuple[str, ...]
    load_state: str
    active_state: str
    sub_state: str
    result: str
    type: str
    exit_type: str
    """"" before systemd 250."""
    main_pid: int
    control_group: str
    """Path below the cgroup root, "/system.slice/x.service"; "" while the unit has no processes."""
    invocation_id: str
    fragment_path: str
    drop_in_paths: tuple[str, ...]
    job: int
    """Number of the job queued or running for the unit; 0 for none."""
    ip_ingress_filter_path: tuple[str, ...]
    ip_egress_filter_path: tuple[str, ...]

    @property
    def is_unknown(self) -> bool:
        """Whether systemd knows no such unit, and none of that name runs still."""
        return self.load_state == NOT_FOUND and self.active_state == "inactive"

    def in_words(self) -> str:
        """As `systemctl status` would put it: "failed (failed), result exit-code"."""
        return f"{self.active_state} ({self.sub_state}), result {self.result or 'unknown'}"


def normalise(name: str) -> str:
    """The full name of a unit that may be meant by `name`: "shield" is "shield.service".

    UsageError for what can name no single unit with processes: paths, globs, options, templates, targets.
    """
    if not NAME.fullmatch(name) or len(name.encode()) > NAME_LIMIT_BYTES:
        raise UsageError(
            f"{name!r} is not the name of a unit",
            hint="give one name without path or wildcards, like shield.service",
        )
    stem, _, suffix = name.rpartition(".")
    if not stem or suffix not in (*SECTIONS, *OTHER_TYPES):
        return normalise(f"{name}.service")
    if suffix in OTHER_TYPES:
        raise UsageError(f"{name!r} is a {suffix} unit: it has no processes", hint="name the service itself")
    if stem.endswith("@"):
        raise UsageError(f"{name!r} is a template", hint=f"name an instance, like {stem}1.{suffix}")
    return name


def section(unit: str) -> str:
    """The section of a unit file where a unit of this type keeps its settings."""
    return SECTIONS[unit.rpartition(".")[2]]


def systemctl(words: Sequence[str], timeout_s: float) -> command.Completed:
    """Run systemctl to its end. SystemdFailed when it hangs, HostCannot when there is none or no systemd."""
    try:
        done = command.run(["systemctl", "--no-pager", "--no-ask-password", *words], timeout_s, env=_environment())
    except command.CommandTimeout as error:
        raise SystemdFailed(
            f"systemd did not answer: {error.message}", hint="see whether PID 1 hangs: systemctl list-jobs"
        ) from error
    except command.CommandNotFound as error:
        raise HostCannot("this host has no systemctl", hint=WITHOUT) from error
    if done.status != 0 and "not been booted with systemd" in done.stderr:
        raise HostCannot("systemd is not running on this host", hint=WITHOUT)
    return done


def _environment() -> dict[str, str]:
    """Ours, in the language we parse, without what changes systemctl's output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SYSTEMD_", "LC_"))}
    return {"PATH": os.defpath, **kept, "LANG": "C", "LC_ALL": "C", "SYSTEMD_COLORS": "0"}


def running(timeout_s: float = QUERY_TIMEOUT_S) -> Support:
    """Whether systemd is PID 1 here and answers."""
    if not SYSTEMD_RUNTIME.is_dir():
        return Support(False, f"systemd is not PID 1 here: there is no {SYSTEMD_RUNTIME}")
    try:
        word = systemctl(["is-system-running"], timeout_s).stdout.strip()
    except (SystemdFailed, HostCannot) as error:
        return Support(False, error.message)
    return Support(word in ANSWERS, f"systemctl says {word or 'nothing'}")


def version() -> int:
    """The number of the systemd release, 252."""
    first = systemctl(["--version"], QUERY_TIMEOUT_S).stdout.partition("\n")[0]
    found = re.match(r"systemd (\d+)", first)
    if found is None:
        raise SystemdFailed(f"cannot read systemd's version from {first!r}")
    return int(found[1])


def supports_filter_paths() -> Support:
    """Whether units here can have lasting packet filters (unit_filters)."""
    try:
        number = version()
    except (SystemdFailed, HostCannot) as error:
        return Support(False, error.message)
    if number < FILTER_PATHS_SINCE:
        return Support(False, f"systemd {number} lacks IPIngressFilterPath=; it needs {FILTER_PATHS_SINCE}")
    return Support(True, f"systemd {number}")


def query(unit: str, timeout_s: float = QUERY_TIMEOUT_S) -> UnitState:
    """What systemd knows of a unit, also of one that does not exist (load_state NOT_FOUND)."""
    name = normalise(unit)
    done = systemctl(["show", f"--property={','.join(PROPERTIES)}", "--", name], timeout_s)
    if done.status != 0:
        raise SystemdFailed(f"systemctl show {name} failed: {done.last_error_line() or done.ending()}")
    return parse_state(done.stdout)


def show(unit: str, timeout_s: float = QUERY_TIMEOUT_S) -> UnitState:
    """What systemd knows of a unit that exists; UsageError for one that does not."""
    state = query(unit, timeout_s)
    if state.is_unknown:
        raise UsageError(f"there is no unit {state.id!r} on this host", hint=SEE_UNITS)
    return state


def unknown_of(units: Sequence[str], timeout_s: float = QUERY_TIMEOUT_S) -> set[str]:
    """Those of the units, by their full names, that systemd does not know: asked in one call, answered in blocks."""
    words = ["show", "--property=Id,LoadState,ActiveState", "--", *units]
    states = [parse_state(block) for block in systemctl(words, timeout_s).stdout.strip().split("\n\n")]
    return {unit for unit, state in zip(units, states, strict=True) if state.is_unknown}


def parse_state(text: str) -> UnitState:
    """Read the output of `systemctl show`. A name on several lines is a list."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and value:
            values.setdefault(key, []).append(value)
    word = {key: found[-1] for key, found in values.items()}
    return UnitState(
        id=word.get("Id", ""),
        names=tuple(word.get("Names", "").split()),
        load_state=word.get("LoadState", ""),
        active_state=word.get("ActiveState", ""),
        sub_state=word.get("SubState", ""),
        result=word.get("Result", ""),
        type=word.get("Type", ""),
        exit_type=word.get("ExitType", ""),
        main_pid=_number(word, "MainPID"),
        control_group=word.get("ControlGroup", ""),
        invocation_id=word.get("InvocationID", ""),
        fragment_path=word.get("FragmentPath", ""),
        drop_in_paths=tuple(word.get("DropInPaths", "").split()),
        job=_number(word, "Job"),
        ip_ingress_filter_path=_words(values, "IPIngressFilterPath"),
        ip_egress_filter_path=_words(values, "IPEgressFilterPath"),
    )


def _number(values: Mapping[str, str], key: str) -> int:
    """The leading number of a property; a job is shown as its number, none as "" or "0"."""
    found = re.match(r"\d+", values.get(key, ""))
    return int(found[0]) if found else 0


def _words(values: Mapping[str, Sequence[str]], key: str) -> tuple[str, ...]:
    return tuple(word for line in values.get(key, ()) for word in line.split())


def daemon_reload(timeout_s: float = RELOAD_TIMEOUT_S) -> None:
    """Have systemd read its unit files again."""
    done = systemctl(["daemon-reload"], timeout_s)
    if done.status != 0:
        raise SystemdFailed(f"systemctl daemon-reload failed: {done.last_error_line() or done.ending()}")
