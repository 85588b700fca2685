"""One link to a real Postgres: answers, errors, cancellation, a server that goes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.daemon import eventually
from tests.postgres import Database
from tests.within import within
from typelets_ws.postgres import connection as store_link
from typelets_ws.postgres.connection import LibpqConnection, Overdue, PooledConnection

NAME = "link-under-test"
SLEEP = b"SELECT pg_sleep(30)"
BIG = 6_000_000
"""More than any socket's buffer takes at once."""

pytestmark = pytest.mark.usefixtures("loop_factory")


@asynccontextmanager
async def linked(
    database: Database, *, limit_s: float = 20.0, prepare: bool = True
) -> AsyncIterator[LibpqConnection]:
    connection = await PooledConnection.connect(
        database.url, autocommit=True, application_name=NAME
    )
    link = LibpqConnection(connection, limit_s=limit_s, prepare=prepare)
    link.attach()
    try:
        yield link
    finally:
        link.close()
        database.kill_connections(NAME)  # which would sleep on


async def at_work(database: Database, link: LibpqConnection) -> None:
    """Return when the link's statement is under way."""
    query = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    process = link.connection.info.backend_pid
    await eventually(lambda: bool(database.execute(query, process)))


@pytest.mark.parametrize("prepare", [False, True])
async def test_rows_as_text(database: Database, prepare: bool) -> None:
    async with linked(database, prepare=prepare) as link:
        for _ in range(3):
            (row,) = await link.fetch(
                b"SELECT $1::text, $2::bool, $3::text, 7",
                ["é".encode(), b"t", None],
            )
            assert row == ("é".encode(), b"t", None, b"7")
            assert await link.fetch(b"SELECT 1 WHERE false", []) == []
            several = await link.fetch(b"SELECT generate_series(5, 7)", [])
            assert several == [(b"5",), (b"6",), (b"7",)]
        count = b"SELECT count(*) FROM pg_prepared_statements"
        assert await link.fetch(count, []) == [(b"4" if prepare else b"0",)]


async def test_prepared_statements_do_not_pile_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_link, "MOST_PREPARED", 3)
    held = b"SELECT count(*) <= 3 FROM pg_prepared_statements"
    async with linked(database) as link:
        for _ in range(2):
            for number in range(10):
                (row,) = await link.fetch(b"SELECT %d" % number, [])
                assert row == (b"%d" % number,)
                assert await link.fetch(held, []) == [(b"t",)]


@pytest.mark.parametrize("prepare", [False, True])
async def test_error_of_a_statement_leaves_the_link_whole(
    database: Database, prepare: bool
) -> None:
    async with linked(database, prepare=prepare) as link:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await link.fetch(b"SELECT 1 / $1::int", [b"0"])
        with pytest.raises(psycopg.errors.SyntaxError):
            await link.fetch(b"SELEC", [])
        assert link.free
        assert await link.fetch(b"SELECT 1 / $1::int", [b"1"]) == [(b"1",)]


@pytest.mark.parametrize("prepare", [False, True])
async def test_larger_than_any_buffer(database: Database, prepare: bool) -> None:
    text = b"x" * BIG
    async with linked(database, prepare=prepare) as link:
        for _ in range(2):
            (row,) = await link.fetch(b"SELECT $1::text, length($1)", [text])
            assert row == (text, b"%d" % BIG)


async def test_server_that_reads_nothing_is_left(database: Database) -> None:
    """A statement half written, and no reader of the rest."""

    @contextmanager
    def stopped(process: int) -> Iterator[None]:
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    async with linked(database, limit_s=0.3, prepare=False) as link:
        await link.fetch(b"SELECT 1", [])
        with stopped(link.connection.info.backend_pid):
            with pytest.raises(Overdue):
                await link.fetch(b"SELECT length($1)", [b"x" * BIG])
            assert link.connection.closed


async def test_what_comes_between_statements_is_no_end(database: Database) -> None:
    async with linked(database) as link:
        assert await link.fetch(b"LISTEN news", []) == []
        database.execute("NOTIFY news")  # the loop has not seen it yet
        assert link.is_alive()
        assert link.free
        assert await link.fetch(b"SELECT 1", []) == [(b"1",)]
        while link.connection.pgconn.notifies():
            pass
        database.execute("NOTIFY news")
        # Now the loop reads it.
        await eventually(lambda: link.connection.pgconn.notifies() is not None)
        assert link.free
        assert await link.fetch(b"SELECT 2", []) == [(b"2",)]


async def test_killed_while_idle_is_known_without_a_round_trip(
    database: Database,
) -> None:
    for seen in (False, True):
        async with linked(database) as link:
            assert await link.fetch(b"SELECT 1", []) == [(b"1",)]
            assert link.is_alive()
            database.kill_connections(NAME)
            if seen:  # by the loop, which then lets the socket be
                await eventually(lambda: not link.free)
            assert not link.is_alive()
            assert not link.free
            assert link.connection.closed


async def test_killed_under_a_statement(database: Database) -> None:

    async def failure(link: LibpqConnection) -> psycopg.Error:
        with pytest.raises(psycopg.Error) as caught:
            await link.fetch(SLEEP, [])
        return caught.value

    async with linked(database) as link, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(failure(link))
        await at_work(database, link)
        database.kill_connections(NAME)
        assert isinstance(await asking, psycopg.OperationalError)
        # The end of the file follows the word.
        await eventually(lambda: link.connection.closed)
        assert not link.is_alive()


async def test_overdue_is_the_statement_and_not_the_link(database: Database) -> None:
    async with linked(database, limit_s=1.5) as link:
        for _ in range(4):  # longer than one may take, all together
            await link.fetch(b"SELECT pg_sleep(0.4)", [])
        began = time.monotonic()
        with within(4), pytest.raises(Overdue):
            await link.fetch(SLEEP, [])
        assert time.monotonic() - began > 1.49
        assert link.connection.closed


async def test_called_off_the_link_is_free_again(database: Database) -> None:
    async def asked(link: LibpqConnection) -> None:
        try:
            await link.fetch(SLEEP, [])
        except asyncio.CancelledError:
            assert not link.free
            await link.cancel()
            assert link.free
            raise

    async with linked(database) as link:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(asked(link))
            await at_work(database, link)
            asking.cancel()
        assert await link.fetch(b"SELECT 1", []) == [(b"1",)]


async def test_called_off_twice_it_is_not_free(database: Database) -> None:
    async def asked(link: LibpqConnection) -> None:
        try:
            await link.fetch(SLEEP, [])
        except asyncio.CancelledError:
            await link.cancel()

    async with linked(database) as link, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(asked(link))
        await at_work(database, link)
        asking.cancel()
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert not link.free


@pytest.mark.parametrize("outcome", ["interrupted", "failed"])
async def test_with_a_cancellation_under_way_it_is_not_free(
    database: Database, outcome: str
) -> None:
    """One that comes late would end the link's next statement."""
    async with linked(database) as link, asyncio.TaskGroup() as tasks:
        asked_for, answered = asyncio.Event(), asyncio.Event()

        async def cancel_safe(*, timeout: float) -> None:
            asked_for.set()
            await answered.wait()
            raise psycopg.errors.CancellationTimeout

        async def asked() -> None:
            try:
                await link.fetch(SLEEP, [])
            except asyncio.CancelledError:
                await link.cancel()

        vars(link.connection)["cancel_safe"] = cancel_safe
        asking = tasks.create_task(asked())
        await at_work(database, link)
        asking.cancel()
        await asked_for.wait()
        process = link.connection.info.backend_pid
        database.execute("SELECT pg_cancel_backend(%s)", process)
        info = link.connection.info
        await eventually(lambda: info.transaction_status == TransactionStatus.IDLE)
        if outcome == "failed":
            answered.set()
        else:
            asking.cancel()
        await asyncio.wait([asking])
        assert not link.free


@pytest.mark.parametrize("prepare", [False, True])
async def test_cancelled_at_any_moment_each_has_its_own_answer(
    database: Database, prepare: bool
) -> None:
    async def asked(link: LibpqConnection, number: int) -> None:
        try:
            (row,) = await link.fetch(b"SELECT %d" % number, [])
            assert row == (b"%d" % number,)
        except asyncio.CancelledError:
            await link.cancel()

    async with linked(database, prepare=prepare) as link:
        for moment in range(100):
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(asked(link, moment // 2))
                for _ in range(moment):
                    await asyncio.sleep(0)
                asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            assert link.free
            await asked(link, moment // 2)
