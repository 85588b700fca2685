"""The library's handshake, for every upgrade that `wire.upgrade` leaves to it.

Invariant: it leaves no reference cycle behind. Exceptions refer to frames, and a frame
of `accept` to the exception. Tested by tests/unit/test_reference_cycles.py.
"""

from collections.abc import Sequence

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ..wire.upgrade import SUBPROTOCOL

__all__ = ["LibraryHandshake"]


class LibraryHandshake(ServerProtocol):
    """Judges one request; see the module."""

    def select_subprotocol(self, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        """Accept the daemon's own; see `websockets`."""
        return SUBPROTOCOL if SUBPROTOCOL in offered else None

    def judge(self, request: Request) -> Response:
        """Return the answer to a request."""
        response = self.accept(request)
        failure: BaseException | None = self.handshake_exc
        while failure is not None:
            failure.__traceback__ = None
            failure = failure.__context__
        request._exception = self.handshake_exc = None
        self.parser.close()
        return response
