"""Reads for `sync`, gathered: requests that wait share one statement.

When thousands of devices return at once, a statement for each costs Postgres and this
process several times as much as one for `BATCH` of them (row `returning` of
scripts/bench). A device that comes alone is read at once. Invariants:

- A statement begins after every request that it answers.
- A batch that fails is read user by user: one user's rows cost no other user the page.
- A request without a horizon reads all rows of its user. It is read alone, because its
  page would hold up the others.

Tested by tests/unit/delivery/test_gathered.py.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

from ..ports import StoreError
from ..recovery_ports import Changes, Extent, Since, Snapshot, UserChanges

__all__ = ["GatheredChanges"]

BATCH: Final = 20
STATEMENTS: Final = 2
"""At the same time: Postgres works at one while the process reads the other."""

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
    """Reads the changes of single users, while `run` is running."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._waiting: deque[_Request] = deque()
        self._wake = asyncio.Event()

    async def changed(self, since: Since, extent: Extent) -> Answer:
        """The changes of one user. Raises `StoreError`."""
        loop = asyncio.get_running_loop()
        request = _Request(since, extent, loop.create_future())
        self._waiting.append(request)
        self._wake.set()
        return await request.answer

    async def run(self) -> None:
        """Answer requests until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(STATEMENTS):
                    group.create_task(self._work())
        finally:
            _fail(self._waiting, StoreError("closed"))

    async def _work(self) -> NoReturn:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = self._take()
            try:
                await self._answer(batch)
            finally:
                # Those that are left when this is cancelled, as the daemon ends.
                _fail(batch, StoreError("closed"))

    def _take(self) -> list[_Request]:
        waiting = self._waiting
        batch = [waiting.popleft()]
        while waiting and len(batch) < BATCH and batch[0].joins(waiting[0]):
            batch.append(waiting.popleft())
        return batch

    async def _answer(self, batch: list[_Request]) -> None:
        try:
            snapshot, found = await self._changes.changed(
                [request.since for request in batch], batch[0].extent
            )
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:
                for request in batch:
                    await self._answer([request])
            return
        for request, changes in zip(batch, found, strict=True):
            if not request.answer.done():
                request.answer.set_result((snapshot, changes))


def _fail(requests: Iterable[_Request], error: Exception) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)
