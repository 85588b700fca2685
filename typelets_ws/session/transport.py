"""The contract of a dispatcher with its connection.

`websocket.connection.Connection` fulfils it. No method waits, but `drained`.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..delivery.hub import Device
from ..protocol.errors import Disconnect

__all__ = ["Transport"]


class Transport(Device, Protocol):
    """A connection, for its dispatcher."""

    def send_message(self, text: bytes) -> None:
        """Send one message."""

    def disconnect(self, disconnect: Disconnect) -> None:
        """Send the last message, if there is one, and close."""

    def authenticated(self) -> None:
        """Note that the device is authenticated and attached."""

    def account(self) -> None:
        """Report the bytes held for this client: they have changed."""

    def pause_reading(self) -> None:
        """Stop reading from the socket."""

    @property
    def spawn(self) -> Callable[[Coroutine[Any, Any, None]], object]:
        """Runs a message's handler as a task, which the daemon awaits at its end."""

    def resume_reading(self) -> None:
        """Read from the socket again."""

    async def drained(self) -> None:
        """Wait until the client has taken most of what it was sent, or is gone.

        A page that waits for a slow reader does not count against it.
        """
