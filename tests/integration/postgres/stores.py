"""Stores on a real Postgres, and ways to disturb them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from tests.postgres import Database, chosen_paths
from tests.serving import serving
from tests.within import PATIENCE_S, within
from typelets_ws.config import model as config
from typelets_ws.ports import Missing, StoreError, VersionedRow
from typelets_ws.postgres.store import Store
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry

ABSENT = "00000000-0000-4000-8000-000000000000"
IMPATIENT: dict[str, Any] = {"statement_timeout_ms": 400, "wait_ms": 400}


@asynccontextmanager
async def opened(
    url: str, metrics: Metrics | None = None, **settings: Any
) -> AsyncIterator[Store]:
    """A started store; patient, so that a busy machine is no timeout."""
    database = config.Database(
        url=url, **{"statement_timeout_ms": 20_000, "wait_ms": 20_000, **settings}
    )
    store = Store(
        database,
        Telemetry(metrics or Metrics(), structlog.get_logger()),
        chosen_paths(),
    )
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition that another process brings about."""
    deadline = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)


async def failure(work: Awaitable[object]) -> str:
    """The reason for which the work fails."""
    with pytest.raises(StoreError) as caught:
        await work
    return caught.value.reason


async def update(
    database: Database,
    user: str,
    note: str,
    changes: dict[str, str | bool | None],
    **settings: Any,
) -> VersionedRow | Missing:
    async with opened(database.url, **settings) as store:
        return await store.update_note(user, note, changes)


async def answering(store: Store, seconds: float = 2.0) -> None:
    """Return when the store's `ping` does, within so many seconds."""
    with within(seconds):
        while True:
            try:
                return await store.ping()
            except StoreError:
                await asyncio.sleep(0)


class StallingProxy:
    """A TCP proxy to Postgres that can swallow everything without a word."""

    def __init__(self, url: str) -> None:
        (place,) = parse_qs(urlsplit(url).query)["host"]
        self._socket = f"{place}/.s.PGSQL.5432"
        self.open = asyncio.Event()
        self.open.set()
        self.links = 0

    @asynccontextmanager
    async def built(self) -> AsyncIterator[str]:
        async with serving(self._carry) as port:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.links += 1
        there, back = await asyncio.open_unix_connection(self._socket)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, back))
                tasks.create_task(self._pump(there, writer))
        finally:
            writer.close()
            back.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await reader.read(65_536):
                await self.open.wait()
                writer.write(data)
        except ConnectionError:
            return
        finally:
            writer.close()


def backends(database: Database) -> set[int]:
    """The server's processes for the store's connections."""
    rows = database.execute(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'typelets-ws'"
    )
    return {row["pid"] for row in rows}
