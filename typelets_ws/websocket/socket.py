"""The wire of one client: a WebSocket over a transport, and its way down.

Below the conversation and above the socket: this writes what was queued, holds
the reading, says the last word, and makes sure that the end comes: a close frame
is followed by a half-close, a little patience, and a hard abort.
"""

import asyncio
from collections.abc import Mapping
from typing import cast

from websockets.protocol import OPEN, SEND_EOF, Protocol, Side
from websockets.server import ServerProtocol

from ..config.addresses import ClientAddresses
from ..config.model import Config
from ..protocol.errors import CloseCode, Disconnect
from ..wire.frames import DEFLATE
from .state import ServerState
from .timers import ConnectionTimers
from .writer import Writer

__all__ = ["SocketProtocol", "forget"]


class SocketProtocol(asyncio.Protocol):
    """One socket from accept to loss; `Connection` gives it a meaning."""

    __slots__ = (
        "_corked",
        "_protocol",
        "_reading",
        "_state",
        "_timers",
        "_transport",
        "_writer",
        "address",
        "open",
        "slot",
    )

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._protocol: Protocol | None = None
        self._timers = ConnectionTimers(state.config.limits, state.monotonic())
        self._reading = True
        self._corked = False
        self.open = False
        self.slot = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast("asyncio.Transport", transport)
        plain = transport.get_extra_info("sslcontext") is None
        sock = transport.get_extra_info("socket")
        self._writer = Writer(self._transport, sock.fileno() if plain else -1)
        self.address = ClientAddresses.peer(transport.get_extra_info("peername"))
        self._state.add(self, self.address)
        self._reschedule()

    def eof_received(self) -> None:
        """The peer will send no more."""
        self._ws.receive_eof()
        self._write_protocol()

    @property
    def _ws(self) -> Protocol:
        """The library's protocol, made when there is something for it to do.

        Most connections open, live and end without: 2 KB of each.
        """
        if self._protocol is None:
            server, limits = self._state.config.server, self._state.config.limits
            self._protocol = (
                Protocol(Side.SERVER, state=OPEN, max_size=limits.unread_bytes)
                if self.open
                else ServerProtocol(
                    origins=self._state.origins,
                    extensions=[DEFLATE] if server.permessage_deflate else None,
                    max_size=limits.unread_bytes,
                )
            )
        return self._protocol

    @property
    def log_fields(self) -> Mapping[str, str]:
        """See `hub.Device`."""
        raise NotImplementedError

    def on_timer(self, now: float) -> float | None:
        """Do what is due; see `timer_wheel.Timed`."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """See `state.ClientSocket`."""
        raise NotImplementedError

    def reconfigure(self, config: Config) -> None:
        """See `state.ClientSocket`."""
        raise NotImplementedError

    def refuse(self) -> None:
        """See `state.ClientSocket`."""
        raise NotImplementedError

    def _detach(self) -> None:
        """Be no device any more."""
        raise NotImplementedError

    # Out.

    def _queue(self, data: bytes) -> None:
        """Queue bytes for the end of the turn, or of the read being answered."""
        if self._writer.queue(data) and not self._corked:
            self._state.flush_queue.add(self)

    def _write(self, data: bytes) -> None:
        """Write bytes now, unless others wait before them.

        Law: nothing here detaches the device, whoever calls may be going over them.
        """
        writer = self._writer
        if writer.queued or writer.backlog:
            self._queue(data)
            return
        self._state.sent_bytes += len(data)
        if not writer.write(data):
            self._write_blocked()

    def _write_protocol(self) -> None:
        """Send what the protocol itself has to say: handshake, pong, close."""
        for data in self._ws.data_to_send():
            if data is SEND_EOF:
                self._half_close()
            else:
                self._queue(data)

    def flush(self) -> None:
        """The end of the turn: write, and notice a peer that does not take it."""
        writer = self._writer
        self._state.sent_bytes += writer.queued
        if self.open and self._overflows(writer):
            self._evict("unsent_bytes")
        elif not writer.flush() and self.open:
            self._write_blocked()

    def _write_blocked(self) -> None:
        self._timers.write_blocked(
            self._state.monotonic(), self._writer.bytes_written()
        )
        self._reschedule()

    def _overflows(self, writer: Writer) -> bool:
        limit = self._state.config.limits.unsent_bytes
        if writer.unsent <= limit:
            return False
        # What was left at the last flush may have gone since.
        writer.bytes_written()
        return writer.unsent > limit

    def pause_reading(self) -> None:
        """Stop reading from the socket; see `dispatcher.Transport`."""
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the socket again; see `dispatcher.Transport`."""
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # Closing.

    def abort(self) -> None:
        """Cut the socket."""
        self._transport.abort()

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing; see `hub.Device`."""
        self.disconnect(Disconnect(code, reason))

    def disconnect(self, disconnect: Disconnect) -> None:
        """Say the last word and close; see `dispatcher.Transport`."""
        if not self.open:
            return
        if disconnect.answer is not None:
            self.send_message(disconnect.answer)
        self._state.record_close(disconnect, self.log_fields)
        self._ws.send_close(disconnect.close_code, disconnect.reason)
        self._close()

    def send_message(self, text: bytes) -> None:
        """Send one message; see `dispatcher.Transport`."""
        raise NotImplementedError

    def _fail(self, disconnect: Disconnect) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): no more is read."""
        self._state.record_close(disconnect, self.log_fields)
        self._ws.fail(disconnect.close_code, disconnect.reason)
        self._close()

    def _evict(self, reason: str) -> None:
        """Send a peer away that does not take what it is sent."""
        self._state.metrics.evictions.labels(reason).inc()
        self._writer.discard()
        self.close(CloseCode.TOO_SLOW, reason)

    def _close(self) -> None:
        self._detach()
        self._write_protocol()
        self._writer.flush()
        self._linger()

    def _half_close(self) -> None:
        """The protocol has said its last: half-close, and wait a little."""
        self._detach()
        self._writer.flush()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        """Read what still comes, so that our last word is not reset; then abort."""
        self.resume_reading()
        self._timers.closing(self._state.monotonic())
        self._reschedule()

    def _reschedule(self) -> None:
        following = self._timers.next()
        if following is not None:
            self._state.timer_wheel.schedule(self, following)


def forget(protocol: Protocol) -> None:
    """Free what the library's protocol holds, without help from the collector.

    Its parser is a generator over itself, and the exceptions it keeps refer by their
    tracebacks to it and to all that was read.
    """
    protocol.parser.close()
    protocol.parser_exc = protocol.handshake_exc = None
    protocol.reader.buffer.clear()
    protocol.events.clear()
