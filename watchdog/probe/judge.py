"""What an answer's body says: the right peer, really alive, or something else. Pure; nothing raises."""

from __future__ import annotations

import hmac
import json
import math
import re
from dataclasses import dataclass, replace
from typing import TypeGuard

from watchdog.heartbeat import signature
from watchdog.model import Progress

FIELD_MAX_CHARS = 128
NUMBER_MAX_CHARS = 32
SEQ = re.compile(r"\d{1,19}")
HEALTHY_DETAIL = "HTTP 200"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the answer must show. With a key, `nonce` is the one sent with this very request."""

    agent: str
    max_loop_age_s: float
    key: bytes | None = None
    nonce: str | None = None
    require_identity: bool = False

    @property
    def identity_required(self) -> bool:
        """Whether an answer that does not say whose it is counts as somebody else's."""
        return self.require_identity or self.key is not None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`progress` is what to pass as `previous` next time."""

    healthy: bool
    detail: str
    verified: bool = False
    impostor: bool = False
    progress: Progress | None = None


class _Number(str):
    """A JSON number, as it was written."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """An answer with all four fields of a heartbeat, believed by nobody yet."""

    agent: str
    instance: str
    seq: _Number
    loop_age_s: _Number
    nonce: str
    hmac: str


def judge(previous: Progress | None, body: bytes, expected: Expected) -> Verdict:
    """Judge the body of a 200.

    Without the four fields it is a plain endpoint: healthy and not verified, unless identity is required. Another
    agent's name, or a signature that is missing, wrong or made for another nonce is an impostor. Then the peer
    itself is judged: a loop too old or a seq that has not grown since `previous` is a miss.
    """
    claim = _read_claim(body)
    if claim is None:
        verdict = _plain(expected, "its answer does not say whose it is")
    elif lie := _lie(claim, expected):
        verdict = Verdict(False, lie, impostor=True)
    else:
        verdict = _judge_progress(previous, claim, expected)
    return replace(verdict, progress=verdict.progress or previous)


def judge_refused(body: bytes, expected: Expected, refusal: str) -> Verdict:
    """Judge the body of another answer than a 200, which is a miss whatever it says.

    One that names another agent, or lies as one of a 200 may, is an impostor's here too. One that says nothing shows
    nothing: a peer that is ill answers with whatever its server has. A hung agent's own words are added to `refusal`.
    """
    claim = _read_claim(body)
    if claim is None:
        return Verdict(False, refusal)
    if lie := _lie(claim, expected):
        return Verdict(False, f"{refusal}: {lie}", impostor=True)
    own = _judge_progress(None, claim, expected)
    return Verdict(False, f"{refusal}: {own.detail}" if own.verified and not own.healthy else refusal)


def _plain(expected: Expected, lacking: str) -> Verdict:
    if expected.identity_required:
        return Verdict(False, lacking, impostor=True)
    return Verdict(True, HEALTHY_DETAIL)


def _lie(claim: _Claim, expected: Expected) -> str:
    """Why this is not the expected agent; "" when it is."""
    if claim.agent != expected.agent:
        return f"answered as {claim.agent!r}, not as {expected.agent!r}"
    if expected.key is None:
        return ""
    if not claim.hmac:
        return "its answer is not signed"
    if expected.nonce is None or claim.nonce != expected.nonce:
        return "its answer is signed for another request"
    signed = signature(
        expected.key,
        nonce=claim.nonce,
        agent=claim.agent,
        instance=claim.instance,
        seq=claim.seq,
        loop_age_s=claim.loop_age_s,
    )
    return "" if hmac.compare_digest(signed.encode(), claim.hmac.encode()) else "its signature is wrong"


def _judge_progress(previous: Progress | None, claim: _Claim, expected: Expected) -> Verdict:
    seq, loop_age_s = _read_seq(claim.seq), _read_age_s(claim.loop_age_s)
    if seq is None or loop_age_s is None:
        unread = f"seq is {claim.seq}" if seq is None else f"loop_age_s is {claim.loop_age_s}"
        if expected.identity_required:
            return Verdict(False, f"its heartbeat cannot be read: {unread}", verified=True)
        return Verdict(True, f"{HEALTHY_DETAIL}, not a heartbeat: {unread}")
    now = Progress(claim.instance, seq)
    if loop_age_s > expected.max_loop_age_s:
        return Verdict(False, f"hung: its loop is {loop_age_s:.1f} s old", verified=True, progress=now)
    if previous is not None and previous.instance == now.instance and now.seq <= previous.seq:
        return Verdict(False, _standing_still(previous, now), verified=True, progress=now)
    return Verdict(True, HEALTHY_DETAIL, verified=True, progress=now)


def _standing_still(previous: Progress, now: Progress) -> str:
    if now.seq < previous.seq:
        return f"stands still: its seq went back from {previous.seq} to {now.seq}"
    return f"stands still: its seq is {now.seq}, as at the last probe"


def _read_claim(body: bytes) -> _Claim | None:
    try:
        answer = json.loads(body.decode(), parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    agent, instance = answer.get("agent"), answer.get("instance")
    seq, loop_age_s = answer.get("seq"), answer.get("loop_age_s")
    if not (_is_name(agent) and _is_name(instance) and _is_number(seq) and _is_number(loop_age_s)):
        return None
    nonce, mac = answer.get("nonce"), answer.get("hmac")
    return _Claim(
        agent,
        instance,
        seq,
        loop_age_s,
        nonce if _is_name(nonce) else "",
        mac if _is_name(mac) else "",
    )


def _is_name(value: object) -> TypeGuard[str]:
    """A short text on one line. Not printable: line ends, which would shift what is signed, and surrogates."""
    return (
        isinstance(value, str)
        and not isinstance(value, _Number)
        and 0 < len(value) <= FIELD_MAX_CHARS
        and value.isprintable()
    )


def _is_number(value: object) -> TypeGuard[_Number]:
    return isinstance(value, _Number) and len(value) <= NUMBER_MAX_CHARS


def _read_seq(text: _Number) -> int | None:
    return int(text) if SEQ.fullmatch(text) else None


def _read_age_s(text: _Number) -> float | None:
    """Infinity is an age, and too old for anybody; NaN and what lies in the future are none."""
    age_s = float(text)
    return None if math.isnan(age_s) or age_s < 0 else age_s
