"""The REST service's database: who owns what, and the updates of notes.

One statement per operation, each its own transaction (`sql`), on connections
whose every wait is bounded (`pool`). This module adds:

- **One locked row costs its user, not the others.** A user has at most a quarter of
  the pool for updates; further ones wait without a connection.
- **An update that failed or was cancelled may have been written all the same**: the
  answer got lost, not the statement. A caller that must publish an update lets it end,
  which happens within ``wait_ms`` + ``statement_timeout_ms``.

No text of the database leaves this module: callers get a `QueryFailure`; the log gets
the statement's name and the SQLSTATE.
Tested by tests/integration/postgres/test_store.py.
"""

from collections.abc import Mapping
from typing import Final

from ..config import model as config
from ..fastpaths import ALL, FastPaths
from ..ports import Conflict, FieldChanges, Missing, StoreError, VersionedRow
from ..telemetry.telemetry import Telemetry
from . import sql
from .changes import ChangeReader
from .failures import QueryError, QueryFailure
from .pool import Columns, ForeignKeyViolation
from .semaphore import KeyedSemaphore
from .statements import Statements

__all__ = ["QueryFailure", "Store"]

TRUE: Final = b"t"


class Store:
    """Ownership and updates of notes; fulfils `ports.Store`.

    Every operation ends within ``wait_ms`` + ``statement_timeout_ms`` and raises
    `StoreError` with a `QueryFailure` when it could not be done. Ids are UUIDs in
    canonical text. `changes` reads row versions over the same pool.
    """

    def __init__(
        self, settings: config.Database, telemetry: Telemetry, fast: FastPaths = ALL
    ) -> None:
        self._metrics = telemetry.metrics
        self._statements = Statements(settings, telemetry, fast)
        self._pool = self._statements.pool
        self._per_user = KeyedSemaphore(
            max(1, settings.pool_max // 4), settings.max_waiting
        )
        self.changes = ChangeReader(self._statements, settings.pool_max, telemetry.log)

    async def start(self) -> None:
        """Begin to connect and return at once, whether Postgres is there or not.

        While it is not, every operation makes the pool try again, `ping` among them.
        """
        await self._pool.start()

    async def close(self) -> None:
        """Refuse what waits and what comes; what runs may end."""
        await self._pool.close()

    async def update_note(
        self, user_id: str, note_id: str, changes: FieldChanges
    ) -> VersionedRow | Missing:
        """Write the fields (wire names, checked values) of the user's own note.

        Another user's note or folder is a missing one; a missing note is reported
        before a missing folder. Raises ValueError for fields clients may not change.
        """
        query = _update_query(changes, based=False)
        params = {**changes, "note": note_id, "user": user_id}
        try:
            found = await self._update(user_id, query, params)
        except ForeignKeyViolation:
            return Missing.FOLDER
        if found is None:
            return Missing.NOTE
        row, updated_at, note_missing = found
        if row is None or updated_at is None:
            return Missing.NOTE if note_missing == TRUE else Missing.FOLDER
        return VersionedRow(row, updated_at.decode())

    async def update_note_based(
        self, user_id: str, note_id: str, changes: FieldChanges, base: str
    ) -> VersionedRow | Missing | Conflict:
        """As `update_note`, only while the note's updatedAt equals `base`.

        Otherwise returns the note as it stands: no newer version is overwritten.
        """
        query = _update_query(changes, based=True)
        params = {**changes, "note": note_id, "user": user_id, "base": base}
        try:
            found = await self._update(user_id, query, params)
        except ForeignKeyViolation:
            return Missing.FOLDER
        assert found is not None, "the statement begins with a row of its own"
        row, updated_at, stands, stands_at = found
        if row is not None and updated_at is not None:
            return VersionedRow(row, updated_at.decode())
        if stands is None or stands_at is None:
            return Missing.NOTE
        if stands_at.decode() == base:
            return Missing.FOLDER
        return Conflict(stands, stands_at.decode())

    async def note_owner(self, note_id: str) -> str | None:
        """The user the note belongs to; None when there is no such row."""
        return await self._owner("note_owner", sql.NOTE_OWNER, note_id)

    async def folder_owner(self, folder_id: str) -> str | None:
        """The user the folder belongs to; None when there is no such row."""
        return await self._owner("folder_owner", sql.FOLDER_OWNER, folder_id)

    async def ping(self) -> None:
        """Return when Postgres answers; for readiness, and to end an outage."""
        try:
            await self._statements.fetch(
                "ping", sql.ALIVE, {}, self._statements.deadline()
            )
        except StoreError as unavailable:
            if unavailable.reason == QueryFailure.TIMEOUT:  # it waits for no row's lock
                self._statements.answers(False)
            raise

    def observe_pool(self) -> None:
        """Copy the pool's statistics to the metrics; for the periodic sweep."""
        for stat, value in self._pool.stats().items():
            self._metrics.postgres_pool.labels(stat).set(value)
        self._metrics.pool.observe(self._pool.stats())

    async def _owner(self, name: str, query: bytes, row_id: str) -> str | None:
        found = await self._statements.fetch(
            name, query, {"id": row_id}, self._statements.deadline()
        )
        return found[0][0].decode() if found and found[0][0] is not None else None

    async def _update(
        self, user_id: str, query: bytes, params: Mapping[str, object]
    ) -> Columns | None:
        statements = self._statements
        deadline = statements.deadline()
        if not await self._per_user.acquire(user_id, deadline):
            raise statements.unavailable(
                "update_note", QueryError(QueryFailure.POOL_FULL)
            )
        try:
            rows = await statements.fetch("update_note", query, params, deadline)
        finally:
            self._per_user.release(user_id)
        return rows[0] if rows else None


def _update_query(changes: FieldChanges, *, based: bool) -> bytes:
    if not changes or not changes.keys() <= sql.COLUMNS.keys():
        raise ValueError("no fields, or fields that may not be changed")
    into_folder = changes.get("folderId") is not None
    fields = tuple(name for name in sql.COLUMNS if name in changes)
    return sql.update_note(fields, into_folder=into_folder, based=based)
