"""Packet filters that a unit keeps over its restarts: a runtime drop-in that names our pinned programs.

A unit's restart makes a new cgroup, and what was attached to the old one is gone; systemd attaches what
IPIngressFilterPath= and IPEgressFilterPath= name (systemd.resource-control(5)) before every start.
`systemctl set-property` refuses these two names, hence a file.

Traps, all seen with systemd 252:
- A drop-in whose pin is missing keeps the unit from starting at all: closed, not open. Remove a drop-in
  before its pins.
- At every daemon-reload, whoever asks for it, systemd detaches the programs it attached and attaches them
  again, and a packet or two pass in between (59 in 60 reloads); attaching the same program directly beside
  changes nothing, since a program is attached once and systemd takes it. So the drop-in must name other
  programs than those attached directly, which then hold meanwhile (0 in 60).
- After the drop-in is gone, systemd detaches only where another unit of the same slice has filters, else the
  programs stay attached. Detach them by program id afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from watchdog.errors import HostCannot, SystemdFailed, UsageError
from watchdog.host import systemd
from watchdog.host.systemd import QUERY_TIMEOUT_S, RELOAD_TIMEOUT_S, UnitState

BASE = Path("/run/systemd/system")
FILE_NAME = "50-watchdog-mesh.conf"
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]+")
"""Paths that mean themselves in a unit file: no specifier (%), no blank, no colon."""


@dataclass(frozen=True, slots=True)
class InstalledFilters:
    """A drop-in of ours, as it is on disk."""

    unit: str
    path: Path
    ingress: Path | None
    egress: Path | None


def drop_in(unit: str, base: Path = BASE) -> Path:
    """Where the drop-in of a unit, given by its full name, is."""
    return base / f"{unit}.d" / FILE_NAME


def install_filters(
    unit: str, ingress_pin: Path, egress_pin: Path, *, base: Path = BASE, timeout_s: float = RELOAD_TIMEOUT_S
) -> Path:
    """Have systemd attach two pinned cgroup_skb programs to a unit, now and before each later start.

    Returns the drop-in's path. Raises UsageError
    for a missing unit or pin; SystemdFailed when systemd does not take the setting (the drop-in is removed
    again) or does not answer in time (the drop-in stays: a cut that may hold is not undone by a timeout).
    """
    state = systemd.show(unit)
    for pin in (ingress_pin, egress_pin):
        _check_pin(pin)
    path = drop_in(state.id, base)
    _write_whole(path, _text(state.id, ingress_pin, egress_pin))
    try:
        systemd.daemon_reload(timeout_s)
    except SystemdFailed as error:
        raise SystemdFailed(f"{error.message}; {path} stays in place", hint=error.hint) from error
    if not _taken(systemd.query(state.id), ingress_pin, egress_pin):
        remove_filters(state.id, base=base, timeout_s=timeout_s)
        raise SystemdFailed(
            f"systemd read {path} and did not take its filters",
            hint=f"see what it says: journalctl -b _PID=1 --grep {FILE_NAME}",
        )
    return path


def bar(units: Mapping[str, tuple[Path, Path]], *, base: Path = BASE, timeout_s: float = RELOAD_TIMEOUT_S) -> None:
    """Keep units from starting until `install_filters` follows: their drop-ins name pins that are not there yet.

    `units` has the ingress and egress pin by unit, given by its full name.
    """
    for unit, (ingress_pin, egress_pin) in units.items():
        _write_whole(drop_in(unit, base), _text(unit, ingress_pin, egress_pin))
    if units:
        systemd.daemon_reload(timeout_s)


def _check_pin(pin: Path) -> None:
    if not PLAIN_PATH.fullmatch(str(pin)):
        raise UsageError(f"{pin} cannot be written into a unit file", hint="use a path of letters, digits and . _ -")
    if not pin.exists():
        raise UsageError(f"there is no pinned program at {pin}: the unit could not start any more")


def _text(unit: str, ingress_pin: Path, egress_pin: Path) -> str:
    return (
        "# Isolated by watchdog-mesh; `watchdog-mesh release` removes this file.\n"
        f"[{systemd.section(unit)}]\n"
        f"IPIngressFilterPath={ingress_pin}\n"
        f"IPEgressFilterPath={egress_pin}\n"
    )


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")  # systemd reads *.conf only
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        raise SystemdFailed(f"cannot write {path}: {error.strerror}") from error


def _taken(state: UnitState, ingress_pin: Path, egress_pin: Path) -> bool:
    return str(ingress_pin) in state.ip_ingress_filter_path and str(egress_pin) in state.ip_egress_filter_path


def remove_filters(unit: str, *, base: Path = BASE, timeout_s: float = RELOAD_TIMEOUT_S) -> bool:
    """Take the drop-in of a unit away; whether there was one. Works for a unit that is gone, and twice.

    The programs may stay attached (see above): the caller looks at the hooks afterwards. SystemdFailed when
    systemd still has the setting, or does not answer: the file is gone by then, and calling again finishes
    the work.
    """
    name = systemd.normalise(unit)
    removed = _unlink(drop_in(name, base))
    before = _ask(name, min(timeout_s, QUERY_TIMEOUT_S))
    if before is None:
        return removed
    path = drop_in(before.id or name, base)  # another file than above when `unit` is an alias
    removed = _unlink(path) or removed
    if not removed and str(path) not in before.drop_in_paths:
        return False
    systemd.daemon_reload(timeout_s)
    if str(path) in systemd.query(name).drop_in_paths:
        raise SystemdFailed(f"systemd still uses {path} after a reload", hint="systemctl daemon-reload")
    return True


def _ask(name: str, timeout_s: float) -> UnitState | None:
    """None on a host whose systemd is not running: nothing there can hold a setting."""
    try:
        return systemd.query(name, timeout_s)
    except HostCannot:
        return None


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        removed = False
    except OSError as error:
        raise SystemdFailed(f"cannot remove {path}: {error.strerror}") from error
    else:
        removed = True
    path.with_suffix(".new").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others keep drop-ins there too
        os.rmdir(path.parent)  # noqa: PTH106
    return removed


def filters_installed(unit: str, *, base: Path = BASE) -> InstalledFilters | None:
    """The drop-in of ours that a unit has on disk; `unit` is its Id, not an alias. Asks no systemd."""
    name = systemd.normalise(unit)
    path = drop_in(name, base)
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SystemdFailed(f"cannot read {path}: {error.strerror}") from error
    named = dict(line.split("=", 1) for line in lines if "=" in line)
    pins = (named.get(key) for key in ("IPIngressFilterPath", "IPEgressFilterPath"))
    ingress, egress = (Path(pin) if pin else None for pin in pins)
    return InstalledFilters(name, path, ingress, egress)


def all_installed(*, base: Path = BASE) -> list[InstalledFilters]:
    """Every drop-in of ours on this host, also of units that are gone."""
    units = sorted(path.parent.name.removesuffix(".d") for path in base.glob(f"*.d/{FILE_NAME}"))
    found = (filters_installed(unit, base=base) for unit in units)
    return [filters for filters in found if filters is not None]
