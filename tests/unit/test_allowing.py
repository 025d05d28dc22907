"""What an allow-list means in the kernel, and what becomes of its times over a reboot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from watchdog.actions import allowing
from watchdog.clock import Moment
from watchdog.config import Peer
from watchdog.errors import UsageError
from watchdog.intents import Allowed, Until
from watchdog.kernel.allow import Way

AT = Moment(1000.0, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "this boot")


@pytest.mark.parametrize(
    ("entry", "protocols", "port"),
    [
        ("192.0.2.0/24", [6, 17], 0),
        ("192.0.2.0/24:443", [6, 17], 443),
        ("192.0.2.0/24:443/tcp", [6], 443),
        ("192.0.2.0/24:*/icmp", [1], 0),
        ("[2001:db8::/32]:53/udp", [17], 53),
        ("[2001:db8::/32]:*/icmp", [58], 0),
    ],
)
def test_what_an_entry_means(entry: str, protocols: list[int], port: int) -> None:
    found = allowing.rules([Allowed(entry)])
    assert [(rule.protocol, rule.port, rule.way, rule.until_ns) for rule in found] == [
        (protocol, port, Way.OUTWARD, 0) for protocol in protocols
    ]


def test_the_way_in_and_the_time() -> None:
    (rule,) = allowing.rules([Allowed("127.0.0.1/32:9103/tcp", Until(AT.utc, 7.5, AT.boot), inward=True)])
    assert (rule.way, rule.port, rule.until_ns) == (Way.INWARD, 9103, 7_500_000_000)
    (rule,) = allowing.rules([Allowed("192.0.2.1/32:9103/tcp", inward=True, far=True)])
    assert rule.way is Way.FAR


def test_times_begin_when_the_entry_is_put_in_force() -> None:
    (entry,) = allowing.given(["192.0.2.1@15m"], "--allow", AT)
    assert entry == Allowed("192.0.2.1/32", Until(AT.utc + timedelta(minutes=15), 1900.0, "this boot"))


def test_everything_that_is_wrong_comes_at_once() -> None:
    with pytest.raises(UsageError, match=r"--allow 'a': a is a name.*; --allow 'b': b is a name"):
        allowing.given(["a", "b"], "--allow", AT)


@pytest.mark.parametrize(
    ("left", "s"), [(timedelta(minutes=1), 1060.0), (timedelta(0), 1000.0), (timedelta(days=-1), 0.0)]
)
def test_after_a_reboot_the_wall_clock_says_what_is_left(left: timedelta, s: float) -> None:
    before = Allowed("192.0.2.1/32", Until(AT.utc + left, 5e6, "the boot before"))
    (after,) = allowing.on_this_boot([before], AT)
    assert after == Allowed("192.0.2.1/32", Until(AT.utc + left, s, "this boot"))
    assert allowing.on_this_boot([after], AT) == (after,)


def test_an_entry_that_is_over_is_never_forever() -> None:
    """0 means forever in the kernel."""
    over = Allowed("192.0.2.1/32:1/tcp", Until(AT.utc - timedelta(days=1), 5.0, "the boot before"))
    (rule,) = allowing.rules(allowing.on_this_boot([over], AT))
    assert rule.until_ns > 0


@pytest.mark.parametrize(
    ("endpoint", "entry"),
    [
        ("http://127.0.0.1:9103/healthz", "127.0.0.1/32:9103/tcp"),
        ("http://127.0.0.9:9103/healthz", "127.0.0.1/32:9103/tcp"),
        ("https://127.0.0.1/healthz", "127.0.0.1/32:443/tcp"),
        ("http://[::1]:9103/healthz", "[::1/128]:9103/tcp"),
    ],
)
def test_the_way_to_a_heartbeat(endpoint: str, entry: str) -> None:
    assert allowing.heartbeat(Peer(name="shield", endpoint=endpoint)) == (Allowed(entry, inward=True),)


def test_a_heartbeat_whose_name_nobody_knows() -> None:
    with pytest.raises(UsageError, match=r"the heartbeat of shield cannot be let through: .*shield.invalid"):
        allowing.heartbeat(Peer(name="shield", endpoint="http://shield.invalid:9103/healthz"))
