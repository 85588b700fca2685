"""Fair shares of slots and rates between addresses. Pure: time is an argument.

Invariants. An address may take all while no other one asks; under contention
no address keeps more than its share. When all have one slot, the oldest gives way to an
address without: many addresses with one slot each shut no client out. A limit is an
argument and may change between calls. Memory is bounded: `FairSlots` by its limit,
`FairRate` by twice its rate, `Strikes` by its number of keys. Keys come from
`addresses.limit_key`. Tested by tests/unit/websocket/test_fair_share.py.
(spec section 5)
"""

from collections import Counter, OrderedDict, deque
from typing import Final, Generic, TypeVar

__all__ = ["FairRate", "FairSlots", "Strikes"]

OVERDRAFT: Final = 2
"""Beyond its rate, `FairRate` serves addresses below their share up to this factor."""

H = TypeVar("H")


class FairSlots(Generic[H]):
    """Slots that addresses share; the largest holder gives way to a smaller one.

    A holder is any hashable object, for example a connection.
    """

    def __init__(self) -> None:
        self._holders: dict[str, dict[H, None]] = {}
        self._by_size: dict[int, dict[str, None]] = {}
        self._largest = 0
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def held(self, key: str) -> int:
        """How many slots an address holds."""
        return len(self._holders.get(key, ()))

    def allows(self, key: str, limit: int) -> bool:
        """Whether one of `limit` slots is free, or another address can spare one."""
        if self._used < limit:
            return True
        held = self.held(key)
        return not held or self._largest > held + 1

    def acquire(self, key: str, holder: H, limit: int) -> H | None:
        """Take a slot; return the holder that must give way for it, if one must.

        That is the oldest of the address with the most slots, of several the one that
        got there first. It has no slot any more. Call only when `allows` says so.
        """
        evicted = None if self._used < limit else self._evict()
        holders = self._holders.setdefault(key, {})
        holders[holder] = None
        self._used += 1
        self._resize(key, len(holders) - 1, len(holders))
        return evicted

    def release(self, key: str, holder: H) -> None:
        """Give a slot back; harmless when the holder has none."""
        holders = self._holders.get(key)
        if holders is None or holder not in holders:
            return
        del holders[holder]
        self._used -= 1
        if not holders:
            del self._holders[key]
        self._resize(key, len(holders) + 1, len(holders))

    def replace(self, key: str, holder: H, successor: H) -> None:
        """Give a slot to another holder of the same address, if `holder` has one."""
        holders = self._holders.get(key)
        if holders is not None and holder in holders:
            del holders[holder]
            holders[successor] = None

    def _evict(self) -> H:
        key = next(iter(self._by_size[self._largest]))
        oldest = next(iter(self._holders[key]))
        self.release(key, oldest)
        return oldest

    def _resize(self, key: str, before: int, after: int) -> None:
        if before:
            same = self._by_size[before]
            del same[key]
            if not same:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, {})[key] = None
        shrunk = before == self._largest and before not in self._by_size
        if after > self._largest or shrunk:
            self._largest = after


class FairRate:
    """A limit within any `window` seconds, fairly shared between addresses.

    While several addresses come, one gets at most the part `share` of the limit. An
    address below an equal share is served beyond the limit, up to `OVERDRAFT` times.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._arrivals: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()

    def try_acquire(self, key: str, now: float, limit: int, share: float) -> bool:
        """Count one arrival at `now` (never backwards); False when it is too many."""
        self._expire(now)
        mine = self._counts[key]
        addresses = len(self._counts) + (not mine)
        if addresses > 1 and mine >= max(1, int(limit * share)):
            return False
        total = len(self._arrivals)
        if total >= limit and (
            mine >= max(1, limit // addresses) or total >= limit * OVERDRAFT
        ):
            return False
        self._arrivals.append((now, key))
        self._counts[key] += 1
        return True

    def _expire(self, now: float) -> None:
        arrivals, counts = self._arrivals, self._counts
        while arrivals and arrivals[0][0] <= now - self._window:
            _, key = arrivals.popleft()
            counts[key] -= 1
            if not counts[key]:
                del counts[key]


class Strikes:
    """Offences per address: a limit within `window` seconds shuts it out for the rest.

    At most `max_keys` addresses are remembered, the latest ones.
    """

    def __init__(self, window: float, max_keys: int) -> None:
        self._window = window
        self._max_keys = max_keys
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def add(self, key: str, now: float, limit: int) -> None:
        """Count one offence at `now` (never backwards)."""
        times = self._times.setdefault(key, deque())
        times.append(now)
        while len(times) > limit:
            times.popleft()
        self._times.move_to_end(key)
        while len(self._times) > self._max_keys or self._is_over(now):
            self._times.popitem(last=False)

    def retry_after(self, key: str, now: float, limit: int) -> float:
        """Seconds for which the address is shut out; 0 when it is not."""
        times = self._times.get(key)
        if times is None or len(times) < limit:
            return 0.0
        return max(0.0, times[-limit] + self._window - now)

    def _is_over(self, now: float) -> bool:
        oldest = next(iter(self._times.values()))
        return oldest[-1] <= now - self._window
