"""The contract of `inbound` and `writer` with their connection."""

from typing import Protocol

from ..protocol.errors import Disconnect

__all__ = ["Endpoint"]


class Endpoint(Protocol):
    """Our end of one WebSocket; `connection.Connection` fulfils it."""

    @property
    def open(self) -> bool:
        """False once it is closing."""

    def disconnect(self, disconnect: Disconnect) -> None:
        """Send a Close frame and close."""

    def close_frame_sent(self, failure: Disconnect | None) -> None:
        """Close; the library has answered the client's Close frame, or has failed."""

    def read_on(self) -> None:
        """Call `Inbound.resume` in the next loop iteration."""

    def reschedule(self) -> None:
        """Take note of a new deadline."""

    def account(self) -> None:
        """Report the bytes held for this client."""

    def evict(self, reason: str) -> None:
        """Close with 1013."""

    def write_blocked(self) -> None:
        """Take note that the client does not take everything."""
