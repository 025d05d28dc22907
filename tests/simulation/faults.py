"""What goes wrong: each fault begins, and most end by themselves. All of it is drawn from the schedule's own random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from tests.simulation.checks import Checks
from tests.simulation.host import NEVER, Host
from tests.simulation.process import RESTART_TIMEOUT_S, Process
from watchdog.mesh.coordinator import Silence
from watchdog.mesh.local import LocalCoordinator
from watchdog.model import Action
from watchdog.ordering import ISOLATION_LEASE_S
from watchdog.watcher import LEASE_MARGIN_S, Watcher

HOUR_S = 3600.0
CRASHES_SHARE = 0.3


@dataclass
class Mesh:
    """All there is in one schedule."""

    host: Host
    checks: Checks
    processes: dict[str, Process]
    calm: bool = False
    """No fault happens any more, and what would end one has nothing left to end."""

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have a fault begin or end."""
        self.host.later(delay_s, lambda: None if self.calm else call())

    @property
    def watchers(self) -> list[Watcher]:
        """Those that run."""
        return [process.watcher for process in self.processes.values() if process.runs]

    def some(self) -> str:
        """Any of the agents."""
        return self.host.rng.choice(self.host.names)

    def two(self) -> tuple[str, str]:
        """Two of them."""
        first, second = self.host.rng.sample(self.host.names, 2)
        return first, second

    def a_while_s(self, most_ticks: float = 14.0) -> float:
        """Some ticks, more often few."""
        return self.host.rng.uniform(0.2, 1.0) ** 2 * most_ticks * self.host.policy.interval_s


def crash(mesh: Mesh) -> None:
    """An agent crashes; a few restarts help, or none."""
    cures_in = mesh.host.rng.choice((1, 1, 2, 3, NEVER))
    _break(mesh, mesh.some(), crashed=True, cures_in=cures_in)


def hang(mesh: Mesh) -> None:
    """An agent hangs; its unit looks well."""
    cures_in = mesh.host.rng.choice((1, 2, 3, NEVER, NEVER))
    _break(mesh, mesh.some(), crashed=False, cures_in=cures_in)


def pause(mesh: Mesh) -> None:
    """An agent hangs, and goes on by itself."""
    name = mesh.some()
    _break(mesh, name, crashed=False, cures_in=NEVER)
    mesh.later(mesh.a_while_s(6.0), lambda: mesh.host.heal_agent(name))


def _break(mesh: Mesh, name: str, *, crashed: bool, cures_in: int) -> None:
    mesh.host.say(f"FAULT    {name} {'crashes' if crashed else 'hangs'}, restarts that it takes: {cures_in}")
    mesh.host.break_agent(name, crashed=crashed, cures_in=cures_in)


def break_two(mesh: Mesh, rng: Random) -> None:
    """Two agents crash or hang within two ticks, as after something that hit both."""
    for name in rng.sample(mesh.host.names, 2):
        crashed, cures_in = rng.random() < CRASHES_SHARE, rng.choice((1, 1, 2, NEVER))
        mesh.later(
            rng.uniform(0, 2) * mesh.host.policy.interval_s,
            lambda name=name, crashed=crashed, cures_in=cures_in: _break(  # type: ignore[misc]
                mesh, name, crashed=crashed, cures_in=cures_in
            ),
        )


def relapse(mesh: Mesh) -> None:
    """An agent hangs again and again, with health in between: what the decay of the budget is for."""
    host, name = mesh.host, mesh.some()
    policy = host.policy
    healthy_ticks = policy.forgive_after_count * policy.restarts_before_isolation + host.rng.uniform(-10, 20)
    spacing_s = (max(1.0, healthy_ticks) + 2 * policy.missed_before_restart) * policy.interval_s
    for n in range(policy.restarts_before_isolation + 1):
        mesh.later(n * spacing_s, lambda: _break(mesh, name, crashed=False, cures_in=1))


def squat(mesh: Mesh) -> None:
    """Somebody else answers on an agent's port."""
    name = mesh.some()
    mesh.host.say(f"FAULT    an impostor answers for {name}")
    mesh.host.agents[name].impostor = True

    def over() -> None:
        mesh.host.agents[name].impostor = False

    mesh.later(mesh.a_while_s(), over)


def _cut(mesh: Mesh, links: Sequence[tuple[str, str]], what: str) -> None:
    cut = mesh.host.cut
    mesh.host.say(f"FAULT    {what}")
    for link in links:
        cut[link] = cut.get(link, 0) + 1

    def mend() -> None:
        mesh.host.say(f"MENDED   {what}")
        for link in links:
            cut[link] -= 1

    mesh.later(mesh.a_while_s(), mend)


def deafen(mesh: Mesh) -> None:
    """A watcher hears nobody."""
    name = mesh.some()
    _cut(mesh, [(name, other) for other in mesh.host.names if other != name], f"{name} hears nobody")


def sever(mesh: Mesh) -> None:
    """A watcher does not hear one agent."""
    watcher, agent = mesh.two()
    _cut(mesh, [(watcher, agent)], f"{watcher} does not hear {agent}")


def accuse(mesh: Mesh) -> None:
    """Two agents do not hear each other."""
    first, second = mesh.two()
    _cut(mesh, [(first, second), (second, first)], f"{first} and {second} do not hear each other")


def part(mesh: Mesh) -> None:
    """The mesh falls in two."""
    names = mesh.host.names
    side = set(mesh.host.rng.sample(names, mesh.host.rng.randint(1, len(names) - 1)))
    links = [(a, b) for a in names for b in names if (a in side) != (b in side)]
    _cut(mesh, links, f"{sorted(side)} are apart from the others")


def lose(mesh: Mesh) -> None:
    """A watcher loses some of its heartbeats."""
    name = mesh.some()
    mesh.host.loss[name] = mesh.host.rng.uniform(0.1, 0.7)
    mesh.host.say(f"FAULT    {name} loses {mesh.host.loss[name]:.0%} of its heartbeats")

    def over() -> None:
        mesh.host.loss.pop(name, None)

    mesh.later(mesh.a_while_s(20.0), over)


def kill(mesh: Mesh) -> None:
    """A watcher is killed, and comes back."""
    process = mesh.processes[mesh.some()]
    process.kill()
    mesh.later(mesh.a_while_s(3.0), lambda: revive(process))


def kill_at_work(mesh: Mesh) -> None:
    """A watcher is killed between two uses of the journal."""
    process = mesh.processes[mesh.some()]
    process.kill_in = mesh.host.rng.randint(0, 40)
    mesh.later(mesh.a_while_s(6.0), lambda: revive(process))


def revive(process: Process) -> None:
    """systemd starts it again, unless it runs."""
    if not process.runs:
        process.start()


def stop(mesh: Mesh) -> None:
    """A watcher is stopped for a while: SIGSTOP, or a machine that has no time for it."""
    process = mesh.processes[mesh.some()]
    for_s = mesh.host.rng.choice((mesh.a_while_s(0.5), mesh.a_while_s(2.0), mesh.a_while_s(8.0)))
    mesh.host.say(f"FAULT    {process.name} is stopped for {for_s:.0f} s")
    process.stop(for_s)


def stop_at_order(mesh: Mesh) -> None:
    """A watcher is stopped between an order and its beginning, for less or longer than its lease.

    Of the short ones every second waits for an isolation: its lease still runs, and the votes have grown old.
    """
    process = mesh.processes[mesh.some()]
    stop_s = mesh.host.rng.uniform(0.1, 2.5) * (RESTART_TIMEOUT_S + LEASE_MARGIN_S)
    waits = stop_s < ISOLATION_LEASE_S and int(stop_s) % 2
    process.stop_at_order_s, process.stop_at = stop_s, {Action.ISOLATE} if waits else {*Action}
    mesh.host.say(
        f"FAULT    {process.name} is stopped at its next {'isolation' if waits else 'order'} for {stop_s:.0f} s"
    )


def slow(mesh: Mesh) -> None:
    """A watcher ticks late."""
    process = mesh.processes[mesh.some()]
    process.late_s = mesh.host.rng.uniform(0.05, 0.9) * mesh.host.policy.interval_s
    mesh.host.say(f"FAULT    {process.name} is up to {process.late_s:.0f} s late")

    def well() -> None:
        process.late_s = 0.0

    mesh.later(mesh.a_while_s(), well)


def step_clock(mesh: Mesh) -> None:
    """Somebody sets the wall clock."""
    by_s = mesh.host.rng.choice((-HOUR_S, HOUR_S, -20.0, 20.0))
    mesh.host.say(f"FAULT    the wall clock is set by {by_s:+.0f} s")
    mesh.host.wall_offset_s += by_s


def reboot(mesh: Mesh) -> None:
    """The whole host."""
    host = mesh.host
    host.say("FAULT    the host reboots")
    for process in mesh.processes.values():
        process.kill()
        process.stopped_until_s = 0.0
    host.boots += 1
    host.booted_s = host.now_s - host.rng.uniform(1, 20)
    for name in host.names:
        if host.rng.random() < 0.5:
            host.heal_agent(name)
    for process in mesh.processes.values():
        mesh.later(host.rng.uniform(1, 10), lambda process=process: revive(process))  # type: ignore[misc]


def lock_journal(mesh: Mesh) -> None:
    """One watcher, or all of them, cannot use the journal."""
    names = mesh.host.rng.choice(([mesh.some()], mesh.host.names))
    mesh.host.say(f"FAULT    the journal refuses {names}")
    refused = mesh.host.refused
    for name in names:
        refused[name] = refused.get(name, 0) + 1

    def mend() -> None:
        mesh.host.say(f"MENDED   the journal for {names}")
        for name in names:
            refused[name] -= 1

    mesh.later(mesh.a_while_s(6.0), mend)


def silence(mesh: Mesh) -> None:
    """An operator silences a peer."""
    host, name, for_s = mesh.host, mesh.some(), mesh.a_while_s(20.0)
    host.say(f"OPERATOR silences {name} for {for_s:.0f} s")
    host.silences[name] = (host.boots, host.now_s + for_s, host.wall_offset_s)
    at = host.at()
    until = at.utc + timedelta(seconds=for_s)
    LocalCoordinator(host.journal).silence(Silence(name, until, "maintenance", "operator"), at)


def release(mesh: Mesh) -> None:
    """An operator lets back what is isolated."""
    for name in mesh.host.names:
        if mesh.host.is_isolated(name):
            let_back(mesh, name)


def let_back(mesh: Mesh, name: str) -> None:
    """Release one agent."""
    mesh.host.say(f"OPERATOR releases {name}")
    mesh.host.let_back(name)
    mesh.checks.on_release(name)


def isolate(mesh: Mesh) -> None:
    """An operator isolates an agent by hand."""
    name = mesh.some()
    if mesh.host.intent(name) is None:
        mesh.host.say(f"OPERATOR isolates {name}")
        mesh.host.begin_isolation(name, "by hand")
        mesh.host.cut_off(name)


Fault = Callable[[Mesh], None]

OFTEN, SOMETIMES, SELDOM = 6, 3, 1
WEIGHTS: dict[Fault, int] = {
    crash: OFTEN,
    hang: OFTEN,
    pause: SOMETIMES,
    relapse: SOMETIMES,
    squat: SELDOM,
    deafen: OFTEN,
    sever: OFTEN,
    accuse: SOMETIMES,
    part: SOMETIMES,
    lose: SOMETIMES,
    kill: SOMETIMES,
    kill_at_work: OFTEN,
    stop: OFTEN,
    stop_at_order: SOMETIMES,
    slow: SOMETIMES,
    step_clock: SELDOM,
    reboot: SELDOM,
    lock_journal: SOMETIMES,
    silence: SELDOM,
    release: SOMETIMES,
    isolate: SELDOM,
}


def draw(mesh: Mesh, within_s: float) -> None:
    """Some faults, at some times."""
    rng = mesh.host.rng
    for fault in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rng.randint(1, 6)):
        mesh.later(rng.uniform(0, within_s), lambda fault=fault: fault(mesh))  # type: ignore[misc]


def end_all(mesh: Mesh) -> None:
    """From here on nothing goes wrong any more: links carry, watchers run, nobody is silenced or isolated."""
    host = mesh.host
    host.say("CALM     all faults are over")
    mesh.calm = True
    host.cut.clear()
    host.loss.clear()
    host.refused.clear()
    host.restarts_hang = host.isolations_fail = 0.0
    coordinator = LocalCoordinator(host.journal)
    for name in host.names:
        host.heal_agent(name)
        coordinator.unsilence(name)
        host.silences.pop(name, None)
    for process in mesh.processes.values():
        process.late_s = 0.0
        process.kill_in = None
        process.stop_at_order_s = 0.0
        process.stopped_until_s = min(process.stopped_until_s, host.now_s)
        revive(process)
    release(mesh)
