"""One wheel for all deadlines, instead of a timer per connection.

Law: a thing stands in at most one slot. `at` may bring its deadline
forward, never put it off: being looked at too early is harmless, as the thing
itself knows what is due and answers with its next time. Units are the caller's
(seconds on the monotonic clock).
"""

from typing import Final, Protocol

__all__ = ["Deadlines", "Due"]

GONE: Final = -1


class Due(Protocol):
    """Something with deadlines."""

    slot: int
    """Where it stands; the wheel's own, 0 at first."""

    def due(self, now: float) -> float | None:
        """Do what is due at `now`; return the next deadline, or None for never."""


class Deadlines:
    """Buckets of `grain` seconds; what falls due is found without a search."""

    def __init__(self, grain: float) -> None:
        self.grain = grain
        self._slots: dict[int, dict[Due, None]] = {}
        self._swept = 0

    def at(self, thing: Due, when: float) -> None:
        """Look at `thing` at `when`, unless it is looked at before."""
        slot = max(int(when / self.grain) + 1, self._swept + 1)
        if thing.slot == GONE or 0 < thing.slot <= slot:
            return
        self._take_out(thing)
        thing.slot = slot
        self._slots.setdefault(slot, {})[thing] = None

    def forget(self, thing: Due) -> None:
        """Never look at `thing` again, and hold on to nothing of it."""
        self._take_out(thing)
        thing.slot = GONE

    def sweep(self, now: float) -> None:
        """Look at all that is due at `now`."""
        until = int(now / self.grain)
        fallen = sorted(slot for slot in self._slots if slot <= until)
        self._swept = max(self._swept, until)
        for slot in fallen:
            for thing in tuple(self._slots.get(slot, ())):
                if thing.slot == slot:
                    self._look_at(thing, now)
            self._slots.pop(slot, None)

    def _look_at(self, thing: Due, now: float) -> None:
        self._take_out(thing)
        thing.slot = 0
        following = thing.due(now)
        if following is not None:
            self.at(thing, following)

    def _take_out(self, thing: Due) -> None:
        slot = self._slots.get(thing.slot)
        if slot is not None:
            slot.pop(thing, None)
            if not slot:
                del self._slots[thing.slot]
