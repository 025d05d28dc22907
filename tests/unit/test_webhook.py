"""What is sent, how it is signed, and what an answer means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.errors import ConfigurationError
from watchdog.model import Action, Escalation, EventState, Severity
from watchdog.webhook import (
    BODY_LIMIT_BYTES,
    RETRY_AFTER_LIMIT_S,
    Answer,
    BadSignature,
    Delivered,
    Gone,
    Receiver,
    Retry,
    event_body,
    example_body,
    headers_for,
    judge,
    new_id,
    parse_secret,
    read_secret,
    retry_after_s,
    verify,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
OLD, NEW, OTHER = b"old secret of 24 bytes..", b"new secret of 24 bytes..", b"of somebody else"


def escalation(reason: str = "3 misses, 3 restarts", peer: str = "shield") -> Escalation:
    return Escalation(
        NOW, peer, Action.ISOLATE, reason, Severity.CRITICAL, EventState.FIRING, watcher="immune", episode=7
    )


def test_the_body_is_a_contract() -> None:
    assert json.loads(event_body(escalation(), "soc-1", "INC-42")) == {
        "schema": 1,
        "type": "watchdog.isolate",
        "timestamp": "2026-03-01T12:00:00.000000Z",
        "data": {
            "timestamp": "2026-03-01T12:00:00.000000Z",
            "peer_name": "shield",
            "action": "isolate",
            "reason": "3 misses, 3 restarts",
            "severity": "CRITICAL",
            "state": "FIRING",
            "watcher": "immune",
            "episode": 7,
            "host": "soc-1",
            "incident": "INC-42",
        },
    }
    assert "incident" not in json.loads(event_body(escalation(), "soc-1"))["data"]


def test_a_test_is_shaped_as_an_event_and_plainly_none() -> None:
    document = json.loads(example_body("soc-1", NOW))
    assert document["type"] == "watchdog.test"
    assert document["data"].keys() == json.loads(event_body(escalation(), "soc-1"))["data"].keys()
    assert document["data"]["action"] == "test"


@given(st.text(st.characters(), max_size=5000), st.text(st.characters(), max_size=500))
def test_no_text_breaks_or_bloats_the_body(reason: str, name: str) -> None:
    body = event_body(escalation(reason, name), name, name)
    assert len(body) < BODY_LIMIT_BYTES
    json.loads(body.decode())["data"]["reason"].encode()


@pytest.mark.parametrize("character", ["\x1b", "\U0001f9a0", "\udc80", '"', "\0"])
def test_the_longest_texts_fit(character: str) -> None:
    body = event_body(escalation(character * 50_000, character * 50_000), character * 50_000, character * 50_000)
    assert len(body) < BODY_LIMIT_BYTES
    assert json.loads(body)["data"]["reason"].endswith("...")


def test_signatures_are_what_anybody_computes() -> None:
    body = event_body(escalation(), "soc-1")
    headers = headers_for("evt_1", NOW, body, (NEW, OLD))
    signed = b"evt_1." + str(int(NOW.timestamp())).encode() + b"." + body
    by = [base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in (NEW, OLD)]
    assert headers["webhook-signature"] == f"v1,{by[0]} v1,{by[1]}"
    assert headers["webhook-id"] == "evt_1"
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))


def test_a_known_vector() -> None:
    """The example of the Standard Webhooks libraries."""
    secret = parse_secret(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "secret")
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = headers_for("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', (secret,))
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_secret_nothing_is_signed() -> None:
    assert "webhook-signature" not in headers_for("evt_1", NOW, b"{}", ())


@pytest.mark.parametrize("known", [(OLD,), (NEW,), (OTHER, OLD), (NEW, OLD)])
def test_rotation_each_secret_verifies(known: tuple[bytes, ...]) -> None:
    headers = headers_for("evt_1", NOW, b"{}", (NEW, OLD))
    assert verify(headers, b"{}", known, NOW) == "evt_1"


@pytest.mark.parametrize(
    ("changed", "body", "late_s", "known"),
    [
        ({}, b"{ }", 0, (NEW,)),
        ({}, b"{}", 0, (OTHER,)),
        ({}, b"{}", 0, ()),
        ({}, b"{}", 301, (NEW,)),
        ({}, b"{}", -301, (NEW,)),
        ({"webhook-id": "evt_2"}, b"{}", 0, (NEW,)),
        ({"webhook-id": ""}, b"{}", 0, (NEW,)),
        ({"webhook-timestamp": "1"}, b"{}", 0, (NEW,)),
        ({"webhook-timestamp": "now"}, b"{}", 0, (NEW,)),
        ({"webhook-timestamp": "٣"}, b"{}", 0, (NEW,)),
        ({"webhook-signature": ""}, b"{}", 0, (NEW,)),
        ({"webhook-signature": "v1,"}, b"{}", 0, (NEW,)),
        ({"webhook-signature": "v1a,\udc80é"}, b"{}", 0, (NEW,)),
    ],
)
def test_what_verify_refuses(changed: dict[str, str], body: bytes, late_s: int, known: tuple[bytes, ...]) -> None:
    headers = {**headers_for("evt_1", NOW, b"{}", (NEW,)), **changed}
    with pytest.raises(BadSignature):
        verify(headers, body, known, NOW + timedelta(seconds=late_s))


def test_verify_whatever_the_case_of_the_names() -> None:
    headers = {name.title(): value for name, value in headers_for("evt_1", NOW, b"{}", (NEW,)).items()}
    assert verify(headers, b"{}", (NEW,), NOW + timedelta(seconds=299)) == "evt_1"


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (NEW + b"\n", NEW),
        (NEW + b"\r\n", NEW),
        (b"\x00\xff" + NEW + b"\n\n", b"\x00\xff" + NEW + b"\n"),
        (b"whsec_bmV3IHNlY3JldCBvZiAyNCBieXRlcy4u\n", NEW),
        (b" spaces count, all 24 of ", b" spaces count, all 24 of "),
    ],
)
def test_secrets(content: bytes, secret: bytes) -> None:
    assert parse_secret(content, "here") == secret


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"whsec_", b"whsec_not base64!", b"whsec_abc", NEW[:23] + b"\n", b"whsec_cGxhaW4="],
)
def test_no_secrets(content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="here"):
        parse_secret(content, "here")


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_secret(tmp_path / "none")


def test_secrets_and_urls_are_not_shown() -> None:
    shown = repr(Receiver("architect", "https://soc.example/hook/TOKEN", (NEW,)))
    assert "TOKEN" not in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        (Severity.MEDIUM, [True, True, True]),
        (Severity.HIGH, [False, True, True]),
        (Severity.CRITICAL, [False] * 2 + [True]),
    ],
)
def test_whom_an_event_concerns(least: Severity, wanted: list[bool]) -> None:
    assert [Receiver("a", "http://a", min_severity=least).wants(severity) for severity in Severity] == wanted


def test_ids_are_new_and_without_a_full_stop() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert not any("." in one for one in ids)
    assert new_id("test").startswith("test_")


@pytest.mark.parametrize(
    ("status", "headers", "answer"),
    [
        (199, {}, Retry("HTTP 199: said")),
        (200, {}, Delivered(200)),
        (299, {}, Delivered(299)),
        (300, {}, Retry("HTTP 300: it redirects, which is not followed")),
        (307, {"Location": "http://elsewhere"}, Retry("HTTP 307: it redirects, which is not followed")),
        (400, {}, Retry("HTTP 400: said")),
        (401, {"Retry-After": "7"}, Retry("HTTP 401: said")),
        (410, {}, Gone("HTTP 410: said")),
        (429, {}, Retry("HTTP 429: said")),
        (429, {"Retry-After": "7"}, Retry("HTTP 429: said", 7.0)),
        (503, {"Retry-After": "soon"}, Retry("HTTP 503: said")),
        (500, {"Retry-After": "7"}, Retry("HTTP 500: said")),
        (999, {}, Retry("HTTP 999: said")),
    ],
)
def test_what_an_answer_means(status: int, headers: dict[str, str], answer: Answer) -> None:
    assert judge(status, headers, b"sa\x1bid\nand more", NOW) == answer


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("3600", RETRY_AFTER_LIMIT_S),
        ("3601", RETRY_AFTER_LIMIT_S),
        ("9" * 5000, RETRY_AFTER_LIMIT_S),
        ("0" * 5000 + "7", 7.0),
        ("1.5", None),
        ("-1", None),
        ("٣", None),
        ("", None),
        ("soon", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=90), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=90), usegmt=True), RETRY_AFTER_LIMIT_S),
        ("Sun, 01 Mar 2026 12:01:30 -0000", 90.0),
        ("Sun, 01 Mar 2026 12:01:30", 90.0),
        ("Sun, 01 Mar 2026 14:01:30 +0200", 90.0),
        ("Sun, 32 Mar 2026 12:01:30 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    assert retry_after_s(value, NOW) == wait_s


@given(st.text() | st.from_regex(r"\w{3}, \d{1,2} \w{3} \d{1,9} \d{1,3}:\d{1,3}:\d{1,3}( \w{1,5}| [+-]\d{1,9})?"))
def test_no_retry_after_does_harm(value: str) -> None:
    wait_s = retry_after_s(value, NOW)
    assert wait_s is None or 0.0 <= wait_s <= RETRY_AFTER_LIMIT_S


def test_a_date_is_meant_by_the_receivers_clock() -> None:
    theirs = NOW + timedelta(hours=5)
    headers = {"Date": format_datetime(theirs), "Retry-After": format_datetime(theirs + timedelta(seconds=60))}
    assert judge(503, headers, b"", NOW) == Retry("HTTP 503", 60.0)
