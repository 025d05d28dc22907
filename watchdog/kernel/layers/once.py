"""One look for everything that is asked within it: what /proc shows of a target is read once, not by every layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Found = TypeVar("Found")

_found: ContextVar[dict[Hashable, Any] | None] = ContextVar("found", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """For who changes nothing of what is looked for within it."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def once(what: Hashable, look: Callable[[], Found]) -> Found:
    """What `look` finds, or has found before within the same `one_look`."""
    found = _found.get()
    if found is None:
        return look()
    if what not in found:
        found[what] = look()
    kept: Found = found[what]
    return kept
