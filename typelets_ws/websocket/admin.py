"""The admin port's connections: one HTTP request, one answer, then close.

Never a WebSocket; the whole exchange is bounded by `EXCHANGE_S`.
"""

import asyncio
from typing import Final, cast

from websockets.http11 import Response

from ..wire.request import RequestReader
from .http import Endpoints, head_only, method_not_allowed, text_response

__all__ = ["AdminConnection"]

EXCHANGE_S: Final = 10.0
"""Seconds for one request: clients of a private port are fast."""


class AdminConnection(asyncio.Protocol):
    """One request on the admin port, one answer."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._reader = RequestReader()
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(EXCHANGE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once the request is there; discard what comes behind it."""
        if self._answered:
            return
        self._reader.feed(data)
        response = self._response()
        if response is not None:
            self._answered = True
            self._transport.write(response.serialize())
            self._transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._deadline.cancel()
        self._reader.close()

    def _response(self) -> Response | None:
        request, status = self._reader.request, self._reader.status
        if status:
            return text_response(status, "This is not an HTTP/1.1 request.\n")
        if request is None:
            return None
        if request.method not in {"GET", "HEAD"}:
            return method_not_allowed()
        response = self._endpoints.answer(request, admin=True)
        if response is None:
            response = text_response(404, "Not found.\n")
        return head_only(response) if request.method == "HEAD" else response
