"""The memory held for all clients together (`limits.memory_bytes`). Pure.

Counted are bytes that a client has sent and that are not handled, or that it has not
read. Each holder reports its bytes when they change. Over the limit, the holders are
counted again, as some may have been freed since, and the largest are evicted.
Tested by tests/unit/websocket/test_memory.py and tests/hostile/test_memory.py.
"""

from typing import Protocol

from ..config.live import LiveConfig

__all__ = ["Holder", "MemoryBudget"]


class Holder(Protocol):
    """Something that holds bytes for a client."""

    @property
    def held_bytes(self) -> int:
        """The bytes held now."""

    def evict(self, reason: str) -> None:
        """Free the bytes; reports 0 to the budget before it returns."""


class MemoryBudget:
    """Bytes by holder."""

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self.total = 0
        self._held: dict[Holder, int] = {}

    @property
    def exceeded(self) -> bool:
        """True while the holders hold more than the limit, as they last reported."""
        return self.total > self._live.current.limits.memory_bytes

    def report(self, holder: Holder, size: int) -> None:
        """Take note of the bytes that `holder` holds now."""
        self.total += size - self._held.get(holder, 0)
        if size:
            self._held[holder] = size
        else:
            self._held.pop(holder, None)

    def relieve(self) -> None:
        """Evict the largest holders until the limit is kept."""
        for holder in tuple(self._held):
            self.report(holder, holder.held_bytes)
        for holder in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if not self.exceeded:
                return
            holder.evict("memory")
