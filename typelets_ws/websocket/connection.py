"""One client's socket: bytes in, decisions obeyed, bytes out.

The WebSocket protocol is websockets' Sans-I/O `Protocol`, but for what is so common
and so simple that it is taken past it (`handshake`, `frames`); what may be said is the
session's to decide, in which order the conversation's; this pumps. Laws:

1. No task and no timer belong to an idle connection: the `TimerWheel` wheel calls
   `due`, and `timers` knows for what (handshake, auth, ping, stall, abort).
2. What the peer does not take is bounded by bytes and by time (`writer`); beyond
   it the peer is told (1013) and cut. A close frame is followed by a hard abort.
3. From the moment a connection starts closing it is no device any more: it is
   detached, and nothing further is delivered to it.
"""

from collections.abc import Mapping
from typing import Final, cast

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request

from ..config.model import Config
from ..protocol import messages
from ..protocol.errors import AUTH_TIMEOUT, ClientError, CloseCode, Code, Disconnect
from ..session.dispatcher import Dispatcher
from ..session.session import Session
from ..wire.assembler import Assembler
from ..wire.frames import PING, Frame, is_pong, whole_text
from .handshake import HandshakeProtocol
from .socket import forget
from .state import ServerState
from .timers import Timer

__all__ = ["Connection"]

_GREETING: Final = Frame(messages.encode(messages.ConnectionEstablished()))


class Connection(HandshakeProtocol):
    """A socket from accept to loss; `Device` to the hub, `Transport` to its
    conversation."""

    __slots__ = (
        "_assembler",
        "_attached",
        "_authenticated",
        "_dispatcher",
        "since_ms",
    )

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self._dispatcher: Dispatcher | None = None
        self._assembler = Assembler()
        self._attached = self._authenticated = False
        self.since_ms = 0

    # The socket.

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self.open:
            self._state.observe_end("1006", "lost", self.log_fields)
        self._detach()
        self._state.timer_wheel.cancel(self)
        self._state.requested(self, self.address)
        self._state.discard(self)
        if self._counted:
            self._counted = False
            self._state.limiter.release(self.address, self)
        # Ends two cycles of references: the collector has nothing to do with churn.
        self._dispatcher = None
        if self._protocol is not None:
            forget(self._protocol)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived; what is answered at once leaves in one write."""
        self._corked = True
        try:
            dispatcher = self._dispatcher
            if dispatcher is None:
                if not self._fast_handshake(data) and not self._reject_method(data):
                    self._receive(data)
            elif not self._receive_fast(dispatcher, data):
                self._receive(data)
        finally:
            self._corked = False
        if self._writer.queued:
            self.flush()

    def _receive_fast(self, dispatcher: Dispatcher, data: bytes) -> bool:
        """Take the common cases, one whole text frame or pong, past the protocol.

        Only between frames and between messages, where the protocol holds nothing of
        what came before, so that it need not know.
        """
        protocol = self._protocol
        within = protocol is not None and protocol.reader.buffer
        if within or not self.open or self._deflate or not self._assembler.idle:
            return False
        text = whole_text(data)
        if text is None:
            if is_pong(data):
                self._timers.pong_received()
                return True
            return False
        try:
            whole = Assembler.whole(text, self._max_message_size(dispatcher), text=True)
            dispatcher.receive(whole, text=True)
        except Disconnect as disconnect:
            self._fail(disconnect)
        return True

    def _receive(self, data: bytes) -> None:
        """Let the protocol read, and handle what it has read."""
        ws = self._ws
        ws.receive_data(data)
        # It is the library's to remember, and by its traceback all that was read.
        ws.parser_exc = None
        for event in ws.events_received():
            if isinstance(event, Request):
                self._request(event)
            elif self.open and self._dispatcher is not None:
                self._frame(self._dispatcher, cast("WireFrame", event))
        if self.open and self._dispatcher is not None and not self._authenticated:
            self._limit_unauthenticated_buffer(self._dispatcher)
        self._write_protocol()

    def _on_open(self) -> None:
        """See `handshake.HandshakeProtocol`."""
        state, config = self._state, self._state.config
        self.open = True
        session = Session(state.new_id(), config.limits, config.messages)
        self._dispatcher = Dispatcher(self, session, state.services)
        auth_timeout = config.auth.auth_timeout_ms / 1000
        if state.debug:
            state.log.debug("connection_opened", **self.log_fields)
        self._timers.opened(state.monotonic(), auth_timeout)
        self._reschedule()
        self._queue_frame(_GREETING)

    # Frames in.

    def _frame(self, dispatcher: Dispatcher, frame: WireFrame) -> None:
        """Handle one frame; the protocol has seen to its own part already."""
        try:
            if frame.opcode is Opcode.PONG:
                self._timers.pong_received()
            elif frame.opcode is Opcode.PING:
                # Each is answered, so a flood of pings is a flood.
                verdict = dispatcher.session.count(0, self._state.monotonic())
                if isinstance(verdict, Disconnect):
                    self._fail(verdict)
            elif frame.opcode is Opcode.CLOSE:
                self._state.observe_end("client", "client", self.log_fields)
            else:
                whole = self._assembler.add(frame, self._max_message_size(dispatcher))
                # The protocol's parser holds on to the frame until the next one.
                frame.data = b""
                if whole is not None:
                    dispatcher.receive(whole[0], text=whole[1])
        except Disconnect as disconnect:
            self._fail(disconnect)

    def _max_message_size(self, dispatcher: Dispatcher) -> int:
        """The largest message that is read, in bytes, as things stand.

        What is pipelined behind a pending `auth` is judged by its outcome.
        """
        limits = self._state.config.limits
        if dispatcher.session.authenticated or dispatcher.busy:
            return limits.unread_bytes
        return limits.unread_bytes_before_auth

    def _limit_unauthenticated_buffer(self, dispatcher: Dispatcher) -> None:
        """Spec section 5: before auth, what is beyond its limit is not even read.

        After it, the protocol itself refuses more than `unread_bytes`.
        """
        unread = len(self._ws.reader.buffer) + self._assembler.size
        if unread > self._state.config.limits.unread_bytes_before_auth:
            if dispatcher.busy:
                self.pause_reading()
            else:
                self._fail(Disconnect(CloseCode.MESSAGE_TOO_BIG, "message_too_big"))

    # Frames out.

    def send_frame(self, frame: Frame) -> None:
        """Send a frame; see `hub.Device`."""
        if self.open:
            self._write(frame.deflated if self._deflate else frame.plain)

    def send_message(self, text: bytes) -> None:
        """Send one message; see `dispatcher.Transport`."""
        if self.open:
            self._queue_frame(Frame(text))

    def _queue_frame(self, frame: Frame) -> None:
        self._queue(frame.deflated if self._deflate else frame.plain)

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
    def log_fields(self) -> Mapping[str, str]:
        """See `hub.Device`."""
        fields = {"address": self.address}
        if self._dispatcher is not None:
            fields["connection"] = self._session.connection_id
            if self._session.user_id:
                fields["user"] = self._session.user_id
        return fields

    @property
    def _session(self) -> Session:
        return cast(Dispatcher, self._dispatcher).session

    def authenticated(self) -> None:
        """The device is in; see `dispatcher.Transport`."""
        self._attached = self._authenticated = True
        self.since_ms = self._state.now_ms()
        self._state.limiter.authenticated(self.address, self)
        if self._state.debug:
            self._state.log.debug("authenticated", **self.log_fields)
        self._timers.authenticated()

    def token_refused(self) -> None:
        """See `hub.Device`."""
        self._state.token_refused(self.address)

    @property
    def busy(self) -> bool:
        """See `state.ClientSocket`."""
        return self._dispatcher is not None and self._dispatcher.busy

    def reconfigure(self, config: Config) -> None:
        """See `state.ClientSocket`."""
        if self._protocol is not None:
            self._protocol.max_message_size = config.limits.unread_bytes
        self._timers.reconfigure(config.limits)
        if self._dispatcher is not None:
            self._session.reconfigure(config.limits, config.messages)

    def ask_resync(self, reason: str, delay: float) -> None:
        """Tell the device within `delay` seconds; see `hub.Device`."""
        self._timers.ask_resync(reason, self._state.monotonic() + delay)
        self._reschedule()

    def _detach(self) -> None:
        """Be no device any more."""
        self.open = False
        if self._attached:
            self._attached = False
            self._assembler.drop()
            self._state.services.authenticator.detach(self, self._session)
        if self._dispatcher is not None:
            self._session.close()

    def on_timer(self, now: float) -> float | None:
        """Do what is due; see `timer_wheel.Timed`."""
        match self._timers.expired(now, reading=self._reading):
            case Timer.ABORT:
                self._transport.abort()
                return None
            case Timer.AUTH_TIMEOUT:
                refusal = ClientError(Code.AUTH_REQUIRED, AUTH_TIMEOUT)
                answer = messages.encode(messages.error(refusal))
                self.disconnect(
                    Disconnect(CloseCode.AUTH_TIMEOUT, "auth_timeout", answer)
                )
            case Timer.RESYNC:
                self._send_resync()
            case Timer.STALL_CHECK:
                drained = self._writer.bytes_written()
                if self._timers.stalled(now, drained, self._writer.unsent):
                    self._evict("stalled")
            case Timer.PONG_MISSING:
                self._state.observe_ping_timeout(self.log_fields)
                self._transport.abort()
                return None
            case Timer.PING:
                self._queue(PING)
        return self._timers.next()

    def _send_resync(self) -> None:
        reason = self._timers.resync_reason
        self._timers.resynced()
        self._state.metrics.resyncs.inc()
        self.send_message(
            messages.encode(
                messages.ResyncRequired(reason=reason, timestamp=self._state.now_ms())
            )
        )
