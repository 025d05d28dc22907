"""Trying many paths at once: every row is begun, then all that should arrive is waited for together."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from watchdog.paths.actor import SILENT, Actor, Script

OK = "ok"

STEP_TIMEOUT_S = 3.0
"""For one round of steps of all actors; the slowest step there is waits 0.3 s."""

GRACE_S = 0.1
"""For what may arrive, once its controls have: those say how busy the host is."""

LATE_S = 1.0
"""How much later than its deadline an answer to a wait may come."""


@dataclass(frozen=True, slots=True)
class Step:
    """One actor's part of a row; the parts of a row happen one after the other."""

    actor: str
    script: Script


LateStep = Step | Callable[[], Step]
"""What an earlier step of the row has to be known for (a port) is asked when its turn comes."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What shows that a row got through: see "await" in inside.py."""

    actor: str
    socket: str
    what: str


@dataclass(frozen=True, slots=True)
class Phase:
    """One time that all rows are tried."""

    number: int
    within_s: float
    """How long what was sent may take to arrive."""


@dataclass(frozen=True, slots=True)
class Row:
    """One path for one agent: how it is prepared, tried, and seen to get through."""

    path: str
    who: str
    fire: Callable[[Phase, bytes], tuple[LateStep, ...]]
    """The steps of one try, given the token that its payload must carry."""
    expect: Expect | None
    """None: it gets through when its steps succeed."""
    setup: tuple[LateStep, ...] = ()
    label: str = ""
    """Tells apart several rows of one path."""
    arrives: Callable[[bytes], bytes] = bytes
    """What of the token is to be heard, where it is not carried as it is."""

    @property
    def key(self) -> str:
        """Names it among all rows."""
        return f"{self.who}/{self.path}{self.label and ' '}{self.label}"

    def token(self, phase: Phase) -> bytes:
        """Tells its traffic in this phase from everything else."""
        return f"<{self.key}#{phase.number}>".encode()


@dataclass(frozen=True, slots=True)
class Tried:
    """How one try ended."""

    passed: bool
    word: str
    """ "ok", or why not: the name of an error, "timeout", "no answer"."""


class Play:
    """Rows and the actors they name."""

    def __init__(self, actors: Mapping[str, Actor], rows: Sequence[Row], until_s: float = math.inf) -> None:
        """`until_s`, of the monotonic clock, is when everything has to end that is going on."""
        self._actors, self._until_s = actors, until_s
        self.rows = tuple(rows)
        self._unready: dict[str, str] = {}
        """Rows that could not be prepared, and why."""
        self._silent: set[str] = set()
        """Actors that did not answer in this attempt; they are not asked again in it."""

    def setup(self, only: Collection[str] | None = None) -> None:
        """Prepare all rows, or those with a key in `only`."""
        self._unready |= self._do({row.key: row.setup for row in self.rows if only is None or row.key in only})

    def attempt(
        self, phase: Phase, only: Collection[str] | None = None, controls: Collection[str] = ()
    ) -> dict[str, Tried]:
        """Try all rows, or those with a key in `only`, by key.

        Takes the phase's time where something does not arrive, and less where all does. With `controls`, keys of rows
        that nothing stops, that is how long these may take; the others have a grace after them.
        """
        self._silent.clear()
        rows = [row for row in self.rows if only is None or row.key in only]
        ready = [row for row in rows if row.key not in self._unready]
        refused = self._do({row.key: row.fire(phase, row.token(phase)) for row in ready})
        arrived = self._arrived([row for row in ready if row.expect is not None], refused, phase, controls)
        tried = {row.key: _judged(row, refused.get(row.key, OK), arrived.get(row.key, "")) for row in ready}
        return tried | {row.key: Tried(False, self._unready[row.key]) for row in rows if row.key in self._unready}

    def _do(self, work: Mapping[str, tuple[LateStep, ...]]) -> dict[str, str]:
        """Carry out the steps, those of one number of all rows together; the first failure of each row."""
        failures: dict[str, str] = {}
        for number in range(max((len(steps) for steps in work.values()), default=0)):
            batches: dict[str, dict[str, Script]] = defaultdict(dict)
            for key, steps in work.items():
                if number < len(steps):
                    step = _now(steps[number])
                    batches[step.actor][key] = step.script
            orders = {name: {"do": "run", "scripts": scripts} for name, scripts in batches.items()}
            for name, results in self._ask(orders, STEP_TIMEOUT_S).items():
                for key in batches[name]:
                    word = results.get(key, SILENT)
                    if word != OK:
                        failures.setdefault(key, word)
        return failures

    def _arrived(
        self, rows: Sequence[Row], refused: Mapping[str, str], phase: Phase, controls: Collection[str]
    ) -> dict[str, str]:
        first = [row for row in rows if row.key in controls and row.key not in refused]
        came = self._await(first, phase, phase.within_s) if first else {}
        rest = [row for row in rows if row.key not in came]
        return came | self._await(rest, phase, GRACE_S if first else phase.within_s)

    def _await(self, rows: Sequence[Row], phase: Phase, within_s: float) -> dict[str, str]:
        wanted: dict[str, dict[str, tuple[str, str, str]]] = defaultdict(dict)
        for row in rows:
            if row.expect is not None:
                token = row.arrives(row.token(phase))
                wanted[row.expect.actor][row.key] = (row.expect.socket, row.expect.what, token.hex())
        within_s = max(0.0, min(within_s, self._until_s - time.monotonic()))
        orders = {name: {"do": "await", "within_s": within_s, "for": each} for name, each in wanted.items()}
        answers = self._ask(orders, within_s + LATE_S)
        return {key: answers[name].get(key, SILENT) for name, each in wanted.items() for key in each}

    def _ask(self, orders: Mapping[str, Mapping[str, object]], timeout_s: float) -> dict[str, Mapping[str, str]]:
        """Tell all, then hear all."""
        deadline_s = min(time.monotonic() + timeout_s, self._until_s)
        asked: Collection[str] = [name for name in orders if name not in self._silent]
        for name in asked:
            self._actors[name].tell(orders[name], deadline_s)
        answers: dict[str, Mapping[str, str]] = {name: {} for name in orders}
        for name in asked:
            heard = self._actors[name].hear(deadline_s)
            if heard is None:
                self._silent.add(name)
            else:
                answers[name] = heard
        return answers


def _now(step: LateStep) -> Step:
    return step if isinstance(step, Step) else step()


def _judged(row: Row, refused: str, arrived: str) -> Tried:
    """Who gets through is decided where it arrives, whatever the sender was told."""
    if row.expect is None:
        return Tried(refused == OK, refused)
    if arrived == OK:
        return Tried(True, OK)
    return Tried(False, refused if refused != OK else arrived)
