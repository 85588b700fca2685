"""One client's socket: bytes in, decisions obeyed, bytes out.

The WebSocket protocol is websockets' Sans-I/O `ServerProtocol`; what may be said
is the session's to decide, in which order the conversation's; this pumps. Laws:

1. No task and no timer belong to an idle connection: the `Deadlines` wheel calls
   `due`, and `liveness` knows for what (handshake, auth, ping, stall, abort).
2. What the peer does not take is bounded by bytes and by time (`outbox`); beyond
   it the peer is told (1013) and cut. A close frame is followed by a hard abort.
3. From the moment a connection starts closing it is no device any more: it is
   detached, and nothing further is delivered to it.
"""

import asyncio
import re
from typing import Final, cast

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from . import messages
from .conversation import Conversation
from .errors import AUTH_TIMEOUT, CloseCode, Code, Farewell, Refusal
from .frames import DEFLATE, PING, Frame
from .house import House
from .liveness import Due, Liveness
from .outbox import Outbox
from .session import Session

__all__ = ["Connection"]

FRAGMENTS: Final = 8_192
"""1 MB in frames of 128 bytes; a message in more pieces is an attack."""
_OTHER_METHOD: Final = re.compile(rb"(?!GET )[A-Z]{3,16} ")
_GREETING: Final = Frame(messages.encode(messages.ConnectionEstablished()))


class Connection(asyncio.Protocol):
    """A socket from accept to loss; `Device` to the hub, `Link` to its conversation."""

    __slots__ = (
        "_address",
        "_attached",
        "_authenticated",
        "_conversation",
        "_deflate",
        "_fragments",
        "_house",
        "_inside",
        "_liveness",
        "_outbox",
        "_pieces",
        "_reading",
        "_transport",
        "_ws",
        "open",
        "slot",
    )

    def __init__(self, house: House) -> None:
        config = house.config
        self._house = house
        self._ws = ServerProtocol(
            origins=house.origins,
            extensions=[DEFLATE] if config.server.permessage_deflate else None,
            max_size=config.limits.unread_bytes,
        )
        self._liveness = Liveness(config.limits, house.monotonic())
        self._conversation: Conversation | None = None
        self._fragments: bytearray | None = None
        self._pieces = 0
        self._deflate = self._inside = False
        self._attached = self._authenticated = False
        self._reading = True
        self.open = False
        self.slot = 0

    # The socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast(asyncio.Transport, transport)
        plain = transport.get_extra_info("sslcontext") is None
        sock = transport.get_extra_info("socket")
        self._outbox = Outbox(self._transport, sock.fileno() if plain else -1)
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else "local"
        if self._house.enter(self):
            self._look_again()
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self.open:
            self._house.metrics.closes.labels("1006", "lost").inc()
        self._depart()
        self._house.deadlines.forget(self)
        self._house.leave(self)
        if self._inside:
            self._inside = False
            self._house.door.leave(self._address, authenticated=self._authenticated)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        ws = self._ws
        if self._conversation is None and _OTHER_METHOD.match(data):
            # websockets would drop a request with a body without an answer.
            ws.send_response(ws.reject(405, "Only GET is served here.\n"))
            self._write_protocol()
            return
        ws.receive_data(data)
        for event in ws.events_received():
            if isinstance(event, Request):
                self._request(event)
            else:
                self._frame(cast(WireFrame, event))
        if self.open:
            self._refuse_to_buffer()
        self._write_protocol()

    def eof_received(self) -> None:
        """The peer will send no more."""
        self._ws.receive_eof()
        self._write_protocol()

    def _write_protocol(self) -> None:
        """Send what the protocol itself has to say: handshake, pong, close."""
        for data in self._ws.data_to_send():
            if data is SEND_EOF:
                self._end()
            else:
                self._push(data)

    def _end(self) -> None:
        """The protocol has said its last: half-close, and wait a little."""
        self._depart()
        self._outbox.flush()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._linger()
        else:
            self._transport.close()

    # The handshake.

    def _request(self, request: Request) -> None:
        house, ws = self._house, self._ws
        response = house.endpoints.answer(request, admin=False)
        if response is None:
            self._address = house.client_address(self._address, request)
            response = ws.accept(request)
            if response.status_code == 426:
                response = ws.reject(426, "A WebSocket client is needed here.\n")
                response.headers["Upgrade"] = "websocket"
            if response.status_code == 101:
                response = house.admit(ws, self._address) or response
            house.observe_handshake(ws, request, response, self._address)
        ws.send_response(response)
        if ws.state is OPEN:
            self._begin()

    def _begin(self) -> None:
        house, config = self._house, self._house.config
        self._inside = self.open = True
        self._deflate = bool(self._ws.extensions)
        session = Session(house.new_id(), config.limits, config.messages)
        self._conversation = Conversation(self, session, house.services)
        auth_timeout = config.auth.auth_timeout_ms / 1000
        self._liveness.opened(house.monotonic(), auth_timeout)
        self._look_again()
        self._write_protocol()
        self.push(_GREETING)

    # Frames in.

    def _frame(self, frame: WireFrame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                self._message(bytes(frame.data), text=opcode is Opcode.TEXT)
            else:
                self._pieces = 1
                self._fragments = bytearray([opcode]) + frame.data
        elif opcode is Opcode.CONT:
            self._continue(frame)
        elif opcode is Opcode.PONG:
            self._liveness.ponged()
        elif opcode is Opcode.PING:
            self._count_ping()
        elif self.open:
            self._house.metrics.closes.labels("client", "client").inc()

    def _continue(self, frame: WireFrame) -> None:
        fragments = self._fragments
        if fragments is None:
            return
        fragments += frame.data
        self._pieces += 1
        if frame.fin:
            self._fragments = None
            self._message(bytes(fragments[1:]), text=fragments[0] == Opcode.TEXT)
        elif self._pieces > FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "too_many_fragments")

    def _message(self, data: bytes, *, text: bool) -> None:
        conversation = self._conversation
        if conversation is None or not self.open:
            return
        if text and not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "invalid_utf8")
                return
        if len(data) > self._room(conversation):
            self._fail(CloseCode.MESSAGE_TOO_BIG, "message_too_big")
            return
        conversation.message(data, text=text)

    def _count_ping(self) -> None:
        """A flood of pings is a flood: each is answered."""
        if self._conversation is None or not self.open:
            return
        try:
            self._conversation.session.arrive(0, self._house.now_ms())
        except Refusal:
            return
        except Farewell as farewell:
            self.farewell(farewell)

    def _room(self, conversation: Conversation) -> int:
        """The largest message that is read, in bytes, as things stand.

        What is pipelined behind a pending `auth` is judged by its outcome.
        """
        limits = self._house.config.limits
        if conversation.session.authenticated or conversation.busy:
            return limits.unread_bytes
        return limits.unread_bytes_before_auth

    def _refuse_to_buffer(self) -> None:
        """Spec section 5: beyond its limit a message is not even read."""
        conversation = self._conversation
        if conversation is None or conversation.session.authenticated:
            # The protocol itself refuses more than `unread_bytes`.
            return
        unread = len(self._ws.reader.buffer) + len(self._fragments or b"")
        if unread > self._house.config.limits.unread_bytes_before_auth:
            if conversation.busy:
                self.hold(held=True)
            else:
                self._fail(CloseCode.MESSAGE_TOO_BIG, "message_too_big")

    def hold(self, *, held: bool) -> None:
        """Do not read on, or do again; see `conversation.Link`."""
        if held is self._reading and not self._transport.is_closing():
            self._reading = not held
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # Frames out.

    def push(self, frame: Frame) -> None:
        """Queue a frame; see `hub.Device`."""
        if self.open:
            self._push(frame.deflated if self._deflate else frame.plain)

    def say(self, text: bytes) -> None:
        """Send one message; see `conversation.Link`."""
        self.push(Frame(text))

    def _push(self, data: bytes) -> None:
        if self._outbox.push(data):
            self._house.turn.add(self)

    def flush(self) -> None:
        """The end of the turn: write, and notice a peer that does not take it."""
        outbox = self._outbox
        if self.open and outbox.unsent > self._house.config.limits.unsent_bytes:
            self._evict("unsent_bytes")
        elif not outbox.flush() and self.open:
            self._liveness.backlogged(self._house.monotonic(), outbox.drained())
            self._look_again()

    # The device.

    @property
    def connection_id(self) -> str:
        """See `hub.Device`."""
        return self._session.connection_id

    @property
    def session_id(self) -> str | None:
        """See `hub.Device`."""
        return self._session.session_id

    @property
    def _session(self) -> Session:
        return cast(Conversation, self._conversation).session

    def authenticated(self) -> None:
        """The device is in; see `conversation.Link`."""
        self._attached = self._authenticated = True
        self._house.door.authenticated()
        self._liveness.authenticated()

    def ask_resync(self, reason: str, delay: float) -> None:
        """Tell the device within `delay` seconds; see `hub.Device`."""
        self._liveness.ask_resync(reason, self._house.monotonic() + delay)
        self._look_again()

    # Closing.

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing; see `hub.Device`."""
        self.farewell(Farewell(code, reason))

    def farewell(self, farewell: Farewell) -> None:
        """Say the last word and close; see `conversation.Link`."""
        if not self.open:
            return
        if farewell.answer is not None:
            self.say(farewell.answer)
        self._house.observe_farewell(farewell, self.connection_id, self._address)
        self._ws.send_close(farewell.close_code, farewell.reason)
        self._close()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): no more is read."""
        self._house.observe_farewell(
            Farewell(code, reason), self.connection_id, self._address
        )
        self._ws.fail(code, reason)
        self._close()

    def _evict(self, reason: str) -> None:
        """Send a peer away that does not take what it is sent."""
        self._house.metrics.evictions.labels(reason).inc()
        self._outbox.drop()
        self.close(CloseCode.TOO_SLOW, reason)

    def _close(self) -> None:
        self._depart()
        self._fragments = None
        self._write_protocol()
        self._outbox.flush()
        self._linger()

    def _linger(self) -> None:
        """Read what still comes, so that our last word is not reset; then abort."""
        self.hold(held=False)
        self._liveness.closing(self._house.monotonic())
        self._look_again()

    def _depart(self) -> None:
        """Be no device any more."""
        self.open = False
        if self._attached:
            self._attached = False
            self._house.services.admission.leave(self, self._session)
        if self._conversation is not None:
            self._session.close()

    # Deadlines.

    def _look_again(self) -> None:
        following = self._liveness.next()
        if following is not None:
            self._house.deadlines.at(self, following)

    def due(self, now: float) -> float | None:
        """Do what is due; see `deadlines.Due`."""
        match self._liveness.due(now, reading=self._reading):
            case Due.ABORT:
                self._transport.abort()
                return None
            case Due.AUTH_TIMEOUT:
                refusal = Refusal(Code.AUTH_REQUIRED, AUTH_TIMEOUT)
                answer = messages.encode(messages.error(refusal))
                self.farewell(Farewell(CloseCode.AUTH_TIMEOUT, "auth_timeout", answer))
            case Due.RESYNC:
                self._tell_resync()
            case Due.STALL_CHECK:
                drained = self._outbox.drained()
                if self._liveness.stalled(now, drained, self._outbox.unsent):
                    self._evict("stalled")
            case Due.PONG_MISSING:
                self._house.metrics.evictions.labels("ping_timeout").inc()
                self._transport.abort()
                return None
            case Due.PING:
                self._push(PING)
        return self._liveness.next()

    def _tell_resync(self) -> None:
        reason = self._liveness.resync_reason
        self._liveness.resynced()
        self._house.metrics.resyncs.inc()
        self.say(
            messages.encode(
                messages.ResyncRequired(reason=reason, timestamp=self._house.now_ms())
            )
        )
