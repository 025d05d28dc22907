"""The round of a watcher that is under way: who was heard, who is waited for, and what it looks like from outside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from watchdog.clock import Moment
from watchdog.ordering import Held
from watchdog.quorum import Round, may_hear_nobody


@dataclass
class Tick:
    """Filled while the answers come in."""

    begun_s: float
    interval_s: float
    waiting: set[str]
    """Peers whose answer is not in."""
    counted: set[str]
    """Peers that are not isolated."""
    late_s: float
    clock_jump_s: float
    suspended_s: float
    own_endpoint_waited_for: bool
    own_endpoint: str = ""
    """What is wrong with it."""
    stalled_s: float = 0.0
    """How long this watcher stood still while it waited for answers."""
    trouble: str = ""
    """What the journal or the coordinator refused in this round."""
    own_endpoint_heard: bool = False
    agreed: bool = False
    """Those that are gone are so for all watchers that are there."""
    contradicted: int = 0
    """How many of those that are gone most others hear, when only this watcher is in a storm."""
    alone_against: str = ""
    """The others that are there, when this watcher hears nobody and they miss nobody."""
    unflushed: bool = False
    """Something was written in it that a loss of power would still take."""
    cut_off: set[str] = field(default_factory=set)
    """Who was isolated when it began, the own agent too: what was asked then and is not answered is no miss."""
    silenced: set[str] = field(default_factory=set)
    """Whose silence is meant: for itself it is no sign of a sick watcher, nor of a storm."""
    silenced_no_more: set[str] = field(default_factory=set)
    """Whose silence is news again."""
    answered: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    newly_gone: set[str] = field(default_factory=set)
    held: list[Held] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Every answer is in."""
        return not (self.waiting or self.own_endpoint_waited_for)

    @property
    def unknown(self) -> int:
        """Counted peers whose answer is not in."""
        return len(self.waiting & self.counted)

    def heard(self, own: str) -> set[str]:
        """Who answered, and the own agent if it did."""
        return (self.answered & self.counted) | ({own} if self.own_endpoint_heard else set())

    @property
    def may_hear_nobody(self) -> bool:
        """All that are counted are gone, or could be by answers that are still out."""
        return may_hear_nobody(len(self.gone), self.unknown, len(self.counted))

    def overrun_s(self, at: Moment) -> float:
        """How much longer than an interval it has lasted, or how long this watcher stood still in it."""
        return max(0.0, self.stalled_s, at.s - self.begun_s - self.interval_s)

    def seen(self, at: Moment) -> Round:
        """As the rules of self-doubt and storm see it."""
        return Round(
            peers=len(self.counted),
            newly_gone=len(self.newly_gone) if self.newly_gone - self.silenced else 0,
            gone=len(self.gone),
            silenced_gone=len(self.gone & self.silenced),
            unheard=len(self.counted - self.gone - self.answered),
            late_s=max(self.late_s, self.overrun_s(at)),
            interval_s=self.interval_s,
            clock_jump_s=self.clock_jump_s,
            suspended_s=self.suspended_s,
            own_endpoint=self.own_endpoint,
            coordinator=self.trouble,
            agreed=self.agreed,
            contradicted=self.contradicted,
            alone_against=self.alone_against,
        )

    def seen_of_the_others(self, at: Moment) -> Round:
        """The same without those that are silenced."""
        others = self.counted - self.silenced
        return replace(
            self.seen(at),
            peers=len(others),
            newly_gone=len(self.newly_gone - self.silenced),
            gone=len(self.gone - self.silenced),
            silenced_gone=0,
            unheard=len(others - self.gone - self.answered),
        )
