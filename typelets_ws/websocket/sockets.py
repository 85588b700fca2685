"""The contracts of `state` with sockets: of connections, and of those before one."""

from typing import Protocol

from ..protocol.errors import CloseCode
from .memory import Holder

__all__ = ["ClientSocket", "PendingSocket"]


class ClientSocket(Protocol):
    """A socket from its accept to its loss."""

    slot: int

    @property
    def open(self) -> bool:
        """True while it is a WebSocket connection and not closing."""

    @property
    def busy(self) -> bool:
        """True while one of its messages is being handled."""

    def on_timer(self, now: float) -> float | None:
        """See `timer_wheel.Timed`."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing."""

    def abort(self) -> None:
        """Cut the socket."""


class PendingSocket(ClientSocket, Holder, Protocol):
    """A socket before its handshake; `evict` answers 503 and closes."""

    def refuse(self, reason: str) -> None:
        """Answer 503 to every request."""
