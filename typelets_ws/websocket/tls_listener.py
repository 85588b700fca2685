"""The public port with TLS: sockets are accepted here, not by `loop.create_server`.

The event loop tells nothing of a socket whose TLS handshake is not over, and allows it
60 s. So that silent clients are counted and cut like those of a plain port, this module
accepts each socket itself. Invariants:

1. A socket is counted from its TCP accept on (`ServerState.add_socket`).
2. `limits.handshake_s` runs from the TCP accept to a complete request, TLS included.

Tested by tests/integration/websocket/test_tls_listener.py.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Final

from ..config.addresses import ClientAddresses
from ..protocol.errors import CloseCode
from .handshake import HandshakeProtocol
from .state import ServerState

__all__ = ["TlsListener"]

RETRY_S: Final = 0.1
"""Pause after a failed accept: the limit of open files is reached."""


class TlsListener:
    """Accepts on one listening socket; like `asyncio.Server` to its owner."""

    def __init__(
        self, sock: socket.socket, state: ServerState, context: ssl.SSLContext
    ) -> None:
        self.sockets = (sock,)
        self._state = state
        self._context = context
        self._accepting: asyncio.Task[None] | None = None

    def start(self, backlog: int) -> None:
        """Accept from now on, until `close`."""
        (sock,) = self.sockets
        sock.setblocking(False)
        sock.listen(backlog)
        self._accepting = self._state.spawn(self._accept(sock))

    def close(self) -> None:
        """Accept no more."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
            self.sockets[0].close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peername = await loop.sock_accept(listening)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            peer = ClientAddresses.peer(peername)
            accepted = _AcceptedSocket(sock, peer, self._state)
            self._state.add_socket(accepted, peer)
            self._state.spawn(accepted.handshake(self._context))


class _AcceptedSocket:
    """A socket during its TLS handshake; a `sockets.PendingSocket`."""

    __slots__ = ("_deadline", "_peer", "_sock", "_state", "slot")

    open = False
    busy = False
    held_bytes = 0

    def __init__(self, sock: socket.socket, peer: str, state: ServerState) -> None:
        self._sock = sock
        self._peer = peer
        self._state = state
        self._deadline = state.monotonic() + state.config.limits.handshake_s
        self.slot = 0

    async def handshake(self, context: ssl.SSLContext) -> None:
        """Make it a TLS connection, which `HandshakeProtocol` takes over."""
        state = self._state
        state.timer_wheel.schedule(self, self._deadline)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                self._sock,
                ssl=context,
                # The deadline of the timer wheel comes first.
                ssl_handshake_timeout=state.config.limits.handshake_s + 1,
            )
        # No input of a client may raise: an exception in a task would end the daemon.
        except Exception as exc:
            state.record_handshake("tls_failed")
            state.log.debug("tls_failed", address=self._peer, error=type(exc).__name__)
        finally:
            state.timer_wheel.cancel(self)
            state.discard_socket(self, self._peer)

    def _protocol(self) -> HandshakeProtocol:
        return HandshakeProtocol(self._state, self._deadline, self)

    def on_timer(self, now: float) -> float | None:
        """Cut a client whose TLS handshake is overdue."""
        if now < self._deadline:
            return self._deadline
        self.evict("handshake_timeout")
        return None

    def evict(self, reason: str) -> None:
        """Cut the socket: there is no answer before TLS."""
        self._state.refuse_handshake(reason, self._peer)
        self.abort()

    refuse = evict

    def abort(self) -> None:
        """Cut the socket; the TLS handshake fails and the transport closes it."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self, code: CloseCode, reason: str) -> None:
        """See `sockets.ClientSocket`; there is no close code before TLS."""
        self.abort()
