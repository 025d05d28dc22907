"""What an answer says: as a table in the operator's terms, and for anything at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.heartbeat import Pulse, signature
from watchdog.probe import Expected, Progress, Verdict, judge
from watchdog.probe.judge import judge_refused

KEY = b"a key that both sides share"
NONCE = "f00d"
HEARTBEAT: dict[str, Any] = {"status": "ok", "agent": "shield", "instance": "one", "seq": 7, "loop_age_s": 0.25}
PLAIN = Expected("shield", max_loop_age_s=60)
REQUIRED = Expected("shield", max_loop_age_s=60, require_identity=True)
KEYED = Expected("shield", max_loop_age_s=60, key=KEY, nonce=NONCE)
BEFORE = Progress("one", 6)


def body(**changes: Any) -> bytes:
    """A heartbeat with some fields changed; None takes one away."""
    fields = {name: value for name, value in (HEARTBEAT | changes).items() if value is not None}
    return json.dumps(fields).encode()


def signed(key: bytes = KEY, nonce: str = NONCE, **changes: Any) -> bytes:
    """The same with the signature that `key` makes over it."""
    fields = HEARTBEAT | changes
    mac = signature(
        key,
        nonce=nonce,
        agent=fields["agent"],
        instance=fields["instance"],
        seq=json.dumps(fields["seq"]),
        loop_age_s=json.dumps(fields["loop_age_s"]),
    )
    return body(**changes, nonce=nonce, hmac=mac)


@pytest.mark.parametrize(
    ("answer", "expected", "verdict"),
    [
        # plain endpoints
        (b"ok", PLAIN, Verdict(True, "HTTP 200")),
        (b"", PLAIN, Verdict(True, "HTTP 200")),
        (b'{"status": "ok"}', PLAIN, Verdict(True, "HTTP 200")),
        (b'{"agent": "Mozilla/5.0"}', PLAIN, Verdict(True, "HTTP 200")),
        (b"[" * 60000, PLAIN, Verdict(True, "HTTP 200")),
        (b'"' + b"9" * 60000, PLAIN, Verdict(True, "HTTP 200")),
        (b"\xff\xfe{}", PLAIN, Verdict(True, "HTTP 200")),
        (body(instance=None), PLAIN, Verdict(True, "HTTP 200")),
        (body(agent="shield\nsidecar"), PLAIN, Verdict(True, "HTTP 200")),
        (body(agent="\ud800"), PLAIN, Verdict(True, "HTTP 200")),
        (body(seq=True), PLAIN, Verdict(True, "HTTP 200")),
        (body(seq="7"), PLAIN, Verdict(True, "HTTP 200")),
        (body(seq=-1), PLAIN, Verdict(True, "HTTP 200, not a heartbeat: seq is -1")),
        (body(seq=7.0), PLAIN, Verdict(True, "HTTP 200, not a heartbeat: seq is 7.0")),
        (body(seq=10**19), PLAIN, Verdict(True, f"HTTP 200, not a heartbeat: seq is {10**19}")),
        (body(seq=10**4000), PLAIN, Verdict(True, "HTTP 200")),
        (body(loop_age_s=float("nan")), PLAIN, Verdict(True, "HTTP 200, not a heartbeat: loop_age_s is NaN")),
        (body(loop_age_s=-0.5), PLAIN, Verdict(True, "HTTP 200, not a heartbeat: loop_age_s is -0.5")),
        # identity required, and none given
        (b"ok", REQUIRED, Verdict(False, "its answer does not say whose it is", impostor=True)),
        (b"ok", KEYED, Verdict(False, "its answer does not say whose it is", impostor=True)),
        (body(seq=None), REQUIRED, Verdict(False, "its answer does not say whose it is", impostor=True)),
        (body(seq=-1), REQUIRED, Verdict(False, "its heartbeat cannot be read: seq is -1", verified=True)),
        # somebody else
        (body(agent="sidecar"), PLAIN, Verdict(False, "answered as 'sidecar', not as 'shield'", impostor=True)),
        (body(agent="Shield"), REQUIRED, Verdict(False, "answered as 'Shield', not as 'shield'", impostor=True)),
        (body(), KEYED, Verdict(False, "its answer is not signed", impostor=True)),
        (body(nonce=NONCE, hmac=7), KEYED, Verdict(False, "its answer is not signed", impostor=True)),
        (body(nonce=NONCE, hmac="é"), KEYED, Verdict(False, "its signature is wrong", impostor=True)),
        (signed(b"another key"), KEYED, Verdict(False, "its signature is wrong", impostor=True)),
        (signed(nonce="0ld"), KEYED, Verdict(False, "its answer is signed for another request", impostor=True)),
        (
            signed().replace(b'"seq": 7', b'"seq": 8'),
            KEYED,
            Verdict(False, "its signature is wrong", impostor=True),
        ),
        # the peer itself
        (body(), PLAIN, Verdict(True, "HTTP 200", verified=True, progress=Progress("one", 7))),
        (signed(), KEYED, Verdict(True, "HTTP 200", verified=True, progress=Progress("one", 7))),
        (signed(), PLAIN, Verdict(True, "HTTP 200", verified=True, progress=Progress("one", 7))),
        (body(loop_age_s=60), PLAIN, Verdict(True, "HTTP 200", verified=True, progress=Progress("one", 7))),
        (
            body(loop_age_s=60.1),
            PLAIN,
            Verdict(False, "hung: its loop is 60.1 s old", verified=True, progress=Progress("one", 7)),
        ),
        (
            body().replace(b"0.25", b"1e999"),
            PLAIN,
            Verdict(False, "hung: its loop is inf s old", verified=True, progress=Progress("one", 7)),
        ),
        (
            signed(seq=6),
            KEYED,
            Verdict(
                False,
                "stands still: its seq is 6, as at the last probe",
                verified=True,
                progress=Progress("one", 6),
            ),
        ),
        (
            body(seq=2),
            PLAIN,
            Verdict(False, "stands still: its seq went back from 6 to 2", verified=True, progress=Progress("one", 2)),
        ),
        (
            body(seq=6, instance="two"),
            PLAIN,
            Verdict(True, "HTTP 200", verified=True, progress=Progress("two", 6)),
        ),
    ],
)
def test_judge(answer: bytes, expected: Expected, verdict: Verdict) -> None:
    given_back = (
        verdict
        if verdict.progress
        else Verdict(verdict.healthy, verdict.detail, verdict.verified, verdict.impostor, BEFORE)
    )
    assert judge(BEFORE, answer, expected) == given_back


def test_the_first_heartbeat_needs_no_growth() -> None:
    assert judge(None, body(seq=0), PLAIN) == Verdict(True, "HTTP 200", verified=True, progress=Progress("one", 0))


def test_numbers_are_signed_as_they_are_written() -> None:
    """An agent in another language may write 0.250 or 25e-2."""
    mac = signature(KEY, nonce=NONCE, agent="shield", instance="one", seq="7", loop_age_s="25e-2")
    answer = body(nonce=NONCE, hmac=mac).replace(b"0.25", b"25e-2")
    assert judge(None, answer, KEYED).verified


@pytest.mark.parametrize(
    ("answer", "expected", "detail", "impostor"),
    [
        (b"", PLAIN, "HTTP 503", False),
        (b"<h1>Service Unavailable</h1>", REQUIRED, "HTTP 503", False),
        (b"<h1>Service Unavailable</h1>", KEYED, "HTTP 503", False),
        (body(), PLAIN, "HTTP 503", False),
        (signed(), KEYED, "HTTP 503", False),
        (body(seq=-1), REQUIRED, "HTTP 503: its heartbeat cannot be read: seq is -1", False),
        (body(loop_age_s=99), PLAIN, "HTTP 503: hung: its loop is 99.0 s old", False),
        (signed(loop_age_s=99), KEYED, "HTTP 503: hung: its loop is 99.0 s old", False),
        (body(agent="sidecar"), PLAIN, "HTTP 503: answered as 'sidecar', not as 'shield'", True),
        (body(agent="sidecar", loop_age_s=99), PLAIN, "HTTP 503: answered as 'sidecar', not as 'shield'", True),
        (body(loop_age_s=99), KEYED, "HTTP 503: its answer is not signed", True),
        (signed(b"another key"), KEYED, "HTTP 503: its signature is wrong", True),
        (signed(nonce="0ld"), KEYED, "HTTP 503: its answer is signed for another request", True),
    ],
)
def test_any_other_answer_is_a_miss_and_may_be_somebody_else_s(
    answer: bytes, expected: Expected, detail: str, impostor: bool
) -> None:
    assert judge_refused(answer, expected, "HTTP 503") == Verdict(False, detail, impostor=impostor)


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def near_heartbeats() -> st.SearchStrategy[bytes]:
    """JSON objects with fields of a heartbeat, right, wrong or missing."""
    fields = {
        "agent": st.sampled_from(["shield", "sidecar"]) | json_values(),
        "instance": st.sampled_from(["one", "two"]) | json_values(),
        "seq": st.integers(-2, 9) | json_values(),
        "loop_age_s": st.floats(-1, 100) | json_values(),
        "nonce": st.just(NONCE) | json_values(),
        "hmac": st.text(max_size=64) | json_values(),
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda answer: json.dumps(answer).encode())


bodies = st.binary(max_size=200) | json_values().map(lambda v: json.dumps(v).encode()) | near_heartbeats()
previous = st.none() | st.builds(Progress, st.sampled_from(["one", "two"]), st.integers(0, 9))


@given(previous, bodies, st.sampled_from([PLAIN, REQUIRED, KEYED]))
def test_no_body_is_believed_too_much(before: Progress | None, answer: bytes, expected: Expected) -> None:
    verdict = judge(before, answer, expected)
    assert not (verdict.healthy and verdict.impostor)
    assert not (verdict.verified and verdict.impostor)
    assert not (verdict.healthy and expected.identity_required and not verdict.verified)
    assert verdict.detail.isprintable()
    if verdict.verified:
        assert json.loads(answer)["agent"] == "shield"
    if expected is KEYED:
        assert not verdict.verified, "nothing random carries a right signature"
    if not verdict.verified:
        assert verdict.progress == before


@given(st.integers(0, 5), st.integers(0, 5), st.floats(0, 120))
def test_an_honest_agent_is_healthy_while_it_moves(before: int, beats: int, age_s: float) -> None:
    now_s = [0.0]
    pulse = Pulse("shield", key=KEY, clock=lambda: now_s[0])
    for _ in range(before):
        pulse.beat()
    first = judge(None, pulse.answer(NONCE).body, KEYED)
    for _ in range(beats):
        pulse.beat()
    now_s[0] = age_s
    second = judge(first.progress, pulse.answer(NONCE).body, KEYED)
    assert first.healthy
    assert second.verified
    assert second.healthy == (beats > 0 and round(age_s, 3) <= KEYED.max_loop_age_s)
