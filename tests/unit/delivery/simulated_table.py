"""A simulated table of notes with transactions: rows of alice with all their fields.

A statement takes its snapshot at one moment and answers at another, or fails. A
transaction has its id from its first write, holds its rows locked, and shows them when
it commits.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from tests.integration.delivery.recovery_world import Rows
from typelets_ws.ports import StoreError
from typelets_ws.recovery_ports import (
    Digest,
    Extent,
    PackedIds,
    RowIds,
    RowKey,
    RowKind,
    Since,
    Snapshot,
    StoredRow,
    TableContents,
    UserChanges,
)

__all__ = ["ALICE", "SimulatedTable", "Transaction"]

ALICE = "alice"
MOST_ROWS = 3
"""In one answer of `rows`."""
Row = dict[str, Any]


class SimulatedTable:
    """`Changes` on committed rows; `takes_s` is the most that half a statement takes,
    `failing` the share of statements that fail."""

    def __init__(self, rng: random.Random, takes_s: float, failing: float) -> None:
        self.rng, self.takes_s, self.failing = rng, takes_s, failing
        self.committed: dict[str, tuple[int, Row]] = {}
        """The transaction that wrote a row, and its fields."""
        self.next_id = 100
        self.running: set[int] = set()
        self.locks: dict[str, asyncio.Lock] = {}

    def of(self, user: str) -> tuple[Rows, Rows]:
        """As `recovery_world.Tables`."""
        return {row_id: dict(row) for row_id, (_, row) in self.committed.items()}, {}

    def text(self, row_id: str) -> bytes:
        return json.dumps(self.committed[row_id][1]).encode()

    async def passes(self) -> None:
        """Some time passes."""
        await asyncio.sleep(self.rng.random() ** 3 * self.takes_s)

    async def _answers(self) -> None:
        await self.passes()
        if self.rng.random() < self.failing:
            raise StoreError(self.rng.choice(["away", "timeout"]))

    def _snapshot(self) -> Snapshot:
        return Snapshot("db", min(self.running, default=self.next_id), self.next_id)

    async def supported(self) -> str | None:
        return None

    async def horizon(self) -> Snapshot:
        snapshot = self._snapshot()
        await self._answers()
        return snapshot

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        await self.passes()
        snapshot = self._snapshot()
        found = [self._changes(since, extent) for since in wanted]
        await self._answers()
        return snapshot, found

    def _changes(self, since: Since, extent: Extent) -> UserChanges:
        ids = sorted(self.committed)
        first, (_, after) = since.horizon or 0, since.after or (None, "")
        if since.since_s is not None:
            first = 0  # each row is younger than the hour that is left to clocks
        changed = [
            row_id for row_id in ids if self.committed[row_id][0] >= first
            and row_id > after
        ]  # fmt: skip
        whole = len(changed) <= extent.rows
        packed = PackedIds(b"".join(UUID(row_id).bytes for row_id in ids), b"")
        return UserChanges(
            [self._stored(row_id, since.settled) for row_id in changed[: extent.rows]],
            more=not whole,
            digest=self._digest() if extent.digest and since.digest and whole else None,
            ids=RowIds(json.dumps(ids).encode(), b"[]")
            if extent.ids and whole
            else None,
            count=len(ids),
            packed=packed if since.packed and whole else None,
        )

    async def rows(
        self,
        keys: Sequence[RowKey],
        *,
        before: Mapping[str, int] | None = None,
        versions: bool = True,
    ) -> Mapping[RowKey, StoredRow | None]:
        await self.passes()
        settled = (before or {}).get(ALICE)
        found = {
            key: self._stored(key.row_id, settled)
            if key.row_id in self.committed
            else None
            for key in keys[:MOST_ROWS]
        }
        await self._answers()
        return found

    def _stored(self, row_id: str, settled: int | None) -> StoredRow:
        writer, row = self.committed[row_id]
        key, old = RowKey(ALICE, RowKind.NOTE, row_id), writer < (settled or 0)
        return StoredRow(key, f"{writer}", old, row["updatedAt"], self.text(row_id))

    def _digest(self) -> Digest:
        total = 0
        for row_id, (_, row) in self.committed.items():
            text = f"{row_id}:{row['updatedAt']}".encode()
            total ^= int.from_bytes(hashlib.sha256(text).digest()[:16])
        notes = TableContents(len(self.committed), f"{total:032x}")
        return Digest(notes, TableContents(0, f"{0:032x}"))


class Transaction:
    """Writes that show at once; none if `commit` is not called."""

    def __init__(self, table: SimulatedTable) -> None:
        self._table = table
        self._id = 0
        self._locked: list[asyncio.Lock] = []
        self.writes: dict[str, Row | None] = {}

    async def read(self, row_id: str) -> Row | None:
        """Lock a row and read it, to write it; None if it is gone, or locked while
        this transaction holds a row, which could end in a deadlock."""
        lock = self._table.locks.setdefault(row_id, asyncio.Lock())
        if lock.locked() and self._locked:
            return None
        await lock.acquire()
        self._locked.append(lock)
        found = self._table.committed.get(row_id)
        return None if found is None else dict(found[1])

    def write(self, row_id: str, row: Row | None) -> None:
        """Write or delete a row."""
        if not self._id:
            self._id = self._table.next_id
            self._table.next_id += 1
            self._table.running.add(self._id)
        self.writes[row_id] = row

    def commit(self) -> None:
        for row_id, row in self.writes.items():
            if row is None:
                self._table.committed.pop(row_id, None)
            else:
                self._table.committed[row_id] = (self._id, row)

    @classmethod
    @asynccontextmanager
    async def begun(cls, table: SimulatedTable) -> AsyncIterator["Transaction"]:
        self = cls(table)
        try:
            yield self
        finally:
            table.running.discard(self._id)
            for lock in self._locked:
                lock.release()
