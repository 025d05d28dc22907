"""What an interrupt (Ctrl-C) does to a command: KeyboardInterrupt where it stands, until nothing is left to stop."""

from __future__ import annotations

import signal
from types import FrameType

_settled = False


def listen(*numbers: signal.Signals) -> None:
    """Have these signals interrupt; one that whoever started us has ignored (nohup, a shell's &) stays ignored."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def settle() -> None:
    """From here on they change nothing: what was done is being said, or taken back."""
    global _settled
    _settled = True


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if not _settled:
        raise KeyboardInterrupt
