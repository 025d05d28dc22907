"""The agents as the demo knows them: a room each, with two named pipes, for orders and for answers."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.demonstration.agent import ANSWERS, LOG, ORDERS, RULES, Settings
from scripts.demonstration.pace import Pace
from scripts.demonstration.restart import running
from scripts.demonstration.stage import Stage
from scripts.demonstration.starting import start_agent

SOUND_RULES = '{"allow": []}'
DAMAGED_RULES = '{"allow": ['
ANSWER_LIMIT_S = 5.0
READ_BYTES = 65536
TOLD_LINES = 3


class Member:
    """One agent, whichever process it is at the moment."""

    def __init__(self, stage: Stage, name: str, pace: Pace) -> None:
        self.name = name
        self.room: Path = stage.room / name
        self.cgroup = stage.cgroup(name)
        self._pace = pace
        self._numbers = itertools.count(1)
        self._answered: dict[int, Any] = {}
        self._unread = b""
        self.room.mkdir()
        self.repair()
        pipes = [self.room / ORDERS, self.room / ANSWERS]
        for pipe in pipes:
            os.mkfifo(pipe)
        # Open for both ways: neither end ever waits for the other, and the agent sees ours close when we die.
        self._orders, self._answers = (os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) for pipe in pipes)

    def start(self, port: int, families: list[str], dials: Sequence[tuple[str, str, str, int]]) -> None:
        """Start it and wait until it talks."""
        Settings(self.name, port, families, list(dials)).write(self.room)
        start_agent(self.room, self.cgroup)
        self._pace.until(f"{self.name} starts", lambda: self.pid, ANSWER_LIMIT_S)

    @property
    def pid(self) -> int | None:
        """Its process now."""
        process = running(self.room)
        return process.pid if process else None

    def damage(self) -> None:
        """Make its rules unreadable: its loop hangs on them, in this process and in every later one."""
        (self.room / RULES).write_text(DAMAGED_RULES)

    def repair(self) -> None:
        """Make its rules sound."""
        (self.room / RULES).write_text(SOUND_RULES)

    def last_words(self) -> list[str]:
        """The end of its log, which is empty as long as all is well."""
        log = self.room / LOG
        return log.read_text(errors="replace").splitlines()[-TOLD_LINES:] if log.exists() else []

    def ask(self, **order: Any) -> Any:
        """Give an order and wait for the answer."""
        return self.hear(self.tell(**order))

    def facts(self) -> dict[str, Any]:
        """Its pid, the turns of its loop, its ports, its streams."""
        facts: dict[str, Any] = self.ask(do="facts")
        return facts

    def tell(self, **order: Any) -> int:
        """Give an order; what `hear` wants to know."""
        number = next(self._numbers)
        os.write(self._orders, json.dumps({"id": number, **order}).encode() + b"\n")
        return number

    def hear(self, number: int) -> Any:
        """The answer to an order."""
        self._pace.until(f"{self.name} answers the demo", lambda: self._has_answered(number), ANSWER_LIMIT_S)
        return self._answered.pop(number)

    def _has_answered(self, number: int) -> bool:
        with suppress(BlockingIOError):
            self._unread += os.read(self._answers, READ_BYTES)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answered[answer["id"]] = answer["is"]
        return number in self._answered
