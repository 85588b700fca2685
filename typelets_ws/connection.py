"""One client's socket: bytes in, decisions obeyed, bytes out.

The WebSocket protocol is websockets' Sans-I/O `Protocol`, but for what is so common
and so simple that it is taken past it (`entrance`, `frames`); what may be said is the
session's to decide, in which order the conversation's; this pumps. Laws:

1. No task and no timer belong to an idle connection: the `Deadlines` wheel calls
   `due`, and `liveness` knows for what (handshake, auth, ping, stall, abort).
2. What the peer does not take is bounded by bytes and by time (`outbox`); beyond
   it the peer is told (1013) and cut. A close frame is followed by a hard abort.
3. From the moment a connection starts closing it is no device any more: it is
   detached, and nothing further is delivered to it.
"""

from collections.abc import Mapping
from typing import Final, cast

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request

from . import messages
from .assembly import Assembly
from .config import Config
from .conversation import Conversation
from .entrance import Entrance
from .errors import AUTH_TIMEOUT, CloseCode, Code, Farewell, Refusal
from .frames import PING, Frame, is_pong, whole_text
from .house import House
from .liveness import Due
from .session import Session
from .wire import forget

__all__ = ["Connection"]

_GREETING: Final = Frame(messages.encode(messages.ConnectionEstablished()))


class Connection(Entrance):
    """A socket from accept to loss; `Device` to the hub, `Link` to its conversation."""

    __slots__ = (
        "_assembly",
        "_attached",
        "_authenticated",
        "_conversation",
        "since_ms",
    )

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self._conversation: Conversation | None = None
        self._assembly = Assembly()
        self._attached = self._authenticated = False
        self.since_ms = 0

    # The socket.

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self.open:
            self._house.observe_end("1006", "lost", self.log_fields)
        self._depart()
        self._house.deadlines.forget(self)
        self._house.leave(self)
        if self._inside:
            self._inside = False
            self._house.door.leave(self._address, authenticated=self._authenticated)
        # Ends two cycles of references: the collector has nothing to do with churn.
        self._conversation = None
        if self._protocol is not None:
            forget(self._protocol)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived; what is answered at once leaves in one write."""
        self._corked = True
        try:
            conversation = self._conversation
            if conversation is None:
                if not self._upgraded(data) and not self._other_method(data):
                    self._take_apart(data)
            elif not self._taken(conversation, data):
                self._take_apart(data)
        finally:
            self._corked = False
        if self._outbox.queued:
            self.flush()

    def _taken(self, conversation: Conversation, data: bytes) -> bool:
        """Take the common cases, one whole text frame or pong, past the protocol.

        Only between frames and between messages, where the protocol holds nothing of
        what came before, so that it need not know.
        """
        protocol = self._protocol
        within = protocol is not None and protocol.reader.buffer
        if within or not self.open or self._deflate or not self._assembly.idle:
            return False
        text = whole_text(data)
        if text is None:
            if is_pong(data):
                self._liveness.ponged()
                return True
            return False
        try:
            whole = Assembly.whole(text, self._room(conversation), text=True)
            conversation.message(whole, text=True)
        except Farewell as farewell:
            self._fail(farewell)
        return True

    def _take_apart(self, data: bytes) -> None:
        """Let the protocol read, and handle what it has read."""
        ws = self._ws
        ws.receive_data(data)
        # It is the library's to remember, and by its traceback all that was read.
        ws.parser_exc = None
        for event in ws.events_received():
            if isinstance(event, Request):
                self._request(event)
            elif self.open and self._conversation is not None:
                self._frame(self._conversation, cast("WireFrame", event))
        if self.open and self._conversation is not None and not self._authenticated:
            self._refuse_to_buffer(self._conversation)
        self._write_protocol()

    def _begin(self) -> None:
        """See `entrance.Entrance`."""
        house, config = self._house, self._house.config
        self.open = True
        session = Session(house.new_id(), config.limits, config.messages)
        self._conversation = Conversation(self, session, house.services)
        auth_timeout = config.auth.auth_timeout_ms / 1000
        if house.debug:
            house.log.debug("connection_opened", **self.log_fields)
        self._liveness.opened(house.monotonic(), auth_timeout)
        self._look_again()
        self._queue(_GREETING)

    # Frames in.

    def _frame(self, conversation: Conversation, frame: WireFrame) -> None:
        """Handle one frame; the protocol has seen to its own part already."""
        try:
            if frame.opcode is Opcode.PONG:
                self._liveness.ponged()
            elif frame.opcode is Opcode.PING:
                # Each is answered, so a flood of pings is a flood.
                verdict = conversation.session.arrive(0, self._house.monotonic())
                if isinstance(verdict, Farewell):
                    self._fail(verdict)
            elif frame.opcode is Opcode.CLOSE:
                self._house.observe_end("client", "client", self.log_fields)
            else:
                whole = self._assembly.add(frame, self._room(conversation))
                # The protocol's parser holds on to the frame until the next one.
                frame.data = b""
                if whole is not None:
                    conversation.message(whole[0], text=whole[1])
        except Farewell as farewell:
            self._fail(farewell)

    def _room(self, conversation: Conversation) -> int:
        """The largest message that is read, in bytes, as things stand.

        What is pipelined behind a pending `auth` is judged by its outcome.
        """
        limits = self._house.config.limits
        if conversation.session.authenticated or conversation.busy:
            return limits.unread_bytes
        return limits.unread_bytes_before_auth

    def _refuse_to_buffer(self, conversation: Conversation) -> None:
        """Spec section 5: before auth, what is beyond its limit is not even read.

        After it, the protocol itself refuses more than `unread_bytes`.
        """
        unread = len(self._ws.reader.buffer) + self._assembly.size
        if unread > self._house.config.limits.unread_bytes_before_auth:
            if conversation.busy:
                self.hold(held=True)
            else:
                self._fail(Farewell(CloseCode.MESSAGE_TOO_BIG, "message_too_big"))

    # Frames out.

    def push(self, frame: Frame) -> None:
        """Send a frame; see `hub.Device`."""
        if self.open:
            self._send(frame.deflated if self._deflate else frame.plain)

    def say(self, text: bytes) -> None:
        """Send one message; see `conversation.Link`."""
        if self.open:
            self._queue(Frame(text))

    def _queue(self, frame: Frame) -> None:
        self._push(frame.deflated if self._deflate else frame.plain)

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
        fields = {"address": self._address}
        if self._conversation is not None:
            fields["connection"] = self._session.connection_id
            if self._session.user_id:
                fields["user"] = self._session.user_id
        return fields

    @property
    def _session(self) -> Session:
        return cast(Conversation, self._conversation).session

    def authenticated(self) -> None:
        """The device is in; see `conversation.Link`."""
        self._attached = self._authenticated = True
        self.since_ms = self._house.now_ms()
        self._house.door.authenticated()
        if self._house.debug:
            self._house.log.debug("authenticated", **self.log_fields)
        self._liveness.authenticated()

    @property
    def busy(self) -> bool:
        """See `house.Inhabitant`."""
        return self._conversation is not None and self._conversation.busy

    def reconfigure(self, config: Config) -> None:
        """See `house.Inhabitant`."""
        if self._protocol is not None:
            self._protocol.max_message_size = config.limits.unread_bytes
        self._liveness.reconfigure(config.limits)
        if self._conversation is not None:
            self._session.reconfigure(config.limits, config.messages)

    def ask_resync(self, reason: str, delay: float) -> None:
        """Tell the device within `delay` seconds; see `hub.Device`."""
        self._liveness.ask_resync(reason, self._house.monotonic() + delay)
        self._look_again()

    def _depart(self) -> None:
        """Be no device any more."""
        self.open = False
        if self._attached:
            self._attached = False
            self._assembly.drop()
            self._house.services.admission.leave(self, self._session)
        if self._conversation is not None:
            self._session.close()

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
                self._house.observe_ping_timeout(self.log_fields)
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
