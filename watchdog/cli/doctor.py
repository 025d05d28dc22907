"""`doctor`: what this host can do, proved on a scratch cgroup, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click

from watchdog import config, config_files
from watchdog.actions import programs, targets
from watchdog.actions.place import Place, selector_of
from watchdog.cli.app import common, need_root, place_of, usable
from watchdog.cli.output import Output, one_line, table
from watchdog.config import Config
from watchdog.errors import ConfigurationError, Exit, HostCannot, WatchdogError
from watchdog.host import agents, systemd
from watchdog.host.processes import describe
from watchdog.kernel import bpffs, cgroups, headers, libbpf, selftest
from watchdog.kernel.layers import tc
from watchdog.kernel.selftest import Check
from watchdog.numbers import counted


@click.command()
@common
@click.option("--coverage", is_flag=True, help="Try every known path before, during and after an isolation.")
def verb(config_path: Path | None, as_json: bool, coverage: bool) -> int:
    """Say what this host can do, and what to do about what is missing.

    Proves isolation on a scratch cgroup of its own: attach, drop, count, detach. Ends with 5 when this host
    cannot isolate, 1 when something else is not as it should be. With --coverage: 1 when anything that was
    seen is not what is said of it.
    """
    output = Output(as_json=as_json)
    need_root()
    settings, wrong = usable(config_path)
    if coverage:
        from watchdog.cli import doctor_coverage

        with place_of(settings) as place:
            return doctor_coverage.run(output, place)
    checks = list(_host_checks(settings))
    can_isolate = all(check.ok for check in checks)
    checks += _other_checks(settings, config.find(config_path), wrong)
    output.document("doctor", 1, {"can_isolate": can_isolate, "checks": [asdict(check) for check in checks]})
    if not as_json:
        table([("ok" if check.ok else "FAIL", check.name, check.detail) for check in checks], ("", "CHECK", "FOUND"))
        output.words(*(f"{check.name}: {one_line(check.remedy)}" for check in checks if not check.ok and check.remedy))
        output.words("This host can isolate." if can_isolate else "This host CANNOT isolate.")
    if not can_isolate:
        return Exit.HOST_CANNOT
    return Exit.OK if all(check.ok for check in checks) else Exit.FAILED


def _host_checks(settings: Config) -> Iterator[Check]:
    """What an isolation needs, each asked of the host itself; the first that fails ends the list."""
    for name, ask in _steps(settings):
        check = _tried(name, ask)
        yield check
        if not check.ok:
            return
    with place_of(settings) as place:
        yield from _proof(place)


def _steps(settings: Config) -> list[tuple[str, Callable[[], str]]]:
    return [
        ("cgroup v2", lambda: str(cgroups.find_v2_root())),
        ("libbpf", _libbpf),
        ("bcc", _bcc),
        ("kernel headers", _headers),
        ("BPF filesystem", lambda: str(bpffs.prepare(settings.paths.bpffs))),
        ("journal", lambda: _journal(settings)),
    ]


def _tried(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=ask())
    except WatchdogError as error:
        return Check(name, ok=False, detail=error.message, remedy=error.hint)


def _libbpf() -> str:
    libbpf.require()
    libbpf.require_bpf()
    return "loaded, and this process may use BPF"


def _bcc() -> str:
    """Whether the builder process will find bcc; it alone imports it."""
    found = importlib.util.find_spec("bcc")
    if found is None or found.origin is None:
        raise HostCannot(
            "this Python sees no bcc",
            hint="apt-get install python3-bpfcc, and a virtual environment of /usr/bin/python3 with "
            "--system-site-packages: scripts/setup does both",
        )
    return found.origin


def _headers() -> str:
    host = os.uname()
    found = headers.find_headers(host.release, host.machine)
    return f"{found.tree or headers.HeaderRoots().in_kernel} for Linux {host.release}"


def _journal(settings: Config) -> str:
    from watchdog.errors import JournalCorrupt
    from watchdog.journal import Journal

    journal = Journal.open(settings.paths.state)
    try:
        if damage := journal.damage():
            raise JournalCorrupt(
                f"the journal {journal.path} is damaged: {damage[0]}",
                hint="watchdog-mesh reconcile --set-aside-journal",
            )
        return str(journal.path)
    finally:
        journal.close()


def _proof(place: Place) -> list[Check]:
    started_s = time.monotonic()
    try:
        with place.alone():
            slot = programs.take(place)
            checks = selftest.prove(slot)
    except WatchdogError as error:
        return [Check("programs", ok=False, detail=error.message, remedy=error.hint)]
    took_s = time.monotonic() - started_s
    return [Check("programs", ok=True, detail=f"ready and proved in {took_s:.1f} s"), *checks]


def _other_checks(settings: Config, path: Path, wrong: ConfigurationError | None) -> list[Check]:
    """What is not needed to isolate, and still should be right."""
    checks = [_tried("link filters", lambda: _link_filters(settings))]
    running = systemd.running()
    checks += [Check("systemd", ok=bool(running), detail=running.detail, remedy="" if running else NO_SYSTEMD)]
    if running:
        lasting = systemd.supports_filter_paths()
        checks.append(Check("lasting filters", ok=bool(lasting), detail=lasting.detail))
    if wrong is None and not path.exists():
        return [*checks, Check("configuration", ok=False, detail=f"there is none at {path}", remedy=WRITE_ONE)]
    unusable = wrong.message if wrong is not None else "; ".join(config_files.problems(settings))
    checks.append(
        Check(
            "configuration",
            ok=not unusable,
            detail=unusable or f"{path}: {counted(len(settings.peers), 'peer')}",
            remedy=f"watchdog-mesh config check --config {path}" if unusable else "",
        )
    )
    return checks + [_with_restart(peer, _peer_check(peer, bool(running))) for peer in settings.peers]


def _link_filters(settings: Config) -> str:
    """For what passes no other hook: tried on a network namespace of its own."""
    with place_of(settings) as place:
        if why_not := tc.why_not_here(targets.common_programs(place)):
            raise HostCannot(why_not, hint="frames of an agent that has CAP_NET_RAW are then not covered")
    return "put on a link and taken off again, in a scratch network namespace"


NO_SYSTEMD = "agents are then restarted by command, and an isolation does not follow a restart into a new cgroup"
WRITE_ONE = "watchdog-mesh config example > /etc/watchdog-mesh/config.toml"


def _found(peer: config.Peer) -> str:
    """Where an agent without a unit is now."""
    if peer.cgroup is not None:
        running = len(cgroups.processes(cgroups.resolve(peer.cgroup)))
        return f"{peer.cgroup}: {running or 'no'} {'process' if running == 1 else 'processes'}"
    how = selector_of(peer)
    found = agents.find(how)
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"found by {how}: {describe(found[0].pid)}{more}"


def _with_restart(peer: config.Peer, found: Check) -> Check:
    """A program that is to restart it is tried by nobody before the incident."""
    if (wrong := config_files.why_no_restart(peer)) is None:
        return found
    remedy = f"{found.remedy}; {wrong.hint}" if found.remedy else wrong.hint
    return Check(found.name, ok=False, detail=f"{found.detail}; restart: {wrong.message}", remedy=remedy)


def _peer_check(peer: config.Peer, systemd_runs: bool) -> Check:
    name = f"peer {peer.name}"
    if peer.selector is None:
        remedy = f"set one of {', '.join(config.SELECTORS)} for it"
        return Check(name, ok=False, detail="it cannot be found on this host, so not be isolated", remedy=remedy)
    if peer.unit is None:
        return _tried(name, lambda: _found(peer))
    if not systemd_runs:
        return Check(name, ok=False, detail=f"{peer.unit} needs systemd, which does not run here")
    try:
        state = systemd.show(peer.unit)
    except WatchdogError as error:
        return Check(name, ok=False, detail=error.message, remedy=error.hint)
    return Check(name, ok=True, detail=f"{state.id} is {state.in_words()}")
