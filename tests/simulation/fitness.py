"""Which watchers may be believed, from the simulated host's truth and never from what a watcher thinks of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.host import Host

JUMP_S = 5.0
LATE_SHARE = 0.5
SLOW_SHARE = 0.1
MOST_SCORE = 8
ROUNDS_AFTER = 1
"""Whole rounds after a bad one in which a watcher is still unfit: it trusts itself at the end of the second."""
OWN_AGENT = "its own agent is down"


@dataclass
class Fitness:
    """Of one watcher."""

    rounds: int = 0
    score: int = 0
    """How slow it is: what the health score must be at least."""
    reason: str = ""
    """Why it must act on nobody in this round."""
    left: int = 0
    """Rounds after this one in which it still must not."""
    withdrawn: bool = False
    """A round in which it was unfit has ended: nothing may rest on its votes."""
    refused: bool = False
    """By the journal in this round: what did so is not asked again before the next, and votes stay till then."""
    offset_s: float | None = None
    cut_off: bool = False
    """Its own agent was isolated when the round began."""


@dataclass
class Truth:
    """Fed by the processes."""

    host: Host
    of: dict[str, Fitness] = field(default_factory=dict)

    def on_start(self, watcher: str) -> None:
        """A new process: it acts on nobody in its first round, and has seen no clock before."""
        rounds = self.of[watcher].rounds if watcher in self.of else 0
        self.of[watcher] = Fitness(rounds=rounds)

    def on_round_begins(self, watcher: str, late_s: float) -> None:
        """How it looks from outside when the round begins."""
        host, fit = self.host, self.of[watcher]
        interval_s = host.policy.interval_s
        fit.rounds += 1
        fit.score = min(fit.score + 1, MOST_SCORE) if late_s > interval_s * SLOW_SHARE else max(fit.score - 1, 0)
        fit.reason, fit.cut_off = "", host.is_isolated(watcher)
        if late_s > interval_s * LATE_SHARE:
            fit.reason = f"it was {late_s:.0f} s late"
        if fit.offset_s is not None and abs(host.wall_offset_s - fit.offset_s) > JUMP_S:
            fit.reason = "the clock was set"
        fit.refused = False
        if host.refused.get(watcher):
            fit.reason = "the journal refused it"
        fit.offset_s = host.wall_offset_s

    def on_refused(self, watcher: str) -> None:
        """It asked the journal, in vain."""
        self.of[watcher].refused = True

    def on_own_heard(self, watcher: str, *, up: bool) -> None:
        """The own agent was asked."""
        if not up and not (self.host.is_isolated(watcher) or self.of[watcher].cut_off):
            self.of[watcher].reason = OWN_AGENT

    def on_round_ended(self, watcher: str) -> None:
        """Its votes are withdrawn by now, if it could write."""
        fit = self.of[watcher]
        if fit.reason == OWN_AGENT and self.host.is_isolated(watcher):
            fit.reason = ""  # cut off meanwhile: by us
        if fit.reason:
            fit.left = ROUNDS_AFTER
            fit.withdrawn = fit.withdrawn or not fit.refused
        elif fit.left:
            fit.left -= 1
            fit.withdrawn = fit.withdrawn or not fit.refused
        else:
            fit.withdrawn = False

    def why_not(self, watcher: str) -> str:
        """Why it must act on nobody; empty when it may."""
        fit = self.of[watcher]
        if fit.reason == OWN_AGENT and self.host.is_isolated(watcher):
            return ""
        return fit.reason or ("a round ago something was wrong with it" if fit.left else "")
