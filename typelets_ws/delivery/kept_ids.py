"""The ids of each user's rows, to name deletions that were not published. Pure.

A deleted row leaves no version to be found. But its id is known here, and no longer
in the table. Invariants:

- **Every id here was read from the table**, never taken from an event: an id that is
  here and not in the table has been deleted since.
- **Once all ids were read, the table has as many rows as there are ids here, or rows
  have gone**: a look adds the rows it has found changed, and a new row always is. So
  does a page of a sync, whose rows may have gone before a look finds them.
- **Ids are compared with a later reading of the table than their own.** `Recovery`
  reads one after the other.
- Memory is bounded by `max_bytes`, the longest unused first. Without ids the devices
  of a user are told by the digest that rows have gone, and not which.

Tested by tests/unit/delivery/test_kept_ids.py.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from ..recovery_ports import PackedIds, RowKey, RowKind

__all__ = ["MOST_IDS", "KeptIds"]

MOST_IDS: Final = 10_000
"""Of one user: a comparison takes 5 ms."""
MOST_GONE: Final = 1_000
OVERHEAD_BYTES: Final = 500
_SIZE: Final = 16
_KINDS: Final = (RowKind.NOTE, RowKind.FOLDER)


@dataclass(slots=True)
class _UserIds:
    ids: dict[RowKind, bytes]
    complete: bool = False
    """Whether all ids were read, and not those alone that devices were sent."""
    left_at: float = math.inf
    gone: dict[RowKey, float] = field(default_factory=dict)
    """Rows deleted of late, and when that was noticed."""

    @property
    def size(self) -> int:
        return OVERHEAD_BYTES + sum(map(len, self.ids.values()))


class KeptIds:
    """Ids by user. Times are monotonic seconds; deletions are kept for `keep_s`, and
    so are the ids of a user without a device.
    """

    def __init__(self, max_bytes: int, keep_s: float) -> None:
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._users: OrderedDict[str, _UserIds] = OrderedDict()
        self._used = 0

    @property
    def used_bytes(self) -> int:
        """Bytes held, about."""
        return self._used

    def count(self, user_id: str) -> int | None:
        """How many rows the user should have; None when the ids are not known."""
        user = self._users.get(user_id)
        if user is None or not user.complete:
            return None
        self._users.move_to_end(user_id)
        return sum(map(len, user.ids.values())) // _SIZE

    def leave(self, user_id: str, now: float) -> None:
        """The user's last device is gone; one that comes back may show the same."""
        if user_id in self._users:
            self._users[user_id].left_at = now

    def enter(self, user_id: str, now: float) -> None:
        """The user's first device is here."""
        user = self._users.get(user_id)
        if user is not None and now - user.left_at > self._keep_s:
            self._drop(user_id)

    def add(self, key: RowKey) -> None:
        """The row was found in the table."""
        user, packed = self._users.get(key.user_id), UUID(key.row_id).bytes
        if user is None:
            user = self._users[key.user_id] = _UserIds(dict.fromkeys(_KINDS, b""))
            self._used += user.size
        if _find(user.ids[key.kind], packed) < 0:
            user.ids[key.kind] += packed
            self._used += _SIZE
        user.gone.pop(key, None)
        self._shrink()

    def remove(self, key: RowKey, now: float) -> None:
        """The row is not in the table, and the devices know."""
        user = self._users.get(key.user_id)
        if user is None:
            return
        ids = user.ids[key.kind]
        place = _find(ids, _packed(key.row_id))
        if place >= 0:
            user.ids[key.kind] = ids[:place] + ids[place + _SIZE :]
            self._used -= _SIZE
        self._note_gone(user, key, now)

    def replace(self, user_id: str, found: PackedIds, now: float) -> list[RowKey]:
        """Take the ids of the table; returns the rows that have gone."""
        before = self._users.get(user_id)
        self._drop(user_id)
        if len(found.notes) + len(found.folders) > MOST_IDS * _SIZE:
            return []
        user = _UserIds(dict(zip(_KINDS, found, strict=True)), complete=True)
        missing = []
        if before is not None:
            user.gone = before.gone
            missing = [
                RowKey(user_id, kind, str(UUID(bytes=packed)))
                for kind in _KINDS
                for packed in _split(before.ids[kind]) - _split(user.ids[kind])
            ]
        for key in missing:
            self._note_gone(user, key, now)
        self._users[user_id] = user
        self._used += user.size
        self._shrink()
        return missing

    def gone(self, user_id: str, now: float) -> list[RowKey]:
        """The user's rows that were deleted of late."""
        user = self._users.get(user_id)
        if user is None:
            return []
        return [key for key, at in user.gone.items() if now - at <= self._keep_s]

    def take_gone(self, user_id: str) -> list[RowKey]:
        """The rows that were deleted of late, which are forgotten here."""
        user = self._users.get(user_id)
        if user is None:
            return []
        gone, user.gone = user.gone, {}
        return list(gone)

    def _note_gone(self, user: _UserIds, key: RowKey, now: float) -> None:
        user.gone[key] = now
        while len(user.gone) > MOST_GONE:
            del user.gone[next(iter(user.gone))]

    def _shrink(self) -> None:
        while self._used > self._max_bytes:
            self._drop(next(iter(self._users)))

    def _drop(self, user_id: str) -> None:
        user = self._users.pop(user_id, None)
        if user is not None:
            self._used -= user.size


def _packed(row_id: str) -> bytes:
    """The id in 16 bytes; an event may have named any text."""
    try:
        return UUID(row_id).bytes
    except ValueError:
        return b"no UUID"


def _find(ids: bytes, packed: bytes) -> int:
    """Where the id is; -1 if it is not there."""
    place = ids.find(packed)
    while place > 0 and place % _SIZE:
        place = ids.find(packed, place + 1)
    return place


def _split(ids: bytes) -> set[bytes]:
    return {ids[place : place + _SIZE] for place in range(0, len(ids), _SIZE)}
