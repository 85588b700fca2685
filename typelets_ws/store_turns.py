"""Turns: at most so many at once for one user, and a bounded line for the rest.

- **A turn is never lost**: it is had by one, or handed on, also when the one who had
  it handed to them is cancelled in the same moment.
- **Every wait ends** at its time. One timer serves all who wait, and is moved on when
  it fires: where many wait for a moment each, a timer each would cost more than the
  waiting.
"""

import asyncio
import math
from asyncio import Future, TimerHandle
from collections import deque

__all__ = ["Turns"]


class Turns:
    """At most `each` at once for one user; in all, at most `room` wait in line."""

    def __init__(self, each: int, room: int) -> None:
        self._each = each
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._busy: dict[str, int] = {}
        self._lines: dict[str, deque[Future[bool]]] = {}
        self._waiting: dict[Future[bool], float] = {}
        self._timer: TimerHandle | None = None
        self._alarm = math.inf

    async def take(self, user_id: str, give_up: float) -> bool:
        """Wait for a turn until `give_up` (loop time); False when there was none."""
        busy = self._busy.get(user_id, 0)
        if busy < self._each:
            self._busy[user_id] = busy + 1
            return True
        if len(self._waiting) >= self._room:
            return False
        turn = self._queue(user_id, give_up)
        try:
            had = await turn
        except asyncio.CancelledError:
            if turn.cancelled() or not turn.result():
                self._leave(user_id, turn)
            else:
                self.give_back(user_id)
            raise
        finally:
            del self._waiting[turn]
        if not had:
            self._leave(user_id, turn)
        return had

    def give_back(self, user_id: str) -> None:
        """End a turn; the next in line has it at once."""
        line = self._lines.get(user_id)
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        if line is not None:
            del self._lines[user_id]
        busy = self._busy[user_id] - 1
        if busy:
            self._busy[user_id] = busy
        else:
            del self._busy[user_id]

    def _queue(self, user_id: str, give_up: float) -> Future[bool]:
        turn: Future[bool] = self._loop.create_future()
        self._waiting[turn] = give_up
        line = self._lines.get(user_id)
        if line is None:
            line = self._lines[user_id] = deque()
        line.append(turn)
        if give_up < self._alarm:
            self._wake_at(give_up)
        return turn

    def _leave(self, user_id: str, turn: Future[bool]) -> None:
        line = self._lines.get(user_id)
        if line and turn in line:
            line.remove(turn)

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
        for turn, give_up in self._waiting.items():
            if turn.done():
                continue
            if give_up <= now:
                turn.set_result(False)
            else:
                later = min(later, give_up)
        if later < math.inf:
            self._wake_at(later)
