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

from .addresses import ClientAddresses
from .config import Config
from .errors import CloseCode, Farewell
from .frames import DEFLATE
from .house import House
from .liveness import Liveness
from .outbox import Outbox

__all__ = ["Wire", "forget"]


class Wire(asyncio.Protocol):
    """One socket from accept to loss; `Connection` gives it a meaning."""

    __slots__ = (
        "_address",
        "_corked",
        "_house",
        "_liveness",
        "_outbox",
        "_protocol",
        "_reading",
        "_transport",
        "open",
        "slot",
    )

    def __init__(self, house: House) -> None:
        self._house = house
        self._protocol: Protocol | None = None
        self._liveness = Liveness(house.config.limits, house.monotonic())
        self._reading = True
        self._corked = False
        self.open = False
        self.slot = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._transport = cast("asyncio.Transport", transport)
        plain = transport.get_extra_info("sslcontext") is None
        sock = transport.get_extra_info("socket")
        self._outbox = Outbox(self._transport, sock.fileno() if plain else -1)
        self._address = ClientAddresses.peer(transport.get_extra_info("peername"))
        if self._house.enter(self):
            self._look_again()
        else:
            self._transport.abort()

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
            server, limits = self._house.config.server, self._house.config.limits
            self._protocol = (
                Protocol(Side.SERVER, state=OPEN, max_size=limits.unread_bytes)
                if self.open
                else ServerProtocol(
                    origins=self._house.origins,
                    extensions=[DEFLATE] if server.permessage_deflate else None,
                    max_size=limits.unread_bytes,
                )
            )
        return self._protocol

    @property
    def log_fields(self) -> Mapping[str, str]:
        """See `hub.Device`."""
        raise NotImplementedError

    def due(self, now: float) -> float | None:
        """Do what is due; see `deadlines.Due`."""
        raise NotImplementedError

    @property
    def busy(self) -> bool:
        """See `house.Inhabitant`."""
        raise NotImplementedError

    def reconfigure(self, config: Config) -> None:
        """See `house.Inhabitant`."""
        raise NotImplementedError

    def _depart(self) -> None:
        """Be no device any more."""
        raise NotImplementedError

    # Out.

    def _push(self, data: bytes) -> None:
        """Queue bytes for the end of the turn, or of the read being answered."""
        if self._outbox.push(data) and not self._corked:
            self._house.turn.add(self)

    def _send(self, data: bytes) -> None:
        """Write bytes now, unless others wait before them.

        Law: nothing here detaches the device, whoever calls may be going over them.
        """
        outbox = self._outbox
        if outbox.queued or outbox.backlog:
            self._push(data)
            return
        self._house.sent_bytes += len(data)
        if not outbox.send(data):
            self._backlogged()

    def _write_protocol(self) -> None:
        """Send what the protocol itself has to say: handshake, pong, close."""
        for data in self._ws.data_to_send():
            if data is SEND_EOF:
                self._end()
            else:
                self._push(data)

    def flush(self) -> None:
        """The end of the turn: write, and notice a peer that does not take it."""
        outbox = self._outbox
        self._house.sent_bytes += outbox.queued
        if self.open and self._overflows(outbox):
            self._evict("unsent_bytes")
        elif not outbox.flush() and self.open:
            self._backlogged()

    def _backlogged(self) -> None:
        self._liveness.backlogged(self._house.monotonic(), self._outbox.drained())
        self._look_again()

    def _overflows(self, outbox: Outbox) -> bool:
        limit = self._house.config.limits.unsent_bytes
        if outbox.unsent <= limit:
            return False
        # What was left at the last flush may have gone since.
        outbox.drained()
        return outbox.unsent > limit

    def hold(self, *, held: bool) -> None:
        """Do not read on, or do again; see `conversation.Link`."""
        if held is self._reading and not self._transport.is_closing():
            self._reading = not held
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # Closing.

    def abort(self) -> None:
        """Cut the socket."""
        self._transport.abort()

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing; see `hub.Device`."""
        self.farewell(Farewell(code, reason))

    def farewell(self, farewell: Farewell) -> None:
        """Say the last word and close; see `conversation.Link`."""
        if not self.open:
            return
        if farewell.answer is not None:
            self.say(farewell.answer)
        self._house.observe_farewell(farewell, self.log_fields)
        self._ws.send_close(farewell.close_code, farewell.reason)
        self._close()

    def say(self, text: bytes) -> None:
        """Send one message; see `conversation.Link`."""
        raise NotImplementedError

    def _fail(self, farewell: Farewell) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): no more is read."""
        self._house.observe_farewell(farewell, self.log_fields)
        self._ws.fail(farewell.close_code, farewell.reason)
        self._close()

    def _evict(self, reason: str) -> None:
        """Send a peer away that does not take what it is sent."""
        self._house.metrics.evictions.labels(reason).inc()
        self._outbox.drop()
        self.close(CloseCode.TOO_SLOW, reason)

    def _close(self) -> None:
        self._depart()
        self._write_protocol()
        self._outbox.flush()
        self._linger()

    def _end(self) -> None:
        """The protocol has said its last: half-close, and wait a little."""
        self._depart()
        self._outbox.flush()
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
            self._linger()
        else:
            self._transport.close()

    def _linger(self) -> None:
        """Read what still comes, so that our last word is not reset; then abort."""
        self.hold(held=False)
        self._liveness.closing(self._house.monotonic())
        self._look_again()

    def _look_again(self) -> None:
        following = self._liveness.next()
        if following is not None:
            self._house.deadlines.at(self, following)


def forget(protocol: Protocol) -> None:
    """Free what the library's protocol holds, without help from the collector.

    Its parser is a generator over itself, and the exceptions it keeps refer by their
    tracebacks to it and to all that was read.
    """
    protocol.parser.close()
    protocol.parser_exc = protocol.handshake_exc = None
    protocol.reader.buffer.clear()
    protocol.events.clear()
