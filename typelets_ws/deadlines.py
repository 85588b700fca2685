"""One wheel for all deadlines, instead of a timer per connection.

Law: a thing stands in at most one live slot. `at` may bring its deadline
forward, never put it off: being looked at too early is harmless, as the thing
itself knows what is due and answers with its next time. Units are the caller's
(seconds on the monotonic clock).
"""

from collections.abc import Iterator
from typing import Protocol

__all__ = ["Deadlines", "Due"]


class Due(Protocol):
    """Something with deadlines."""

    slot: int
    """The live slot; owned by the wheel, 0 at first."""

    def due(self, now: float) -> float | None:
        """Do what is due at `now`; return the next deadline, or None for never."""


class Deadlines:
    """Buckets of `grain` seconds; what falls due is found without a search."""

    def __init__(self, grain: float) -> None:
        self.grain = grain
        self._slots: dict[int, list[Due]] = {}
        self._swept = 0

    def at(self, thing: Due, when: float) -> None:
        """Look at `thing` at `when`, unless it is looked at before."""
        slot = max(int(when / self.grain) + 1, self._swept + 1)
        if thing.slot and thing.slot <= slot:
            return
        thing.slot = slot
        self._slots.setdefault(slot, []).append(thing)

    def forget(self, thing: Due) -> None:
        """Never look at `thing` again."""
        thing.slot = -1

    def sweep(self, now: float) -> None:
        """Look at all that is due at `now`."""
        until = int(now / self.grain)
        for thing in self._fallen(until):
            thing.slot = 0
            following = thing.due(now)
            if following is not None and thing.slot == 0:
                self.at(thing, following)

    def _fallen(self, until: int) -> Iterator[Due]:
        for slot in sorted(slot for slot in self._slots if slot <= until):
            for thing in self._slots.pop(slot):
                # A thing brought forward left a dead entry in its old slot.
                if thing.slot == slot:
                    yield thing
        self._swept = max(self._swept, until)
