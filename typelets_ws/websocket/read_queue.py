"""Connections with unread input: a few of them are served per loop iteration.

Invariant: input that waits costs one loop iteration at most `TURNS` shares
(`limits.iteration_frames`), however many connections flood. They take turns, the
longest waiting first. One large message is handled per iteration: it may cost 30 ms,
and a hundred connections may each end one at the same time.
Tested by tests/unit/websocket/test_read_queue.py and tests/hostile/test_frames.py.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["ReadQueue"]

TURNS: Final = 4
"""Four shares of 64 frames take 4 ms."""


class Reader(Protocol):
    """A connection with unread input."""

    def read_rest(self) -> None:
        """Handle one share of the input."""


class ReadQueue:
    """`call_soon` is the event loop's."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._waiting: OrderedDict[Reader, None] = OrderedDict()
        self._scheduled = False
        self.spent = False
        """True once a large message was handled in this loop iteration."""

    @property
    def busy(self) -> bool:
        """True while connections wait for their turn."""
        return bool(self._waiting)

    def add(self, reader: Reader) -> None:
        """Call `read_rest` in one of the next loop iterations."""
        self._waiting[reader] = None
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._serve)

    def spend(self) -> None:
        """A large message was handled: the next one waits for another iteration."""
        if not self.spent:
            self.spent = True
            self._call_soon(self._renew)

    def _renew(self) -> None:
        self.spent = False

    def discard(self, reader: Reader) -> None:
        """Forget a connection that is gone."""
        self._waiting.pop(reader, None)

    def _serve(self) -> None:
        self._scheduled = False
        try:
            for _ in range(min(TURNS, len(self._waiting))):
                if self.spent:
                    break
                reader, _ = self._waiting.popitem(last=False)
                reader.read_rest()
        finally:
            # A mistake in serving one leaves the others their turns.
            if self._waiting and not self._scheduled:
                self._scheduled = True
                self._call_soon(self._serve)
