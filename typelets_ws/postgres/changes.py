"""Row versions of notes and folders: horizons, changes, rows by id, digests.

Fulfils `recovery_ports.Changes` (recovery.md section 1). Invariants:

- **Recovery never starves clients' updates**: at most a quarter of the pool runs its
  statements. The others wait up to `WAIT_S` without a connection.
- **A standby is refused** (`Unsupported.STANDBY`): what it has not replayed yet would
  be missing below a horizon of its primary.
- **Missing privileges switch recovery off and nothing else.** `supported` says why;
  it is asked for again from time to time, so a GRANT needs no restart.

The SQL is in `changes_sql`. Tested by tests/integration/postgres/test_changes.py.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from ..ports import StoreError
from ..recovery_ports import (
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
from ..telemetry.log import FilteringBoundLogger
from . import changes_sql
from .changes_sql import Abilities
from .failures import QueryError, QueryFailure
from .pool import Columns
from .semaphore import KeyedSemaphore
from .statements import Statements

__all__ = ["ROWS_BYTES", "ChangeReader", "Unsupported"]

WAIT_S: Final = 30.0
"""For one of recovery's connections; 5,000 returning devices take some seconds."""
MOST_WAITING: Final = 20_000
ROWS_BYTES: Final = 262_144
"""Of one user's rows in one answer: a user's rows may take any memory."""
_RECOVERY: Final = "recovery"
_KINDS: Final = {RowKind.FOLDER: "f", RowKind.NOTE: "n"}
_BY_LETTER: Final = {b"f": RowKind.FOLDER, b"n": RowKind.NOTE}
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""As Postgres writes it; an event may name any text as an id."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NONE: Final = "0" * 32


class Unsupported(StrEnum):
    """Why recovery is off: a label of the log and the metrics."""

    OLD_SERVER = "old_server"
    NO_PRIVILEGE = "no_privilege"
    STANDBY = "standby"


class ChangeReader:
    """Reads row versions; fulfils `recovery_ports.Changes`."""

    def __init__(
        self, statements: Statements, pool_max: int, log: FilteringBoundLogger
    ) -> None:
        self._statements = statements
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._permits = KeyedSemaphore(max(1, pool_max // 4), MOST_WAITING)
        self._abilities: Abilities | None = None

    async def supported(self) -> Unsupported | None:
        """Ask whether the server and the role allow recovery; None when they do.

        Raises `StoreError` when Postgres does not answer.
        """
        (found,) = await self._fetch("abilities", changes_sql.ABILITIES, {})
        if int(found[0] or b"0") < changes_sql.OLDEST_VERSION:
            return Unsupported.OLD_SERVER
        self._take_abilities(Abilities(found[1] == b"t", found[2] == b"t"))
        try:
            await self.changed((), Extent(1, 1, digest=True))
        except StoreError as unavailable:
            if unavailable.reason == QueryFailure.REFUSED:
                return Unsupported.NO_PRIVILEGE
            if unavailable.reason == QueryFailure.READ_ONLY:
                return Unsupported.STANDBY
            raise
        return None

    async def horizon(self) -> Snapshot:
        """The horizon as of now. Raises `StoreError`, as all of these."""
        abilities = self._abilities or Abilities()
        (head,) = await self._fetch("horizon", changes_sql.horizon(abilities), {})
        return _snapshot(head)

    async def changed(
        self, wanted: Sequence[Since], extent: Extent
    ) -> tuple[Snapshot, list[UserChanges]]:
        """The changes of each of `wanted`, all from one snapshot."""
        query = changes_sql.changed(
            self._abilities or Abilities(),
            digest=extent.digest,
            ids=extent.ids,
            narrow=extent.narrow,
            counts=extent.counts,
            packed=extent.packed > 0,
        )
        users = [_wanted(number, since) for number, since in enumerate(wanted)]
        params = {
            "users": msgspec.json.encode([user for user in users if user]),
            "rows": extent.rows,
            "bytes": extent.bytes,
            "packed": extent.packed + 1,
        }
        found = await self._fetch("changed", query, params)
        return _snapshot(found[0]), _by_user(wanted, found[1:], extent.rows)

    async def rows(
        self,
        keys: Sequence[RowKey],
        *,
        before: Mapping[str, int] | None = None,
        versions: bool = True,
    ) -> Mapping[RowKey, StoredRow | None]:
        """The rows as of now, at most `ROWS_BYTES` of one user; see the protocol."""
        horizons = before or {}
        rows: dict[RowKey, StoredRow | None] = dict.fromkeys(keys)
        keys = tuple(rows)
        asked = [
            {
                "n": number,
                "user_id": key.user_id,
                "kind": _KINDS[key.kind],
                "id": key.row_id,
                "before": _digits(horizons.get(key.user_id)),
            }
            for number, key in enumerate(keys)
            if _storable(key.user_id) and _UUID.fullmatch(key.row_id)
        ]
        query = changes_sql.rows(versions=versions)
        params = {"keys": msgspec.json.encode(asked), "bytes": ROWS_BYTES}
        for row in await self._fetch("rows", query, params):
            key = keys[int(row[1] or b"")]
            if row[0] == b"m":
                del rows[key]
            else:
                rows[key] = _stored(row, key.user_id)
        return rows

    def _take_abilities(self, abilities: Abilities) -> None:
        if abilities != self._abilities and not all(abilities):
            missing = [name for name, able in abilities._asdict().items() if not able]
            self._log.warning("database_identity_incomplete", missing=missing)
        self._abilities = abilities

    async def _fetch(
        self, name: str, query: bytes, params: Mapping[str, object]
    ) -> list[Columns]:
        """Wait for one of recovery's connections, then run the statement."""
        statements, permits = self._statements, self._permits
        if not await permits.acquire(_RECOVERY, self._loop.time() + WAIT_S):
            raise statements.unavailable(name, QueryError(QueryFailure.POOL_FULL))
        try:
            return await statements.fetch(name, query, params, statements.deadline())
        finally:
            permits.release(_RECOVERY)


def _storable(user_id: str) -> bool:
    """Whether Postgres can hold the text; otherwise no row has it."""
    return "\0" not in user_id and not _SURROGATE.search(user_id)


def _wanted(number: int, since: Since) -> dict[str, object] | None:
    if not _storable(since.user_id):
        return None
    return {
        "n": number,
        "user_id": since.user_id,
        "horizon": _digits(since.horizon),
        "settled": _digits(since.settled),
        "kind": since.after and _KINDS[since.after[0]],
        "after": since.after and since.after[1],
        "since_s": since.since_s,
        "digest": since.digest,
        "packed": since.packed,
    }


def _digits(horizon: int | None) -> str | None:
    """A horizon as JSON keeps it: 64 bits are too many for a number there."""
    return None if horizon is None else str(horizon)


def _snapshot(head: Columns) -> Snapshot:
    _, _, _, horizon, standby, identity, newest = head
    if standby == b"t":
        raise StoreError(QueryFailure.READ_ONLY)
    return Snapshot(
        (identity or b"").decode(), int(horizon or b"0"), int(newest or b"0")
    )


def _by_user(
    wanted: Sequence[Since], found: list[Columns], most: int
) -> list[UserChanges]:
    rows: dict[int, list[StoredRow]] = defaultdict(list)
    others: dict[int, dict[str, Any]] = defaultdict(dict)
    for row in found:
        letter, number = row[0] or b"", int(row[1] or b"0")
        if letter in _BY_LETTER:
            rows[number].append(_stored(row, wanted[number].user_id))
        else:
            name, read = _OTHERS[letter]
            others[number][name] = read(row[3] or b"", row[5] or b"")
    return [
        UserChanges(
            sorted(rows[number], key=_page_order)[:most],
            **{"more": False, **others[number]},
        )
        for number in range(len(wanted))
    ]


def _page_order(row: StoredRow) -> tuple[bool, str]:
    return row.key.kind is RowKind.NOTE, row.key.row_id


def _stored(row: Columns, user_id: str) -> StoredRow:
    letter, _, row_id, version, settled, updated_at, text = row
    return StoredRow(
        RowKey(user_id, _BY_LETTER[letter or b""], (row_id or b"").decode()),
        (version or b"").decode(),
        settled == b"t",
        (updated_at or b"").decode(),
        text or b"",
    )


def _table_digest(text: bytes) -> TableContents:
    count, _, bits = text.decode().partition(" ")
    return TableContents(int(count), f"{int(bits, 2):032x}" if bits else _NONE)


def _unhex(text: bytes) -> bytes:
    return bytes.fromhex(text.decode())


_OTHERS: Final[Mapping[bytes, tuple[str, Callable[[bytes, bytes], object]]]] = {
    b"m": ("more", lambda _notes, _folders: True),
    b"c": ("count", lambda notes, folders: int(notes) + int(folders)),
    b"d": ("digest", lambda n, f: Digest(_table_digest(n), _table_digest(f))),
    b"p": ("packed", lambda n, f: PackedIds(_unhex(n), _unhex(f))),
    b"i": ("ids", RowIds),
}
"""Fields of `UserChanges`, made of the columns for notes and for folders."""
