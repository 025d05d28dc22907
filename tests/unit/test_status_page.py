"""The page says the worst first, in words, and lets nobody else's text become markup."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from tests.unit.status_views import HOSTILE, SHIELD_CUT, ago, health, hostile, incident, large, peer
from watchdog.model import Status
from watchdog.paths.words import Coverage, Verdict
from watchdog.status.document import Backlog
from watchdog.status.page import CONTENT_SECURITY_POLICY, age, render, render_unavailable, size

TAGS = (
    "html head meta title style body header h1 h2 h3 p b table thead tbody tr th td span small time section dl dt dd"
    " ul li footer"
)


class Reader(HTMLParser):
    """What a browser would see: the tags opened, the attributes, the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def test_says_what_matters() -> None:
    text = Reader(render(incident())).text
    for words in (
        "1 ISOLATED, 1 HEALTHY",
        "12 s ago",
        "13 min ago",
        SHIELD_CUT.reason,
        SHIELD_CUT.drift,
        "7 min 20 s ago",
        "to it 41,230 packets, 3.1 MiB; from it 12 packets, 720 B",
        "5,712 probes, 26 missed, 3 restarts, 1 isolation of 2 peers.",
        "architect 2 waiting, the oldest for 7 min 10 s: HTTP 503",
        "2026-03-01 02:52:40 UTC",
        "1 of 2 votes to isolate it",
        "sidecar until 2026-03-01 03:30:00 UTC: upgrade (root (login alice))",
    ):
        assert words in text
    assert "SELF-DOUBT" not in text
    assert "STORM" not in text


def test_doubt_and_storm_are_said() -> None:
    text = Reader(render(incident(health=replace(health(), self_doubt="deaf", storm="3 of 4")))).text
    assert "SELF-DOUBT This watcher acts on nobody: deaf." in text
    assert "STORM Nobody is isolated: 3 of 4." in text


def test_a_receiver_that_is_gone_is_named_though_nothing_is_pending() -> None:
    outbox = {"architect": Backlog(0, None, "HTTP 410", ago(hours=2)), "siem": Backlog(0, None)}
    text = Reader(render(incident(outbox=outbox))).text
    assert "architect gone since 2026-03-01 01:00:00 UTC, and gets no more: HTTP 410" in text
    assert "siem" not in text


def test_worst_first() -> None:
    peers = [
        peer("a-well"),
        peer("b-new", last_seen=None),
        peer("c-slow", Status.DEGRADED),
        peer("d-cut", Status.ISOLATED),
        peer("e-gone", Status.OFFLINE),
    ]
    text = Reader(render(incident(peers=peers, isolations=[]))).text
    places = [text.index(name) for name in ("d-cut", "e-gone", "c-slow", "b-new", "a-well")]
    assert places == sorted(places)
    assert "1 ISOLATED, 1 OFFLINE, 1 DEGRADED, 1 NOT KNOWN, 1 HEALTHY" in text


@pytest.mark.parametrize(
    ("peers", "ok", "headline"),
    [
        ([peer("a"), peer("b")], True, "ALL 2 HEALTHY"),
        ([peer("a")], False, "1 HEALTHY WHEN LAST SEEN"),
        ([], True, "NO PEERS"),
        ([peer("a", last_seen=None)], True, "1 NOT KNOWN"),
    ],
)
def test_headline(peers: list[object], ok: bool, headline: str) -> None:
    text = Reader(render(incident(peers=peers, isolations=[], health=health(ok=ok)))).text
    assert headline in text
    assert ("THIS WATCHER IS NOT WELL" in text) is not ok


@pytest.mark.parametrize(
    ("peers", "isolated", "headline", "worst"),
    [
        ([peer("a"), peer("b")], ["immune"], "1 ISOLATED, 2 HEALTHY", "ISOLATED"),
        ([peer("a"), peer("b")], ["", ""], "2 ISOLATED, 2 HEALTHY", "ISOLATED"),
        ([peer("a", Status.ISOLATED), peer("b")], ["a", "immune"], "2 ISOLATED, 1 HEALTHY", "ISOLATED"),
        ([peer("a", Status.ISOLATED), peer("b")], ["a"], "1 ISOLATED, 1 HEALTHY", "ISOLATED"),
        ([], [""], "1 ISOLATED", "ISOLATED"),
        ([peer("a", Status.OFFLINE)], [], "1 OFFLINE", "OFFLINE"),
    ],
)
def test_what_is_isolated_and_no_peer_counts(
    peers: list[object], isolated: list[str], headline: str, worst: str
) -> None:
    """As the watcher's own agent, or a bare cgroup."""
    html = render(incident(peers=peers, isolations=[replace(SHIELD_CUT, peer=name) for name in isolated]))
    assert f'<p class="verdict {worst}"><b>{headline}</b></p>' in html
    assert f"<title>{headline} - immune</title>" in html


@pytest.mark.parametrize(
    ("verified", "response_time_ms", "said"), [(True, 1.5, False), (False, 1.5, True), (False, None, False)]
)
def test_an_answer_that_proves_nothing_is_named(verified: bool, response_time_ms: float | None, said: bool) -> None:
    one = peer("a", verified=verified, response_time_ms=response_time_ms)
    assert ("not verified" in render(incident(peers=[one]))) is said


@pytest.mark.parametrize("html", [render(hostile()), render_unavailable(HOSTILE)])
def test_hostile_text_stays_text(html: str) -> None:
    page = Reader(html)
    assert page.tags <= set(TAGS.split())
    assert not {name for name in page.attributes if name.startswith("on") or name in ("style", "href", "src")}
    assert not set(html) & set("\u202e\x1b\x00\udcff")
    assert "<script>alert(1)</script>\\n" in page.text
    html.encode("utf-8")


def test_endless_text_is_cut() -> None:
    assert len(render(incident(peers=[peer("a", detail="x" * 100_000)]))) < 20_000


def test_nothing_is_fetched_and_the_style_is_the_one_allowed() -> None:
    html = render(incident())
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert 'http-equiv="refresh"' in html
    assert Reader(html).attributes.isdisjoint({"src", "href", "style"})


def test_thousand_peers_stay_small() -> None:
    assert len(render(large(1000))) < 1_000_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "now"),
        (0.4, "now"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (7500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
        (40 * 86_400, "40 d"),
    ],
)
def test_age_in_words(seconds: float, words: str) -> None:
    assert age(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3_210_000, "3.1 MiB"),
        (5 << 40, "5.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size_in_words(count: int, words: str) -> None:
    assert size(count) == words


def test_every_open_path_of_an_isolation_is_named() -> None:
    titles = [f"path {number}: a way round that no layer closes" for number in range(40)]
    paths = tuple(Verdict("E1", title, Coverage.NOT_COVERED, "") for title in titles)
    text = Reader(render(incident(isolations=[replace(SHIELD_CUT, paths=paths)]))).text
    assert [title for title in titles if title not in text] == []


@pytest.mark.parametrize(("overdue", "said"), [(False, "03:30:00 UTC"), (True, "03:30:00 UTC, OVERDUE")])
def test_when_an_isolation_ends_is_said(overdue: bool, said: str) -> None:
    ending = replace(SHIELD_CUT, until=datetime(2026, 3, 1, 3, 30, tzinfo=UTC), overdue=overdue)
    assert said in Reader(render(incident(isolations=[ending]))).text
    assert "Until" not in Reader(render(incident(isolations=[SHIELD_CUT]))).text
