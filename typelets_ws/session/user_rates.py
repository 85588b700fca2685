"""Messages of a user over all connections and reconnects. Pure: time is an argument.

The same is kept of each address, for messages before `auth`.

Invariants. A user's messages are counted in one place per process, whichever connection
they come by, and the count outlives the connection. A connection that was closed for a
flood leaves its window to the user's next connections, so that coming back gains
nothing. A user with no connection and no message within the window is forgotten; at
most `MOST_KEPT` without a connection are remembered. Per
process, not in Redis: a count for each message would cost a command each, and a user's
connections are bounded over all processes by `devices_per_user`.
Times are monotonic, in seconds. (spec section 5)
Tested by tests/unit/session/test_user_rates.py.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from typing import Final
from weakref import WeakValueDictionary

from ..config.live import LiveConfig
from .rate_limit import FLOOD_FACTOR, RateVerdict, SlidingWindow

__all__ = ["RateOfAddress", "UserRate", "UserRates"]

MOST_KEPT: Final = 20_000
"""1.2 KB each."""
MOST_FLOODS: Final = 2_000
"""10 KB each."""
SLOTS: Final = 30
"""The window in parts: a count is forgotten up to a part late, never early."""


class UserRate:
    """One user's count; at most `SLOTS` + 1 numbers, however high the limit is.

    A message in the current slot changes one number: `_room`, of those served yet.
    """

    __slots__ = (
        "__weakref__",
        "_ends",
        "_limit",
        "_number",
        "_refused",
        "_refused_before",
        "_room",
        "_room_before",
        "_slot_s",
        "_slots",
    )

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._slot_s = window / SLOTS
        self._slots: deque[tuple[int, int, int]] = deque()
        """Number, served and refused of each slot before the current one."""
        self._number = 0
        self._ends = -inf
        self._room = self._room_before = limit
        self._refused = self._refused_before = 0

    def count(self, now: float) -> RateVerdict:
        """Count one message at `now`."""
        if now >= self._ends:
            self._begin(now)
        if self._room > 0:
            self._room -= 1
            return RateVerdict.SERVED
        if self._limit + self._refused + 1 >= self._limit * FLOOD_FACTOR:
            return RateVerdict.FLOOD
        self._refused += 1
        return RateVerdict.REFUSED

    def charge(self, units: int) -> None:
        """Count the last message as `units` more."""
        if self._ends != -inf:
            self._room -= min(units, self._room)

    def retry_after(self, now: float) -> float:
        """Seconds until one more is served."""
        if self._room > 0:
            return 0.0
        full = (number for number, served, _ in self._slots if served)
        oldest = next(full, self._number)
        return max(0.0, (oldest + SLOTS + 1) * self._slot_s - now)

    def is_idle(self, now: float) -> bool:
        """Whether nothing is counted any more."""
        if now >= self._ends:
            self._begin(now)
        return self._room == self._limit and not self._refused

    def _begin(self, now: float) -> None:
        """Begin the slot of `now`, and forget what has left the window."""
        slots, number = self._slots, int(now / self._slot_s)
        served = self._room_before - self._room
        refused = self._refused - self._refused_before
        if served or refused:
            slots.append((self._number, served, refused))
        while slots and slots[0][0] < number - SLOTS:
            _, served, refused = slots.popleft()
            self._room += served
            self._refused -= refused
        self._number, self._ends = number, (number + 1) * self._slot_s
        self._room_before, self._refused_before = self._room, self._refused


RateOfAddress = Callable[[float], UserRate | None]
"""Returns the count of an address at a time; None for a proxy's."""


class UserRates:
    """The counts of all users with a connection or a recent message."""

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self._known: WeakValueDictionary[str, UserRate] = WeakValueDictionary()
        self._recent: OrderedDict[str, UserRate] = OrderedDict()
        self._floods: OrderedDict[str, tuple[float, SlidingWindow]] = OrderedDict()
        self._rate = self._current_rate()

    def __len__(self) -> int:
        return len(self._recent) + len(self._floods)

    def of(self, user_id: str, now: float) -> UserRate:
        """The user's count; to be kept while the connection lives."""
        self._refresh()
        for _ in range(min(2, len(self._recent))):
            user, rate = self._recent.popitem(last=False)
            if not rate.is_idle(now):
                self._recent[user] = rate
        rate = self._known.get(user_id) or UserRate(*self._rate)
        self._known[user_id] = self._recent[user_id] = rate
        if len(self._recent) > MOST_KEPT:
            self._recent.popitem(last=False)
        return rate

    def remember_flood(self, user_id: str, window: SlidingWindow, now: float) -> None:
        """A connection of this user is closed for a flood at `now`."""
        self._refresh()
        self._floods[user_id] = (now + self._rate[1], window.without_refused())
        self._floods.move_to_end(user_id)
        if len(self._floods) > MOST_FLOODS:
            self._floods.popitem(last=False)
        self._forget_floods(now)

    def flood_of(self, user_id: str, now: float) -> SlidingWindow | None:
        """The window that a new connection of this user continues, if there is one."""
        if not self._floods:
            return None
        self._refresh()
        self._forget_floods(now)
        found = self._floods.get(user_id)
        return None if found is None else found[1]

    def _forget_floods(self, now: float) -> None:
        while self._floods and next(iter(self._floods.values()))[0] <= now:
            self._floods.popitem(last=False)

    def _refresh(self) -> None:
        """After a reload with another rate everything is counted afresh."""
        rate = self._current_rate()
        if rate != self._rate:
            self._rate = rate
            self._known.clear()
            self._recent.clear()
            self._floods.clear()

    def _current_rate(self) -> tuple[int, float]:
        """The user's limit and its window in seconds."""
        limits = self._live.current.limits
        limit = limits.rate_messages * limits.user_rate_factor
        return limit, limits.rate_window_ms / 1000
