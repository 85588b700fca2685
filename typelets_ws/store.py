"""The REST service's database: who owns what, and the updates of notes.

One statement per operation, each its own transaction (`store_sql`), on connections
whose every wait is bounded (`store_pool`). This module adds:

- **One locked row costs its user, not the others.** A user has at most a quarter of
  the pool for updates; whoever is over that waits in line without a connection.
- **An update that failed or was cancelled may have been written all the same**: the
  answer got lost, not the statement. Whoever must tell other devices of an update lets
  it end, which it does within ``wait_ms`` + ``statement_timeout_ms``.

No text of the database leaves this module: callers get a `Reason`; the log gets the
statement's name and the SQLSTATE.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from . import config, store_sql
from .log import FilteringBoundLogger
from .metrics import Metrics
from .ports import Missing, StoreUnavailable, Updated
from .store_pool import Failed, ForeignKeyViolation, Pool, Reason, Row
from .store_turns import Turns

__all__ = ["Reason", "Store"]


EVERYBODY: Final = ""
TRUE: Final = b"t"


class Store:
    """Ownership and updates of notes; fulfils `ports.Store`.

    Every operation ends within ``wait_ms`` + ``statement_timeout_ms`` and raises
    `StoreUnavailable` with a `Reason` when it could not be done. Ids are UUIDs in
    canonical text.
    """

    def __init__(
        self,
        settings: config.Database,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wait_s = settings.wait_ms / 1000
        self._metrics = metrics
        self._log = log
        self._up: bool | None = None
        self._pool = Pool(settings, on_outage=lambda: self._answers(False))
        self._turns = Turns(max(1, settings.pool_max // 4), settings.max_waiting)
        # The pool's own line costs a task for each who waits: as much as an UPDATE.
        self._line = Turns(settings.pool_max, settings.max_waiting)
        self._timings = {
            name: metrics.queries.labels(name)
            for name in ("update_note", "note_owner", "folder_owner", "ping")
        }

    async def start(self) -> None:
        """Begin to connect and return at once, whether Postgres is there or not.

        While it is not, every operation makes the pool try again, `ping` among them.
        """
        await self._pool.start()

    async def close(self) -> None:
        """Refuse what waits and what comes; what runs may end."""
        await self._pool.close()

    async def update_note(
        self, user_id: str, note_id: str, changes: Mapping[str, str | bool | None]
    ) -> Updated | Missing:
        """Write the fields (wire names, checked values) of the user's own note.

        Another user's note or folder is a missing one; a missing note is told before
        a missing folder. Raises ValueError for fields clients may not change.
        """
        if not changes or not changes.keys() <= store_sql.COLUMNS.keys():
            raise ValueError("no fields, or fields that may not be changed")
        into_folder = changes.get("folderId") is not None
        fields = tuple(name for name in store_sql.COLUMNS if name in changes)
        query = store_sql.update_note(fields, into_folder=into_folder)
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
        return Updated(row, updated_at.decode())

    async def note_owner(self, note_id: str) -> str | None:
        """The user the note belongs to; None when there is no such row."""
        return await self._owner("note_owner", store_sql.NOTE_OWNER, note_id)

    async def folder_owner(self, folder_id: str) -> str | None:
        """The user the folder belongs to; None when there is no such row."""
        return await self._owner("folder_owner", store_sql.FOLDER_OWNER, folder_id)

    async def ping(self) -> None:
        """Return when Postgres answers; for readiness, and to end an outage."""
        try:
            await self._ask("ping", store_sql.ALIVE, {}, self._give_up())
        except StoreUnavailable as unavailable:
            if unavailable.reason == Reason.TIMEOUT:  # it waits for no row's lock
                self._answers(False)
            raise

    def observe_pool(self) -> None:
        """Copy the pool's statistics to the metrics; for the periodic sweep."""
        for stat, value in self._pool.stats().items():
            self._metrics.postgres_pool.labels(stat).set(value)
        self._metrics.pool.observe(self._pool.stats())

    def _give_up(self) -> float:
        return self._loop.time() + self._wait_s

    async def _owner(self, name: str, query: bytes, row_id: str) -> str | None:
        found = await self._ask(name, query, {"id": row_id}, self._give_up())
        return found[0].decode() if found and found[0] is not None else None

    async def _update(
        self, user_id: str, query: bytes, params: Mapping[str, object]
    ) -> Row | None:
        give_up = self._give_up()
        if not await self._turns.take(user_id, give_up):
            raise self._unavailable("update_note", Failed(Reason.POOL_FULL))
        try:
            return await self._ask("update_note", query, params, give_up)
        finally:
            self._turns.give_back(user_id)

    async def _ask(
        self, name: str, query: bytes, params: Mapping[str, object], give_up: float
    ) -> Row | None:
        began = self._loop.time()
        try:
            text, names = store_sql.numbered(query)
            values = [_text(params[name]) for name in names]
            if not await self._line.take(EVERYBODY, give_up):
                raise Failed(Reason.POOL_FULL)
            try:
                found = await self._pool.first_row(text, values, give_up)
            finally:
                self._line.give_back(EVERYBODY)
        except Failed as failed:
            raise self._unavailable(name, failed) from None
        finally:
            self._timings[name].observe(self._loop.time() - began)
        self._answers(True)
        return found

    def _unavailable(self, name: str, failed: Failed) -> StoreUnavailable:
        self._metrics.query_failures.labels(failed.reason).inc()
        if failed.reason is Reason.DISCONNECTED:
            self._answers(False)
        # The readiness probe fails every two seconds; an outage is told once.
        tell = self._log.debug if name == "ping" else self._log.warning
        tell(
            "statement_failed",
            statement=name,
            reason=str(failed.reason),
            sqlstate=failed.sqlstate,
        )
        return StoreUnavailable(failed.reason)

    def _answers(self, up: bool) -> None:
        if up is not self._up:
            self._up = up
            self._metrics.postgres_up.set(up)
            if up:
                self._log.info("postgres_answers")
            else:
                self._log.warning("postgres_unreachable")


def _text(value: object) -> bytes | None:
    """A parameter in the text format of Postgres."""
    if isinstance(value, str):
        if "\0" in value:  # libpq would take it for the end
            raise Failed(Reason.REFUSED)
        return value.encode()
    if value is None:
        return None
    return b"t" if value else b"f"
