"""Permits: a bounded number per key, and a bounded line of waiters.

- **A permit is never lost**: it passes to the next waiter, also when that waiter is
  cancelled in the same moment.
- **Every wait ends** at its deadline. One timer serves all waiters, and is moved when
  it fires: most waits are so short that a timer each would cost more than they do.

Tested by tests/unit/postgres/test_semaphore.py.
"""

import asyncio
import math
from asyncio import Future, TimerHandle
from collections import deque

__all__ = ["KeyedSemaphore"]


class KeyedSemaphore:
    """At most `each` permits per user; at most `max_waiting` callers wait in all."""

    def __init__(self, each: int, max_waiting: int) -> None:
        self._each = each
        self._room = max_waiting
        self._loop = asyncio.get_running_loop()
        self._busy: dict[str, int] = {}
        self._lines: dict[str, deque[Future[bool]]] = {}
        self._waiting: dict[Future[bool], float] = {}
        self._timer: TimerHandle | None = None
        self._alarm = math.inf

    async def acquire(self, user_id: str, deadline: float) -> bool:
        """Wait for a permit until `deadline` (loop time); False when none came free."""
        busy = self._busy.get(user_id, 0)
        if busy < self._each:
            self._busy[user_id] = busy + 1
            return True
        if len(self._waiting) >= self._room:
            return False
        permit = self._queue(user_id, deadline)
        try:
            had = await permit
        except asyncio.CancelledError:
            if permit.cancelled() or not permit.result():
                self._remove(user_id, permit)
            else:
                self.release(user_id)
            raise
        finally:
            del self._waiting[permit]
        if not had:
            self._remove(user_id, permit)
        return had

    def release(self, user_id: str) -> None:
        """Return a permit; the next waiter has it at once."""
        line = self._lines.get(user_id)
        while line:
            permit = line.popleft()
            if not permit.done():
                permit.set_result(True)
                return
        if line is not None:
            del self._lines[user_id]
        busy = self._busy[user_id] - 1
        if busy:
            self._busy[user_id] = busy
        else:
            del self._busy[user_id]

    def _queue(self, user_id: str, deadline: float) -> Future[bool]:
        permit: Future[bool] = self._loop.create_future()
        self._waiting[permit] = deadline
        line = self._lines.get(user_id)
        if line is None:
            line = self._lines[user_id] = deque()
        line.append(permit)
        if deadline < self._alarm:
            self._wake_at(deadline)
        return permit

    def _remove(self, user_id: str, permit: Future[bool]) -> None:
        line = self._lines.get(user_id)
        if line and permit in line:
            line.remove(permit)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = when
        self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        """Send away those whose time is up, and come back for the next."""
        self._timer, self._alarm = None, math.inf
        now = self._loop.time()
        later = math.inf
        for permit, deadline in self._waiting.items():
            if permit.done():
                continue
            if deadline <= now:
                permit.set_result(False)
            else:
                later = min(later, deadline)
        if later < math.inf:
            self._wake_at(later)
