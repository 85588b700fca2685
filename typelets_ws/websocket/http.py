"""The HTTP endpoints beside the WebSocket (spec section 7). No I/O, no waiting.

`/health` is 200 while this code runs at all; `/ready` repeats what the probes
found; `/websocket/status` shows user ids only to the status token or the admin
listener, with `?user=` one user's connections; `/metrics` is for the admin listener
alone.
"""

import hmac
import http
from collections.abc import Callable, Mapping
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

import msgspec
from prometheus_client import exposition
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from ..config.live import LiveConfig
from ..delivery.hub import Hub
from ..ports import Health
from ..telemetry.metrics import Metrics
from .limiter import ConnectionLimiter

__all__ = [
    "Endpoints", "Page", "head_only", "method_not_allowed", "respond", "text_response",
]  # fmt: skip

Page = Callable[[Request], Response]
"""Answers a GET at once: it runs on the loop."""


class Endpoints:
    """Answers to plain GET requests."""

    def __init__(
        self,
        live: LiveConfig,
        hub: Hub,
        metrics: Metrics,
        health: Health,
        limiter: ConnectionLimiter,
        recent: Callable[[str], list[Mapping[str, object]]],
        pages: Mapping[str, Page],
    ) -> None:
        """`recent` returns the latest log lines about a user, newest first.

        `pages` are further paths; only `dev` has any.
        """
        self._live = live
        self._hub = hub
        self._metrics = metrics
        self._health = health
        self._limiter = limiter
        self._recent = recent
        self._pages = pages
        self._own: Mapping[str, Callable[[Request, bool], Response]] = {
            "/health": lambda _, __: _json(200, {"status": "ok"}),
            "/ready": lambda _, __: self._ready(),
            "/websocket/status": self._shown,
        }

    def owns(self, path: str) -> bool:
        """Return whether the path is an endpoint, also for a request to upgrade."""
        return path.partition("?")[0] in self._own

    def answer(self, request: Request, *, admin: bool) -> Response | None:
        """Return the answer to a request, or None.

        None for a request to upgrade and for unknown paths: the handshake judges them.
        """
        path = request.path.partition("?")[0]
        if path in self._own:
            return self._own[path](request, admin)
        if admin:
            return self._admin_page(path, request)
        if path in self._pages and "Upgrade" not in request.headers:
            return self._pages[path](request)
        return None

    def status(self, *, full: bool) -> Mapping[str, object]:
        """Return the figures of `/websocket/status`; user ids only when `full`."""
        word = "degraded" if self._health.unready_reasons() else "healthy"
        users = self._hub.users() if full else ()
        return {
            "status": "draining" if self._health.draining else word,
            "connections": {
                "total": self._limiter.total,
                "authenticated": self._hub.devices,
                "perUser": [
                    {"userId": user, "deviceCount": count} for user, count in users
                ],
            },
            "uptime": _in_words(self._health.uptime()),
        }

    def user(self, user_id: str) -> Mapping[str, object]:
        """Return a user's devices on this process, and the log lines about them."""
        devices = self._hub.devices_of(user_id)
        return {
            "userId": user_id,
            "connections": [
                {
                    "connectionId": device.connection_id,
                    "address": device.log_fields["address"],
                    "since": device.since_ms,
                }
                for device in devices
            ],
            "recent": self._recent(user_id),
        }

    def _ready(self) -> Response:
        reasons = self._health.unready_reasons()
        status = 503 if reasons else 200
        return _json(status, {"ready": not reasons, "reasons": reasons})

    def _shown(self, request: Request, admin: bool) -> Response:
        full = admin or self._shows_users(request)
        users = parse_qs(urlsplit(request.path).query).get("user", [])
        if full and users:
            return _json(200, self.user(users[0]))
        return _json(200, self.status(full=full))

    def _shows_users(self, request: Request) -> bool:
        given = request.headers.get_all("Authorization")
        token = self._live.current.server.status_token
        expected = f"Bearer {token}".encode()
        return bool(token) and any(
            hmac.compare_digest(value.encode(), expected) for value in given
        )

    def _admin_page(self, path: str, request: Request) -> Response:
        if path != "/metrics":
            return respond(404, "text/plain; charset=utf-8", b"Not found.\n")
        accept = ",".join(request.headers.get_all("Accept"))
        encoder, kind = exposition.choose_encoder(accept)
        return respond(200, kind, encoder(self._metrics.registry))


def _json(status: int, value: object) -> Response:
    return respond(status, "application/json", msgspec.json.encode(value))


def respond(status: int, kind: str, body: bytes) -> Response:
    """Return an answer of content type `kind`; it ends the connection, uncached."""
    headers = Headers(
        [
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            ("Content-Type", kind),
            ("Cache-Control", "no-store"),
        ]
    )
    return Response(status, http.HTTPStatus(status).phrase, headers, body)


def text_response(status: int, text: str) -> Response:
    """Return an answer of plain text that ends the connection."""
    return respond(status, "text/plain; charset=utf-8", text.encode())


def method_not_allowed() -> Response:
    """Return the answer to any method but GET and HEAD (RFC 9110 section 15.5.6)."""
    response = text_response(405, "Only GET and HEAD are served here.\n")
    response.headers["Allow"] = "GET, HEAD"
    return response


def head_only(response: Response) -> Response:
    """Return the answer to HEAD: that to GET without its body (RFC 9110, 9.3.2)."""
    return Response(response.status_code, response.reason_phrase, response.headers)


def _in_words(seconds: float) -> str:
    """Return hours and minutes: "2h 30m"."""
    minutes = int(seconds) // 60
    return f"{minutes // 60}h {minutes % 60}m"
