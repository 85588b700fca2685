"""A simulated table of notes, as recovery reads it."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from typelets_ws.delivery.shown_row import NOTE_NAMES
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

__all__ = ["Table", "digest_of", "key_of", "wire_row"]

Copy = dict[str, str]
"""updatedAt by id."""


def digest_of(copy: Copy) -> Digest:
    return Digest(
        TableContents(len(copy), str(sorted(copy.items()))), TableContents(0, "")
    )


class Table:
    """The notes of alice; a transaction for each change."""

    def __init__(self) -> None:
        self.rows_by_id: dict[str, tuple[int, str]] = {}
        """Transaction and updatedAt."""
        self.newest = 100
        self.most_rows = 100
        """In one answer of `rows`."""

    @property
    def copy(self) -> Copy:
        return {row_id: at for row_id, (_, at) in self.rows_by_id.items()}

    def write(self, row_id: str) -> None:
        self.rows_by_id[row_id] = (self.newest, f"t{self.newest}")
        self.newest += 1

    def stored(self, row_id: str, settled: int | None) -> StoredRow:
        version, at = self.rows_by_id[row_id]
        old = settled is not None and version < settled
        text = json.dumps(wire_row(row_id, at)).encode()
        return StoredRow(key_of(row_id), str(version), old, at, text)

    async def supported(self) -> str | None:
        return None

    async def horizon(self) -> Snapshot:
        return Snapshot("db", self.newest, self.newest)

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        await asyncio.sleep(0)
        found = [self._changes(since, extent) for since in wanted]
        return Snapshot("db", self.newest, self.newest), found

    def _changes(self, since: Since, extent: Extent) -> UserChanges:
        ids = sorted(self.rows_by_id) if since.user_id == "alice" else []
        first, (_, after) = since.horizon or 0, since.after or (None, "")
        changed = [
            row_id
            for row_id in ids
            if self.rows_by_id[row_id][0] >= first and row_id > after
        ]
        return UserChanges(
            [self.stored(row_id, since.settled) for row_id in changed[: extent.rows]],
            more=len(changed) > extent.rows,
            digest=digest_of(self.copy) if extent.digest and since.digest else None,
            ids=RowIds(json.dumps(ids).encode(), b"[]") if extent.ids else None,
            count=len(ids),
            packed=(
                PackedIds(b"".join(bytes.fromhex(i.replace("-", "")) for i in ids), b"")
                if since.packed
                else None
            ),
        )

    async def rows(
        self,
        keys: Sequence[RowKey],
        *,
        before: Mapping[str, int] | None = None,
        versions: bool = True,
    ) -> Mapping[RowKey, StoredRow | None]:
        await asyncio.sleep(0)
        settled = (before or {}).get("alice")
        return {
            key: self.stored(key.row_id, settled)
            if key.row_id in self.rows_by_id
            else None
            for key in keys[: self.most_rows]
        }


def wire_row(row_id: str, at: str) -> dict[str, Any]:
    return dict.fromkeys(NOTE_NAMES) | {"id": row_id, "updatedAt": at}


def key_of(row_id: str) -> RowKey:
    return RowKey("alice", RowKind.NOTE, row_id)
