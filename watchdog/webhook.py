"""One event to one receiver, as Standard Webhooks 1.0.0 has it: what is sent, how it is signed, what an answer means.

The body is JSON of less than 20 kB, the same bytes at every try (schema 1; new keys may be added, none goes):

    {"schema": 1,
     "type": "watchdog.isolate",                  "watchdog." and the action; "watchdog.test" from `notify test`
     "timestamp": "2026-01-31T08:15:30.000000Z",  when it happened, not when it was sent
     "data": {"timestamp": ..., "peer_name": "shield", "action": "isolate", "reason": "...", "severity": "CRITICAL",
              "state": "FIRING",                  or RESOLVED
              "watcher": "immune", "episode": 7,  whose watcher saw it; one number for all events of one trouble
              "host": "soc-1",
              "incident": "INC-42"}}              only when one was given; a `reason` cut short ends in "..."

The headers: `webhook-id` is the event's and the same at every try: a receiver that has seen it answers 2xx and does
nothing (a crash between the answer and the journal's commit sends it again). `webhook-timestamp` is this try's, in
Unix seconds. `webhook-signature` holds, for each secret, "v1," and base64 of HMAC-SHA256 over "id.timestamp.body",
separated by spaces: with the old and the new secret configured, a receiver can change over whenever it likes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from watchdog.clock import rfc3339
from watchdog.errors import ConfigurationError, WatchdogError
from watchdog.model import Action, Escalation, EventState, Severity

SCHEMA = 1
TIMEOUT_S = 15.0
TOLERANCE_S = 300.0
BODY_LIMIT_BYTES = 20_000
REASON_LIMIT = 2_000  # characters; one is at most 6 bytes of JSON (\u001b)
NAME_LIMIT = 200
ID_BYTES = 16
SAID_LIMIT = 80
RETRY_AFTER_LIMIT_S = 3600.0
"""Longer than this no receiver silences us, whatever it asks for."""
SECRET_PREFIX = b"whsec_"
SECRET_MIN_BYTES = 24
"""Standard Webhooks 1.0.0: between 24 and 64 random bytes."""
ASKS_FOR_PATIENCE = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class BadSignature(WatchdogError):
    """A request is not what one of the secrets' holders sent, or not of now."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Somebody who is told. The first secret is the one in force; all of them sign."""

    name: str
    url: str = field(repr=False)  # a path may be a secret too
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    min_severity: Severity = Severity.MEDIUM
    timeout_s: float = TIMEOUT_S
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    def wants(self, severity: Severity) -> bool:
        """Whether an event of that severity goes to this receiver."""
        return severity.rank >= self.min_severity.rank


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it (2xx)."""

    status: int


@dataclass(frozen=True, slots=True)
class Retry:
    """The receiver does not have it, as far as we know; `after_s` is when it asks to be tried again."""

    why: str
    after_s: float | None = None
    reached: bool = True
    """Somebody answered: another process of this host would hear the same."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The receiver wants no more events (410)."""

    why: str


Answer = Delivered | Retry | Gone


def post(receiver: Receiver, event_id: str, at: datetime, body: bytes, *, timeout_s: float | None = None) -> Answer:
    """Send one event once, over in `timeout_s` (the receiver's own when None); `at` is now, as the receiver will check.

    Redirects are not followed: a signed event goes where the configuration says. Never raises for what a receiver does.
    """
    from watchdog import posting

    answered = posting.post(
        receiver.url,
        headers_for(event_id, at, body, receiver.secrets),
        body,
        timeout_s=receiver.timeout_s if timeout_s is None else timeout_s,
        ca_file=receiver.ca_file,
        client_cert=receiver.client_cert,
        client_key=receiver.client_key,
    )
    if isinstance(answered, str):
        return Retry(answered, reached=False)
    return judge(answered.status, answered.headers, answered.body, at)


def headers_for(event_id: str, at: datetime, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The headers of one try; without secrets there is no signature."""
    timestamp = str(int(at.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
    }
    if secrets:
        headers["webhook-signature"] = " ".join(sign(secret, event_id, timestamp, body) for secret in secrets)
    return headers


def sign(secret: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    """One signature: "v1," and base64 of HMAC-SHA256 over id.timestamp.body."""
    digest = hmac.new(secret, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def judge(status: int, headers: Mapping[str, str], body: bytes, at: datetime) -> Answer:
    """Pure: what an answer means. Its status is the verdict, also when its body never came to an end."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Delivered(status)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Retry(f"HTTP {status}: it redirects, which is not followed")
    said = "".join(c for c in body.decode(errors="replace").split("\n", 1)[0] if c.isprintable())[:SAID_LIMIT].strip()
    why = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    if status == HTTPStatus.GONE:
        return Gone(why)
    if status in ASKS_FOR_PATIENCE and "Retry-After" in headers:
        return Retry(why, retry_after_s(headers["Retry-After"], _date(headers.get("Date", "")) or at))
    return Retry(why)


def retry_after_s(value: str, now: datetime) -> float | None:
    """Pure: what a Retry-After asks for, in seconds from 0 to RETRY_AFTER_LIMIT_S; None when it is neither form.

    `now` is the receiver's own Date where it gave one: its date is meant by its clock.
    """
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        digits = value.strip().lstrip("0") or "0"
        return RETRY_AFTER_LIMIT_S if len(digits) > len(str(RETRY_AFTER_LIMIT_S)) else _capped(float(digits))
    until = _date(value)
    return None if until is None else _capped((until - now).total_seconds())


def _capped(wait_s: float) -> float:
    return min(max(wait_s, 0.0), RETRY_AFTER_LIMIT_S)


def _date(value: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # 5 ms that commands which send nothing need not spend

    try:
        parsed = parsedate_to_datetime(value)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):  # its parser lets all of these out
        return None


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[bytes],
    now: datetime,
    tolerance_s: float = TOLERANCE_S,
) -> str:
    """The webhook-id of a request that one of `secrets` signed within `tolerance_s` of now; raises BadSignature.

    For receivers. The id still has to be looked up: one that was handled before is answered 2xx and dropped.
    """
    named = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp, signatures = (named.get(f"webhook-{key}", "") for key in ("id", "timestamp", "signature"))
    if not event_id or not re.fullmatch(r"[0-9]{1,12}", timestamp) or not signatures:
        raise BadSignature("the request lacks webhook-id, webhook-timestamp or webhook-signature")
    if abs(now.timestamp() - int(timestamp)) > tolerance_s:
        raise BadSignature(f"webhook-timestamp is not within {tolerance_s:g} s of now", hint="check both clocks")
    wanted = [sign(secret, event_id, timestamp, body).encode() for secret in secrets]
    if not any(
        hmac.compare_digest(given.encode(errors="replace"), want) for given in signatures.split() for want in wanted
    ):
        raise BadSignature("no signature is by a secret we know")
    return event_id


def parse_secret(content: bytes, at: str) -> bytes:
    """The secret in a file: `whsec_` and base64, or the bytes as they are, less one newline at the end.

    Raises ConfigurationError that names `at`, never the content.
    """
    secret = content.removesuffix(b"\n").removesuffix(b"\r")
    if secret.startswith(SECRET_PREFIX):
        try:
            secret = base64.b64decode(secret.removeprefix(SECRET_PREFIX).strip(), validate=True)
        except binascii.Error as error:
            raise ConfigurationError(f"{at}: want base64 after whsec_: {error}") from error
    if len(secret) < SECRET_MIN_BYTES:
        raise ConfigurationError(
            f"{at}: the secret has {len(secret)} bytes, at least {SECRET_MIN_BYTES} are wanted",
            hint="make one: openssl rand -hex -out FILE 32",
        )
    return secret


def read_secret(path: Path) -> bytes:
    """The secret in the file at `path`; raises ConfigurationError when it cannot be read or is none."""
    try:
        return parse_secret(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot read the secret {path}: {error.strerror}") from error


def new_id(kind: str = "evt") -> str:
    """A webhook-id no other event has; without a full stop, which would let one signed text be read as another."""
    return f"{kind}_{randomness.token_hex(ID_BYTES)}"


def event_body(escalation: Escalation, host: str, incident: str = "") -> bytes:
    """The body of an event (this module's docstring), always less than BODY_LIMIT_BYTES."""
    data: dict[str, object] = {
        "timestamp": rfc3339(escalation.timestamp),
        "peer_name": clipped(escalation.peer_name, NAME_LIMIT),
        "action": escalation.action.value,
        "reason": clipped(escalation.reason, REASON_LIMIT),
        "severity": escalation.severity.value,
        "state": escalation.state.value,
        "watcher": clipped(escalation.watcher, NAME_LIMIT),
        "episode": escalation.episode,
        "host": clipped(host, NAME_LIMIT),
    }
    if incident:
        data["incident"] = clipped(incident, NAME_LIMIT)
    return _document(escalation.action.value, escalation.timestamp, data)


def example_body(host: str, at: datetime) -> bytes:
    """The body of `notify test`: shaped as an event, and plainly none."""
    example = Escalation(at, "none", Action.ALERT, "a test of this receiver", Severity.MEDIUM, EventState.RESOLVED)
    data = json.loads(event_body(example, host))["data"]
    return _document("test", at, {**data, "action": "test"})


def _document(kind: str, at: datetime, data: Mapping[str, object]) -> bytes:
    document = {"schema": SCHEMA, "type": f"watchdog.{kind}", "timestamp": rfc3339(at), "data": data}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def clipped(text: str, limit: int) -> str:
    """`text` as UTF-8 can carry it, at most `limit` characters; a cut one ends in "..."."""
    sound = text.encode(errors="replace").decode()
    return sound if len(sound) <= limit else sound[: limit - 3] + "..."


def where(receiver: Receiver) -> str:
    """The receiver's scheme, host and port: the part of its URL that is no secret."""
    parts = urlsplit(receiver.url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
