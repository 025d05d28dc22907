"""`watchdog-mesh run`: one watcher of this host, from its configuration to its last breath.

Isolations survive it: stopping or killing a watcher opens nothing.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from watchdog import clock, config_files, interrupts, journal, news, webhook
from watchdog.actions import reconcile
from watchdog.actions.orders import HostActions
from watchdog.actions.ownership import Ownerships
from watchdog.actions.place import Place, configured
from watchdog.actions.reconcile import Repair
from watchdog.actions.waiting import Holders
from watchdog.clock import Moment
from watchdog.config import Config, Peer
from watchdog.errors import JournalFailed, WatchdogError
from watchdog.heartbeat import Pulse, read_key
from watchdog.host import unit_filters
from watchdog.host.readiness import KeepAlive, notify
from watchdog.inspector import Inspector
from watchdog.intents import Intent
from watchdog.journal import Journal
from watchdog.keeper import Keeper
from watchdog.kernel import builder, stale, tc
from watchdog.mesh import coordinator_of
from watchdog.model import Action, Escalation, EventState, Severity
from watchdog.monitor import Monitor
from watchdog.numbers import counted
from watchdog.outbox import Outbox
from watchdog.probe.prober import Prober
from watchdog.probe.target import Target
from watchdog.sender import Sender
from watchdog.status import published
from watchdog.status.app import create_app
from watchdog.status.document import Backlog, MeshView, build
from watchdog.status.server import StatusServer, parse_listen
from watchdog.webhook import Receiver

SENDER_STOP_S = 5.0
LOOP_LATE_S = 10.0
"""The monitor's loop turns every second; /healthz says 503 when it has not for this long."""
READY_SLOTS = 2
"""Program sets ready before an incident: one for the mesh's budget of one isolation, one for an operator's."""

log = logging.getLogger("watchdog")


class Owed(NamedTuple):
    """An event of this watcher's that the journal has not taken yet."""

    escalation: Escalation
    key: str
    at: Moment
    incident: str


class Daemon:
    """Everything one watcher runs; `start` and `stop` are mirror images."""

    def __init__(self, settings: Config, own: Peer | None, place: Place, trouble: str = "") -> None:
        assert settings.self_name is not None, "for_watcher() says whose watcher this is"
        self.name = settings.self_name
        self.settings = settings
        self.place = place = replace(place, news=self._news, waiting=self._log_waiting)
        self._waited_for = ""
        self._trouble = trouble
        self._is_ready = False
        self._owed: deque[Owed] = deque()
        self._owed_lock = threading.Lock()
        self._keep_alive = KeepAlive()
        self.outbox = Outbox(place.journal, receivers(settings), host=socket.gethostname())
        self.sender = Sender(self.outbox, settings.paths.run)
        self.keeper = Keeper(place, self._tell_repair, ready_slots=READY_SLOTS, prepare=self._get_ready)
        self.inspector = Inspector(place, self._tell_repair)
        self.pulse = Pulse(self.name, max_loop_age_s=LOOP_LATE_S)
        self._host = f"{self.name} (host)"
        """Under this name it is kept, and told, that this host cannot isolate: no peer can have it."""
        self._coordinator = coordinator = coordinator_of(place.journal)
        self.monitor = Monitor(
            self.name,
            settings.policy,
            journal=place.journal,
            outbox=self.outbox,
            coordinator=coordinator,
            actions=HostActions(settings, place, coordinator, self.inspector.wake),
            prober=Prober(len(settings.peers) + 1, owner_check=Ownerships(settings).check),
            voters_on=settings.voters_on,
            own=target_of(own, settings.timeout) if own else None,
            restart_timeout_s=settings.restart_timeout,
            on_turn=self._turn,
            on_round=self._publish,
        )
        for peer in settings.peers:
            self.monitor.register_peer(peer.name, peer.endpoint, target_of(peer, settings.timeout))
        self.monitor.on_escalation(self._log_and_send)
        host, _ = parse_listen(settings.status.listen)
        app = create_app(self.view, heartbeat=self.pulse.answer, hosts=(host,))
        self.server = StatusServer(app, settings.status.listen)

    def start(self) -> None:
        """Bring the kernel back to what is meant, then watch; where the journal does not answer, first watch."""
        for problem in config_files.restarts_in_vain(self.settings):
            log.warning("%s", problem)  # it is watched all the same, and the program may come
        threading.Thread(target=self._warn_of_unknown_units, name="units", daemon=True).start()
        if self._trouble:
            self._announce(self._own_key("journal"), self._trouble)
        try:
            self._get_ready()
        except JournalFailed as error:
            log.error("this watcher starts without its journal, and acts on nobody: %s", error.one_line())
        self.server.start()
        self.sender.start()
        self.keeper.start()
        self.inspector.start()
        self.monitor.start()

    def _warn_of_unknown_units(self) -> None:
        """Aside, as systemd may hang. They are watched all the same, and the unit may come."""
        for problem in config_files.unknown_units(self.settings):
            log.warning("%s", problem)

    def stop(self) -> None:
        """Stop watching. What is isolated stays isolated."""
        self.monitor.stop()
        self.inspector.stop()
        self.keeper.stop()
        self.sender.stop(SENDER_STOP_S)
        self.server.stop()

    def view(self) -> MeshView:
        """The monitor's view, with what the keeper and the outbox know."""
        seen, dead = self.monitor.view(), self.sender.dead()
        ended = [f"nobody delivers to {', '.join(dead)}: the thread ended"] if dead else []
        ended += ["nobody looks after the isolations: the thread ended"] if self.keeper.is_dead else []
        ended += ["nobody tries the isolations from inside: the thread ended"] if self.inspector.is_dead else []
        if stuck_s := self.keeper.stuck_s:
            ended.append(f"looking after the isolations has stood still for {stuck_s:.0f} s")
        if ended:
            seen = replace(seen, health=replace(seen.health, ok=False, reason="; ".join(ended)))
        return replace(seen, isolations=self.keeper.views, outbox=self._backlogs())

    def _backlogs(self) -> dict[str, Backlog]:
        """A journal that does not answer is told by the health; the rest of the status is worth having all the same."""
        try:
            pending = self.outbox.pending(clock.utc_now())
        except WatchdogError:
            return {}
        return {name: Backlog(*each) for name, each in pending.items()}

    def _get_ready(self) -> None:
        """Have programs ready before they are needed, and restore what was isolated. A host that cannot is told.

        Raises JournalFailed while the journal does not answer; the keeper tries again until it does.
        """
        if self._is_ready:
            return
        try:
            in_use = slots_in_use(self.place)
            builder.ensure_slots(self.place.pins, self.place.build_lock, READY_SLOTS)
            stale.prune_stale(self.place.pins, self.place.build_lock, keep=in_use)
            self._restore()
            self.keeper.sweep()
            if self.place.intents.in_force():
                tc.load()  # now, not when a link appears
            else:
                tc.check()
        except JournalFailed:
            raise
        except WatchdogError as error:
            self._tell_not_ready(error)
        else:
            self._tell_ready()
        self._is_ready = True

    def _tell_not_ready(self, error: WatchdogError) -> None:
        """Once until a start succeeds, however many fail before."""
        at = clock.moment()
        self._coordinator.open_episode(self._host, at)
        episode = self._coordinator.record(self._host, at).episode
        reason = f"this host cannot isolate now: {error.one_line()}"
        self._announce(self._ready_key(episode), reason, peer=self._host, episode=episode)

    def _tell_ready(self) -> None:
        """To those who were told that it cannot. Closed last: after a kill in between the next start does both."""
        at = clock.moment()
        known = self._coordinator.record(self._host, at)
        if known.episode_open:
            resolved = EventState.RESOLVED
            key, reason = f"{self._ready_key(known.episode)}/{resolved}", "this host can isolate again"
            self._announce(key, reason, peer=self._host, state=resolved, episode=known.episode)
            self._coordinator.close_episode(self._host, at, fresh_s=0.0)

    def _ready_key(self, episode: int) -> str:
        return f"{self._host}/{episode}/not-ready"

    def _turn(self) -> None:
        self.pulse.beat()
        self._keep_alive.turn(clock.now_s())

    def _publish(self) -> None:
        self._mend_journal()
        if self._owed and self.monitor.health().ok:  # a journal in trouble has been asked often enough in this round
            self._tell_owed()
        try:
            published.publish(self.settings.paths.run, self.name, build(self.view()))
        except OSError as error:
            log.error("cannot write the status to %s: %s", self.settings.paths.run, error.strerror)

    def _mend_journal(self) -> None:
        """A journal damaged while it is used is kept and told of as one found so at the start.

        What is cut off is adopted at once: in a new journal nobody is isolated, and watchers doubt themselves for two
        rounds only.
        """
        if not self.place.journal.found_damaged:
            return
        told = journal.set_aside_if_damaged(self.settings.paths.state, clock.utc_now())
        self.place.journal.found_damaged = False
        if told:
            with suppress(JournalFailed):  # that it was replaced is said once to each thread
                self.place.journal.data_version()
            self._announce(self._own_key("journal"), told)
            self._restore()

    def _restore(self) -> None:
        for repair in reconcile.reconcile(self.place, clock.moment()):
            self._tell_repair(repair)

    def _log_and_send(self, escalation: Escalation) -> None:
        log.warning("%s %s %s: %s", escalation.severity, escalation.peer_name, escalation.action, escalation.reason)
        self.sender.notify()

    def _tell_repair(self, repair: Repair) -> None:
        if repair.expected:
            log.info("%s", repair.words)
            return
        state = EventState.RESOLVED if repair.over else EventState.FIRING
        if ended := repair.released:
            self.inspector.note_freed(ended)
            key, incident = ended.event_key(state), ended.why.incident
        else:
            key, incident = self._own_key(f"repair/{clock.utc_now().timestamp()}"), ""
        self._announce(key, repair.words, peer=repair.target, state=state, incident=incident)

    def _news(self, intent: Intent, words: str) -> Callable[[], None]:
        """What a command had begun when it was killed, or its time has ended: then a watcher tells."""
        return news.of_change(self.outbox, intent, words, self.name)

    def _log_waiting(self, found: Holders) -> None:
        """Other watchers' sweeps end by themselves; who is stopped needs somebody, and is told once."""
        if found.stopped and found.words != self._waited_for:
            self._waited_for = found.words
            log.warning("waiting for %s; %s", found.words, found.remedy)

    def _own_key(self, what: str) -> str:
        return f"{self.name}/{clock.boot_id()}/{what}"

    def _announce(
        self,
        key: str,
        reason: str,
        *,
        peer: str = "",
        state: EventState = EventState.FIRING,
        incident: str = "",
        episode: int = 0,
    ) -> None:
        """A CRITICAL event of this host itself."""
        at = clock.moment()
        log.log(logging.ERROR if state is EventState.FIRING else logging.INFO, "%s", reason)
        escalation = Escalation(
            timestamp=at.utc,
            peer_name=peer or f"{self.name} (watcher)",
            action=Action.ALERT,
            reason=reason,
            severity=Severity.CRITICAL,
            state=state,
            watcher=self.name,
            episode=episode,
        )
        self._owed.append(Owed(escalation, key, at, incident))
        self._tell_owed()

    def _tell_owed(self) -> None:
        """What could not be published is, once the journal answers."""
        with self._owed_lock:
            try:
                while self._owed:
                    first = self._owed[0]
                    self.outbox.publish(first.escalation, first.key, first.at, incident=first.incident)
                    self._owed.popleft()
            except JournalFailed as error:
                log.error("nobody could be told yet: %s", error.one_line())
        self.sender.notify()


def run(settings: Config, own: Peer | None, note_agents: Callable[[], None]) -> None:
    """Watch until SIGTERM, SIGINT or SIGHUP. `settings` is as for_watcher() gives it; `own` is its agent's own entry.

    `note_agents` is called as soon as the run directory is there.
    """
    assert settings.self_name is not None
    stop = threading.Event()
    for number in interrupts.NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        stack.enter_context(published.only_one(settings.paths.run, settings.self_name))
        note_agents()
        opened, trouble = stack.enter_context(opened_or_set_aside(settings.paths.state))
        place = configured(settings, opened, own)
        daemon = Daemon(settings, own, place, trouble)
        daemon.start()
        stack.callback(daemon.stop)
        notify("READY=1")
        log.info("%s watches %s", settings.self_name, counted(len(settings.peers), "peer"))
        stop.wait()
        notify("STOPPING=1")


@contextmanager
def opened_or_set_aside(state: Path) -> Iterator[tuple[Journal, str]]:
    """The journal, and what is to be told when it was damaged: it is kept beside, and a new one begun.

    A watcher that refused to start would leave its peers unwatched. What was isolated is found in the kernel.
    """
    opened, trouble = journal.open_or_set_aside(state, clock.utc_now())
    try:
        yield opened, trouble
    finally:
        opened.close()


def slots_in_use(place: Place) -> list[Path]:
    """Slots that an intent, a shadow or a drop-in names.

    A stopped unit has nothing attached, and needs its pin to start.
    """
    held = [*place.intents.in_force(), *place.intents.shadows()]
    named = [place.pins / intent.held_by.slot for intent in held if intent.held_by.slot]
    drop_ins = unit_filters.all_installed(base=place.drop_ins)
    return named + [filters.ingress.parent for filters in drop_ins if filters.ingress is not None]


def receivers(settings: Config, *, sign: bool = True) -> list[Receiver]:
    """The configured webhooks; with their secrets read to `sign`, which what is only owed to them does not need."""
    return [
        Receiver(
            name=hook.name,
            url=hook.url,
            secrets=tuple(
                config_files.read_for(f"webhook {hook.name!r}.{setting}", webhook.read_secret, path)
                for setting in ("secret_file", "previous_secret_file")
                if sign and (path := getattr(hook, setting)) is not None
            ),
            min_severity=hook.min_severity,
            timeout_s=hook.timeout,
            ca_file=hook.ca_file,
        )
        for hook in settings.webhooks
    ]


def target_of(peer: Peer, timeout_s: float) -> Target:
    """How a configured peer is probed."""
    place = f"peer {peer.name!r}.key_file"
    key = config_files.read_for(place, read_key, peer.key_file) if peer.key_file else None
    return Target(
        name=peer.name,
        endpoint=peer.endpoint,
        timeout_s=timeout_s,
        ca_file=peer.ca_file,
        client_cert=peer.client_cert,
        client_key=peer.client_key,
        agent=peer.agent,
        key=key,
        require_identity=peer.agent is not None,
    )
