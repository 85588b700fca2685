"""The connections that write at the end of this loop iteration.

Frames that are queued during one iteration leave in one write at its end, from
whichever part of the program they come.
"""

from collections.abc import Callable
from typing import Protocol

__all__ = ["FlushQueue"]


class Flushable(Protocol):
    """Something that writes at the end of the loop iteration."""

    def flush(self) -> None: ...


class FlushQueue:
    """`call_soon` is the event loop's."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.call_soon = call_soon
        self._waiting: list[Flushable] = []

    def add(self, writer: Flushable) -> None:
        """Flush `writer` at the end of the loop iteration."""
        if not self._waiting:
            self.call_soon(self._flush)
        self._waiting.append(writer)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            writer.flush()
