"""One wheel for all deadlines, instead of a timer per connection.

Law: a thing stands in at most one slot. `schedule` may bring its deadline
forward, never put it off: being looked at too early is harmless, as the thing
itself knows what is due and answers with its next time. Units are the caller's
(seconds on the monotonic clock).
"""

from typing import Final, Protocol

__all__ = ["Timed", "TimerWheel"]

GONE: Final = -1


class Timed(Protocol):
    """Something with deadlines."""

    slot: int
    """Where it stands; the wheel's own, 0 at first."""

    def on_timer(self, now: float) -> float | None:
        """Do what is due at `now`; return the next deadline, or None for never."""


class TimerWheel:
    """Buckets of `tick` seconds; what falls due is found without a search."""

    def __init__(self, tick: float) -> None:
        self.tick = tick
        self._slots: dict[int, dict[Timed, None]] = {}
        self._advanced = 0

    def schedule(self, entry: Timed, when: float) -> None:
        """Look at `thing` at `when`, unless it is looked at before."""
        slot = max(int(when / self.tick) + 1, self._advanced + 1)
        if entry.slot == GONE or 0 < entry.slot <= slot:
            return
        self._remove(entry)
        entry.slot = slot
        self._slots.setdefault(slot, {})[entry] = None

    def cancel(self, entry: Timed) -> None:
        """Never look at `thing` again, and hold on to nothing of it."""
        self._remove(entry)
        entry.slot = GONE

    def advance(self, now: float) -> None:
        """Look at all that is due at `now`."""
        until = int(now / self.tick)
        fallen = sorted(slot for slot in self._slots if slot <= until)
        self._advanced = max(self._advanced, until)
        for slot in fallen:
            for thing in tuple(self._slots.get(slot, ())):
                if thing.slot == slot:
                    self._fire(thing, now)
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
