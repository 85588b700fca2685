"""Message rate of one connection. Pure: time is an argument, monotonic.

Invariant: a window keeps at most three times its limit of timestamps.
(spec section 5) Tested by tests/unit/session/test_rate_limit.py.
"""

from bisect import bisect_right
from enum import IntEnum
from math import inf
from typing import Final

__all__ = ["FLOOD_FACTOR", "ByteWindow", "RateVerdict", "SlidingWindow"]

FLOOD_FACTOR: Final = 3
"""Three times the limit within one window ends the connection (spec section 5)."""


class RateVerdict(IntEnum):
    """A rate limit's verdict on one more; the gravest is the largest."""

    SERVED = 0
    REFUSED = 1
    FLOOD = 2


class SlidingWindow:
    """At most `limit` served within any `window` (same unit as `now`).

    A refused message does not extend the window, yet is counted: served and
    refused together reaching three times the limit within one window is a flood.
    """

    __slots__ = ("_last", "_limit", "_refused", "_served", "_window")

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._last = 0.0
        self._served: list[float] = []
        self._refused: list[float] | None = None
        """None until the first is refused: a list is 56 bytes of each connection."""

    @property
    def served(self) -> int:
        """How many were served within the window."""
        return len(self._served)

    def count(self, now: float) -> RateVerdict:
        """Count one arrival at `now` (must not go backwards)."""
        self._last = now
        horizon = now - self._window
        served = self._served
        if served and served[0] <= horizon:
            del served[: bisect_right(served, horizon)]
        if len(served) < self._limit:
            served.append(now)
            return RateVerdict.SERVED
        if self._refused is None:
            self._refused = []
        refused = self._refused
        if refused and refused[0] <= horizon:
            del refused[: bisect_right(refused, horizon)]
        if len(served) + len(refused) + 1 >= self._limit * FLOOD_FACTOR:
            return RateVerdict.FLOOD
        refused.append(now)
        return RateVerdict.REFUSED

    def charge(self, units: int) -> None:
        """Count the last arrival as `units` more: it cost as much as so many.

        They are never a flood by themselves: the next arrival finds that out.
        """
        now, refused = self._last, self._refused or []
        del refused[: bisect_right(refused, now - self._window)]
        free = self._limit - len(self._served)
        self._served += [now] * min(units, free)
        most = self._limit * (FLOOD_FACTOR - 1) - 1 - len(refused)
        refused += [now] * min(max(0, units - free), most)
        self._refused = refused or None

    def without_refused(self) -> "SlidingWindow":
        """The same served arrivals in a new window: for a client that floods again."""
        window = SlidingWindow(self._limit, self._window)
        window._served = list(self._served)
        return window

    def retry_after(self, now: float) -> float:
        """How long until one more is served."""
        if len(self._served) < self._limit:
            return 0
        return max(0, self._served[0] + self._window - now)


class ByteWindow:
    """At most `limit` bytes within a window, which begins with its first bytes.

    Three times the limit within one window is a flood. `window` has the unit of `now`.
    """

    __slots__ = ("_bytes", "_limit", "_until", "_window")

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._bytes = 0
        self._until = -inf

    def count(self, size: int, now: float) -> RateVerdict:
        """Count `size` bytes that have arrived at `now`."""
        if now >= self._until:
            self._until = now + self._window
            self._bytes = 0
        self._bytes += size
        if self._bytes <= self._limit:
            return RateVerdict.SERVED
        flood = self._bytes > self._limit * FLOOD_FACTOR
        return RateVerdict.FLOOD if flood else RateVerdict.REFUSED

    def retry_after(self, now: float) -> float:
        """Return how long until a new window begins."""
        return self._until - now
