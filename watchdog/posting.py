"""One POST through the prober's door to requests: its hard deadline, nothing followed, nothing from the environment.

Importing this costs as much as requests does: do it where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchdog.errors import WatchdogError
from watchdog.probe import transport
from watchdog.probe.exchange import Exchange, Missed, begin
from watchdog.probe.resolver import Resolver

_resolver = Resolver()
"""Shared by all posts: an address that was once found serves while the name servers are down."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The head of an answer, and its body when that came whole, in time and in bounds (else empty)."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Adapter(transport.BoundedAdapter):
    """Remembers the head: the status is the receiver's word, whatever becomes of the body."""

    head: tuple[int, Mapping[str, str]] | None = None

    def build_response(self, req: Any, resp: Any) -> Any:
        self.head = (resp.status, resp.headers)
        return super().build_response(req, resp)


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    timeout_s: float,
    ca_file: Path | None = None,
    client_cert: Path | None = None,
    client_key: Path | None = None,
) -> Answered | str:
    """Post `body`, over in `timeout_s`; why there was no answer otherwise, as a phrase without the URL."""
    adapter = _Adapter(1)
    transport.silence()
    begin(Exchange(timeout_s, _resolver))
    try:
        request = _prepared(url, headers, body)
        reply = transport.fetch(adapter, request, (ca_file, client_cert, client_key))
        return Answered(reply.status, reply.headers, reply.body)
    except Missed as missed:
        return Answered(*adapter.head, b"") if adapter.head else str(missed).replace(url, "its URL")
    except WatchdogError as error:  # this host's fault: no descriptor left, or a certificate it cannot read
        return error.message
    finally:
        begin(None)
        adapter.close()


def _prepared(url: str, headers: Mapping[str, str], body: bytes) -> Any:
    """Raises Missed for a URL that cannot be asked; requests' own words would repeat it."""
    try:
        request = transport.prepare(url)
    except (OSError, ValueError) as error:  # every error of requests is an OSError
        raise Missed("its URL cannot be asked") from error
    request.prepare_method("POST")
    request.prepare_headers({**transport.REQUEST_HEADERS, **headers})
    request.prepare_body(body, None)
    return request
