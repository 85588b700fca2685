"""One client's socket from accept to its upgrade, or to the end of its HTTP answer.

A TLS handshake comes before it (`tls_listener`); `limits.handshake_s` runs from the TCP
accept for both together. Invariants:

1. A request is answered or the connection is closed with a counted reason.
2. The split of the bytes into reads changes nothing. An upgrade that arrives whole and
   without extensions is answered by `wire.upgrade`, everything else by the library;
   tests/fuzz/test_segmentation.py compares both with the library alone.
3. A long read waits for a turn in the `ReadQueue`, and its socket is not read
   meanwhile: many sockets may send long headers. Tested by
   tests/unit/websocket/test_handshake_turns.py.
4. After an answer input is read and discarded, so that the answer is not lost to a
   reset; the socket is aborted `limits.abort_s` later. Until then it is counted.
"""

import asyncio
from typing import Final, cast

from websockets.extensions import Extension
from websockets.http11 import Request, Response

from ..config.addresses import ClientAddresses
from ..protocol.errors import CloseCode
from ..wire.frames import DEFLATE
from ..wire.request import RequestReader
from .connection import Connection
from .http import head_only, method_not_allowed, text_response
from .library import LibraryHandshake
from .limiter import LimiterVerdict
from .sockets import PendingSocket
from .state import ServerState

__all__ = ["HandshakeProtocol"]

LONG_READ: Final = 4_096
"""Bytes. Requests with more are rare; 56 KB of headers take 0.15 ms to read."""
_UNREADABLE: Final = {
    400: "This is not an HTTP/1.1 request.\n",
    414: "The request line is too long.\n",
    431: "The header fields are too large.\n",
}


class HandshakeProtocol(asyncio.Protocol):
    """Answers one HTTP request; an accepted upgrade goes on as a `Connection`."""

    __slots__ = (
        "_accepted",
        "_address",
        "_answered",
        "_deadline",
        "_peer",
        "_reader",
        "_refused",
        "_state",
        "_transport",
        "_unread",
        "slot",
    )

    open = False
    busy = False

    def __init__(
        self,
        state: ServerState,
        deadline: float | None = None,
        accepted: PendingSocket | None = None,
    ) -> None:
        """`deadline` on the monotonic clock; None: `limits.handshake_s` from now.

        `accepted` is the socket as it was counted during its TLS handshake.
        """
        if deadline is None:
            deadline = state.monotonic() + state.config.limits.handshake_s
        self._state = state
        self._accepted = accepted
        self._deadline = deadline
        self._reader: RequestReader | None = None
        self._answered = self._refused = False
        self._unread = b""
        self.slot = 0

    # The socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection was accepted, and its TLS handshake is over."""
        state = self._state
        self._transport = cast("asyncio.Transport", transport)
        self._peer = ClientAddresses.peer(transport.get_extra_info("peername"))
        state.timer_wheel.schedule(self, self._deadline)
        if self._accepted is None:
            state.add_socket(self, self._peer)
        else:
            state.replace_socket(self._accepted, self, self._peer)
            self._accepted = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything: the socket is gone."""
        if not self._answered:
            self._state.record_handshake("lost")
        self._forget()

    def eof_received(self) -> None:
        """Let the transport close: half a request has no answer."""

    def on_timer(self, now: float) -> float | None:
        """Cut a client whose request or whose close is overdue."""
        if now < self._deadline:
            return self._deadline
        if not self._answered:
            self._answered = True
            self._state.refuse_handshake("handshake_timeout", self._peer)
        self._transport.abort()
        return None

    def refuse(self, reason: str) -> None:
        """Answer 503 to the first bytes: clients fail on an answer before them."""
        self._state.refuse_handshake(reason, self._peer)
        self._refused = True

    def evict(self, reason: str) -> None:
        """Answer 503 and close: the place is needed for other clients."""
        if self._answered:
            self._transport.abort()
            return
        self._state.refuse_handshake(reason, self._peer)
        self._state.record_handshake("503")
        self._answered = True
        self._transport.write(self._state.busy_response().serialize())
        self._transport.close()

    def close(self, code: CloseCode, reason: str) -> None:
        """See `sockets.ClientSocket`; an HTTP request knows no close code."""
        # asyncio of Python 3.11.2 cannot abort a TLS transport that was closed twice.
        if not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Cut the socket."""
        self._transport.abort()

    @property
    def held_bytes(self) -> int:
        """See `memory.Holder`."""
        held = 0 if self._reader is None else self._reader.size
        return held + len(self._unread)

    def _forget(self) -> None:
        self._state.timer_wheel.cancel(self)
        self._state.discard_socket(self, self._peer)
        self._state.read_queue.discard(self)
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # The request.

    def data_received(self, data: bytes) -> None:
        """Read the request; input behind an answer is discarded."""
        if self._answered:
            return
        if self._refused:
            self._respond(self._state.busy_response())
            return
        fresh = self._reader is None and not self._unread
        if fresh and self._fast_handshake(data):
            return
        if self._unread or len(data) > LONG_READ:
            self._unread += data
            self._transport.pause_reading()
            self._state.read_queue.add(self)
        else:
            self._read(data)

    def read_rest(self) -> None:
        """See `read_queue.Reader`."""
        data, self._unread = self._unread, b""
        if not self._transport.is_closing():
            self._transport.resume_reading()
        if not self._answered:
            self._read(data)

    def _read(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = RequestReader()
        reader.feed(data)
        if reader.request is not None:
            self._answer(reader.request, reader)
        elif reader.status:
            # The proxy's header is malformed: the proxy counts as the peer.
            self._state.log.info(
                "request_refused",
                status=reader.status,
                field=reader.field,
                address=self._peer,
            )
            self._respond(text_response(reader.status, _UNREADABLE[reader.status]))
        else:
            self._state.account(self)

    def _fast_handshake(self, data: bytes) -> bool:
        """Answer the common case, a whole upgrade in one read."""
        state = self._state
        upgrade = state.read_upgrade(data)
        if upgrade is None or not state.allows(upgrade):
            return False
        address = state.client_address(
            self._peer, upgrade.forwarded_for, upgrade.real_ip
        )
        self._upgrade(upgrade.response, address, [], b"")
        return True

    def _answer(self, request: Request, reader: RequestReader) -> None:
        state = self._state
        address = self._client(request)
        if not state.allows_request(self._peer, address):
            state.refuse_handshake(LimiterVerdict.RATE, address)
            self._respond(state.busy_response())
            return
        if request.method not in {"GET", "HEAD"}:
            self._respond(method_not_allowed())
            return
        upgrade = request.method == "GET" and "Upgrade" in request.headers
        response = state.endpoints.answer(request, admin=False)
        if response is None and upgrade and not reader.has_body:
            self._handshake(request, reader, address)
            return
        if response is None and upgrade:
            response = text_response(400, "An upgrade has no body.\n")
        if response is None:
            response = text_response(426, "A WebSocket client is needed here.\n")
            response.headers["Upgrade"] = "websocket"
        self._respond(head_only(response) if request.method == "HEAD" else response)

    def _handshake(self, request: Request, reader: RequestReader, address: str) -> None:
        """Have the library judge the upgrade."""
        state, server = self._state, self._state.config.server
        library = LibraryHandshake(
            extensions=[DEFLATE] if server.permessage_deflate else None
        )
        response = library.judge(request)
        origins = request.headers.get_all("Origin")
        if response.status_code == 101 and not state.allows_origins(origins, address):
            response = text_response(403, "This origin is not allowed.\n")
        if response.status_code == 426:
            response = text_response(426, "A WebSocket client is needed here.\n")
            response.headers["Upgrade"] = "websocket"
        if response.status_code != 101:
            self._respond(response)
        else:
            agreed = list(library.extensions)
            self._upgrade(response.serialize(), address, agreed, reader.rest)

    def _client(self, request: Request) -> str:
        """The address that the request counts for."""
        return self._state.client_address(
            self._peer,
            ",".join(request.headers.get_all("X-Forwarded-For")),
            ",".join(request.headers.get_all("X-Real-IP")[-1:]),
        )

    def _upgrade(
        self, response: bytes, address: str, extensions: list[Extension], rest: bytes
    ) -> None:
        """Open a connection, if the limits allow one."""
        state = self._state
        connection = Connection(state, self._transport, address, extensions)
        retry_after_s = state.try_accept(address, connection)
        if retry_after_s is not None:
            connection.release()
            self._respond(state.busy_response(retry_after_s))
            return
        state.record_handshake("101")
        self._answered = True
        self._forget()
        state.connections.add(connection)
        self._transport.set_protocol(connection)
        connection.start(response, rest)

    def _respond(self, response: Response) -> None:
        """Send an answer and half-close; abort soon."""
        state, transport = self._state, self._transport
        state.record_handshake(str(response.status_code))
        self._answered = True
        if self._reader is not None:
            self._reader.close()
            state.memory.report(self, 0)
        transport.write(response.serialize())
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
        self._deadline = state.monotonic() + state.config.limits.abort_s
        state.timer_wheel.schedule(self, self._deadline)
