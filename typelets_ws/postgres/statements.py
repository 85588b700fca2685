"""Statements by name: encoded, timed, counted, and failures reported in one way.

Invariants: a caller gets `StoreError` with a `QueryFailure` and never a text of
the database; the log gets the statement's name and the SQLSTATE. An outage is one line
when it begins and one when it ends. Tested by tests/integration/postgres/test_store.py.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from ..config import model as config
from ..fastpaths import ALL, FastPaths
from ..ports import StoreError
from ..telemetry.telemetry import Telemetry
from . import sql
from .failures import QueryError, QueryFailure
from .pool import Columns, Pool
from .semaphore import KeyedSemaphore

__all__ = ["Statements"]

SHARED: Final = ""
"""The one key of the line in which all statements wait for a connection."""
PROBES: Final = frozenset({"ping", "abilities", "horizon"})
"""They fail every few seconds during an outage, which is logged once."""


class Statements:
    """Runs statements of `store` and `changes` over one pool."""

    def __init__(
        self, settings: config.Database, telemetry: Telemetry, fast: FastPaths = ALL
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wait_s = settings.wait_ms / 1000
        self._metrics = telemetry.metrics
        self._log = telemetry.log
        self._up: bool | None = None
        self._line = KeyedSemaphore(settings.pool_max, settings.max_waiting)
        self.pool = Pool(settings, on_outage=lambda: self.answers(False), fast=fast)

    def deadline(self) -> float:
        """The loop's time until which a statement that starts now may wait."""
        return self._loop.time() + self._wait_s

    async def fetch(
        self, name: str, query: bytes, params: Mapping[str, object], deadline: float
    ) -> list[Columns]:
        """Run a statement (`sql`) and return its rows.

        Raises `StoreError`, or `ForeignKeyViolation`.
        """
        began = self._loop.time()
        try:
            text, values = _encoded(query, params)
            # psycopg's own line costs a task for each who waits: as much as an UPDATE.
            if not await self._line.acquire(SHARED, deadline):
                raise QueryError(QueryFailure.POOL_FULL)
            try:
                found = await self.pool.fetch(text, values, deadline)
            finally:
                self._line.release(SHARED)
        except QueryError as failed:
            raise self.unavailable(name, failed) from None
        finally:
            elapsed = self._loop.time() - began
            self._metrics.queries.labels(name).observe(elapsed)
        self.answers(True)
        return found

    def unavailable(self, name: str, failed: QueryError) -> StoreError:
        """Report a failure; returns what the caller raises."""
        self._metrics.query_failures.labels(failed.reason).inc()
        if failed.reason is QueryFailure.DISCONNECTED:
            self.answers(False)
        tell = self._log.debug if name in PROBES else self._log.warning
        tell(
            "statement_failed",
            statement=name,
            reason=str(failed.reason),
            sqlstate=failed.sqlstate,
        )
        return StoreError(failed.reason)

    def answers(self, up: bool) -> None:
        """Note whether Postgres answers."""
        if up is not self._up:
            self._up = up
            self._metrics.postgres_up.set(up)
            if up:
                self._log.info("postgres_answers")
            else:
                self._log.warning("postgres_unreachable")


def _encoded(
    query: bytes, params: Mapping[str, object]
) -> tuple[bytes, list[bytes | None]]:
    text, names = sql.numbered(query)
    return text, [_text(params[name]) for name in names]


def _text(value: object) -> bytes | None:
    """A parameter in the text format of Postgres."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if "\0" in value:  # libpq would take it for the end
            raise QueryError(QueryFailure.REFUSED)
        return value.encode()
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    return str(value).encode()
