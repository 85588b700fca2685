"""The sync protocol: what changed since a cursor, page by page (recovery.md section 3).

Invariants:

- **A page never shows a row older than an event already sent.** A row that was shown
  on this process while the page was read is read again, after the fact; and the ids
  of a page list it.
- **No change is skipped between pages**: see `cursors`.
- **The digest is of the snapshot of the last page**, so equal digests prove equal
  copies. An event that arrives between snapshot and page makes them differ, and the
  client compares once more.

Tested by tests/unit/delivery/test_syncing.py.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from ..config.model import RecoverySettings
from ..ports import VersionedRow
from ..protocol import client_messages, messages
from ..protocol.errors import CURSOR_EXPIRED, ClientError, Code
from ..recovery_ports import (
    Changes,
    Extent,
    RowIds,
    RowKey,
    RowKind,
    Since,
    StoredRow,
    UserChanges,
)
from . import cursors
from .cursors import Cursor, CursorError
from .gathered import GatheredChanges
from .horizons import Horizons
from .kept_ids import KeptIds
from .senders import digest_message
from .shown import ShownRows

__all__ = ["Syncer"]

REREADS: Final = 5
"""Of rows that change faster than they are read; then the events show them."""


class Syncer:
    """Answers `sync`. `monotonic` in seconds."""

    def __init__(
        self,
        changes: Changes,
        shown: ShownRows,
        horizons: Horizons,
        kept: KeptIds,
        settings: RecoverySettings,
        monotonic: Callable[[], float],
    ) -> None:
        self._changes = changes
        self.gathered = GatheredChanges(changes, monotonic)
        self._shown = shown
        self._horizons = horizons
        self._kept = kept
        self._extent = Extent(settings.page_rows, settings.page_bytes, digest=True)
        self._monotonic = monotonic

    async def page(
        self, user_id: str, connection_id: str, message: client_messages.Sync
    ) -> messages.SyncPage:
        """The next page of one user, for this device.

        Raises `ClientError` with `Code.CURSOR_EXPIRED`, or `StoreError`.
        """
        identity, cursor = b"", None
        started = self._shown.sequence
        extent = self._extent._replace(ids=bool(message.ids))
        try:
            if message.cursor is not None:
                identity, cursor = cursors.decode(message.cursor)
            since = _since(user_id, cursor)
            snapshot, found = await self.gathered.changed(since, extent)
            if cursor is not None:
                cursors.check(identity, cursor, snapshot)
        except CursorError:
            raise ClientError(Code.CURSOR_EXPIRED, CURSOR_EXPIRED) from None
        self._horizons.observe(snapshot, self._monotonic())
        rows, cut = _fitting(found.rows, extent.bytes)
        horizon = snapshot.horizon
        if cursor is not None and cursor.after is not None:
            horizon = cursor.horizon
        following = Cursor(horizon)
        more = found.more or cut
        if more:
            last = rows[-1].key
            position = (last.kind, last.row_id)
            following = Cursor(horizon, since.horizon, position)
        rows = await self._current(rows, started)
        if found.ids is not None:
            ids = _listing(found.ids, self._shown.since(user_id, started))
            found = replace(found, ids=ids)
        self._note_sent(user_id, connection_id, rows)
        text = cursors.encode(snapshot.identity, following)
        return _page(message, rows, text, None if more else found)

    def _note_sent(
        self, user_id: str, connection_id: str, rows: list[StoredRow]
    ) -> None:
        """Note what this device is about to be shown."""
        known = self._kept.count(user_id) is not None
        for row in rows:
            shown = VersionedRow(row.text, row.updated_at)
            self._shown.sent_to_one(row.key, shown, connection_id)
            if known:
                self._kept.add(row.key)
        if rows:
            self._shown.page_sent(user_id)

    async def _current(self, rows: list[StoredRow], started: int) -> list[StoredRow]:
        """Read again what was shown meanwhile; a row that is gone is left out."""
        current: dict[RowKey, StoredRow] = {row.key: row for row in rows}
        touched = [key for key in current if self._shown.touched(key, started)]
        for _ in range(REREADS):
            if not touched:
                break
            again = self._shown.sequence
            for key, row in (await self._read(touched)).items():
                if row is not None:
                    current[key] = row
                else:
                    current.pop(key, None)
            touched = [key for key in touched if self._shown.touched(key, again)]
        for key in touched:
            current.pop(key, None)
        return list(current.values())

    async def _read(self, keys: list[RowKey]) -> Mapping[RowKey, StoredRow | None]:
        """The rows, in as many answers as they take: few are shown meanwhile."""
        found: dict[RowKey, StoredRow | None] = {}
        while left := [key for key in keys if key not in found]:
            found |= await self._changes.rows(left)
        return found


def _since(user_id: str, cursor: Cursor | None) -> Since:
    if cursor is None:
        return Since(user_id, None)
    if cursor.after is None:
        return Since(user_id, cursor.horizon)
    return Since(user_id, cursor.since, after=cursor.after)


def _fitting(rows: list[StoredRow], most: int) -> tuple[list[StoredRow], bool]:
    """The first rows within `most` bytes, at least one; True when some are left."""
    used = 0
    for number, row in enumerate(rows):
        used += len(row.text) + 1
        if used > most and number:
            return rows[:number], True
    return rows, False


def _listing(ids: RowIds, keys: Collection[RowKey]) -> RowIds:
    """The ids, with those of these rows."""
    if not keys:
        return ids
    both = []
    for kind, text in ((RowKind.NOTE, ids.notes), (RowKind.FOLDER, ids.folders)):
        listed = dict.fromkeys(msgspec.json.decode(text, type=list[str]))
        listed |= dict.fromkeys(key.row_id for key in keys if key.kind is kind)
        both.append(msgspec.json.encode(list(listed)))
    return RowIds(*both)


def _page(
    message: client_messages.Sync,
    rows: list[StoredRow],
    cursor: str,
    last: UserChanges | None,
) -> messages.SyncPage:
    ids = last.ids if last is not None else None
    return messages.SyncPage(
        notes=[Raw(row.text) for row in rows if row.key.kind is RowKind.NOTE],
        folders=[Raw(row.text) for row in rows if row.key.kind is RowKind.FOLDER],
        cursor=cursor,
        more=last is None,
        digest=(
            UNSET
            if last is None or last.digest is None
            else digest_message(last.digest)
        ),
        noteIds=UNSET if ids is None else Raw(ids.notes),
        folderIds=UNSET if ids is None else Raw(ids.folders),
        requestId=messages.echo(message),
    )
