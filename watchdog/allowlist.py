"""Allow-lists: what an isolated agent may still reach, as an operator writes it. Pure.

    192.0.2.0/24                   every TCP and UDP port of these addresses
    192.0.2.10/32:443              one port, TCP and UDP
    192.0.2.10/32:443/tcp          one port, one protocol
    192.0.2.10/32:*/icmp           no ports; ICMP is allowed only where it is named
    2001:db8::/32                  IPv6; with a port in brackets:
    [2001:db8::/32]:443/tcp
    192.0.2.10/32:443/tcp@15m      for a time, after which the kernel drops again by itself

The agent may begin connections to what is listed, and gets the answers. Nobody there may begin a TCP connection to the
agent. UDP and ICMP have no beginning: what comes from there, and from that port where one is named, gets in.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from watchdog.spans import seconds

WANTED = "want CIDR[:PORT[/PROTO]][@TIME], as 192.0.2.10/32:443/tcp or [2001:db8::/32]:443/tcp@15m"
MOST = 20_000
"""Entries in one list. Each takes up to two of bpf/cgroup_skb.c's WD_ALLOW_KEYS."""

TCP, UDP, ICMP = "tcp", "udp", "icmp"
PROTOCOLS = (TCP, UDP, ICMP)
ANY_PORT = "*"
MAX_PORT = 65535

_BRACKETED = re.compile(r"\[(?P<network>[^\]]*)\](?P<rest>.*)")
_PORT = re.compile(r":(?P<port>[^/]*)(?:/(?P<protocol>.*))?")
_PREFIX_AND_PORT = re.compile(r"(?P<network>[^/]*/[0-9]+)(?P<rest>:.*)")
_MAPPED = IPv6Network("::ffff:0:0/96")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an allow-list."""

    network: Network
    port: int | None = None
    """None: any."""
    protocol: str = ""
    """One of PROTOCOLS; empty: TCP and UDP."""
    span_s: float | None = None
    """How long it holds from when it is put in force; None: as long as the isolation."""

    def __str__(self) -> str:
        """As it is written, in one way only, without the time."""
        protocol = f"/{self.protocol}" if self.protocol else ""
        if self.port is None and not protocol:
            return str(self.network)
        network = f"[{self.network}]" if isinstance(self.network, IPv6Network) else str(self.network)
        return f"{network}:{self.port or ANY_PORT}{protocol}"


def parse(text: str) -> Entry:
    """One entry. Raises ValueError that says what is wrong and what was wanted."""
    what, at, span = text.partition("@")
    span_s = _span_s(span) if at else None
    network, rest = _split(what)
    port, protocol = _port_and_protocol(rest)
    entry = Entry(_network(network), port, protocol, span_s)
    if protocol == ICMP and port is not None:
        raise ValueError(f"icmp has no ports; want {entry.network}:*/icmp")
    return entry


def parse_all(texts: Iterable[str]) -> tuple[tuple[Entry, ...], list[str]]:
    """All entries, each once, and what is wrong with the others and with all of them together, a sentence each."""
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for text in texts:
        try:
            entry = parse(text)
            entries[str(entry)] = _longer(entry, entries.get(str(entry)))
        except ValueError as error:
            problems.append(f"{text!r}: {error}")
    problems += _too_much(tuple(entries.values()))
    return tuple(entries.values()), problems


def _longer(entry: Entry, same: Entry | None) -> Entry:
    """Of an entry that is written twice, the one that holds longer."""
    if same is None:
        return entry
    return max(entry, same, key=lambda each: math.inf if each.span_s is None else each.span_s)


def _too_much(entries: tuple[Entry, ...]) -> list[str]:
    if len(entries) > MOST:
        return [f"want at most {MOST} entries, got {len(entries)}"]
    four = [each.network for each in entries if isinstance(each.network, IPv4Network)]
    six = [each.network for each in entries if isinstance(each.network, IPv6Network)]
    merged: list[Network] = [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]
    return [
        f"together they allow every IPv{network.version} address, which is no isolation"
        for network in merged
        if network.prefixlen == 0
    ]


def _split(what: str) -> tuple[str, str]:
    """The network, and ":PORT/PROTO" or nothing."""
    if not what.strip():
        raise ValueError(f"it is empty; {WANTED}")
    if match := _BRACKETED.fullmatch(what):
        if ":" not in match["network"]:
            raise ValueError(f"brackets are for IPv6; {WANTED}")
        return match["network"], match["rest"]
    if what.count(":") > 1:  # IPv6 without a port: with one it has brackets
        _must_not_mean_a_port(what)
        return what, ""
    network, colon, rest = what.partition(":")
    return network, colon + rest


def _must_not_mean_a_port(text: str) -> None:
    """2001:db8::1:443 is an address, and hardly what was meant; 2001:db8::/32:443 is nothing, and clear."""
    if match := _PREFIX_AND_PORT.fullmatch(text):
        raise ValueError(f"a port of IPv6 wants brackets; write [{match['network']}]{match['rest']}")
    before, _, last = text.rpartition(":")
    if last.isdecimal() and _is_address(before):
        raise ValueError(f"is {last} a port? Want [{before}]:{last} then, or {text}/128 for the address")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(_why_no_network(text)) from error
    if network.prefixlen == 0:
        raise ValueError(f"{text} is every address, which is no isolation; name the networks that are needed")
    if "%" in text:
        raise ValueError(f"{text} names a link; want the address alone")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"{text} is an IPv4 address in IPv6 clothes; want it as IPv4")
    if ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f"{text} has bits set behind its prefix; want {network}, or a longer prefix")
    return network


def _why_no_network(text: str) -> str:
    address, slash, prefix = text.partition("/")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        if re.search(r"[A-Za-z]", address) and ":" not in address:
            return f"{address} is a name; want an address: names are not looked up, they may change"
        return f"{address!r} is no address; {WANTED}"
    most, port = (128, "[2001:db8::/32]:443") if ":" in address else (32, ":443")
    return f"{slash}{prefix} is no prefix; want /1 to /{most}, and a port as {port}"


def _port_and_protocol(rest: str) -> tuple[int | None, str]:
    if not rest:
        return None, ""
    match = _PORT.fullmatch(rest)
    if match is None:
        raise ValueError(f"{rest!r} is no :PORT/PROTO; {WANTED}")
    protocol = match["protocol"]
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"{protocol!r} is no protocol that can be allowed; want {', '.join(PROTOCOLS)}")
    return _port(match["port"]), protocol or ""


def _port(text: str) -> int | None:
    if text == ANY_PORT:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_PORT:
        raise ValueError(f"{text!r} is no port; want 1 to {MAX_PORT}, or {ANY_PORT}")
    return int(text)


def _span_s(text: str) -> float:
    try:
        return float(seconds(text))
    except ValueError as error:
        raise ValueError(f"@{text}: {error}") from error
