"""One client's WebSocket: its socket, what it is sent, and how it closes.

`Inbound` reads what the client sends, the dispatcher handles it, `Writer` sends. This
class joins them, and is the `Device` of the hub. Invariants:

1. No task and no timer belong to an idle connection: the `TimerWheel` calls `on_timer`,
   and `timers` knows for what (auth, ping, unfinished message, stalled write, abort).
2. Bytes that a client fails to read are bounded (`Writer.backlog`); beyond it the
   connection is closed with 1013. While they are many, its own messages wait.
3. After our Close frame input is discarded, the socket is half-closed, and aborted
   `limits.abort_s` later. The connection is detached before that, so that no further
   frame is delivered to it.

Tested by tests/integration/websocket/test_frames.py.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from websockets.extensions import Extension

from ..protocol import messages, replies
from ..protocol.errors import CloseCode, Disconnect
from ..session.dispatcher import Dispatcher
from ..session.ids import new_id
from ..session.session import Session
from ..wire.frames import PING, Frame, close_frame, inflates, plain
from .inbound import Inbound
from .state import ServerState
from .timers import ConnectionTimers, Timer
from .writer import Writer

__all__ = ["Connection"]

_GREETING: Final = Frame(messages.encode(messages.ConnectionEstablished())).plain


class Connection(asyncio.Protocol):
    """A WebSocket from its upgrade to its loss.

    `Device` to the hub, `Transport` to its dispatcher, `ClientSocket` to the state.
    """

    __slots__ = (
        "_address",
        "_attached",
        "_deflate",
        "_inbound",
        "_session",
        "_state",
        "_timers",
        "_transport",
        "_writer",
        "connection_id",
        "dispatcher",
        "open",
        "since_ms",
        "slot",
        "spawn",
    )

    def __init__(
        self,
        state: ServerState,
        transport: asyncio.Transport,
        address: str,
        extensions: list[Extension],
    ) -> None:
        """`transport` is that of an accepted upgrade, from the client at `address`."""
        self._state = state
        self.spawn = state.spawn
        self._transport = transport
        self._address = address
        self._deflate = inflates(extensions)
        self._writer = writer = Writer(self, transport, state)
        self._timers = timers = ConnectionTimers(state.live, state.monotonic())
        self.connection_id = new_id()
        self._session = Session(self.connection_id, state.live)
        self._session.limit_address(partial(state.rate_of, address))
        self.dispatcher = dispatcher = Dispatcher(self, self._session, state.context)
        self._inbound = Inbound(self, writer, dispatcher, timers, state, extensions)
        self._attached = False
        self.open = True
        self.since_ms = self.slot = 0

    def start(self, response: bytes, rest: bytes) -> None:
        """Send the handshake's response and the greeting; handle what came behind."""
        if self._state.debug:
            self._state.log.debug("connection_opened", **self.log_fields)
        self.reschedule()
        self._writer.send(response + _GREETING)
        if rest:
            self.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything: the socket is gone."""
        state = self._state
        if self.open:
            state.observe_end("1006", "lost", self.log_fields)
        self._detach()
        state.timer_wheel.cancel(self)
        state.read_queue.discard(self)
        state.discard(self)
        state.limiter.release(self._address, self)
        self.release()

    def release(self) -> None:
        """End the reference cycles: the garbage collector is not needed."""
        self._inbound.release()
        self._writer.release()
        self.dispatcher.release()

    def data_received(self, data: bytes) -> None:
        """Handle bytes; what is answered at once leaves in one write."""
        if self.open:
            writer = self._writer
            writer.corked = True
            self._inbound.receive(data)
            writer.corked = False
            writer.flush()

    def read_on(self) -> None:
        """See `endpoint.Endpoint`."""
        self._state.read_queue.add(self)

    def read_rest(self) -> None:
        """See `read_queue.Reader`."""
        if self.open:
            self._inbound.resume()

    def resume_writing(self) -> None:
        """Answer the waiting messages: the client has read what it was sent."""
        self._writer.bytes_written()
        if self.open:
            self.account()
            self.dispatcher.resume()

    def pause_reading(self) -> None:
        """See `transport.Transport`."""
        self._inbound.pause()

    def resume_reading(self) -> None:
        """See `transport.Transport`."""
        if self.open:
            self._inbound.unpause()

    def account(self) -> None:
        """Report the bytes held for this client to the memory budget."""
        if self.open:
            self._state.account(self)

    @property
    def held_bytes(self) -> int:
        """See `memory.Holder`."""
        received = self._inbound.held_bytes + self.dispatcher.held_bytes
        return received + self._writer.unsent

    def send_frame(self, frame: Frame) -> None:
        """Write a frame now, unless others wait before it; see `hub.Device`."""
        if self.open:
            self._writer.send(frame.deflated if self._deflate else frame.plain)

    def send_message(self, text: bytes) -> None:
        """Queue one message; see `transport.Transport`."""
        if self.open:
            self._writer.queue(Frame(text).deflated if self._deflate else plain(text))
            self._writer.flush_large()

    @property
    def behind(self) -> bool:
        """See `hub.Device`."""
        return self._writer.behind

    async def drained(self) -> None:
        """Wait for the client to read; see `transport.Transport`."""
        await self._writer.drained()

    def write_blocked(self) -> None:
        """Watch a client that does not take everything; answer no more for now."""
        writer = self._writer
        self._timers.write_blocked(self._state.monotonic(), writer.bytes_written())
        self.reschedule()
        self.account()
        if writer.backlog > self._state.config.limits.unsent_bytes:
            self.dispatcher.pause()

    def abort(self) -> None:
        """Cut the socket."""
        self._transport.abort()

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing; see `hub.Device`."""
        self.disconnect(Disconnect(code, reason))

    def disconnect(self, disconnect: Disconnect) -> None:
        """Send the final message, if any, and a Close frame; see `Transport`."""
        if self.open:
            if disconnect.answer is not None:
                self.send_message(disconnect.answer)
            self._state.record_close(disconnect, self.log_fields)
            self._writer.queue(close_frame(disconnect.close_code, disconnect.reason))
            self._finish()

    def evict(self, reason: str) -> None:
        """Close with 1013, without what is still queued; see `memory.Holder`."""
        self._state.metrics.evictions.labels(reason).inc()
        self._writer.discard()
        self.close(CloseCode.TOO_SLOW, reason)

    def close_frame_sent(self, failure: Disconnect | None) -> None:
        """See `endpoint.Endpoint`."""
        if failure is None:
            self._state.observe_end("client", "client", self.log_fields)
        else:
            self._state.record_close(failure, self.log_fields)
        self._finish()

    def _finish(self) -> None:
        """Discard input from now on, half-close, and abort soon."""
        self._detach()
        self._writer.finish()
        self._timers.closing(self._state.monotonic())
        self.reschedule()

    def _detach(self) -> None:
        """Leave the hub, and free all input."""
        self.open = False
        self._inbound.close()
        self.dispatcher.close()
        self._state.memory.report(self, 0)
        if self._attached:
            self._attached = False
            self._state.context.authenticator.detach(self, self._session)

    def reschedule(self) -> None:
        """Have `on_timer` called when the next deadline has passed."""
        following = self._timers.next()
        if following is not None:
            self._state.timer_wheel.schedule(self, following)

    def on_timer(self, now: float) -> float | None:
        """Act on the deadline that has passed; see `timer_wheel.Timed`."""
        match self._timers.expired(now, reading=self._transport.is_reading()):
            case Timer.ABORT:
                self._transport.abort()
            case Timer.AUTH_TIMEOUT:
                self.disconnect(replies.AUTH_TIMED_OUT)
            case Timer.UNFINISHED:
                self.close(CloseCode.POLICY_VIOLATION, "unfinished_message")
            case Timer.RESYNC:
                self.send_message(self._state.resync(self._timers.take_resync()))
            case Timer.STALL_CHECK:
                written = self._writer.bytes_written()
                if self._timers.stalled(now, written, self._writer.unsent):
                    self.evict("stalled")
            case Timer.PONG_MISSING:
                self._state.observe_ping_timeout(self.log_fields)
                self._transport.abort()
            case Timer.PING:
                self._writer.queue(PING)
        return self._timers.next()

    def ask_resync(self, reason: str, delay: float) -> None:
        """Send `resync_required` within `delay` seconds; see `hub.Device`."""
        self._timers.ask_resync(reason, self._state.monotonic() + delay)
        self.reschedule()

    @property
    def session_id(self) -> str | None:
        """See `hub.Device`."""
        return self._session.session_id

    @property
    def log_fields(self) -> Mapping[str, str]:
        """See `hub.Device`."""
        fields = {"address": self._address, "connection": self.connection_id}
        if self._session.user_id:
            fields["user"] = self._session.user_id
        return fields

    def authenticated(self) -> None:
        """The user is known; see `transport.Transport`."""
        state = self._state
        self._attached = True
        self.since_ms = state.now_ms()
        state.limiter.authenticated(self._address, self)
        if state.debug:
            state.log.debug("authenticated", **self.log_fields)
        self._timers.authenticated()

    def token_refused(self) -> None:
        """See `hub.Device`."""
        self._state.token_refused(self._address)

    @property
    def busy(self) -> bool:
        """See `sockets.ClientSocket`."""
        return self.dispatcher.busy
