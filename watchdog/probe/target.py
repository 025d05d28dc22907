"""Whom to probe and what to expect of the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from watchdog.errors import ConfigurationError
from watchdog.heartbeat import MAX_LOOP_AGE_S
from watchdog.model import Progress


@dataclass(frozen=True, slots=True)
class Target:
    """One peer's endpoint and what its answer must show.

    Raises ConfigurationError for what can never be probed: another scheme, no host, a timeout that is not positive.
    """

    name: str
    endpoint: str
    timeout_s: float = 5.0
    """For everything: name, connection, TLS, headers, body."""
    ca_file: Path | None = None
    """Whom to trust instead of the system's certificates."""
    client_cert: Path | None = None
    client_key: Path | None = None
    """None when the key is in the certificate's file."""
    agent: str | None = None
    """The name a heartbeat must carry; None means `name`."""
    key: bytes | None = field(default=None, repr=False)
    """With a key only a signed heartbeat is the peer's."""
    require_identity: bool = False
    """Without a key too: an answer that does not name the agent is not the peer's."""
    max_loop_age_s: float = MAX_LOOP_AGE_S
    before: Progress | None = field(default=None, compare=False)
    """Its progress as the process before this one had heard it: one that hung then stands still now."""

    def __post_init__(self) -> None:
        if problem := _problem(self.endpoint):
            raise ConfigurationError(f"cannot probe {self.name!r} at {self.endpoint!r}: {problem}")
        if not (self.timeout_s > 0 and math.isfinite(self.timeout_s)):
            raise ConfigurationError(f"cannot probe {self.name!r}: a timeout of {self.timeout_s} s")


def _problem(endpoint: str) -> str:
    try:
        url = urlsplit(endpoint)
        url.port  # noqa: B018 - reading it is what checks it
    except ValueError as error:
        return str(error)
    if url.scheme not in ("http", "https"):
        return "want http:// or https://"
    return "" if url.hostname else "it names no host"


class Ownership(StrEnum):
    """To whom the socket that answers belongs."""

    INSIDE = "inside"
    """To the peer's own unit or cgroup."""
    OUTSIDE = "outside"
    UNKNOWN = "unknown"
    """Another host, another namespace, or not to be seen."""


@dataclass(frozen=True, slots=True)
class OwnerVerdict:
    """Who owns the port that answered; `detail` for people: "port 9103 is owned by pid 7 outside shield.service"."""

    ownership: Ownership
    detail: str = ""


OwnerCheck = Callable[[Target, str | None], OwnerVerdict | None]
"""Asked after every probe, with the numeric address that was asked where there was a connection; None and UNKNOWN say
nothing. It must not take long: it has no deadline."""
