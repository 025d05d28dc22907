"""Allow-lists as operators write them: what is meant, and why something is refused."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.allowlist import MAX_PORT, MOST, PROTOCOLS, Entry, parse, parse_all


@pytest.mark.parametrize(
    ("text", "network", "port", "protocol", "written"),
    [
        ("192.0.2.0/24", "192.0.2.0/24", None, "", "192.0.2.0/24"),
        ("192.0.2.10", "192.0.2.10/32", None, "", "192.0.2.10/32"),
        ("192.0.2.10/32:443", "192.0.2.10/32", 443, "", "192.0.2.10/32:443"),
        ("192.0.2.10:443/tcp", "192.0.2.10/32", 443, "tcp", "192.0.2.10/32:443/tcp"),
        ("192.0.2.0/24:*/udp", "192.0.2.0/24", None, "udp", "192.0.2.0/24:*/udp"),
        ("192.0.2.0/24:*", "192.0.2.0/24", None, "", "192.0.2.0/24"),
        ("192.0.2.0/24:*/icmp", "192.0.2.0/24", None, "icmp", "192.0.2.0/24:*/icmp"),
        ("2001:db8::/32", "2001:db8::/32", None, "", "2001:db8::/32"),
        ("2001:db8::1", "2001:db8::1/128", None, "", "2001:db8::1/128"),
        ("[2001:db8::/32]", "2001:db8::/32", None, "", "2001:db8::/32"),
        ("[2001:db8::/32]:443/tcp", "2001:db8::/32", 443, "tcp", "[2001:db8::/32]:443/tcp"),
        ("[2001:DB8:0::1]:53/udp", "2001:db8::1/128", 53, "udp", "[2001:db8::1/128]:53/udp"),
        ("[fe80::/64]:*/icmp", "fe80::/64", None, "icmp", "[fe80::/64]:*/icmp"),
        ("128.0.0.0/1", "128.0.0.0/1", None, "", "128.0.0.0/1"),
        ("127.0.0.1/32:65535/tcp", "127.0.0.1/32", 65535, "tcp", "127.0.0.1/32:65535/tcp"),
    ],
)
def test_what_is_meant(text: str, network: str, port: int | None, protocol: str, written: str) -> None:
    assert parse(text) == Entry(ipaddress.ip_network(network), port, protocol)
    assert str(parse(text)) == written


@pytest.mark.parametrize(("text", "span_s"), [("192.0.2.1@15m", 900.0), ("[2001:db8::1]:1/tcp@500ms", 0.5)])
def test_for_a_time(text: str, span_s: float) -> None:
    assert parse(text).span_s == span_s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty; want CIDR[:PORT[/PROTO]][@TIME]"),
        ("   ", "it is empty"),
        ("@15m", "it is empty"),
        ("soc.example", "soc.example is a name; want an address"),
        ("soc.example:443/tcp", "soc.example is a name"),
        ("localhost", "localhost is a name"),
        ("none", "none is a name"),
        ("0.0.0.0/0", "0.0.0.0/0 is every address, which is no isolation"),
        ("0.0.0.0/0:443/tcp", "0.0.0.0/0 is every address"),
        ("10.0.0.0/0", "10.0.0.0/0 is every address"),
        ("::/0", "::/0 is every address"),
        ("[::/0]:443", "::/0 is every address"),
        ("192.0.2.1/24", "192.0.2.1/24 has bits set behind its prefix; want 192.0.2.0/24"),
        ("[2001:db8::1/32]:443", "want 2001:db8::/32"),
        ("192.0.2.0/33", "/33 is no prefix; want /1 to /32"),
        ("2001:db8::/129", "/129 is no prefix; want /1 to /128, and a port as [2001:db8::/32]:443"),
        ("2001:db8::/32:443", "a port of IPv6 wants brackets; write [2001:db8::/32]:443"),
        ("2001:db8::/32:443/tcp@15m", "write [2001:db8::/32]:443/tcp"),
        ("2001:db8::/32:*/icmp", "write [2001:db8::/32]:*/icmp"),
        ("192.0.2.0/", "/ is no prefix"),
        ("192.0.2.0/tcp", "/tcp is no prefix; want /1 to /32, and a port as :443"),
        ("2001:db8::1:443", "is 443 a port? Want [2001:db8::1]:443 then, or 2001:db8::1:443/128 for the address"),
        ("192.0.2", "'192.0.2' is no address"),
        ("192.0.2.1:0", "'0' is no port; want 1 to 65535, or *"),
        ("192.0.2.1:65536", "'65536' is no port"),
        ("192.0.2.1:-1", "'-1' is no port"),
        ("192.0.2.1:https", "'https' is no port"),
        ("192.0.2.1:", "'' is no port"),
        ("192.0.2.1:٤", "is no port"),
        ("192.0.2.1:443/", "'' is no protocol that can be allowed; want tcp, udp, icmp"),
        ("192.0.2.1:443/TCP", "'TCP' is no protocol"),
        ("192.0.2.1:443/sctp", "'sctp' is no protocol"),
        ("192.0.2.1:8/icmp", "icmp has no ports; want 192.0.2.1/32:*/icmp"),
        ("[192.0.2.1]:443", "brackets are for IPv6"),
        ("[2001:db8::1", "'[2001:db8::1' is no address"),
        ("[2001:db8::1]443", "'443' is no :PORT/PROTO"),
        ("fe80::1%eth0", "names a link"),
        ("::ffff:192.0.2.1", "want it as IPv4"),
        ("192.0.2.1@", "@: want a time greater than 0"),
        ("192.0.2.1@soon", "@soon: want a time"),
        ("192.0.2.1@0s", "@0s: want a time"),
    ],
)
def test_what_is_refused_and_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(text)


def test_all_problems_come_together_and_each_entry_is_once() -> None:
    entries, problems = parse_all(["192.0.2.1", "192.0.2.1/32", "nowhere", "192.0.2.1@1m", "::/0"])
    assert entries == (Entry(ipaddress.ip_network("192.0.2.1/32")),)
    assert [problem.split(":")[0] for problem in problems] == ["'nowhere'", "'"]


@pytest.mark.parametrize("halves", [["0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/2:", "c000::/2"]])
def test_halves_that_are_everything(halves: list[str]) -> None:
    _, problems = parse_all([half.rstrip(":") for half in halves])
    assert len(problems) == 1
    assert "together they allow every IPv" in problems[0]


def test_too_many() -> None:
    _, problems = parse_all(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(MOST + 1))
    assert problems == [f"want at most {MOST} entries, got {MOST + 1}"]


networks = st.one_of(
    st.ip_addresses(v=4).flatmap(
        lambda a: st.integers(1, 32).map(lambda n: ipaddress.ip_network((int(a), n), strict=False))
    ),
    st.ip_addresses(v=6).flatmap(
        lambda a: st.integers(1, 128).map(lambda n: ipaddress.IPv6Network((int(a), n), strict=False))
    ),
)


@given(
    network=networks, port=st.one_of(st.none(), st.integers(1, MAX_PORT)), protocol=st.sampled_from(["", *PROTOCOLS])
)
def test_what_is_written_means_the_same_again(network: ipaddress.IPv4Network, port: int | None, protocol: str) -> None:
    entry = Entry(network, None if protocol == "icmp" else port, protocol)
    if ipaddress.ip_network("::ffff:0:0/96").version == network.version and "::ffff:" in str(network):
        return
    assert parse(str(entry)) == entry


@given(st.text(max_size=60))
def test_anything_is_an_entry_or_a_reason(text: str) -> None:
    entries, problems = parse_all([text])
    assert len(entries) + len(problems) == 1
