"""One GET to one heartbeat. Thread-safe: a round calls `probe` from as many threads as it likes."""

from __future__ import annotations

import secrets
import socket
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

from watchdog.errors import ConfigurationError
from watchdog.heartbeat import NONCE_HEADER
from watchdog.model import Heartbeat, Progress
from watchdog.probe.exchange import Exchange, Late, Missed, begin
from watchdog.probe.judge import Expected, Verdict, judge, judge_refused
from watchdog.probe.resolver import Lookup, Resolver
from watchdog.probe.target import OwnerCheck, Ownership, Target
from watchdog.probe.words import shown

if TYPE_CHECKING:
    from requests import PreparedRequest

    from watchdog.probe.transport import Reply

NONCE_BYTES = 16
SPARE_POOLS = 8
"""Beside one a target: for those whose TLS files or endpoint just changed."""


class Prober:
    """Keeps one connection a target, what each told of its progress, and nothing else."""

    def __init__(
        self, targets_hint: int, *, owner_check: OwnerCheck | None = None, lookup: Lookup = socket.getaddrinfo
    ) -> None:
        """`targets_hint`: how many targets there will be; with more, connections are opened anew."""
        from watchdog.probe import transport  # requests costs 60 ms to import

        transport.silence()
        self._transport = transport
        self._adapter = transport.BoundedAdapter(targets_hint + SPARE_POOLS)
        self._resolver = Resolver(lookup)
        self._owner_check = owner_check
        self._lock = threading.Lock()
        self._requests: dict[Target, PreparedRequest] = {}
        self._progress: dict[Target, Progress | None] = {}

    def close(self) -> None:
        """Close the kept connections."""
        self._adapter.close()

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def probe(self, target: Target) -> Heartbeat:
        """Ask `target` once. Takes at most target.timeout_s, and whatever it does is a Heartbeat.

        What the owner check takes comes on top: 10 ms, and as long as it lets itself where systemd does not answer.

        Raises CannotProbe or ConfigurationError when this watcher could not try, for want of descriptors, of a
        readable certificate or of a usable URL: no word on the peer. What the owner check raises passes.
        """
        nonce = secrets.token_hex(NONCE_BYTES) if target.key is not None else None
        exchange = Exchange(target.timeout_s, self._resolver)
        try:
            reply, response_time_ms = self._ask(exchange, target, nonce)
        except Missed as missed:
            verdict = self._check_owner(target, exchange, Verdict(False, str(missed)))
            return Heartbeat(target.name, healthy=False, detail=verdict.detail, impostor=verdict.impostor)
        expected = Expected(
            target.agent or target.name,
            target.max_loop_age_s,
            key=target.key,
            nonce=nonce,
            require_identity=target.require_identity,
        )
        verdict = self._judge(target, reply, expected)
        progress, verdict = verdict.progress, self._check_owner(target, exchange, verdict)
        return Heartbeat(
            target.name,
            healthy=verdict.healthy,
            detail=verdict.detail,
            response_time_ms=response_time_ms,
            verified=verdict.verified,
            impostor=verdict.impostor,
            progress=progress,
        )

    def _ask(self, exchange: Exchange, target: Target, nonce: str | None) -> tuple[Reply, float | None]:
        """What came back and how many milliseconds it took. Raises Missed."""
        request = self._request(target)
        if nonce is not None:
            request = request.copy()
            request.headers[NONCE_HEADER] = nonce
        begin(exchange)
        try:
            reply = self._fetch(exchange, request, target)
            return reply, exchange.response_time_ms()
        finally:
            begin(None)

    def _request(self, target: Target) -> PreparedRequest:
        request = self._requests.get(target)
        if request is None:  # two threads may both prepare the first: the same thing
            try:
                request = self._requests[target] = self._transport.prepare(target.endpoint)
            except (OSError, ValueError) as error:  # whatever requests raises is an OSError
                raise ConfigurationError(f"cannot probe {target.name!r} at {target.endpoint!r}: {error}") from error
        return request

    def _fetch(self, exchange: Exchange, request: PreparedRequest, target: Target) -> Reply:
        """Once more on a new connection when the peer closed the kept one between two rounds: that is no miss."""
        files = (target.ca_file, target.client_cert, target.client_key)
        try:
            return self._transport.fetch(self._adapter, request, files)
        except Late:
            raise
        except Missed:
            if exchange.opened or exchange.answered:
                raise
        return self._transport.fetch(self._adapter, request, files)

    def _judge(self, target: Target, reply: Reply, expected: Expected) -> Verdict:
        if reply.status != HTTPStatus.OK:
            return judge_refused(reply.body, expected, _refusal(reply))
        with self._lock:
            verdict = judge(self._progress.get(target, target.before), reply.body, expected)
            self._progress[target] = verdict.progress
            return verdict

    def _check_owner(self, target: Target, exchange: Exchange, verdict: Verdict) -> Verdict:
        """Whatever it answered, and when it was silent too: a squatter that hangs is no reason to restart the peer."""
        if self._owner_check is None or verdict.impostor:
            return verdict
        owner = self._owner_check(target, exchange.address)
        if owner is None or owner.ownership is not Ownership.OUTSIDE:
            return verdict
        return Verdict(False, owner.detail or "its port is owned by somebody else", impostor=True)


def _refusal(reply: Reply) -> str:
    """An answer other than 200 in words."""
    location = reply.headers.get("Location")
    if HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST and location:
        return f"HTTP {reply.status}: answered a redirect to {shown(location)}"
    return f"HTTP {reply.status}"
