"""One timer wheel for all deadlines, instead of a timer per connection. Pure.

Invariant: an entry is in at most one bucket. `schedule` may bring its deadline forward
and never delays it. A call of `on_timer` that comes too early is harmless: the entry
returns its next deadline. Times are in the caller's unit (seconds, monotonic).
Tested by tests/unit/websocket/test_timer_wheel.py.
"""

from typing import Final, Protocol

__all__ = ["Timed", "TimerWheel"]

GONE: Final = -1


class Timed(Protocol):
    """An entry of the wheel."""

    slot: int
    """The entry's bucket; 0 at first, changed by the wheel only."""

    def on_timer(self, now: float) -> float | None:
        """Act on deadlines up to `now`; return the next one, or None for never."""


class TimerWheel:
    """Buckets of `tick` seconds: expired entries are found without a search."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self._slots: dict[int, dict[Timed, None]] = {}
        self._advanced = 0

    def schedule(self, entry: Timed, when: float) -> None:
        """Call the entry at `when`, unless it is called before."""
        slot = max(int(when / self.tick) + 1, self._advanced + 1)
        if entry.slot == GONE or 0 < entry.slot <= slot:
            return
        if entry.slot:
            self._remove(entry)
        entry.slot = slot
        self._slots.setdefault(slot, {})[entry] = None

    def cancel(self, entry: Timed) -> None:
        """Remove the entry for good."""
        self._remove(entry)
        entry.slot = GONE

    def advance(self, now: float) -> None:
        """Call all entries whose deadline is at or before `now`."""
        until = int(now / self.tick)
        expired = sorted(slot for slot in self._slots if slot <= until)
        self._advanced = max(self._advanced, until)
        for slot in expired:
            for entry in tuple(self._slots.get(slot, ())):
                if entry.slot == slot:
                    self._fire(entry, now)
            self._slots.pop(slot, None)

    def _fire(self, entry: Timed, now: float) -> None:
        self._remove(entry)
        entry.slot = 0
        following = entry.on_timer(now)
        if following is not None:
            self.schedule(entry, following)

    def _remove(self, entry: Timed) -> None:
        slot = self._slots.get(entry.slot)
        if slot is not None:
            slot.pop(entry, None)
            if not slot:
                del self._slots[entry.slot]
