"""The same statements over libpq and over psycopg's cursor."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from tests.daemon import eventually
from tests.postgres import Database
from tests.within import within
from typelets_ws.postgres.connection import LibpqConnection, Overdue, PooledConnection
from typelets_ws.postgres.plain_connection import PlainConnection

Kind = type[LibpqConnection] | type[PlainConnection]
both = pytest.mark.parametrize("kind", [LibpqConnection, PlainConnection])


@asynccontextmanager
async def linked(
    database: Database, kind: Kind, limit_s: float = 20.0
) -> AsyncIterator[LibpqConnection | PlainConnection]:
    connection = await PooledConnection.connect(database.url, autocommit=True)
    link = kind(connection, limit_s=limit_s, prepare=True)
    link.attach()
    try:
        yield link
    finally:
        link.close()


@both
async def test_rows(database: Database, kind: Kind) -> None:
    async with linked(database, kind) as link:
        query = b"SELECT $1::text, $2::bool, $3::text, 7"
        values = ["é".encode(), b"t", None]
        for _ in range(3):
            assert await link.fetch(query, values) == [(*values, b"7")]
        assert await link.fetch(b"SELECT 1 WHERE false", []) == []
        assert await link.fetch(b"SELECT generate_series(5, 7)", []) == [
            (b"5",),
            (b"6",),
            (b"7",),
        ]
        assert link.free
        assert link.is_alive()


@both
@pytest.mark.parametrize(
    ("query", "state"),
    [
        (b"SELECT 1/0", "22012"),
        (b"SELECT missing", "42703"),
        (b"SELECT set_config('statement_timeout', '1ms', true), pg_sleep(1)", None),
    ],
)
async def test_errors(
    database: Database, kind: Kind, query: bytes, state: str | None
) -> None:
    async with linked(database, kind) as link:
        if state is None:
            await link.fetch(b"SET statement_timeout = 20", [])
            query, state = b"SELECT pg_sleep(5)", "57014"
        with pytest.raises(psycopg.Error) as raised:
            await link.fetch(query, [])
        assert raised.value.sqlstate == state
        assert link.free
        await link.fetch(b"SET statement_timeout = 0", [])
        assert await link.fetch(b"SELECT 1", []) == [(b"1",)]


SLEEPS = """SELECT pid FROM pg_stat_activity
    WHERE state = 'active' AND query = 'SELECT pg_sleep(30)'"""


@both
async def test_a_cancelled_statement_ends_at_the_server(
    database: Database, kind: Kind
) -> None:
    async with linked(database, kind) as link:
        task = asyncio.create_task(link.fetch(b"SELECT pg_sleep(30)", []))  # noqa: TID251
        await eventually(lambda: bool(database.execute(SLEEPS)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await link.cancel()
        assert link.free
        assert await link.fetch(b"SELECT 1", []) == [(b"1",)]


@both
async def test_a_statement_beyond_the_limit_costs_the_connection(
    database: Database, kind: Kind
) -> None:
    async with linked(database, kind, limit_s=0.1) as link:
        with pytest.raises(Overdue):
            await link.fetch(b"SELECT pg_sleep(30)", [])
        assert not link.free


@both
async def test_the_limit_holds_when_preparing_took_all_of_it(
    database: Database, kind: Kind
) -> None:
    async with linked(database, kind, limit_s=0.1) as link:
        # The answer to the first part and the end of the limit: in one iteration.
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        with pytest.raises(Overdue):
            await link.fetch(b"SELECT pg_sleep(5)", [])


def await_end(process: int) -> None:
    """Block the loop until the process has ended: then all it left is there."""
    while Path(f"/proc/{process}").exists():
        time.sleep(0.01)


@both
@pytest.mark.parametrize("prepared", [False, True])
async def test_a_server_that_ends_without_reading_the_statement_ends_it(
    database: Database, kind: Kind, prepared: bool
) -> None:
    """Its last words and the reset come at once: then uvloop calls a reader once."""
    async with linked(database, kind) as link:
        if prepared:
            await link.fetch(b"SELECT 1", [])
        process = link.connection.info.backend_pid
        os.kill(process, signal.SIGSTOP)
        task = asyncio.create_task(link.fetch(b"SELECT 1", []))  # noqa: TID251
        await asyncio.sleep(0)
        database.execute("SELECT pg_terminate_backend(%s)", process)
        os.kill(process, signal.SIGCONT)
        await_end(process)
        with within(5), pytest.raises(psycopg.OperationalError) as ended:
            await task
        assert not isinstance(ended.value, Overdue)
        assert not link.is_alive()


@both
async def test_a_connection_that_the_server_closed_is_not_alive(
    database: Database, kind: Kind
) -> None:
    async with linked(database, kind) as link:
        assert link.is_alive()
        process = link.connection.info.backend_pid
        database.execute("SELECT pg_terminate_backend(%s)", process)
        await eventually(lambda: not link.is_alive())
        assert link.connection.closed
