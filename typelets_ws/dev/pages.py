"""The page of `dev` at `/`, and the paths that it asks.

These paths give out tokens. Two rules keep pages of other origins away from them:

- the Host is an IP address, `localhost`, or the name that `dev` listens on. Any other
  name is refused: DNS rebinding needs one;
- `/dev/...` requires a header that makes a browser ask first (CORS preflight), and the
  daemon does not answer a preflight.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from websockets.http11 import Request, Response

from ..daemon import Daemon
from ..websocket.http import Page, respond
from .faults import Faults, Query, given
from .keys import SigningKey
from .redis import RedisServer
from .rest import HttpError, RestStub

__all__ = ["Site", "is_local_host"]

OWN_HEADER: Final = "X-Typelets-Dev"
TOKEN_S: Final = 60
"""The lifetime of Clerk's session tokens."""

FILES: Final = files(__package__) / "page"
CLIENT: Final = files("typelets_ws") / "client" / "typelets-client.js"
KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Site:
    """The page and its paths for `users`; `host` is the name `dev` listens on.

    `redis` is the server that the page may stop and start.
    """

    def __init__(
        self, key: SigningKey, rest: RestStub, users: Sequence[str], host: str,
        redis: RedisServer | None = None,
    ) -> None:  # fmt: skip
        self._faults = Faults(redis)
        self._key = key
        self._rest = rest
        self._users = users
        self._host = host
        self._daemon: Daemon | None = None

    def show(self, daemon: Daemon) -> None:
        """Use this daemon for figures and faults."""
        self._daemon = daemon
        self._faults.attach(daemon)

    def pages(self) -> Mapping[str, Page]:
        """The pages by path."""
        paths: dict[str, Callable[[Query], object]] = {
            "/dev/users": lambda _: self._users,
            "/dev/token": self._token,
            "/dev/notes": lambda query: self._rest.listing(given(query, "user")),
            "/dev/publish": self._publish,
            "/dev/fault": self._faults.cause,
            "/dev/figures": lambda _: self._figures(),
        }
        return {
            **{f"/{file.name}": self._file(file) for file in FILES.iterdir()},
            f"/{CLIENT.name}": self._file(CLIENT),
            "/": self._file(FILES / "index.html"),
            **{path: self._dynamic(answer) for path, answer in paths.items()},
        }

    # Each of these answers one path under /dev/.

    def _token(self, query: Query) -> object:
        session_id = query.get("session") or None
        if session_id is not None and self._rest.is_revoked(session_id):
            raise HttpError(401, "this session was revoked")
        lives_s = _number(query, "expires", TOKEN_S)
        return {"token": self._key.token(given(query, "user"), lives_s, session_id)}

    def _publish(self, query: Query) -> object:
        return self._rest.publish(
            given(query, "user"),
            given(query, "event"),
            query.get("subject", ""),
            query.get("name", ""),
            skew_s=_number(query, "skew", 0),
            silent="silent" in query,
        )

    def _figures(self) -> object:
        """`/websocket/status`, `/ready` and the totals of `/metrics` in one answer."""
        daemon = self._daemon
        if daemon is None:
            raise HttpError(503, "still starting")
        totals: dict[str, float] = {}
        for family in daemon.metrics.registry.collect():
            name = family.name.removeprefix("typelets_ws_")
            for sample in family.samples:
                if family.type == "counter" and sample.name.endswith("_total"):
                    totals[name] = totals.get(name, 0) + sample.value
        return {
            **daemon.state.endpoints.status(full=True),
            "reasons": daemon.health.unready_reasons(),
            "redisIsStopped": self._faults.redis_is_stopped,
            "totals": totals,
        }

    # How they are served.

    def _file(self, file: Traversable) -> Page:
        kind = KINDS[file.name[file.name.rindex(".") :]]

        def page(request: Request) -> Response:
            if not is_local_host(request.headers.get_all("Host"), self._host):
                return _guarded(403, "text/plain", b"Not under this name.\n")
            # Read at each request, so that an edit of the page shows after a reload.
            return _guarded(200, kind, file.read_bytes())

        return page

    def _dynamic(self, answer: Callable[[Query], object]) -> Page:
        def page(request: Request) -> Response:
            if not is_local_host(request.headers.get_all("Host"), self._host):
                return _json(403, {"error": "not under this name"})
            if OWN_HEADER not in request.headers:
                return _json(403, {"error": f"the header {OWN_HEADER} is missing"})
            query = dict(parse_qsl(request.path.partition("?")[2]))
            try:
                return _json(200, answer(query))
            except HttpError as refused:
                return _json(refused.status, {"error": str(refused)})

        return page


def is_local_host(hosts: Sequence[str], own: str) -> bool:
    """Whether a request's Host headers name this machine and nothing else.

    Neither an address nor `localhost` is looked up by DNS, so neither can be rebound.
    """
    if len(hosts) != 1:
        return False
    name = hosts[0].lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0]
    if name in {"localhost", own.lower()} or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _number(query: Query, name: str, default: int) -> int:
    try:
        return int(query.get(name, default))
    except ValueError:
        raise HttpError(400, f"{name} must be a number of seconds") from None


def _json(status: int, value: Any) -> Response:
    return _guarded(status, "application/json", msgspec.json.encode(value))


def _guarded(status: int, kind: str, body: bytes) -> Response:
    response = respond(status, kind, body)
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response
