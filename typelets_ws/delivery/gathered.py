"""Reads for `sync`, gathered: requests that wait share one statement.

When thousands of devices return at once, a statement for each costs Postgres and this
process several times as much as one for `BATCH` of them (row `returning` of
scripts/bench). A device that comes alone is read at once. Invariants:

- A statement begins after every request that it answers.
- Users take turns, and each has one request read at a time: a user with many devices,
  or many rows, keeps no other user waiting for more than one statement.
- A batch that fails by its rows is read user by user: one user's rows cost no other
  user the page. When Postgres is away, or slow for several of them, all fail at once:
  no request waits for the timeouts of the others.
- A user whose rows took long is read alone, and no other such user at the same time:
  one statement is left for the others.
- A request without a horizon reads all rows of its user. It is read alone, because its
  page would hold up the others.

Tested by tests/unit/delivery/test_gathered.py.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final, NoReturn

from ..ports import StoreError
from ..recovery_ports import Changes, Extent, Since, Snapshot, UserChanges
from .healing import MOST_FAILED, SLOW_S, by_its_rows

__all__ = ["GatheredChanges"]

BATCH: Final = 20
STATEMENTS: Final = 2
"""At the same time: Postgres works at one while the process reads the other."""

MOST_SLOW: Final = 1_000
"""Slow users that are remembered."""

Answer = tuple[Snapshot, UserChanges]


@dataclass(slots=True)
class _Request:
    since: Since
    extent: Extent
    answer: asyncio.Future[Answer]

    def joins(self, other: "_Request") -> bool:
        """Whether one statement may answer both."""
        whole = self.since.horizon is None or other.since.horizon is None
        return self.extent == other.extent and not whole


class GatheredChanges:
    """Reads the changes of single users, while `run` is running.

    `monotonic` in seconds.
    """

    def __init__(self, changes: Changes, monotonic: Callable[[], float]) -> None:
        self._changes = changes
        self._monotonic = monotonic
        self._slow: dict[str, None] = {}
        """Users whose rows took over `SLOW_S`, until they take less."""
        self._waiting: dict[str, deque[_Request]] = {}
        """By user, in the order of their turns."""
        self._reading: set[str] = set()
        self._wake = asyncio.Event()

    async def changed(self, since: Since, extent: Extent) -> Answer:
        """The changes of one user. Raises `StoreError`."""
        loop = asyncio.get_running_loop()
        request = _Request(since, extent, loop.create_future())
        self._waiting.setdefault(since.user_id, deque()).append(request)
        self._wake.set()
        return await request.answer

    async def run(self) -> None:
        """Answer requests until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(STATEMENTS):
                    group.create_task(self._work())
        finally:
            _fail(chain(*self._waiting.values()), StoreError("closed"))

    async def _work(self) -> NoReturn:
        while True:
            while not (batch := self._next()):
                self._wake.clear()
                await self._wake.wait()
            self._take(batch)
            try:
                await self._answer(batch)
            finally:
                # Those that are left when this is cancelled, as the daemon ends.
                _fail(batch, StoreError("closed"))
            self._reading.difference_update(one.since.user_id for one in batch)
            self._wake.set()

    def _next(self) -> list[_Request]:
        """The first requests of the users whose turn it is."""
        batch: list[_Request] = []
        for user_id, requests in self._waiting.items():
            if user_id in self._reading:
                continue
            if user_id in self._slow:
                if not batch and self._slow.keys().isdisjoint(self._reading):
                    return [requests[0]]
                continue
            if len(batch) == BATCH or (batch and not batch[0].joins(requests[0])):
                break
            batch.append(requests[0])
        return batch

    def _take(self, batch: list[_Request]) -> None:
        """Note that these are being read; their users' next turns are the last."""
        for request in batch:
            user_id = request.since.user_id
            requests = self._waiting.pop(user_id)
            requests.popleft()
            if requests:
                self._waiting[user_id] = requests
            self._reading.add(user_id)

    def _took(self, batch: list[_Request], began: float) -> None:
        """A statement has ended: a user whose rows alone take long is slow."""
        if len(batch) > 1:
            return
        user_id = batch[0].since.user_id
        self._slow.pop(user_id, None)
        if self._monotonic() - began > SLOW_S:
            self._slow[user_id] = None
        if len(self._slow) > MOST_SLOW:
            del self._slow[next(iter(self._slow))]

    async def _answer(self, batch: list[_Request]) -> bool:
        """Returns False when the rows of one user could not be read."""
        began = self._monotonic()
        try:
            snapshot, found = await self._changes.changed(
                [request.since for request in batch], batch[0].extent
            )
        except Exception as error:
            if not by_its_rows(error):
                _fail(batch, error)
                return True
            if len(batch) > 1:
                await self._answer_each(batch, error)
                return True
            _fail(batch, error)
            self._took(batch, began)
            return False
        for request, changes in zip(batch, found, strict=True):
            if not request.answer.done():
                request.answer.set_result((snapshot, changes))
        self._took(batch, began)
        return True

    async def _answer_each(self, batch: list[_Request], error: Exception) -> None:
        failed = 0
        for request in batch:
            if failed == MOST_FAILED:
                _fail([request], error)
            else:
                failed += not await self._answer([request])


def _fail(requests: Iterable[_Request], error: Exception) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)
