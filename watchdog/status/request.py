"""What a request's headers mean, as pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})
HTML = "text/html"
JSON = "application/json"


def is_known_host(environ: WSGIEnvironment, hosts: Collection[str]) -> bool:
    """Whether the client asked for us by loopback or by one of `hosts`.

    A page in a browser on this machine can have its own name resolve to 127.0.0.1 and read what answers there (DNS
    rebinding); the Host header then still holds that name. Only HTTP/1.0, which no browser speaks, may go without.
    Where `hosts` holds a wildcard address (0.0.0.0, ::) any address passes, but still no name: rebinding needs one.
    """
    header = environ.get("HTTP_HOST")
    if header is None:
        return environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    host = host_of(header)
    if host in LOOPBACK_NAMES or host in {known.strip("[]").lower() for known in hosts}:
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or any(map(_is_wildcard, hosts)))


def host_of(header: str) -> str:
    """The host in a Host header, without port, brackets and final dot, in lower case."""
    if header.startswith("["):
        host = header[1:].partition("]")[0]
    else:
        host = header.rpartition(":")[0] if header.count(":") == 1 else header
    return host.removesuffix(".").lower()


def prefers_html(accept: str) -> bool:
    """Whether HTML is wanted more than JSON: true for browsers, false for `*/*` (curl) and for no header at all."""
    weights = _weights(accept)
    return _weight(weights, HTML) > _weight(weights, JSON)


def _weights(accept: str) -> dict[str, float]:
    weights = {}
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in choice.split(";"))
        weights[kind] = next((_quality(p) for p in parameters if p.startswith("q=")), 1.0)
    return weights


def _quality(parameter: str) -> float:
    try:
        return min(max(float(parameter.removeprefix("q=")), 0.0), 1.0)
    except ValueError:
        return 0.0


def _weight(weights: Mapping[str, float], kind: str) -> float:
    ranges = (kind, kind.partition("/")[0] + "/*", "*/*")
    return next((weights[one] for one in ranges if one in weights), 0.0)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_wildcard(host: str) -> bool:
    address = _address(host.strip("[]"))
    return address is not None and address.is_unspecified
