"""The status as a WSGI application: read-only, a few paths, no state between requests.

    /         the status document as JSON, or the page where the client prefers HTML
    /page     the page
    /healthz  this watcher itself, as a heartbeat that other watchers can verify: 200, or 503 when its loop is late
    /metrics  Prometheus text

Nothing a client sends reaches the mesh. What cannot be shown is a 503 with the reason as a sentence.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from watchdog.errors import WatchdogError
from watchdog.heartbeat import NONCE_HEADER
from watchdog.status.document import MeshView, build, finite
from watchdog.status.request import is_known_host, prefers_html

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from watchdog.heartbeat import Answer

log = logging.getLogger(__name__)

NONCE_KEY = "HTTP_" + NONCE_HEADER.upper().replace("-", "_")
JSON_TYPE = "application/json"
HTML_TYPE = "text/html; charset=utf-8"
METHODS = ("GET", "HEAD")
SECURITY_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)
NOTHING_LOADS = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back, whole: headers beside those that every answer carries."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    policy: str = NOTHING_LOADS


Heartbeat = Callable[[str | None], "Answer"]
"""Answers /healthz from the request's nonce, as `watchdog.heartbeat.Pulse.answer` does."""
Handler = Callable[["WSGIEnvironment"], Response]


def create_app(
    view: Callable[[], MeshView], *, heartbeat: Heartbeat | None = None, hosts: Collection[str] = ()
) -> WSGIApplication:
    """The application around `view`, which is called once a request, from any thread.

    `heartbeat` answers /healthz: pass the `answer` of the Pulse that this watcher's loop beats, so that other
    watchers can verify it; without one the answer tells how the view's health is and proves nothing. `hosts` are the
    names and addresses beside loopback by which clients may ask (the configured listen host): a web page that
    rebinds its own name to us is refused with 421.
    """
    return _App(view, heartbeat, frozenset(hosts))


def as_json(status: int, facts: Mapping[str, Any], *headers: tuple[str, str]) -> Response:
    """The facts as one JSON document, ASCII only, so that no terminal is steered by it."""
    body = json.dumps(facts, indent=2, allow_nan=False).encode("ascii") + b"\n"
    return Response(status, JSON_TYPE, body, headers)


class _App:
    def __init__(self, view: Callable[[], MeshView], heartbeat: Heartbeat | None, hosts: frozenset[str]) -> None:
        self._view = view
        self._heartbeat = heartbeat
        self._hosts = hosts
        self._handlers: Mapping[str, Handler] = {
            "/": self._root,
            "/page": self._page,
            "/healthz": self._healthz,
            "/metrics": self._metrics,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response = self._respond(environ)
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Content-Security-Policy", response.policy),
            *SECURITY_HEADERS,
            *response.headers,
        ]
        start_response(f"{response.status:d} {HTTPStatus(response.status).phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    def _respond(self, environ: WSGIEnvironment) -> Response:
        if not is_known_host(environ, self._hosts):
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "ask by a loopback address or the configured status.listen")
        if environ["REQUEST_METHOD"] not in METHODS:
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "the status is read-only", ("Allow", ", ".join(METHODS)))
        handler = self._handlers.get(environ.get("PATH_INFO", ""))
        if handler is None:
            return _refusal(HTTPStatus.NOT_FOUND, f"there are {', '.join(self._handlers)}")
        try:
            return handler(environ)
        except Exception as error:  # noqa: BLE001 - `view` is the embedder's: whatever it raises is a reason to show
            return _unavailable(environ, error)

    def _root(self, environ: WSGIEnvironment) -> Response:
        if prefers_html(environ.get("HTTP_ACCEPT", "")):
            return self._page(environ)
        return as_json(HTTPStatus.OK, build(self._view()), ("Vary", "Accept"))

    def _page(self, _: WSGIEnvironment) -> Response:
        from watchdog.status import page

        return _as_page(HTTPStatus.OK, page.render(self._view()))

    def _healthz(self, environ: WSGIEnvironment) -> Response:
        if self._heartbeat is None:
            return _unproved(self._view())
        answer = self._heartbeat(environ.get(NONCE_KEY))
        return Response(answer.status, JSON_TYPE, answer.body)

    def _metrics(self, _: WSGIEnvironment) -> Response:
        from watchdog.status import metrics

        return Response(HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.render(self._view()))


def _unproved(view: MeshView) -> Response:
    """A plain endpoint's answer: with a seq it would claim to be a heartbeat, and a view does not know the loop's."""
    status = HTTPStatus.OK if view.health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    facts = {
        "status": "ok" if view.health.ok else "hung",
        "agent": view.self_name,
        "loop_age_s": finite(view.health.loop_age_s),
        "reason": view.health.reason,
    }
    return as_json(status, facts)


def _unavailable(environ: WSGIEnvironment, error: Exception) -> Response:
    reason = error.one_line() if isinstance(error, WatchdogError) else f"{type(error).__name__}: {error}"
    log.debug("cannot answer %s", environ.get("PATH_INFO"), exc_info=error)
    is_page = environ.get("PATH_INFO") == "/page" or prefers_html(environ.get("HTTP_ACCEPT", ""))
    if is_page:
        from watchdog.status import page

        return _as_page(HTTPStatus.SERVICE_UNAVAILABLE, page.render_unavailable(reason))
    return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, reason)


def _refusal(status: HTTPStatus, reason: str, *headers: tuple[str, str]) -> Response:
    return as_json(status, {"error": status.phrase, "reason": reason}, *headers)


def _as_page(status: HTTPStatus, html: str) -> Response:
    from watchdog.status import page

    return Response(status, HTML_TYPE, html.encode(), (("Vary", "Accept"),), page.CONTENT_SECURITY_POLICY)
