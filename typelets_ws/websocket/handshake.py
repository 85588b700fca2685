"""One client's socket until it is a WebSocket: plain answers, refusals, the upgrade.

An upgrade that comes whole and without extensions is answered past the library
(`upgrade`); everything else is read and judged by it. Either way the same door is
passed, and `_on_open` is where the connection opens.
"""

import re
from typing import Final, cast

from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from ..wire.upgrade import read_upgrade
from .limiter import RETRY_AFTER_S
from .socket import SocketProtocol
from .state import ServerState

__all__ = ["HandshakeProtocol"]

_OTHER_METHOD: Final = re.compile(rb"(?!GET )[A-Z]{3,16} ")


class HandshakeProtocol(SocketProtocol):
    """The way in; `Connection` is what lies behind it."""

    __slots__ = ("_counted", "_deflate")

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self._deflate = self._counted = False

    def _on_open(self) -> None:
        """The connection is open."""
        raise NotImplementedError

    def _fast_handshake(self, data: bytes) -> bool:
        """Answer the common case, a whole upgrade in one read, past the protocol."""
        state = self._state
        upgrade = read_upgrade(data) if self._protocol is None else None
        if upgrade is None or not state.allows(upgrade):
            return False
        state.requested(self, self.address)
        self.address = state.client_address(
            self.address, upgrade.forwarded_for, upgrade.real_ip
        )
        retry_after_s = state.try_accept(self)
        if retry_after_s is None:
            state.record_handshake(101)
            self._queue(upgrade.response)
            self._counted = True
            self._on_open()
        else:
            self._reject_busy(data, retry_after_s)
        return True

    def _reject_busy(self, data: bytes, retry_after_s: float) -> None:
        """Let the protocol say 503, as it sees to what may still come."""
        ws = self._http
        ws.receive_data(data)
        ws.events_received()
        self._say_busy(retry_after_s)

    def refuse(self) -> None:
        """See `state.ClientSocket`."""
        self._say_busy(RETRY_AFTER_S)

    def _say_busy(self, retry_after_s: float) -> None:
        ws = self._http
        response = self._state.reject_busy(ws, retry_after_s)
        self._state.record_handshake(response.status_code)
        ws.send_response(response)
        self._write_protocol()

    def _reject_method(self, data: bytes) -> bool:
        """Answer what is no GET: the protocol drops such a request if it has a body."""
        if self._counted or self._ws.eof_sent or not _OTHER_METHOD.match(data):
            return False
        ws = self._http
        ws.send_response(ws.reject(405, "Only GET is served here.\n"))
        self._write_protocol()
        return True

    def _request(self, request: Request) -> None:
        state, ws = self._state, self._http
        state.requested(self, self.address)
        response = state.endpoints.answer(request, admin=False)
        if response is None:
            self.address = state.client_address(
                self.address,
                ",".join(request.headers.get_all("X-Forwarded-For")),
                ",".join(request.headers.get_all("X-Real-IP")[-1:]),
            )
            response = ws.accept(request)
            if response.status_code == 426:
                response = ws.reject(426, "A WebSocket client is needed here.\n")
                response.headers["Upgrade"] = "websocket"
            if response.status_code == 101:
                retry_after_s = state.try_accept(self)
                if retry_after_s is not None:
                    response = state.reject_busy(ws, retry_after_s)
            state.record_handshake(response.status_code)
            state.record_origin(ws, request, self.address)
        ws.send_response(response)
        # The protocol's parser holds on to the request for ever: 2 KB of headers.
        request.headers.clear()
        request._exception = ws.handshake_exc = None
        if ws.state is OPEN:
            self._counted = True
            self._deflate = bool(ws.extensions)
            self._write_protocol()
            self._on_open()

    @property
    def _http(self) -> ServerProtocol:
        return cast("ServerProtocol", self._ws)
