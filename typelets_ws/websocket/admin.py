"""The admin port's connections: one HTTP request, one answer, then close.

Never a WebSocket; the whole exchange is bounded by ten seconds.
"""

import asyncio
from typing import cast

from websockets.http11 import Request
from websockets.protocol import SEND_EOF
from websockets.server import ServerProtocol

from .http import Endpoints

__all__ = ["AdminConnection"]


class AdminConnection(asyncio.Protocol):
    """One request on the admin port, one answer."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._http = ServerProtocol()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast(asyncio.Transport, transport)
        # Nobody has reason to be slow on a private port.
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(10, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        http = self._http
        http.receive_data(data)
        for event in http.events_received():
            if isinstance(event, Request):
                answer = self._endpoints.answer(event, admin=True)
                http.send_response(answer or http.reject(404, "Not found.\n"))
        for chunk in http.data_to_send():
            if chunk is not SEND_EOF:
                self._transport.write(chunk)
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._deadline.cancel()
